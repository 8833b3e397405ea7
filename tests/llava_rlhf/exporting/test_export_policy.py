"""Exports are what plain transformers, PEFT and the model card's reader expect, and nothing half done is left."""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from bitsandbytes.functional import dequantize_4bit
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import BitsAndBytesConfig, GenerationConfig, LlavaForConditionalGeneration

from llava_rlhf import export_policy
from llava_rlhf.exporting import merging
from llava_rlhf.exporting.model_card import vllm_rank
from llava_rlhf.exporting.parity import measure_parity, read_check_prompts
from llava_rlhf.exporting.plain_answers import Questions
from llava_rlhf.exporting.trained import Trained
from llava_rlhf.runs.save_errors import SaveError
from models.adapters import AdapterBank, AdapterSpec
from models.families.llava import Llava
from models.settings import LoraSettings
from models.vlm import BaseSettings, full_precision_modules, load_base
from tests.support.tiny_data import command_line, write_tiny_data

RANK = 4


@pytest.fixture(scope="module")
def run_folder(tiny_base, tmp_path_factory) -> Path:
    """A run folder with an adapter that changes the base, and a record of its making."""
    folder = tmp_path_factory.mktemp("run") / "ppo"
    torch.manual_seed(0)
    bank = AdapterBank(
        load_base(tiny_base, BaseSettings()), {"policy": AdapterSpec(LoraSettings(r=RANK), True)}
    )
    with torch.no_grad():
        for parameter in bank.parameters_of("policy").values():
            parameter.normal_(std=0.05)
    checkpoint = folder / "checkpoint-3"
    bank.save("policy", checkpoint / "lora_policy", str(tiny_base))
    (folder / "arguments.json").write_text(
        json.dumps({"ModelArguments": {"bits": 4}, "PPOArguments": {"seed": 7}})
    )
    lines = [{"step": step, "objective/rewards": step + 0.25, "unknown": 1.0} for step in (1, 2, 3, 4)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture(scope="module")
def sharded(tiny_base, tmp_path_factory) -> Path:
    """The base in several files, without a generation configuration."""
    folder = tmp_path_factory.mktemp("sharded") / "base"
    shutil.copytree(tiny_base, folder, ignore=shutil.ignore_patterns("model*", "generation_config.json"))
    LlavaForConditionalGeneration.from_pretrained(tiny_base).save_pretrained(folder, max_shard_size="100KB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    return folder


def export(base: Path, adapter: Path, output: Path, **flags) -> Path:
    argv = command_line(base_model_name=base, adapter=adapter, output_dir=output, **flags)
    export_policy.run(export_policy.prepare(argv))
    return output


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(5, 25).unsqueeze(0)).logits


def with_peft(base: Path, adapter: Path, dtype=torch.float32):
    return PeftModel.from_pretrained(
        LlavaForConditionalGeneration.from_pretrained(base, dtype=dtype), str(adapter)
    ).eval()


def test_files_are_merged_one_by_one_as_peft_merges_in_memory(sharded, run_folder, tmp_path):
    merged = export(sharded, run_folder / "checkpoint-3", tmp_path / "merged")
    files = {file.name for file in sharded.glob("*.safetensors")}
    assert len(files) > 3
    assert {file.name for file in merged.glob("*.safetensors")} == files
    model = LlavaForConditionalGeneration.from_pretrained(merged).eval()
    adapted = with_peft(sharded, run_folder / "checkpoint-3" / "lora_policy")
    expected = adapted.merge_and_unload().state_dict()
    changed = 0
    base = LlavaForConditionalGeneration.from_pretrained(sharded).state_dict()
    for name, weight in model.state_dict().items():
        assert_close(weight, expected[name], rtol=0, atol=1e-6)
        changed += not torch.equal(weight, base[name])
    layers = model.config.text_config.num_hidden_layers
    assert changed == 7 * layers  # the linear layers of each, and nothing else
    index = json.loads((merged / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for file in files for tensor in load_file(merged / file).values()
    )
    assert GenerationConfig.from_pretrained(merged).eos_token_id == 2


def test_weights_are_rounded_once(tiny_base, run_folder, tmp_path):
    merged = export(tiny_base, run_folder / "checkpoint-3", tmp_path / "merged", dtype="bfloat16")
    model = LlavaForConditionalGeneration.from_pretrained(merged)
    assert model.dtype == torch.bfloat16
    exact = with_peft(tiny_base, run_folder / "checkpoint-3" / "lora_policy").merge_and_unload().state_dict()
    for name, weight in model.state_dict().items():
        unequal = (weight != exact[name].bfloat16()).float().mean()
        assert unequal < 1e-3, name  # the sum's last float32 digit may decide a tie


def test_parity_is_printed_and_small(tiny_base, run_folder, tmp_path, capsys):
    export(tiny_base, run_folder / "checkpoint-3", tmp_path / "merged")
    printed = capsys.readouterr().out
    assert "3 prompts, 48 answer tokens: max logit difference" in printed
    assert "same most likely token at 100.0%" in printed


def test_parity_sees_a_merge_without_the_adapter(tiny_base, run_folder, tmp_path):
    prompts = read_check_prompts(None, None, str(tiny_base), 2, Trained())
    adapter = run_folder / "checkpoint-3" / "lora_policy"
    with pytest.raises(RuntimeError, match="does not compute what base"):
        measure_parity(tiny_base, adapter, tiny_base, prompts, torch.float32, Questions())


@pytest.mark.slow
def test_nothing_is_left_where_the_comparison_fails(tiny_base, run_folder, tmp_path, monkeypatch):
    prepared = export_policy.prepare(
        command_line(
            base_model_name=tiny_base, adapter=run_folder / "checkpoint-3", output_dir=tmp_path / "out"
        )
    )
    # The adapter changes between the merge and the comparison: the real comparison fails.
    moved = shutil.copytree(prepared.adapter, tmp_path / "adapter")
    merge = merging.merge_files

    def merge_and_change(base, adapter, target, dtype):
        merge(base, adapter, target, dtype)
        state = load_file(moved / "adapter_model.safetensors")
        save_file(
            {k: -v if "lora_B" in k else v for k, v in state.items()}, moved / "adapter_model.safetensors"
        )

    monkeypatch.setattr(merging, "merge_files", merge_and_change)
    with pytest.raises(RuntimeError, match="does not compute"):
        export_policy.run(replace(prepared, adapter=moved))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter"]


def test_a_full_disk_is_said_and_nothing_is_left(tiny_base, run_folder, tmp_path):
    """A limit on the size of files stands for a full disk: configurations fit, weights do not."""
    prepared = export_policy.prepare(
        command_line(
            base_model_name=tiny_base, adapter=run_folder / "checkpoint-3", output_dir=tmp_path / "out"
        )
    )
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = (tiny_base / "model.safetensors").stat().st_size // 2
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, hard))
    try:
        with pytest.raises(SaveError, match=r"out could not be written to .*File too large.*Make room"):
            export_policy.run(prepared)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_own_prompts(tiny_base, run_folder, tmp_path, capsys):
    data = write_tiny_data(tmp_path / "data")
    flags = {"check_prompts": data.prompts, "image_folder": data.images, "check_rows": 4}
    export(tiny_base, run_folder / "checkpoint-3", tmp_path / "merged", **flags)
    assert "4 prompts, 64 answer tokens" in capsys.readouterr().out


