"""`RewardModel` and `Policy` in Python: the numbers and words of the programs `score` and `answer_prompts`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from llava_rlhf import Policy, RewardModel, answer_prompts, score
from tests.support.tiny_data import command_line

QUESTIONS = ("what is in the picture?", "is there a big dog?", "what is in the picture?")


@pytest.fixture(scope="module")
def rows(tiny_data, tiny_base, policy_run, tmp_path_factory) -> list[dict]:
    """What `answer_prompts` writes for three questions, two on pictures of other shapes and one without any."""
    folder = tmp_path_factory.mktemp("python")
    prompts = [
        {
            "id": str(number),
            **({"image": name} if name else {}),
            "conversations": [
                {"from": "human", "value": f"<image>\n{question}" if name else question},
                {"from": "gpt", "value": ""},
            ],
        }
        for number, (question, name) in enumerate(
            zip(QUESTIONS, ("000000000000.jpg", "000000000003.jpg", None), strict=True)
        )
    ]
    (folder / "prompts.json").write_text(json.dumps(prompts))
    flags = {
        "base_model_name": tiny_base,
        "adapter": policy_run,
        "dataset_path": folder / "prompts.json",
        "image_folder": tiny_data.images,
        "output_file": folder / "answers.jsonl",
        "version": "tiny",
        "response_len": 12,
        "use_cpu": True,
    }
    answer_prompts.run(answer_prompts.prepare(command_line(**flags)))
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def scores(rows, tiny_data, reward_run, tmp_path_factory) -> list[float]:
    """What `score` says of them. One caption each: the program orders several by a seed."""
    folder = tmp_path_factory.mktemp("scores")
    told = [{**row, "captions": ["a red cat"]} for row in rows]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    flags = {
        "reward_model_name_or_path": reward_run,
        "dataset_path": folder / "answers.jsonl",
        "image_folder": tiny_data.images,
        "output_file": folder / "scores.jsonl",
        "query_len": 60,
        "use_cpu": True,
    }
    score.run(score.prepare(command_line(**flags)))
    return [json.loads(line)["score"] for line in (folder / "scores.jsonl").read_text().splitlines()]


def picture(rows: list[dict], number: int, images: Path) -> Path | None:
    name = rows[number].get("image")
    name = name[0] if isinstance(name, list) and name else name
    return images / name if name else None


def test_answers_are_those_of_the_program(rows, tiny_data, tiny_base, policy_run):
    policy = Policy.load(tiny_base, policy_run, response_len=12, device="cpu")
    images = [picture(rows, number, tiny_data.images) for number in range(3)]
    expected = [row["answer"] for row in rows]
    assert len(set(expected)) > 1
    assert policy.answer(question=list(QUESTIONS), image=images) == expected
    assert policy.answer(question=QUESTIONS[0], image=Image.open(images[0])) == expected[0]
    assert policy.answer(messages=[{"role": "user", "content": QUESTIONS[2]}]) == expected[2]


def test_scores_are_those_of_the_program(rows, scores, tiny_data, tiny_base, reward_run):
    model = RewardModel.load(reward_run, tiny_base, device="cpu")
    assert model.reads_facts
    images = [picture(rows, number, tiny_data.images) for number in range(3)]
    found = [
        model.score(
            image=image,
            question=question,
            answer=row["answer"],
            captions=["a red cat"],
            stopped=row["stopped"],
        )
        for image, question, row in zip(images, QUESTIONS, rows, strict=True)
    ]
    assert found == pytest.approx(scores, rel=1e-5, abs=1e-5)
    assert len({round(value, 4) for value in found}) == 3
    several = model.score(
        image=images[0], question=QUESTIONS[0], answer=["a cat.", "a dog."], captions=["a red cat"]
    )
    alone = [
        model.score(image=images[0], question=QUESTIONS[0], answer=text, captions=["a red cat"])
        for text in ("a cat.", "a dog.")
    ]
    assert several == alone
    assert alone[0] != alone[1]


def test_facts_and_earlier_turns_are_read(tiny_data, tiny_base, reward_run):
    model = RewardModel.load(reward_run, tiny_base, device="cpu")
    image = tiny_data.images / "000000000000.jpg"
    asked = {"image": image, "answer": "two."}
    messages = [
        {"role": "user", "content": "what is in the picture?"},
        {"role": "assistant", "content": "a cat."},
        {"role": "user", "content": "how many?"},
    ]
    values = {
        model.score(**asked, question="how many?", captions=[]),
        model.score(**asked, question="how many?", captions=["a red cat"]),
        model.score(**asked, messages=messages, captions=["a red cat"]),
    }
    assert len(values) == 3


def test_what_can_not_be_meant_is_refused(tiny_base, policy_run, reward_run, tmp_path):
    model = RewardModel.load(reward_run, tiny_base, device="cpu")
    with pytest.raises(ValueError, match="reads captions"):
        model.score(question="what?", answer="a cat.")
    with pytest.raises(ValueError, match="either question or messages"):
        model.score(answer="a cat.", captions=[])
    with pytest.raises(ValueError, match="image is a list of 1 for 2 answers"):
        model.score(question="what?", answer=["a", "b"], image=[None], captions=[])
    with pytest.raises(ValueError, match="take turns"):
        model.score(messages=[{"role": "assistant", "content": "a"}], answer="a", captions=[])
    with pytest.raises(ValueError, match="no such file"):
        model.score(question="what?", answer="a", image=tmp_path / "none.png", captions=[])
    with pytest.raises(ValueError, match="trained with tiny"):
        Policy.load(tiny_base, policy_run, version="v1")
