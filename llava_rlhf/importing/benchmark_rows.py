"""Pairs of published benchmarks of reward models: VL-RewardBench, Multimodal RewardBench."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from data_utils.row_fields import BadField
from llava_rlhf.importing.conversations import answer_text
from llava_rlhf.importing.fields import asked, pair, row_pictures
from llava_rlhf.importing.outcomes import Context, Pair


def vl_rewardbench(row: Mapping[str, Any], context: Context) -> Iterator[Pair]:
    """VL-RewardBench: `query`, `response` (two), `human_ranking` (0 is the better one's rank), `image` or `image_path`."""
    responses, ranking = row.get("response"), row.get("human_ranking")
    if not isinstance(responses, list) or len(responses) != 2:
        raise BadField("response", responses, "must be a list of two answers")
    if ranking not in ([0, 1], [1, 0]):
        raise BadField("human_ranking", ranking, "must be [0, 1] or [1, 0]: 0 stands where the better one is")
    first, second = (answer_text(text, f"response[{index}]") for index, text in enumerate(responses))
    yield pair(
        asked(row.get("query"), "query"),
        row_pictures(row, "image", "image_path"),
        (first, second),
        "query",
        context.system,
        1 + ranking.index(0),
    )


def multimodal_rewardbench(row: Mapping[str, Any], context: Context) -> Iterator[Pair]:
    """Multimodal RewardBench: `Text`, `Output1`, `Output2`, `Better` (the name of one of them), `Image`."""
    keys = ("Output1", "Output2")
    if row.get("Better") not in keys:
        raise BadField("Better", row.get("Better"), "must be Output1 or Output2")
    first, second = (answer_text(row.get(key), key) for key in keys)
    yield pair(
        asked(row.get("Text"), "Text"),
        row_pictures(row, "Image"),
        (first, second),
        "Text",
        context.system,
        1 + keys.index(row["Better"]),
    )
