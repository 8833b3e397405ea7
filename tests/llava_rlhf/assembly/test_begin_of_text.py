"""One begin-of-text token, and not two, where both the tokenizer and the chat template of a base write one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, processors
from transformers import AutoTokenizer

from data_utils.images import open_picture
from data_utils.schema import IMAGE_MARKER
from llava_rlhf import answer_prompts, initialize_policy_model, train_reward_model
from llava_rlhf.assembly.template_files import read_chat_template
from llava_rlhf.conversion.plain_inputs import plain_reader
from tests.support.tiny_data import command_line, policy_command, reward_command
from tests.support.tiny_families.gemma3 import gemma_processor, save_tiny_gemma3

BOS = "<bos>"
QUESTION = "what is in the picture?"
CHAT = {"version": "chat", "query_len": 300, "response_len": 60, "model_max_length": 900}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    """Gemma 3 whose tokenizer puts a begin-of-text token in front of every text, as the released one does."""
    folder = save_tiny_gemma3(tmp_path_factory.mktemp("begun") / "base")
    file = folder / "tokenizer.json"
    backend = Tokenizer.from_file(str(file))
    backend.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, backend.token_to_id(BOS))]
    )
    backend.save(str(file))
    return folder


@pytest.fixture(scope="module")
def bos(base) -> int:
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert tokenizer("a")["input_ids"].count(tokenizer.bos_token_id) == 1, "else nothing could be doubled"
    assert BOS in read_chat_template(base) or "bos_token" in read_chat_template(base)
    return tokenizer.bos_token_id


@pytest.fixture(scope="module")
def asked(base, tiny_data, tmp_path_factory) -> answer_prompts.AnswerRun:
    argv = command_line(
        base_model_name=base,
        dataset_path=tiny_data.prompts,
        image_folder=tiny_data.images,
        output_file=tmp_path_factory.mktemp("asked") / "answers.jsonl",
        use_cpu=True,
        **CHAT,
    )
    return answer_prompts.prepare(argv)


def messages(row: dict[str, Any], pictures: list[Path]) -> list[dict[str, Any]]:
    """The turns of a row of prompts, its pictures in front of the first."""
    found = []
    for place, turn in enumerate(row["conversations"]):
        text = turn["value"].replace(f"{IMAGE_MARKER}\n", "")
        seen = [{"type": "image", "image": open_picture(path)} for path in pictures] if place == 0 else []
        role = {"human": "user", "gpt": "assistant"}[turn["from"]]
        found.append({"role": role, "content": [*seen, {"type": "text", "text": text}]})
    return found[:-1] if found[-1]["role"] == "assistant" else found


def test_a_query_is_what_the_base_s_own_processor_makes_of_it(base, bos, asked, tiny_data):
    processor, rows = gemma_processor(base), json.loads(tiny_data.prompts.read_text())
    counts = set()
    for item in (asked.prompts[place] for place in range(len(asked.prompts))):
        pictures = [tiny_data.images / name for name in item.image_names]
        (theirs,) = processor.apply_chat_template(
            messages(rows[item.row], pictures),
            chat_template=read_chat_template(base),
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
        )["input_ids"]
        grids = [()] * len(pictures)
        assert asked.text.expand(item.query_ids, grids) == theirs
        assert item.query_ids[0] == bos and item.query_ids.count(bos) == 1
        counts.add(len(pictures))
    assert counts == {0, 1, 2}


def test_a_dialogue_has_one(base, bos, tiny_data, tmp_path):
    dataset = initialize_policy_model.prepare(policy_command(tiny_data, base, tmp_path, **CHAT)).train_set
    assert len(dataset)
    for item in (dataset[place] for place in range(len(dataset))):
        assert item.input_ids[0] == bos and item.input_ids.count(bos) == 1
        assert not item.supervised[0]


def test_a_pair_has_one_in_each_answer_although_the_reward_prompt_is_a_text_of_its_own(
    base, bos, tiny_data, tmp_path
):
    dataset = train_reward_model.prepare(reward_command(tiny_data, base, tmp_path, **CHAT)).train_set
    assert len(dataset)
    for item in (dataset[place] for place in range(len(dataset))):
        for ids in item.input_ids:
            assert ids[0] == bos and ids.count(bos) == 1


def test_what_others_make_of_an_export_has_one(base, bos, asked):
    """The check of an export reads as plain transformers does, whose chat template has written one already."""
    (ids,) = plain_reader(base, asked.text)(QUESTION, None)["input_ids"].tolist()
    tokenizer = AutoTokenizer.from_pretrained(base)
    question = [{"role": "user", "content": QUESTION}]
    assert ids == tokenizer.apply_chat_template(question, add_generation_prompt=True)["input_ids"]
    assert ids[0] == bos and ids.count(bos) == 1
