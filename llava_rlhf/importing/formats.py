"""Every format that is imported: what its rows look like, what becomes of them, and which one a file has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_utils.problems import shorten
from llava_rlhf.importing import annotations
from llava_rlhf.importing.benchmark_rows import multimodal_rewardbench, vl_rewardbench
from llava_rlhf.importing.chosen_rejected import mm_rlhf, rlaif_v, rlhf_v, trl
from llava_rlhf.importing.outcomes import Context, Outcome
from llava_rlhf.importing.rated import llava_critic, vlfeedback
from llava_rlhf.importing.trainer_rows import llama_factory, ms_swift

PREFERENCES, PROMPTS = "preferences.jsonl", "prompts.jsonl"
CAPTIONS, FACTS = "image_to_caption.json", "image_to_facts.json"


@dataclass(frozen=True)
class Format:
    """One format.

    Attributes:
        title: its name in words, for messages.
        fields: alternatives, each the fields (divided by spaces) that a row of it has; one is enough.
        convert: (row, context) → what becomes of a row. Raises BadField.
        lacks: fields that no row of it has.
        tables: reads what rows refer to from the files, before the rows are read; None: a row stands for itself.
        members: of an annotation file, the list that holds the rows; None: the file is a list of rows.
        test: what else must be true of a row.
    """

    title: str
    fields: tuple[str, ...]
    convert: Callable[[Mapping[str, Any], Context], Iterator[Outcome]]
    lacks: str = ""
    tables: Callable[[Sequence[Path]], dict[str, dict[Any, Any]]] | None = None
    members: str | None = None
    test: Callable[[Mapping[str, Any]], bool] = bool

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether a row may be of this format."""
        there = {field for field, value in row.items() if value is not None}
        complete = any(there >= set(fields.split()) for fields in self.fields)
        return complete and not there & set(self.lacks.split()) and self.test(row)


def _is_comparison(row: Mapping[str, Any]) -> bool:
    messages = row["conversations"]
    first = messages[0] if isinstance(messages, list) and messages else None
    text = first.get("value") if isinstance(first, Mapping) else None
    return isinstance(text, str) and "The first response:" in text and "The second response:" in text


def _is_object(row: Mapping[str, Any]) -> bool:
    text = row["text"]
    return isinstance(text, Mapping) or (isinstance(text, str) and text.lstrip().startswith("{"))


FORMATS: dict[str, Format] = {
    "trl": Format(
        "TRL's vision preferences",
        ("chosen rejected",),
        trl,
        lacks="conversations messages instruction query is_tie completions text",
        test=lambda row: row.get("prompt") is not None or row.get("question") is None,
    ),
    "rlaif_v": Format("RLAIF-V", ("question chosen rejected",), rlaif_v),
    "rlhf_v": Format("RLHF-V", ("text",), rlhf_v, test=_is_object),
    "vlfeedback": Format("VLFeedback", ("prompt completions",), vlfeedback),
    "mm_rlhf": Format("MM-RLHF", ("prompt chosen rejected is_tie",), mm_rlhf),
    "llama_factory": Format(
        "LLaMA-Factory's preferences",
        ("conversations chosen rejected", "messages chosen rejected"),
        llama_factory,
    ),
    "ms_swift": Format(
        "ms-swift's preferences",
        ("messages rejected_response", "messages rejected_messages", "query response rejected_response"),
        ms_swift,
    ),
    "llava_critic": Format(
        "LLaVA-Critic's pairs", ("conversations",), llava_critic, lacks="chosen rejected", test=_is_comparison
    ),
    "vl_rewardbench": Format("VL-RewardBench", ("query response human_ranking",), vl_rewardbench),
    "multimodal_rewardbench": Format(
        "Multimodal RewardBench", ("Text Output1 Output2 Better",), multimodal_rewardbench
    ),
    "coco_captions": Format(
        "COCO's captions",
        ("image_id caption",),
        annotations.coco_captions,
        tables=annotations.coco_tables,
        members="annotations",
    ),
    "coco_instances": Format(
        "COCO's instances",
        ("image_id category_id",),
        annotations.coco_instances,
        tables=annotations.coco_tables,
        members="annotations",
    ),
    "vqa_v2": Format(
        "VQAv2",
        ("question_id multiple_choice_answer answer_type",),
        annotations.vqa_v2,
        tables=annotations.vqa_questions,
        members="annotations",
    ),
    "a_okvqa": Format("A-OKVQA", ("question choices",), annotations.a_okvqa),
}


def guess(row: Mapping[str, Any], where: str) -> str:
    """The only format that a row fits. Raises ValueError where there are several, or none; `where` names file and row."""
    found = [name for name, one in FORMATS.items() if one.fits(row)]
    if len(found) == 1:
        return found[0]
    fields = shorten(", ".join(map(str, row)), 200)
    if found:
        titles = " or ".join(f"{FORMATS[name].title} (--format {name})" for name in found)
        raise ValueError(f"{where}: its fields {fields} may be those of {titles}; say which with --format")
    raise ValueError(
        f"{where}: no format has the fields {fields}; read are {', '.join(FORMATS)}: see docs/formats.md, or name the one "
        "that is meant with --format to be told what is missing"
    )
