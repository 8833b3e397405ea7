"""Models, adapters and data sets that are named by their id on the Hugging Face Hub, and models that go there.

In it: what an id looks like (`places.py`), what is downloaded and refused (`downloads.py`, `data_files.py`,
`refusals.py`), which flags may name one (`flags.py`), and uploads (`uploads.py`). Not in it: what is in the files; whoever
reads a folder reads a downloaded one just so. Start at `flags.py`: `runs/parsing.py` calls it once, behind every command line.
"""
