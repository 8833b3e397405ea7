"""Object HalBench: CHAIR over 300 descriptions, of which a judge may first list the objects (RLHF-V, arXiv 2312.00849).

Source of the rules: github.com/RLHF-V/RLHF-V, eval/eval_gpt_obj_halbench.py and summarize_gpt_obj_halbench_review.py.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from llava_rlhf.engines.judge_client import Judge, Question
from llava_rlhf.evaluation.benchmarks.coco_truth import objects_there
from llava_rlhf.evaluation.benchmarks.items import (
    Benchmark,
    Item,
    ItemScore,
    Record,
    Scores,
    file_hash,
    match_answers,
    read_objects,
    summed,
)
from llava_rlhf.evaluation.benchmarks.judge_prompts import JudgePrompt
from llava_rlhf.evaluation.benchmarks.published_answers import by_image_number, have
from llava_rlhf.fact_rewards.object_words import ObjectWords

PROMPT_NAMES = ("question", "answer")
SHORT = 3  # an answer of so many words, or fewer, names nothing: the judge is not asked, as published
_FENCED = re.compile(r"```(?:json)?\s*\n(.*?)```", re.DOTALL)


def read_list(reply: str) -> list[str] | None:
    """The objects that a judge lists: JSON alone, in a fenced block, or on the last line; None where there is no such list."""
    fenced = _FENCED.search(reply)
    for text in (reply, fenced[1] if fenced else "", reply.strip().split("\n")[-1]):
        try:
            found = json.loads(text)
        except ValueError:
            continue
        if isinstance(found, list) and all(isinstance(one, str) for one in found):
            return found
    return None


class ObjectHalBench(Benchmark):
    """The published questions about images of COCO.

    Args:
        files: the questions (`question`, `image_id`), and COCO's instances and captions of their images.
        synonyms_file: words for objects, as `ObjectWords` reads them; None for our own list.
        judge: who lists the objects of an answer; None: they are looked for in its words, or answers are only to be made.
        prompt: what a judge reads.
    """

    metrics: ClassVar[Mapping[str, str]] = {
        "response_hallucination": "responses that name an object which is not there / responses that name an object",
        "mention_hallucination": "share of false ones among all mentions of objects",
        "recall": "share of the objects that are there which are named; a short response invents less and recalls less",
        "described": "share of responses that name an object",
        "words": "words a response",
    }

    def __init__(
        self,
        files: Sequence[str],
        synonyms_file: str | None,
        judge: Judge | None = None,
        prompt: JudgePrompt | None = None,
    ):
        self.questions, *self.coco = files
        self.objects = ObjectWords(synonyms_file)
        self.judge, self.prompt = judge, prompt

    def items(self) -> list[Item]:
        """The questions; `truth` is the set of objects in the image, which is called as COCO calls it."""
        file_hash(self.questions)
        there = objects_there(self.coco, self.objects)
        items = []
        for number, (place, row) in enumerate(read_objects(self.questions, "--benchmark_files")):
            where = f"{self.questions}, {place}"
            if not isinstance(row.get("question"), str) or not str(row.get("image_id", "")).isdecimal():
                raise ValueError(
                    f"{where}: must have a text as 'question' and a number of COCO as 'image_id'; its fields are {sorted(row)}"
                )
            shown = there.get(int(row["image_id"]))
            if shown is None:
                raise ValueError(
                    f"{where}, field 'image_id': {row['image_id']} is no image of {' and '.join(self.coco)}; name the files "
                    "of the other split too"
                )
            items.append(
                Item(f"{number:03d}", row["question"].strip(), shown.image, "all", truth=shown.objects)
            )
        if not items:
            raise ValueError(f"{self.questions}: no questions")
        return items

    def own_layout(self, answers: Sequence[Record]) -> Sequence[Record]:
        """As `Benchmark.own_layout`: `image_id` and `answer` or `text`, as the published script reads them."""
        for field in ("answer", "text"):
            if have(answers, "image_id", field):
                return by_image_number(self.items(), answers, field)
        return answers

    def score(self, answers: Sequence[Record], leave_out_missing: bool) -> Scores:
        """Count mentions of objects; a response whose list could not be read counts nowhere."""
        items = self.items()
        matched = match_answers(items, answers, leave_out_missing)
        texts = [text.replace("Assistant:", "").strip() for _, given in matched for text in given]
        named, counts = self._named([item for item, given in matched for _ in given], texts)
        places = iter(zip(texts, named, strict=True))
        scored = []
        for item, given in matched:
            values = [_values(*next(places), item.truth) for _ in given]
            scored.append(ItemScore(item.id, item.category, item.image, summed(values)))
        conditions = {
            "questions": file_hash(self.questions),
            "coco": sorted(file_hash(path) for path in self.coco),
            "synonyms": file_hash(self.objects.files[0]),
            "phrases": file_hash(self.objects.files[1]),
            "verdict": "rule" if self.judge is None else "judge",
        }
        if self.judge is not None:
            conditions |= {
                "judge": self.judge.name,
                "judge_settings": dict(self.judge.settings),
                "judge_prompt": self.prompt.mark,
            }
        return Scores(scored, conditions, {"missing": len(items) - len(scored)} | counts)

    def _named(
        self, items: Sequence[Item], texts: Sequence[str]
    ) -> tuple[list[list[str] | None], dict[str, Any]]:
        """The objects that each text names, one a mention, None where that could not be read; and what was counted."""
        if self.judge is None:
            return [self.objects.mentions(text) for text in texts], {}
        asked = [place for place, text in enumerate(texts) if len(text.split()) > SHORT]
        prompts = [self.prompt.render(question=items[place].question, answer=texts[place]) for place in asked]
        replies = self.judge.ask_all([Question(prompt) for prompt in prompts])
        named: list[list[str] | None] = [[] for _ in texts]
        for place, reply in zip(asked, replies, strict=True):
            listed = read_list(reply.text)
            named[place] = None if listed is None else self._once(listed)
        failures = sum(one is None for one in named)
        return named, {
            "verdicts": len(asked),
            "parse_failures": failures,
            "short_answers": len(texts) - len(asked),
        }

    def _once(self, listed: Sequence[str]) -> list[str]:
        """Objects that listed words stand for; a word counts once, two words for one object count twice, as published."""
        found = {}
        for text in listed:
            for named in self.objects.found(text):
                found.setdefault(_singular(text[named.start : named.end].lower()), named.name)
        return list(found.values())


def _singular(word: str) -> str:
    """A plural and its singular as the same key; what it says of other words does not matter."""
    if word.endswith("ies"):
        return f"{word[:-3]}y"
    return re.sub(r"(?<=s)es$|(?<=x)es$|(?<=z)es$|(?<=ch)es$|(?<=sh)es$|(?<=[^s])s$", "", word)


def _values(text: str, named: Sequence[str] | None, there: frozenset[str]) -> dict[str, tuple[float, float]]:
    if named is None:
        return dict.fromkeys(ObjectHalBench.metrics, (0.0, 0.0))
    false = sum(name not in there for name in named)
    return {
        "response_hallucination": (false > 0, len(named) > 0),
        "mention_hallucination": (false, len(named)),
        "recall": (len(there.intersection(named)), len(there)),
        "described": (len(named) > 0, 1),
        "words": (len(text.split(" ")), 1),
    }
