"""Vocabulary projections of as many chunks on every process, where they put the projection together anew for each chunk."""

from __future__ import annotations

import torch

from models.divided_weights import is_divided
from models.vlm import VisionLanguageModel


def equal_chunks(tokens: int, chunk_size: int, vlm: VisionLanguageModel) -> tuple[int, int]:
    """Tokens of a chunk, and how many must be added so that every process has as many chunks.

    Args:
        tokens: of this process.
        chunk_size: the most of a chunk.
        vlm: whose projection it is. Only where it is divided (ZeRO-3) chunks change; then every process must call.
    """
    if not is_divided(vlm.model.lm_head):
        return chunk_size, 0
    most = torch.tensor(tokens, device=vlm.device)
    torch.distributed.all_reduce(most, torch.distributed.ReduceOp.MAX)
    chunks = max(-(-int(most) // chunk_size), 1)
    size = max(-(-tokens // chunks), 1)
    return size, chunks * size - tokens
