"""A world of coloured shapes whose truth is known: its small base model, its data, and what answers are worth in it.

Start with `make_world`. Not here: scenes and their words (`data_utils.shapes_world`, `data_utils.shapes_text`), and
training, which is that of every other model.
"""
