"""The held-out prompts of a tiny world, whose truth is known exactly."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from data_utils.conversation import message_parts
from data_utils.problems import DataError
from data_utils.schema import AnswerType, read_prompts
from data_utils.shapes_files import read_scenes
from llava_rlhf.evaluation.benchmarks.items import (
    Benchmark,
    Item,
    ItemScore,
    Record,
    Scores,
    file_hash,
    match_answers,
)
from llava_rlhf.tiny_world.score_answers import answer_values


class TinyWorld(Benchmark):
    """Descriptions, yes/no and multiple-choice questions about drawn shapes.

    Args:
        folder: of make_world.
    """

    metrics: ClassVar[Mapping[str, str]] = {
        "hallucination": "share of descriptions that name an object which is not there",
        "false_share": "false objects among those named, averaged over descriptions",
        "recall": "share of the objects that are there which are named; a short description hallucinates less",
        "description_tokens": "tokens of a description",
        "yes_no_accuracy": "share of yes/no questions answered rightly",
        "yes_rate": "share of yes answers to them; half of the things are there",
        "choice_accuracy": "share of multiple-choice questions answered rightly",
        "stop_rate": "share of answers that end before the length limit",
    }

    def __init__(self, folder: str):
        self.prompts, self.scenes = Path(folder) / "eval.json", Path(folder) / "scenes.json"
        for path in (self.prompts, self.scenes):
            if not path.is_file():
                raise ValueError(
                    f"--benchmark_files {folder}: tiny_world wants the folder of make_world, with {path.name}"
                )

    def items(self) -> list[Item]:
        """The held-out prompts."""
        records, problems = read_prompts(self.prompts)
        if problems:
            raise DataError(problems)
        return [
            Item(
                record.id,
                message_parts(record.turns[0].text, len(record.images))[1],
                record.images[0],
                "all",
                record.answer_type,
            )
            for record in records
        ]

    def check(self, answers: Sequence[Record], leave_out_missing: bool) -> None:
        """As `Benchmark.check`."""
        self.score(answers, leave_out_missing)

    def score(self, answers: Sequence[Record], leave_out_missing: bool) -> Scores:
        """Compare with the scenes."""
        items, scenes = self.items(), read_scenes(self.scenes)
        matched = match_answers(items, answers, leave_out_missing)
        values: dict[str, dict[str, tuple[float, float]]] = {
            item.id: dict.fromkeys(self.metrics, (0.0, 0.0)) for item, _ in matched
        }
        asked = {item.id: item for item, _ in matched}
        for line, answer in enumerate(answers, 1):
            lacking = [name for name in ("tokens", "stopped") if not isinstance(answer.get(name), int)]
            if lacking:
                raise ValueError(f"answers, line {line}: field {lacking[0]!r} is missing or no number")
            item = asked[str(answer["id"])]
            row = {
                **answer,
                "answer_type": AnswerType(item.answer_type).name,
                "question": item.question,
                "image": [item.image],
            }
            for name, value in answer_values(row, scenes[item.image]).items():
                numerator, denominator = values[item.id][name]
                values[item.id][name] = (numerator + value, denominator + 1)
        scored = [ItemScore(item.id, item.category, item.image, values[item.id]) for item, _ in matched]
        conditions = {"files": [file_hash(self.prompts), file_hash(self.scenes)]}
        return Scores(scored, conditions, {"missing": len(items) - len(scored)})
