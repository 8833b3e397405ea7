"""The terminal chat: the answers of answer_prompts, over several turns, and what it refuses."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
import torch

from data_utils.conversation import TEMPLATES, query_segments
from data_utils.image_choices import ImageChoices
from data_utils.schema import Turn
from llava_rlhf import answer_prompts, chat
from llava_rlhf.interactive import answering_models
from llava_rlhf.interactive.streaming import GrowingText, stream
from models.generation import SamplingSettings, sample
from models.vlm import BaseSettings, load_base
from tests.support.tiny_data import command_line, write_tiny_data
from tests.support.tiny_models import save_unloadable_copy
from tests.support.tiny_programs import train_policy

LENGTHS = {"version": "tiny", "response_len": 12, "use_cpu": True}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tiny_data(tmp_path_factory.mktemp("chat") / "data")


@pytest.fixture(scope="module")
def policy(data, tiny_base, tmp_path_factory) -> Path:
    return train_policy(data, tiny_base, tmp_path_factory.mktemp("chat") / "policy")


@pytest.fixture(scope="module")
def prompts(data) -> list[dict]:
    return [row for row in json.loads(data.prompts.read_text()) if isinstance(row.get("image"), str)][:4]


def said(lines: list[str], monkeypatch, capsys, **settings) -> list[str]:
    """Standard output of a chat, line by line."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    chat.run(chat.prepare(command_line(**settings, **LENGTHS)))
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("adapted", [False, True])
def test_answers_are_those_of_answer_prompts(
    adapted, data, tiny_base, policy, prompts, tmp_path, monkeypatch, capsys
):
    adapter = {"adapter": policy} if adapted else {}
    (tmp_path / "prompts.json").write_text(json.dumps(prompts))
    argv = command_line(
        base_model_name=tiny_base,
        dataset_path=tmp_path / "prompts.json",
        image_folder=data.images,
        output_file=tmp_path / "answers.jsonl",
        **adapter,
        **LENGTHS,
    )
    answer_prompts.run(answer_prompts.prepare(argv))
    expected = [json.loads(line)["answer"] for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    lines = []
    for row in prompts:
        question = row["conversations"][0]["value"].replace("<image>", "").replace("\n", " ").strip()
        lines += [f"/image {data.images / row['image']}", question]
    lines += ["/no such command", "/image nowhere.png", "", "/quit", "never read"]
    capsys.readouterr()
    printed = said(lines, monkeypatch, capsys, base_model_name=tiny_base, **adapter)
    assert printed == "\n".join(expected).splitlines()


def test_later_turns_see_earlier_ones_and_reset_forgets_them(data, tiny_base, prompts, monkeypatch, capsys):
    image = data.images / prompts[0]["image"]
    first, second = "what is in the image?", "is there a dog?"
    lines = [first, second, "/reset", second]
    settings = {"base_model_name": tiny_base, "image": image}
    answers = said(lines, monkeypatch, capsys, **settings)
    turns = [Turn("human", first), Turn("gpt", answers[0]), Turn("human", second)]
    assert answers[1:] == [literal(tiny_base, image, turns), literal(tiny_base, image, turns[-1:])]


def literal(base: Path, image: Path, turns: list[Turn]) -> str:
    """The answer to a dialogue token by token, each from a forward pass over everything before it."""
    text = answering_models.load_text_side(base, ImageChoices(), "tiny")
    vlm = load_base(base, BaseSettings())
    features = vlm.encode_images(text.pipeline(image.parent, [image.name]).pixels, torch.tensor([0]))
    ids = []
    for index in text.encoder.encode(query_segments(TEMPLATES["tiny"], turns, 1)).ids:
        ids += vlm.family.placeholder(()) if index == vlm.image_token_id else [index]
    answer: list[int] = []
    while len(answer) < LENGTHS["response_len"] and text.tokenizer.eos_token_id not in answer:
        with torch.no_grad():
            rows = torch.tensor([ids + answer])
            logits = vlm.project(vlm(rows, torch.ones_like(rows, dtype=torch.bool), features)[0, -1])
        logits[text.image_token_id] = float("-inf")
        answer.append(int(logits.argmax()))
    return text.tokenizer.decode(answer, skip_special_tokens=True).strip()


def test_tokens_are_told_while_they_are_drawn(tiny_base):
    """Two rows of different length: what is told, up to each row's stop, is what is returned."""
    vlm = load_base(tiny_base, BaseSettings())
    torch.manual_seed(0)
    ids = torch.randint(5, 20, (3, 4))
    stop = int(sample(vlm, ids, ids > 0, None, SamplingSettings(6, (), 0, temperature=0)).ids[1, 2])
    told: dict[int, list[int]] = {0: [], 1: [], 2: []}

    def on_tokens(rows, tokens):
        for row, token in zip(rows.tolist(), tokens.tolist(), strict=True):
            told[row].append(token)

    answer = sample(
        vlm, ids, ids > 0, None, SamplingSettings(6, (stop,), 0, temperature=0), on_tokens=on_tokens
    )
    assert [told[row] for row in range(3)] == [answer.ids[row][answer.mask[row]].tolist() for row in range(3)]


class Letters:
    """A tokenizer whose tokens are bytes."""

    def decode(self, ids, skip_special_tokens):
        return bytes(index for index in ids if index).decode(errors="replace")


def test_half_a_character_is_not_shown_and_a_failure_reaches_the_caller():
    def work(on_tokens):
        for byte in "zwölf".encode() + b"\0":
            on_tokens(torch.tensor([0]), torch.tensor([byte]))

    growing = GrowingText(Letters(), (0,))
    assert list(stream(work, growing)) == ["z", "zw", "zwö", "zwöl", "zwölf", "zwölf"] and growing.ended

    def fail(on_tokens):
        on_tokens(torch.tensor([0]), torch.tensor([ord("a")]))
        raise RuntimeError("no memory")

    heard = []
    with pytest.raises(RuntimeError, match="no memory"):
        heard.extend(stream(fail, GrowingText(Letters(), (0,))))


def test_sampling_ends_when_nobody_listens():
    drawn = []

    def work(on_tokens):
        for byte in b"abcdefgh" * 1000:
            drawn.append(byte)
            on_tokens(torch.tensor([0]), torch.tensor([byte]))

    texts = stream(work, GrowingText(Letters(), (0,)))
    assert next(texts) == "a"
    texts.close()
    assert len(drawn) < 8000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image": "nowhere.png"}, "no such file"),
        ({"adapter": "nowhere"}, "holds no policy adapter"),
        ({"temperature": -1}, "must be 0 or more"),
        ({"response_len": 5000}, "below --model_max_length"),
        ({"base_model_name": "nowhere"}, "is not a model directory"),
    ],
)
def test_what_can_not_work_is_refused_before_a_model_is_loaded(changes, message, tiny_base, tmp_path):
    base = save_unloadable_copy(tiny_base, tmp_path / "unloadable")
    with pytest.raises(ValueError, match=message):
        chat.prepare(command_line(**{"base_model_name": base, **LENGTHS, **changes}))


def test_a_base_without_weights_is_refused(tiny_base, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ValueError, match=r"base holds no model\.safetensors"):
        chat.prepare(command_line(base_model_name=base, **LENGTHS))


def test_bytes_that_are_no_text_are_replaced(tiny_base, monkeypatch, capsys):
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(b"what \xff is it?\nand here?\n"), encoding="utf-8")
    )
    chat.run(chat.prepare(command_line(base_model_name=tiny_base, **LENGTHS)))
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_a_conversation_that_is_too_long_is_said(data, tiny_base, prompts, monkeypatch, capsys):
    lines = ["is there a dog? " * 40, "is there a dog?"]
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    settings = {"base_model_name": tiny_base, "model_max_length": 60, **LENGTHS}
    chat.run(chat.prepare(command_line(**settings)))
    printed = capsys.readouterr()
    assert "--model_max_length 60" in printed.err and len(printed.out.splitlines()) == 1
