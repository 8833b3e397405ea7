"""Labelling, scoring and reporting on answers, against numbers worked out by hand on one scene of two objects."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from math import sqrt
from pathlib import Path

import pytest

from data_utils.schema import read_preferences
from data_utils.shapes_files import scenes_to_json
from data_utils.shapes_world import PlacedObject, Scene, render
from llava_rlhf.tiny_world import label_preferences, report
from llava_rlhf.tiny_world.score_answers import score_answers
from tests.support.hostile_text import Parsed, assert_shown_as_text, hostile
from tests.support.tiny_data import command_line

SCENE = Scene((PlacedObject("red-circle", 0, 0, 0, 5), PlacedObject("blue-square", 3, 0, 0, 5)), 0)
DESCRIBE = ("GENERAL", "what is in the image?")
YES = ("YES_IN_YESNO", "is there a red-circle in the image?")
NO = ("NO_IN_YESNO", "is there a green-cross in the image?")
CHOICE = (
    "C_IN_ABCD",
    "which object is in the image? A. green-cross B. red-square C. blue-square D. white-circle",
)
BOTH = "the image shows a red-circle and a blue-square."
ONE_FALSE = "the image shows a red-circle and a green-cross."
NOTHING = "the image shows nothing."


def record(name, question, answer, tokens=4, stopped=True):
    answer_type, text = question
    return {
        "id": name,
        "image": ["a.png"],
        "question": text,
        "answer_type": answer_type,
        "answer": answer,
        "tokens": tokens,
        "stopped": stopped,
        "sample": 0,
    }


ANSWERS = [
    record("1", DESCRIBE, BOTH, tokens=9),
    record("2", DESCRIBE, ONE_FALSE, tokens=5, stopped=False),
    record("3", DESCRIBE, NOTHING, tokens=1),
    record("4", YES, "Yes, there is a red-circle."),
    record("5", NO, "Yes, there is a green-cross."),
    record("6", CHOICE, "C. blue-square."),
    record("7", CHOICE, "A. green-cross."),
    record("8", CHOICE, NOTHING),
]
# mean, standard error (sample standard deviation / √n), n
BY_HAND = {
    "hallucination": (1 / 3, 1 / 3, 3),  # 0 1 0
    "false_share": (0.25, 0.25, 2),  # 0 ½; the third names no object
    "recall": (0.5, 0.5 / sqrt(3), 3),  # 1 ½ 0
    "description_tokens": (5.0, 4 / sqrt(3), 3),  # 9 5 1
    "yes_no_accuracy": (0.5, 0.5, 2),  # 1 0
    "yes_rate": (1.0, 0.0, 2),
    "choice_accuracy": (1 / 3, 1 / 3, 3),  # 1 0 0
    "stop_rate": (7 / 8, 1 / 8, 8),
}


@pytest.fixture
def world(tmp_path) -> Path:
    (tmp_path / "images").mkdir()
    render(SCENE, 0.1).save(tmp_path / "images/a.png")
    (tmp_path / "scenes.json").write_text(json.dumps(scenes_to_json({"a.png": SCENE})))
    return tmp_path


def write_lines(path: Path, records) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def test_scores_by_hand():
    scores = score_answers(ANSWERS, {"a.png": SCENE})
    assert scores.keys() == BY_HAND.keys()
    for name, (mean, error, n) in BY_HAND.items():
        expected = {"mean": mean, "standard_error": error, "n": n}
        assert scores[name] == pytest.approx(expected, abs=1e-12), name


def label(world: Path, pairs, **settings) -> list[dict]:
    answers = write_lines(world / "pairs.jsonl", pairs)
    output = world / "preferences.json"
    argv = command_line(
        world=world, answers=answers, output_file=output, **{"synthetic_share": 0.0, **settings}
    )
    label_preferences.run(label_preferences.prepare(argv))
    return json.loads(output.read_text())


PAIRS = [
    *(record("recall 1 against ½ less a false object", DESCRIBE, text) for text in (ONE_FALSE, BOTH)),
    *(
        record("wrong against right", NO, text)
        for text in ("Yes, there is a green-cross.", "No, there is no.")
    ),
    *(record("equally right", CHOICE, "C. blue-square.") for _ in range(2)),
]


def test_preferences_by_hand(world):
    rows = label(world, PAIRS)
    better = {row["id"]: row[f"output_{row['preference']}"]["value"] for row in rows}
    assert better == {
        "recall 1 against ½ less a false object": BOTH,
        "wrong against right": "No, there is no.",
    }
    records, problems = read_preferences(world / "preferences.json")
    assert not problems
    assert {one.images for one in records} == {("a.png",)}


@pytest.mark.parametrize(("false_weight", "better"), [(0.25, ONE_FALSE), (0.5, None), (1.0, NOTHING)])
def test_the_price_of_a_false_object(world, false_weight, better):
    """Recall ½ and one false object (½ − weight) against saying nothing (0)."""
    pair = [record("pair", DESCRIBE, text) for text in (ONE_FALSE, NOTHING)]
    rows = label(world, pair, false_weight=false_weight)
    assert [row[f"output_{row['preference']}"]["value"] for row in rows] == ([better] if better else [])


def test_the_order_of_a_pair_is_random(world):
    pairs = [record(f"{index}", DESCRIBE, text) for index in range(40) for text in (BOTH, NOTHING)]
    first = sum(row["preference"] == 1 for row in label(world, pairs))
    assert 8 <= first <= 32  # 20 expected; outside by chance with probability 7e-5


def test_pairs_must_be_complete(world):
    with pytest.raises(ValueError, match="two samples"):
        label(world, PAIRS[:1])


class Page(HTMLParser):
    """What a browser would load, and whether every element is closed."""

    VOID = frozenset({"meta", "img", "br", "hr", "link", "input"})

    def __init__(self, text: str):
        super().__init__(convert_charrefs=True)
        self.open, self.loads, self.tags, self.text = [], [], [], ""
        self.marked: dict[str, set[str]] = {"true": set(), "false": set()}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [value for name, value in attributes if name in ("src", "href", "xlink:href", "data")]
        if tag not in self.VOID:
            self.open.append((tag, dict(attributes).get("class")))

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1][0] == tag, f"</{tag}> closes {self.open[-1:]}"
        self.open.pop()

    def handle_data(self, text):
        self.text += text
        if self.open and self.open[-1][1] in self.marked:
            self.marked[self.open[-1][1]].add(text)


def write_page(
    world: Path, last: str = "PPO", reward_model: str = "factual", said: str = BOTH + " <b>&"
) -> str:
    """Text of the report on two rows; the `last` one's descriptions are `said`."""
    before = write_lines(world / "before.jsonl", ANSWERS)
    changed = [{**one, "answer": said} if one["answer_type"] == "GENERAL" else one for one in ANSWERS]
    after = write_lines(world / "after.jsonl", changed)
    metrics = [{"step": step, **dict.fromkeys(report.CURVES, step * 0.5)} for step in (1, 2, 3)]
    write_lines(world / "ppo/metrics.jsonl", metrics)
    for step, text in ((1, ONE_FALSE), (2, BOTH)):
        rollout = {"answer_type": "GENERAL", "image": ["a.png"], "response": text}
        write_lines(world / f"ppo/rollouts/{step:06d}.jsonl", [rollout])
    write_lines(world / "reward/metrics.jsonl", [{"step": 4, "final_accuracy": 0.8125}])
    described = [{**one, "score": 1.0} for one in ANSWERS if one["answer_type"] == "GENERAL"]
    scores = write_lines(world / "scores.jsonl", described)
    argv = command_line(
        world=world,
        ppo=world / "ppo",
        answers=[f"SFT={before}", f"{last}={after}"],
        reward_models=[f"{reward_model}={world / 'reward'}"],
        best_of_n=[f"without facts={scores}"],
        output_file=world / "report.html",
        ppo_report_file=world / "ppo_report.html",
    )
    report.run(report.prepare(argv))
    return (world / "report.html").read_text()


