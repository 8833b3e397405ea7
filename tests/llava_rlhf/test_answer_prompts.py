"""Answering with a base, an adapter and a merged export: the same model gives the same answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoTokenizer, LlavaForConditionalGeneration

from llava_rlhf import answer_prompts, export_policy
from models.adapters import AdapterBank, AdapterSpec
from models.vlm import BaseSettings, load_base
from tests.support.tiny_data import TinyData, command_line, write_tiny_data
from tests.support.tiny_models import save_unloadable_copy
from tests.support.tiny_programs import train_policy


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> TinyData:
    return write_tiny_data(tmp_path_factory.mktemp("answers") / "data")


@pytest.fixture(scope="module")
def policy(data, tiny_base, tmp_path_factory) -> Path:
    return train_policy(data, tiny_base, tmp_path_factory.mktemp("answers") / "policy")


@pytest.fixture(scope="module")
def exported(tiny_base, policy, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exports") / "merged"
    argv = command_line(base_model_name=tiny_base, adapter=policy, output_dir=folder)
    export_policy.run(export_policy.prepare(argv))
    return folder


def answers(data: TinyData, base: Path, output_file: Path, **settings) -> list[dict]:
    argv = command_line(
        base_model_name=base,
        dataset_path=data.prompts,
        image_folder=data.images,
        version="tiny",
        response_len=12,
        output_file=output_file,
        use_cpu=True,
        **settings,
    )
    answer_prompts.run(answer_prompts.prepare(argv))
    return [json.loads(line) for line in output_file.read_text().splitlines()]


def test_merged_model_answers_as_the_adapter(data, tiny_base, policy, exported, tmp_path):
    with_adapter = answers(data, tiny_base, tmp_path / "adapter.jsonl", adapter=policy)
    merged = answers(data, exported, tmp_path / "merged.jsonl")
    without = answers(data, tiny_base, tmp_path / "base.jsonl")
    assert merged == with_adapter
    differing = [a["answer"] != b["answer"] for a, b in zip(with_adapter, without, strict=True)]
    assert sum(differing) > len(differing) / 2


def test_records_are_complete(data, tiny_base, policy, tmp_path):
    records = answers(data, tiny_base, tmp_path / "a.jsonl", adapter=policy, samples=2, temperature=1)
    prompts = json.loads(data.prompts.read_text())
    assert [(record["id"], record["sample"]) for record in records] == [
        (prompt["id"], number) for prompt in prompts for number in (0, 1)
    ]
    for record, prompt in zip(records[::2], prompts, strict=True):
        image = prompt.get("image", [])
        assert record["image"] == ([image] if isinstance(image, str) else image)
        assert record["question"] == prompt["conversations"][0]["value"].replace("<image>", "").strip()
        assert 1 <= record["tokens"] <= 12
        assert record["stopped"] or record["tokens"] == 12


def test_sampling_does_not_depend_on_the_batch_size(data, tiny_base, policy, tmp_path):
    sampling = {"adapter": policy, "temperature": 1.0, "samples": 3, "seed": 5}
    runs = {
        size: answers(data, tiny_base, tmp_path / f"{size}.jsonl", batch_size=size, **sampling)
        for size in (1, 7, 64)
    }
    assert runs[7] == runs[1]
    assert runs[64] == runs[1]
    per_prompt = {record["id"]: set() for record in runs[1]}
    for record in runs[1]:
        per_prompt[record["id"]].add(record["answer"])
    assert any(
        len(different) == 3 for different in per_prompt.values()
    )  # the samples of a prompt are independent


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_rows_that_stand_for_no_token_are_never_drawn(temperature, data, tiny_base, tmp_path):
    """Three rows beyond the tokenizer, two of them opposite and long: one would win every time."""
    model = LlavaForConditionalGeneration.from_pretrained(tiny_base, dtype=torch.float32)
    tokens = model.config.text_config.vocab_size
    direction = torch.randn(64, generator=torch.Generator().manual_seed(0))
    model.resize_token_embeddings(tokens + 3, mean_resizing=False)
    with torch.no_grad():
        model.lm_head.weight[tokens:] = torch.stack([1e3 * direction, -1e3 * direction, 0 * direction])
    grown = shutil.copytree(tiny_base, tmp_path / "grown")
    model.save_pretrained(grown)
    settings = {"temperature": temperature, "samples": 2 if temperature else 1, "seed": 3}
    expected = answers(data, tiny_base, tmp_path / "plain.jsonl", **settings)
    assert answers(data, grown, tmp_path / "grown.jsonl", **settings) == expected


@pytest.mark.parametrize("program", ["answer", "export"])
def test_an_adapter_that_is_not_whole_is_refused_before_a_model_is_loaded(
    program, data, tiny_base, policy, tmp_path
):
    base = save_unloadable_copy(tiny_base, tmp_path / "unloadable")
    adapter = shutil.copytree(policy / "lora_policy", tmp_path / "adapter")
    weights = load_file(adapter / "adapter_model.safetensors")
    save_file(
        {name: value for name, value in weights.items() if "up_proj" not in name},
        adapter / "adapter_model.safetensors",
    )
    with pytest.raises(
        ValueError, match=r"adapter was trained on another base .*or is not whole.* 4 missing"
    ):
        if program == "answer":
            answers(data, base, tmp_path / "a.jsonl", adapter=adapter)
        else:
            argv = command_line(base_model_name=base, adapter=adapter, output_dir=tmp_path / "merged")
            export_policy.prepare(argv)


def test_sampling_depends_on_the_seed(data, tiny_base, policy, tmp_path):
    first, second = (
        answers(data, tiny_base, tmp_path / f"{seed}.jsonl", adapter=policy, temperature=1.0, seed=seed)
        for seed in (1, 2)
    )
    assert first != second


def test_export_refuses_an_existing_directory(tiny_base, policy, tmp_path):
    argv = command_line(base_model_name=tiny_base, adapter=policy, output_dir=tmp_path)
    with pytest.raises(ValueError, match="exists already"):
        export_policy.prepare(argv)


def test_exported_folder_loads_with_plain_transformers(tiny_base, policy, exported):
    model = LlavaForConditionalGeneration.from_pretrained(exported, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(exported)
    text = "USER: is there a big dog? ASSISTANT:"
    # The base's tokenizer begins no text; our encoder does.
    bare = AutoTokenizer.from_pretrained(tiny_base)(text).input_ids
    assert tokenizer(text).input_ids == [tokenizer.bos_token_id, *bare]
    ids = torch.tensor([tokenizer(text).input_ids])
    adapter = policy / "lora_policy"
    bank = AdapterBank(
        load_base(tiny_base, BaseSettings()), {"policy": AdapterSpec(adapter, trainable=False)}
    )
    with torch.no_grad(), bank.use("policy", training=False) as vlm:
        expected = vlm.project(vlm(ids, torch.ones_like(ids, dtype=torch.bool)))
        # Merging rounds W + BA once: measured 2e-6.
        assert_close(model(ids).logits, expected, rtol=1e-5, atol=2e-5)


def test_export_leaves_nothing_else_behind(exported, tiny_base):
    assert [path.name for path in exported.parent.iterdir()] == [exported.name]
    assert {path.name for path in tiny_base.iterdir()} <= {path.name for path in exported.iterdir()}
    assert not list(exported.glob("adapter_*"))
