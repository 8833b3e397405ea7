"""MMHal-Bench: 96 questions of 8 types, rated by a language model that reads what is in the image (arXiv 2309.14525).

Ratings go from 0 to 6, and below 3 there is hallucination, as published. The judge sees no image: it reads the names of
what is there, the question and a reference answer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, ClassVar
from urllib.parse import urlsplit

import numpy as np

from data_utils.pictures_elsewhere import is_base64_picture
from llava_rlhf.engines.judge_client import Judge, Question
from llava_rlhf.evaluation.benchmarks.items import (
    Benchmark,
    Item,
    ItemScore,
    Record,
    Scores,
    file_hash,
    match_answers,
    read_objects,
)
from llava_rlhf.evaluation.benchmarks.judge_prompts import JudgePrompt
from llava_rlhf.evaluation.benchmarks.published_answers import by_image_and_question, have, unknown_layout

HALLUCINATION_BELOW = 3
# "Rating (0-6): 4", "**Rating:** 4/6"; "4.5", "-1", "3-4" and "3 or 4" are no ratings.
_RATING = re.compile(
    r"rating\s*(?:\([^)]*\))?\W{0,6}(?<!-)(\d+)(?![\d.]*\d)(?![-–—]\d|\s*(?:to|or)\s*\d)", re.IGNORECASE
)
PROMPT_NAMES = ("image_content", "question", "reference", "answer")
_FIELDS = ("question_type", "question", "gt_answer")


def read_rating(verdict: str) -> int | None:
    """The rating 0 to 6 of a verdict ("Rating: 4", "**Rating:** 4/6"); None where there is none or they contradict.

    The published script takes ratings in the same words, and calls a verdict without exactly one of them a 0; here it is
    no rating.
    """
    found = {int(number) for number in _RATING.findall(verdict)}
    return found.pop() if len(found) == 1 and max(found) <= 6 else None


class MMHal(Benchmark):
    """The published list of questions, and a judge.

    Args:
        file: JSON list (or JSON Lines) with `question_type`, `image_src`, `question`, `gt_answer`, `image_content`.
        judge: who rates; None where answers are only to be made.
        prompt: what it reads; None likewise.
        repeats: verdicts an answer.
    """

    metrics: ClassVar[Mapping[str, str]] = {
        "rating": "mean rating from 0 to 6",
        "hallucination": f"share of verdicts with a rating below {HALLUCINATION_BELOW}",
    }

    def __init__(self, file: str, judge: Judge | None, prompt: JudgePrompt | None, repeats: int):
        self.file, self.judge, self.prompt, self.repeats = file, judge, prompt, repeats

    def items(self) -> list[Item]:
        """The questions; images are called as the last part of `image_src`."""
        file_hash(self.file)
        rows = read_objects(self.file, "--benchmark_files")
        if not rows:
            raise ValueError(f"{self.file}: must be a JSON list of questions")
        return [_item(self.file, number, row, self.judge is None) for number, (_, row) in enumerate(rows)]

    def own_layout(self, answers: Sequence[Record]) -> Sequence[Record]:
        """As `Benchmark.own_layout`: the published list with `model_answer` filled in."""
        if have(answers, "question", "model_answer"):
            return by_image_and_question(self.items(), answers)
        if have(answers):
            raise unknown_layout(answers, "the published list with model_answer filled in")
        return answers

    def score(self, answers: Sequence[Record], leave_out_missing: bool) -> Scores:
        """Ask the judge; an item's rating is the mean of those of its verdicts that could be read."""
        assert self.judge is not None and self.prompt is not None
        items = self.items()
        matched = match_answers(items, answers, leave_out_missing)
        texts = [(item, text) for item, given in matched for text in given]
        prompts = [self.judge_text(item, text) for item, text in texts]
        replies = self.judge.ask_all(
            [Question(prompt, repeat=repeat) for repeat in range(self.repeats) for prompt in prompts]
        )
        ratings = np.array(
            [np.nan if (rating := read_rating(reply.text)) is None else rating for reply in replies]
        ).reshape(self.repeats, len(prompts))
        scored = []
        for item, _ in matched:
            column = ratings[:, [other.id == item.id for other, _ in texts]]
            scored.append(_score(item, column[~np.isnan(column)]))
        conditions = {
            "file": file_hash(self.file),
            "judge": self.judge.name,
            "judge_settings": dict(self.judge.settings),
            "judge_prompt": self.prompt.mark,
            "repeats": self.repeats,
        }
        counts = {
            "missing": len(items) - len(scored),
            "verdicts": int(ratings.size),
            "parse_failures": int(np.isnan(ratings).sum()),
            "items_without_rating": sum(score.values["rating"][1] == 0 for score in scored),
        }
        return Scores(scored, conditions, counts | repeat_spread(ratings))

    def judge_text(self, item: Item, answer: str) -> str:
        """What the judge reads of one answer."""
        content, reference = item.truth["content"], item.truth["reference"]
        return self.prompt.render(
            image_content=content, question=item.question, reference=reference, answer=answer
        )


def repeat_spread(ratings: np.ndarray) -> dict[str, Any]:
    """How much the judge's mean rating moves when it is asked again.

    Args:
        ratings: float[repeats, answers], NaN where a verdict could not be read.

    Returns:
        `repeat_means`: mean rating of each repeat; with two or more, `repeat_interval`: 95 % confidence interval (Student's
        t) of their mean. It holds the judge's own dice only, not the choice of questions.
    """
    readable = [row[~np.isnan(row)] for row in ratings]
    means = [float(row.mean()) for row in readable if row.size]
    if len(means) < 2:
        return {"repeat_means": means}
    from scipy import stats  # slow to load

    center, error = float(np.mean(means)), float(stats.sem(means))
    reach = error * float(stats.t.ppf(0.975, len(means) - 1))
    return {"repeat_means": means, "repeat_interval": [center - reach, center + reach]}


def _score(item: Item, ratings: np.ndarray) -> ItemScore:
    if not ratings.size:
        return ItemScore(item.id, item.category, item.image, dict.fromkeys(MMHal.metrics, (0.0, 0.0)))
    values = {
        "rating": (float(ratings.mean()), 1.0),
        "hallucination": (float((ratings < HALLUCINATION_BELOW).mean()), 1.0),
    }
    return ItemScore(item.id, item.category, item.image, values)


def _item(path: str, number: int, row: Mapping[str, Any], asking: bool) -> Item:
    place = f"{path}, row {number}"
    for name in _FIELDS:
        if not isinstance(row.get(name), str) or not row[name].strip():
            raise ValueError(f"{place}, field {name!r}: {row.get(name)!r} must be a text")
    content = row.get("image_content")
    if not isinstance(content, list) or not all(isinstance(name, str) for name in content):
        raise ValueError(f"{place}, field 'image_content': must be a list of texts")
    image = row.get("image")
    if is_base64_picture(image) and asking:
        raise ValueError(
            f"{place}, field 'image': is the picture itself as base64 text, here and maybe in other rows; write each to "
            "--image_folder under the last part of its image_src, and take the field out"
        )
    if not image or is_base64_picture(image):
        image = PurePosixPath(urlsplit(str(row.get("image_src", ""))).path).name
    if not image:
        raise ValueError(f"{place}, field 'image_src': names no image")
    truth = {"content": ", ".join(content), "reference": row["gt_answer"]}
    kind = " ".join(row["question_type"].split())
    return Item(f"{number:02d}", row["question"].strip(), image, kind, truth=truth)