def test_card_says_how_the_policy_was_made(tiny_base, run_folder, tmp_path):
    table = tmp_path / "table.md"
    table.write_text("| a | b |\n|---|---|\n| 1 | 2 |\n")
    merged = export(tiny_base, run_folder / "checkpoint-3", tmp_path / "merged", results_file=table)
    card = ModelCard.load(merged / "README.md")
    assert card.data.base_model == str(tiny_base)
    assert card.data.library_name == "transformers"
    assert "after step 3" in card.text
    assert "| `objective/rewards` | 3.25 |" in card.text  # step 3, not the run's last
    assert "held in 4 bits" in card.text
    assert "| 1 | 2 |" in card.text
    assert "max logit difference" in card.text
    assert json.loads((merged / "training_arguments.json").read_text())["PPOArguments"] == {"seed": 7}


def test_adapter_alone_is_plain_peft(tiny_base, run_folder, tmp_path):
    folder = export(tiny_base, run_folder / "checkpoint-3", tmp_path / "adapter", adapter_only=True)
    assert_close(
        logits(with_peft(tiny_base, folder)),
        logits(with_peft(tiny_base, run_folder / "checkpoint-3" / "lora_policy")),
        rtol=0,
        atol=0,
    )
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tiny_base)
    # What vLLM reads: these keys, and modules named as in the Hugging Face model.
    assert {"r", "lora_alpha", "target_modules"} <= set(config)
    names = load_file(folder / "adapter_model.safetensors")
    assert all(name.startswith("base_model.model.model.language_model.layers.") for name in names)
    assert "--max-lora-rank 8 " in (folder / "README.md").read_text()


