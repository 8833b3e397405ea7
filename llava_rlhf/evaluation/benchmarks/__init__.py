"""The benchmarks: each reads its published files, and turns answers into the values of each item. Start with `items`.

Not here: how answers are sampled (`evaluation.answering`), intervals and tables over several runs (`evaluation.comparison`).
"""
