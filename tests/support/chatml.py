"""The pieces of a chat template, and those of one that differs from it in a piece."""

from __future__ import annotations

from dataclasses import replace

from llava_rlhf.tiny_world.drawn_qwen import PIECES

_OPENING = "<|im_start|>user\n"
CHATML = replace(PIECES, first=_OPENING, first_image=_OPENING)  # without a system message
OTHER_ASK = replace(CHATML, ask="<|im_end|>\n<|im_start|>model\n")
