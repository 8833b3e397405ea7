"""Chat, comparison page, Python API and collection on other families than LLaVA: the answers and scores of the programs."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from data_utils.image_choices import ImageChoices
from data_utils.schema import Turn
from llava_rlhf import (
    Policy,
    RewardModel,
    answer_prompts,
    chat,
    collect_preferences,
    demo,
    score,
    train_reward_model,
)
from llava_rlhf.assembly.reward_models import new_reward_model
from llava_rlhf.assembly.roles import load_text_side
from llava_rlhf.interactive.answering_models import load_models
from llava_rlhf.runs.arguments import AdapterArguments
from llava_rlhf.runs.reward_card import RewardModelCard
from models.base_files import read_family
from models.base_fingerprint import base_fingerprint
from models.vlm import BaseSettings
from tests.llava_rlhf.exporting.exports import write_run
from tests.support.judge_server import JudgeServer
from tests.support.tiny_data import PLAIN_PROMPT, TinyData, command_line, reward_command
from tests.support.tiny_families import OTHERS

QUESTIONS = ("is there a small cat?", "is there a small cat?", "what is in the picture?")
PICTURES = ("000000000002.jpg", "000000000004.jpg", None)
LENGTHS = {"response_len": 12, "model_max_length": 900}


@dataclass(frozen=True)
class Asked:
    """A base, a policy and a reward model of random weights on it; asked in the words of its own chat template."""

    version: str
    base: Path
    policy: Path
    reward: Path


@pytest.fixture(scope="module", params=OTHERS)
def asked(request, tmp_path_factory) -> Asked:
    version, folder = "chat", tmp_path_factory.mktemp("asked")
    base = request.param.save(folder / "base")
    model = new_reward_model(base, BaseSettings(), AdapterArguments(lora_r=4), False)
    images = load_text_side(base, ImageChoices(), "chat").image_choices
    card = RewardModelCard(
        str(base),
        PLAIN_PROMPT,
        False,
        version,
        images.image_aspect_ratio,
        base_fingerprint(base),
        min_pixels=images.min_pixels,
        max_pixels=images.max_pixels,
    )
    (folder / "reward").mkdir()
    train_reward_model.save_reward_model(model, card, folder / "reward")
    return Asked(version, base, write_run(base, folder / "policy", version=version), folder / "reward")


@pytest.fixture(scope="module")
def rows(asked, tiny_data, tmp_path_factory) -> list[dict]:
    """What `answer_prompts` writes for three questions, two on pictures of other shapes and one without any."""
    folder = tmp_path_factory.mktemp("rows")
    prompts = [
        {
            "id": str(number),
            **({"image": name} if name else {}),
            "conversations": [
                {"from": "human", "value": f"<image>\n{question}" if name else question},
                {"from": "gpt", "value": ""},
            ],
        }
        for number, (question, name) in enumerate(zip(QUESTIONS, PICTURES, strict=True))
    ]
    (folder / "prompts.json").write_text(json.dumps(prompts))
    argv = command_line(
        base_model_name=asked.base,
        adapter=asked.policy,
        dataset_path=folder / "prompts.json",
        image_folder=tiny_data.images,
        output_file=folder / "answers.jsonl",
        version=asked.version,
        use_cpu=True,
        **LENGTHS,
    )
    answer_prompts.run(answer_prompts.prepare(argv))
    found = [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]
    assert len({row["answer"] for row in found}) == 3
    return found


@pytest.fixture(scope="module")
def scores(asked, rows, tiny_data, tmp_path_factory) -> list[float]:
    """What `score` says of them."""
    folder = tmp_path_factory.mktemp("scores")
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = command_line(
        reward_model_name_or_path=asked.reward,
        dataset_path=folder / "answers.jsonl",
        image_folder=tiny_data.images,
        output_file=folder / "scores.jsonl",
        query_len=300,
        use_cpu=True,
        **{**LENGTHS, "response_len": 100},
    )
    score.run(score.prepare(argv))
    return [json.loads(line)["score"] for line in (folder / "scores.jsonl").read_text().splitlines()]


def images(data: TinyData) -> list[Path | None]:
    return [data.images / name if name else None for name in PICTURES]


def test_chat_and_python_answer_as_the_program_does(asked, rows, tiny_data, monkeypatch, capsys):
    expected = [row["answer"] for row in rows]
    lines = [QUESTIONS[2]]
    for question, image in zip(QUESTIONS, images(tiny_data)[:2], strict=False):
        lines += [f"/image {image}", question]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    argv = command_line(
        base_model_name=asked.base, adapter=asked.policy, version=asked.version, use_cpu=True, **LENGTHS
    )
    chat.run(chat.prepare(argv))
    assert capsys.readouterr().out.splitlines() == "\n".join([expected[2], *expected[:2]]).splitlines()
    policy = Policy.load(asked.base, asked.policy, device="cpu", **LENGTHS)
    assert policy.answer(question=list(QUESTIONS), image=images(tiny_data)) == expected


def test_the_comparison_page_and_python_score_as_the_program_does(asked, rows, scores, tiny_data):
    named = [f"base={asked.base}", f"policy={asked.base},{asked.policy}"]
    argv = command_line(
        reward_model_name_or_path=asked.reward, version=asked.version, use_cpu=True, **LENGTHS
    )
    prepared = demo.prepare(["--checkpoints", *named, *argv])
    generation = prepared.generation
    loaded = load_models(
        prepared.checkpoints,
        prepared.reward_model,
        generation.base_settings(prepared.model),
        generation.template,
        generation.image_choices(),
        generation.lengths,
    )
    python = RewardModel.load(asked.reward, asked.base, device="cpu")
    found, again = [], []
    for question, image, row in zip(QUESTIONS, images(tiny_data), rows, strict=True):
        turns = [Turn("human", question)]
        *_, as_it_is = loaded.answering[0].answer(turns, image, 0.0, 0)
        *_, answer = loaded.answering[1].answer(turns, image, 0.0, 0)
        assert answer.text == row["answer"] != as_it_is.text
        found.append(loaded.scorer.score(turns, image, answer, ()))
        again.append(python.score(question=question, image=image, answer=answer.text, stopped=answer.stopped))
    assert found == pytest.approx(scores, rel=1e-5, abs=1e-5)
    assert again == pytest.approx(scores, rel=1e-5, abs=1e-5)
    assert len({round(value, 4) for value in found}) == 3


def test_positions_of_a_picture_count_in_a_chat(asked, tmp_path):
    """Where a picture takes positions by its size, a large one leaves no room."""
    Image.new("RGB", (20, 20)).save(tmp_path / "small.png")
    Image.new("RGB", (400, 400)).save(tmp_path / "large.png")
    text = load_text_side(asked.base, ImageChoices(), "chat")
    few, many = (text.family.positions(text.pipeline.processor, size) for size in ((20, 20), (400, 400)))
    if few == many:
        pytest.skip("pictures of this family take the same number of positions, whatever their size")
    policy = Policy.load(asked.base, asked.policy, device="cpu", response_len=2)
    turns, seen = [Turn("human", "what?")], text.pipeline(tmp_path, ["small.png"])
    bare = len(text.expand(policy._model.query_ids(turns, seen), seen.grids)) - few
    limit = bare + many - 1 + 2  # one too few
    policy = Policy.load(asked.base, asked.policy, device="cpu", response_len=2, model_max_length=limit)
    policy.answer(question="what?", image=tmp_path / "small.png")
    with pytest.raises(ValueError, match=rf"has {bare + many} tokens; .* --model_max_length {limit}"):
        policy.answer(question="what?", image=tmp_path / "large.png")


def test_pairs_are_collected_and_a_reward_model_can_be_trained_on_them(asked, tiny_data, tmp_path):
    with JudgeServer(lambda text: "Verdict: A") as server:
        argv = command_line(
            output_dir=tmp_path / "out",
            base_model_name=asked.base,
            adapter=asked.policy,
            dataset_path=tiny_data.prompts,
            image_folder=tiny_data.images,
            version=asked.version,
            query_len=300,
            annotator="judge",
            judge_url=server.url,
            judge_model="judge-1",
            temperature=1.0,
            max_prompts=3,
            skip_invalid=not read_family(asked.base).several_pictures,
            use_cpu=True,
            **LENGTHS,
        )
        collect_preferences.run(collect_preferences.prepare(argv))
    lines = [json.loads(line) for line in (tmp_path / "out" / "pairs.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and all(len(set(line["outputs"])) == 2 for line in lines)


def test_the_reward_command_takes_its_conditions(asked, tiny_data, tmp_path):
    """The card of a training says what held."""
    limits = {"query_len": 300, "model_max_length": 900, "response_len": 60}
    skip = not read_family(asked.base).several_pictures
    argv = reward_command(
        tiny_data, asked.base, tmp_path / "run", version=asked.version, skip_invalid=skip, **limits
    )
    choices = load_text_side(asked.base, ImageChoices(), "chat").image_choices
    assert train_reward_model.prepare(argv).card.image_choices == choices
