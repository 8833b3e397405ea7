"""The Hugging Face Hub: models, adapters and data files that are named by their id there, and models that go there.

Start with `flags`, which `runs.parsing` calls once, behind every command line. `places` says what an id looks like, `downloads`
and `data_files` what is fetched, `refusals` what is said where nothing comes, `uploads` sends a folder. Not here: what is in
the files; whoever reads a folder reads a downloaded one just so.
"""
