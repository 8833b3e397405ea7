"""Paths and settings → tokenizers, adapter banks, roles and image features, for whoever trains or asks a model. Start with `roles`.

Not here: the modules themselves (`models`), records and batches (`data_utils`), and what a run does with them.
"""