def test_vllm_takes_a_few_ranks_only():
    found = [vllm_rank(rank) for rank in (1, 4, 8, 9, 64, 65)]
    assert found == [8, 8, 8, 16, 64, 128]


@pytest.mark.slow
def test_merged_model_answers_in_a_process_without_this_project(tiny_base, run_folder, tmp_path):
    merged = export(tiny_base, run_folder / "checkpoint-3", tmp_path / "merged", check_rows=0)
    program = (
        "import sys, torch\nfrom PIL import Image\n"
        "from transformers import AutoProcessor, LlavaForConditionalGeneration\n"
        "assert not any(name.startswith(('llava_rlhf', 'models')) for name in sys.modules)\n"
        f"path = {str(merged)!r}\n"
        "model, processor = LlavaForConditionalGeneration.from_pretrained(path), AutoProcessor.from_pretrained(path)\n"
        "inputs = processor(images=Image.new('RGB', (32, 32)), text='USER: <image>\\nis there a dog? ASSISTANT:', return_tensors='pt')\n"
        "print(model.generate(**inputs, max_new_tokens=4).shape[1] - inputs['input_ids'].shape[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert 1 <= int(done.stdout.split()[-1]) <= 4


@pytest.fixture(scope="module")
def four_bit(tiny_base, tmp_path_factory) -> Path:
    """A base stored in NF4."""
    folder = tmp_path_factory.mktemp("nf4") / "base"
    shutil.copytree(tiny_base, folder, ignore=shutil.ignore_patterns("model*"))
    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=full_precision_modules(Llava)
    )
    model = LlavaForConditionalGeneration.from_pretrained(
        tiny_base, quantization_config=settings, device_map={"": "cpu"}
    )
    model.save_pretrained(folder)
    return folder


def test_a_quantised_base_is_refused_until_asked_for(tiny_base, four_bit, run_folder, tmp_path):
    with pytest.raises(ValueError, match=r"stored quantised .*--dequantize True"):
        export(four_bit, run_folder / "checkpoint-3", tmp_path / "merged")
    merged = export(four_bit, run_folder / "checkpoint-3", tmp_path / "merged", dequantize=True)
    assert [path.name for path in tmp_path.iterdir()] == ["merged"]
    assert "quantization_config" not in json.loads((merged / "config.json").read_text())
    stored = LlavaForConditionalGeneration.from_pretrained(four_bit, device_map={"": "cpu"})
    factors = load_file(run_folder / "checkpoint-3" / "lora_policy" / "adapter_model.safetensors")
    layer = stored.model.language_model.layers[1].mlp.up_proj
    name = "base_model.model.model.language_model.layers.1.mlp.up_proj.lora_{}.weight"
    rounded = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    scale = LoraSettings().alpha / RANK
    expected = rounded + scale * factors[name.format("B")] @ factors[name.format("A")]
    model = LlavaForConditionalGeneration.from_pretrained(merged)
    assert_close(model.model.language_model.layers[1].mlp.up_proj.weight.data, expected, rtol=0, atol=1e-6)
    full = LlavaForConditionalGeneration.from_pretrained(tiny_base).model.language_model.layers[1]
    assert (full.mlp.up_proj.weight - rounded).abs().max() > 1e-3  # rounding is no small thing


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"dequantize": True}, "is not quantised; leave the flag out"),
        ({"check_rows": -1}, "--check_rows -1: must be at least 0"),
        ({"results_file": "nowhere.md"}, "--results_file nowhere.md: no such file"),
    ],
)
def test_refused(flags, message, tiny_base, run_folder, tmp_path):
    with pytest.raises(ValueError, match=message):
        export(tiny_base, run_folder / "checkpoint-3", tmp_path / "merged", **flags)


def test_an_adapter_that_is_not_plain_lora_is_refused(tiny_base, run_folder, tmp_path):
    adapter = shutil.copytree(run_folder / "checkpoint-3" / "lora_policy", tmp_path / "adapter")
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"use_dora": True}))
    with pytest.raises(
        ValueError, match=r"is DoRA \(use_dora True\); only LoRA on linear layers of the language model"
    ):
        export(tiny_base, adapter, tmp_path / "merged")


def test_weights_that_are_no_safetensors_are_refused(tiny_base, run_folder, tmp_path):
    base = shutil.copytree(tiny_base, tmp_path / "base")
    (base / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"holds no model\.safetensors"):
        export(base, run_folder / "checkpoint-3", tmp_path / "merged")
