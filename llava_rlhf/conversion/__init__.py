"""Checkpoints of the original LLaVA and LLaVA-RLHF code, and the way to and from the Hugging Face formats.

Start with `base_model` for a model, `adapters` for what was trained on it. Not here: folders for other programs made of our
own runs (`exporting`).
"""