@pytest.fixture
def page(world) -> str:
    return write_page(world)


def test_the_report_is_one_self_contained_valid_page(page):
    parsed = Page(page)
    assert not parsed.open
    figures = Parsed(page).json()["figures"]
    assert len(figures) == len(report.CURVES) + 2  # hallucination and recall of the rollouts
    assert figures[0]["series"] == [{"label": "", "x": [1, 2, 3], "y": [0.5, 1.0, 1.5], "dashed": False}]
    assert parsed.tags.count("img") == 3 and parsed.tags.count("table") == 4
    assert all(target.startswith(("data:", "#", "./")) for target in parsed.loads)
    assert parsed.tags.count("link") == 1 and not {"iframe", "object"} & set(parsed.tags)
    assert "default-src &#39;none&#39;" in page and "@import" not in page and "url(http" not in page


def test_the_report_shows_the_numbers(page):
    text = Page(page).text
    for shown in (
        "0.333",
        "± 0.289",
        "0.812",
        "factual",
        "of 1, without facts",
        "hallucinating descriptions .333 → 0 (−.333)",
    ):
        assert shown in text
    assert "red-circle and a blue-square. <b>&" not in page  # answers are text, never markup


def test_the_report_brings_one_on_the_ppo_run(page, world):
    beside = (world / "ppo_report.html").read_text()
    assert f'"response": "{BOTH}"' in beside and "objective/kl_sum_seq" in beside
    assert "<h1>hallucinating descriptions .333 → 0 (−.333)" in beside
    assert 'href="./report.html"' in beside and 'href="./ppo_report.html"' in page


def test_the_report_marks_true_and_false_objects(page):
    marked = Page(page).marked
    assert marked["true"] >= {"red-circle", "blue-square."}
    assert "green-cross." in marked["false"]


def test_the_report_wants_an_evaluated_reward_model(world):
    write_lines(world / "reward/metrics.jsonl", [{"step": 4, "loss": 0.5}])
    with pytest.raises(ValueError, match="final_accuracy"):
        report.reward_model_accuracy(world / "reward")


def test_the_rollout_curves_by_hand(world):
    for step, text in ((1, ONE_FALSE), (2, BOTH), (3, NOTHING)):
        rows = [{"answer_type": "GENERAL", "image": ["a.png"], "response": answer} for answer in (text, BOTH)]
        rows.append({"answer_type": "NO_IN_YESNO", "image": ["a.png"], "response": ONE_FALSE})
        write_lines(world / f"ppo/rollouts/{step:06d}.jsonl", rows)
    curves = {name: values for name, _, values in report.rollout_curves(world / "ppo", {"a.png": SCENE})}
    assert curves == {
        "hallucination": ([1, 2, 3], [0.5, 0.0, 0.0]),
        "recall": ([1, 2, 3], [0.75, 1.0, 0.5]),
    }


def test_names_and_answers_are_shown_as_text(world):
    names = [hostile(name).replace("=", ":") for name in ("model", "reward")]
    page = write_page(world, *names, said=f"{BOTH} {hostile('answer')}")
    parsed = assert_shown_as_text(page, [], scripts=2, images=3)  # the scene beside each pair of descriptions
    assert all(name in parsed.text for name in names)
    assert all(word in parsed.text for word in hostile("answer").split())
