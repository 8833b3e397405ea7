"""Data of other projects → files in the formats of this one, and preferences back: formats, pictures, and a run that goes on.

Start with `formats`, the list of them. `conversations` reads messages and writes rows, the modules called after a kind of
format say what its fields mean, `pictures` brings pictures into one folder, `sources` streams rows out of files, `run` writes
the new folder, `exports` goes the other way. Not here: what is wrong with rows in our own formats (`data_utils.schema`), which
checks every row that is written.
"""
