"""Checkpoints of the original LLaVA and LLaVA-RLHF code, and the way to and from the Hugging Face formats."""
