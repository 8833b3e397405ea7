"""Answers first (JSON Lines), numbers second: scoring never needs the model. Start with `answering`, then `registry`.

`benchmarks/` has a file for each benchmark. Not here: what is measured while training goes on (`runs.metrics`), and the
page on a run (`reporting`).
"""
