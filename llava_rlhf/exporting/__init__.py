"""From a trained policy adapter to folders that other programs load. Start with `merging`.

Not here: formats of the 2023 code (`conversion`). `parity` runs the written folder against base + adapter.
"""
