"""HallusionBench by hand: verdicts, the rule, and what counts as a figure and as a pair of questions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llava_rlhf.engines.judge_client import Endpoint, JudgeClient, ReplyCache
from llava_rlhf.evaluation.benchmarks.hallusionbench import (
    PROMPT_NAMES,
    HallusionBench,
    Outcome,
    by_rule,
    read_verdict,
)
from llava_rlhf.evaluation.benchmarks.judge_prompts import JudgePrompt
from llava_rlhf.evaluation.registry import PROMPTS
from tests.llava_rlhf.evaluation.published_pairs_rows import values
from tests.support.judge_server import JudgeServer

RIGHT, WRONG, UNCLEAR = Outcome.RIGHT, Outcome.WRONG, Outcome.UNCLEAR


@pytest.mark.parametrize(
    ("verdict", "outcome"),
    [
        ("correct", RIGHT),
        ("Incorrect.", WRONG),
        ("It is not correct", RIGHT),  # the published rule looks for the word alone
        ("correct? No: incorrect", WRONG),
        ("UNCLEAR", UNCLEAR),
        ("", UNCLEAR),
        ("right", UNCLEAR),
    ],
)
def test_verdicts(verdict, outcome):
    assert read_verdict(verdict) is outcome


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        ("Yes", RIGHT),
        ("yes, it is.", RIGHT),
        ("**No**", WRONG),
        ("It is so: YES", RIGHT),
        ("Yes and no", UNCLEAR),
        ("I can't tell", UNCLEAR),
        ("", UNCLEAR),
        ("Nothing is not", UNCLEAR),  # no other word is a no
    ],
)
def test_the_rule(answer, outcome):
    assert by_rule(answer, yes=True) is outcome
    swapped = {RIGHT: WRONG, WRONG: RIGHT, UNCLEAR: UNCLEAR}
    assert by_rule(answer, yes=False) is swapped[outcome]


# category, set, figure, question, truth. VD: figure 0 is the original; VS: figure 0 is no figure.
QUESTIONS = [
    ("VD", 0, 0, 0, "1"),
    ("VD", 0, 0, 1, "0"),
    ("VD", 0, 1, 0, "0"),
    ("VD", 0, 1, 1, "1"),
    ("VD", 0, 2, 0, "1"),
    ("VS", 0, 0, 0, "1"),
    ("VS", 0, 0, 1, "0"),
    ("VS", 0, 1, 0, "1"),
    ("VS", 0, 1, 1, "0"),
]


def row(category: str, number: int, figure: int, question: int, truth: str) -> dict[str, Any]:
    made = {
        "category": category,
        "subcategory": "chart",
        "visual_input": "1",
        "set_id": str(number),
        "figure_id": str(figure),
        "question_id": str(question),
        "question": f"Is it so, {category} {question}?",
        "gt_answer": truth,
        "gt_answer_details": "It is." if truth == "1" else "It is not.",
    }
    image = {"filename": f"./pictures/{category}_{figure}.jpg"}
    return made if (category, figure) == ("VS", 0) else made | image


def write_hallusion(path: Path, **changes: Any) -> str:
    """The questions; `changes` are those of the first row."""
    rows = [row(*question) for question in QUESTIONS]
    rows[0] |= changes
    path.write_text(json.dumps(rows))
    return str(path)


def answers_to(benchmark: HallusionBench, texts: str) -> list[dict]:
    words = {"y": "Yes", "n": "No", "?": "It depends."}
    return [
        {
            "id": item.id,
            "image": [item.image] if item.image else [],
            "question": item.question,
            "answer": words[text],
        }
        for item, text in zip(benchmark.items(), texts, strict=True)
    ]


# right: 1 1 | 0 1 | 1 ; VS without figure: unclear (excused), wrong; figure: right, unclear (not excused)
TEXTS = "ynyyy?yy?"


def test_numbers_by_hand(tmp_path):
    benchmark = HallusionBench(write_hallusion(tmp_path / "h.json"))
    found = values(benchmark.score(answers_to(benchmark, TEXTS), False), benchmark.metrics)
    # figures: VD 0 (1 1), VD 1 (0 1), VD 2 (1); VS 1 (1 0): 2 of 4, two of them mixed
    # pairs: VD q0 over figures 0, 1, 2: 1 0 1; VD q1: 1 1; VS q0: excused, 1; VS q1: 0 0
    # easy: VD q0 1, q1 1; VS q0 1, q1 0. hard: VD q0 (0 1), q1 1, VS q0 1, q1 0
    assert found["all"] == {
        "aAcc": 6 / 9,
        "fAcc": 2 / 4,
        "qAcc": 2 / 4,
        "easy": 3 / 4,
        "hard": 2 / 4,
        "inconsistent": 2 / 4,
        "answered": 7 / 9,
    }
    assert found["VD"] == {
        "aAcc": 4 / 5,
        "fAcc": 2 / 3,
        "qAcc": 1 / 2,
        "easy": 1,
        "hard": 1 / 2,
        "inconsistent": 1 / 3,
        "answered": 1,
    }
    assert found["VS"]["fAcc"] == 0 and found["VS"]["qAcc"] == 1 / 2


def test_a_judge_reads_the_same_answers(tmp_path):
    def verdict(text: str) -> str:
        said = next(line for line in text.splitlines() if line.startswith("Answer to check: "))
        yes, true = "Yes" in said, "Reference answer: It is." in text
        return "unclear" if "depends" in said else "correct" if yes is true else "INCORRECT, it is not"

    file = write_hallusion(tmp_path / "h.json")
    with JudgeServer(verdict) as server:
        judge = JudgeClient(Endpoint(server.url, "judge-1"), ReplyCache(None))
        prompt = JudgePrompt(PROMPTS / "hallusionbench_judge_prompt.txt", PROMPT_NAMES)
        benchmark = HallusionBench(file, judge, prompt)
        judged = benchmark.score(answers_to(benchmark, TEXTS), False)
    ruled = HallusionBench(file).score(answers_to(benchmark, TEXTS), False)
    assert judged.items == ruled.items
    assert (judged.conditions["judge"], judged.conditions["verdict"]) == ("judge-1", "judge")
    assert ruled.conditions["verdict"] == "rule" and "judge" not in ruled.conditions


def test_questions_without_a_picture_are_asked_without_one(tmp_path):
    items = HallusionBench(write_hallusion(tmp_path / "h.json")).items()
    assert [item.image for item in items[:3]] == ["pictures/VD_0.jpg"] * 2 + ["pictures/VD_1.jpg"]
    assert [item.image for item in items[5:7]] == ["", ""]


def test_several_answers_to_a_question_are_several_runs(tmp_path):
    benchmark = HallusionBench(write_hallusion(tmp_path / "h.json"))
    both = [
        *answers_to(benchmark, TEXTS),
        *answers_to(benchmark, "ynnyyynyn"),
    ]  # the second time all is right
    found = values(benchmark.score(both, False), benchmark.metrics)["all"]
    assert (found["fAcc"], found["qAcc"], found["aAcc"]) == (6 / 8, 6 / 8, 15 / 18)
    with pytest.raises(ValueError, match=r"questions have \[1, 2\] answers each"):
        benchmark.check(both[:-1], False)


def test_a_group_with_a_missing_answer_counts_nowhere(tmp_path):
    benchmark = HallusionBench(write_hallusion(tmp_path / "h.json"))
    scores = benchmark.score(answers_to(benchmark, TEXTS)[1:], True)  # without VD figure 0, question 0
    found = values(scores, benchmark.metrics)["all"]
    assert (found["fAcc"], found["qAcc"], found["easy"]) == (1 / 3, 2 / 3, 2 / 3)
    assert scores.counts == {"missing": 1}


def test_the_published_layout(tmp_path):
    benchmark = HallusionBench(write_hallusion(tmp_path / "h.json"))
    theirs = [row(*question) | {"model_prediction": "Yes"} for question in QUESTIONS]
    assert [one["id"] for one in benchmark.own_layout(theirs)] == [item.id for item in benchmark.items()]
