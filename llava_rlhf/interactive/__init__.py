"""Models that answer while somebody waits: checkpoints by name, answers token by token, a score under each.

Start with `answering_models`. Not here: the pages that show them (`pages`), and answers to whole files (`evaluation.answering`).
"""
