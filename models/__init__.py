"""One frozen vision-language base, named LoRA adapters over it, scalar heads, and the roles that use them.

Start with `vlm`, the base, then `adapters` and `roles`. Not here: text and pictures (`data_utils`), training (`llava_rlhf`).
"""
