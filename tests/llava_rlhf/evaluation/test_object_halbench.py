"""Object HalBench by hand, over a judge's lists of objects and over the words alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llava_rlhf.engines.judge_client import Endpoint, JudgeClient, ReplyCache
from llava_rlhf.evaluation.benchmarks.judge_prompts import JudgePrompt
from llava_rlhf.evaluation.benchmarks.object_halbench import PROMPT_NAMES, ObjectHalBench, read_list
from llava_rlhf.evaluation.registry import PROMPTS
from tests.llava_rlhf.evaluation.published_pairs_rows import values
from tests.llava_rlhf.evaluation.test_chair import write_coco
from tests.support.judge_server import JudgeServer

# What is there (test_chair): 1: cat, chair, dining table; 2: dog, person; 3: hot dog
TEXTS = [
    "A cat, two cats and a kitten sleep on a sofa.",
    "Assistant: A man and a woman walk.",
    "Nothing is here to see.",
]


@pytest.mark.parametrize(
    ("reply", "objects"),
    [
        ('["dog", "red car"]', ["dog", "red car"]),
        ("[]", []),
        ('```json\n["dog"]\n```', ["dog"]),
        ('Here it is:\n```\n["a",\n "b"]\n```\nDone', ["a", "b"]),
        ('The objects are:\n["dog"]', ["dog"]),
        ("dog, cat", None),
        ('{"objects": ["dog"]}', None),
        ("[1, 2]", None),
        ("()", None),
        ("", None),
    ],
)
def test_lists_of_a_judge(reply, objects):
    assert read_list(reply) == objects


def write_objects(folder: Path, **changes: Any) -> list[str]:
    """Three questions about the images of `write_coco`; `changes` are those of the first row."""
    rows = [
        {"question": "What do you see?", "image_id": number, "image": "aGVsbG8=", "org_idx": number}
        for number in (1, 2, 3)
    ]
    rows[0] |= changes
    path = folder / "objects.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [str(path), *write_coco(folder)]


def answers_to(benchmark: ObjectHalBench, texts: list[str] = TEXTS) -> list[dict]:
    return [
        {"id": item.id, "image": item.image, "answer": text}
        for item, text in zip(benchmark.items(), texts, strict=True)
    ]


def test_words_alone_by_hand(tmp_path):
    benchmark = ObjectHalBench(write_objects(tmp_path), None)
    scores = benchmark.score(answers_to(benchmark), False)
    found = values(scores, benchmark.metrics)["all"]
    # 1: cat, cat, cat, couch (false); 2: person, person; 3: nothing, so that it is no response with an object
    assert found == pytest.approx(
        {
            "response_hallucination": 1 / 2,
            "mention_hallucination": 1 / 6,
            "recall": (1 + 1 + 0) / (3 + 2 + 1),
            "described": 2 / 3,
            "words": (11 + 6 + 5) / 3,
        }
    )
    assert scores.conditions["verdict"] == "rule"


def judged(folder: Path, replies: dict[str, str], texts: list[str] = TEXTS):
    with JudgeServer(lambda text: next(reply for part, reply in replies.items() if part in text)) as server:
        judge = JudgeClient(Endpoint(server.url, "judge-1"), ReplyCache(None))
        prompt = JudgePrompt(PROMPTS / "object_halbench_judge_prompt.txt", PROMPT_NAMES)
        benchmark = ObjectHalBench(write_objects(folder), None, judge, prompt)
        scores = benchmark.score(answers_to(benchmark, texts), False)
        return values(scores, benchmark.metrics)["all"], scores, len(server.requests)


def test_a_judges_lists_by_hand(tmp_path):
    # A word counts once, its plural with it; another word for the same object counts again.
    replies = {
        "cats": '["cat", "cats", "two cats", "kitten", "grey sofa"]',
        "woman": '["man", "woman"]',
        "Nothing": "[]",
    }
    found, scores, _ = judged(tmp_path, replies)
    # 1: cat, kitten, couch (false); 2: man, woman; 3: none
    assert (found["response_hallucination"], found["mention_hallucination"]) == (1 / 2, 1 / 5)
    assert found["recall"] == pytest.approx(2 / 6)
    assert scores.counts == {"missing": 0, "verdicts": 3, "parse_failures": 0, "short_answers": 0}
    assert scores.conditions["judge"] == "judge-1"


def test_short_answers_are_not_asked_about_and_lists_that_cannot_be_read_count_nowhere(tmp_path):
    replies = {"cats": "I see a cat.", "Nothing": '["dog"]'}
    found, scores, requests = judged(tmp_path, replies, [TEXTS[0], "a big dog", TEXTS[2]])
    assert requests == 2 and scores.counts["short_answers"] == 1 and scores.counts["parse_failures"] == 1
    # left: nothing named of a man and a dog; a dog where there is a hot dog
    assert found["response_hallucination"] == found["mention_hallucination"] == 1
    assert (found["recall"], found["described"]) == (0, 1 / 2)


def test_images_are_called_as_coco_calls_them_and_others_answers_are_read(tmp_path):
    benchmark = ObjectHalBench(write_objects(tmp_path), None)
    assert [item.image for item in benchmark.items()] == [f"{number:012d}.jpg" for number in (1, 2, 3)]
    for field in ("answer", "text"):
        theirs = [{"image_id": number, "question": "?", field: "a cat"} for number in (3, 1, 2)]
        assert [one["id"] for one in benchmark.own_layout(theirs)] == ["002", "000", "001"]
