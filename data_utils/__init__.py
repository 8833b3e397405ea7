"""From published JSON files to padded batches: records, conversations, tokens, images, facts, data sets, collators.

Start with `schema`, one record, then `building`, records → examples. Not here: anything with weights (`models`), and what
a run does with a batch (`llava_rlhf`). Files named `shapes_…` are the scenes of the tiny world.
"""
