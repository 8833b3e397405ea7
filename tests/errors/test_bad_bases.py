"""Folders that are no base, or one that can't be used: each is told as what it is, before any model is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.errors.documented import documented

LFS = "version https://git-lfs.example/spec/v1\noid sha256:0\nsize 1\n"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def edit(file: Path, **changes) -> None:
    """Fields of a JSON file; a dict is merged into the field, None removes it."""
    content = json.loads(file.read_text())
    for name, value in changes.items():
        content[name] = {**content[name], **value} if isinstance(value, dict) and name in content else value
    file.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def config(**changes) -> Callable[[Path], None]:
    return lambda base: edit(base / "config.json", **changes)


def only(**files: str) -> Callable[[Path], None]:
    """Nothing but these files (`a__b` is a/b, and `.` is written as `_dot_`)."""

    def change(base: Path) -> None:
        shutil.rmtree(base)
        for name, text in files.items():
            path = base / name.replace("__", "/").replace("_dot_", ".")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    return change


def weights(change: Callable[[dict], dict]) -> Callable[[Path], None]:
    def rewrite(base: Path) -> None:
        file = base / "model.safetensors"
        save_file(change(load_file(file)), file, {"format": "pt"})

    return rewrite


def processor(base: Path, **changes) -> None:
    edit(base / "processor_config.json", image_processor=changes)


def index_without_shard(base: Path) -> None:
    (base / "model.safetensors").rename(base / "model-00001-of-00002.safetensors")
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (base / "model.safetensors.index.json").write_text(json.dumps(index))


def without(part: str) -> Callable[[Path], None]:
    return weights(lambda state: {name: value for name, value in state.items() if part not in name})


ORIGINAL = '{"model_type": "llava", "mm_vision_tower": "clip", "hidden_size": 64}'
# case → what becomes of a copy of the base
DAMAGED: dict[str, Callable[[Path], None]] = {
    "adapter-as-base": only(adapter_config_dot_json='{"base_model_name_or_path": "my/base"}'),
    "run-as-base": only(lora_policy__adapter_config_dot_json="{}", arguments_dot_json="{}"),
    "cache-root": only(snapshots__abc123__config_dot_json="{}", refs__main="abc123"),
    "cache-of-many": only(**{"models--x--y__refs__main": "abc123"}),
    "parent-folder": only(llava__config_dot_json="{}"),
    "gguf-folder": only(llava_dot_gguf="GGUF"),
    "config-is-a-link": only(config_dot_json="../../blobs/bc8c3fd4"),
    "config-in-lfs": only(config_dot_json=LFS),
    "text-model": only(config_dot_json='{"model_type": "vicuna", "hidden_size": 64}'),
    "tower-alone": only(config_dot_json='{"model_type": "clip_vision_model"}'),
    "original-mistral": only(config_dot_json='{"model_type": "llava_mistral", "mm_vision_tower": "clip"}'),
    "original-lora": only(config_dot_json=ORIGINAL, non_lora_trainables_dot_bin="x", adapter_config_dot_json="{}"),
    "unknown-family": config(model_type="video_llava"),
    "siglip": config(vision_config={"model_type": "siglip_vision_model"}),
    "pixtral": config(vision_config={"model_type": "pixtral"}),
    "other-language-model": config(text_config={"model_type": "phi3"}),
    "select-strategy": config(vision_feature_select_strategy="cls"),
    "feature-layer": config(vision_feature_layer=-9),
    "stored-awq": config(quantization_config={"quant_method": "awq", "bits": 4}),
    "stored-gptq": lambda base: (base / "quantize_config.json").write_text("{}"),
    "adapter-beside": lambda base: (base / "adapter_config.json").write_text("{}"),
    "no-processor": lambda base: (base / "processor_config.json").unlink(),
    "processor-size": lambda base: processor(base, crop_size={"height": 56, "width": 56}),
    "processor-class": lambda base: processor(base, image_processor_type="SiglipImageProcessor"),
    "vocabulary": config(text_config={"vocab_size": 40}),
    "image-token": config(image_token_index=4000),
    "image-token-of-another": config(image_token_index=7),
    "embeddings": config(text_config={"vocab_size": 96}),
    "weights-in-lfs": lambda base: (base / "model.safetensors").write_text(LFS),
    "shard-missing": index_without_shard,
    "shards-without-index": lambda base: (base / "model.safetensors").rename(base / "model-1.safetensors"),
    "no-projector": without("multi_modal_projector.linear_2"),
    "no-tower-layer": without("vision_tower.encoder.layers.0."),
    "no-language-layer": without("layers.1.self_attn.v_proj"),
    "stop-unknown": lambda base: _rename_stop(base),
}  # fmt: skip
PLACES = {
    "hub-id": lambda base: "llava-hf/llava-1.5-7b-hf",
    "home": lambda base: "~/no/such/llava",
    "no-folder": lambda base: base / "nowhere",
    "a-file": lambda base: base / "model.safetensors",
    "broken-link": lambda base: _broken_link(base),
}
CASES = (*DAMAGED, *PLACES)


def _rename_stop(base: Path) -> None:
    text = (base / "tokenizer.json").read_text()
    (base / "tokenizer.json").write_text(text.replace('"</s>"', '"<|eot|>"'))
    edit(base / "tokenizer_config.json", eos_token="<|eot|>")


def _broken_link(base: Path) -> Path:
    (base.parent / "link").symlink_to("gone")
    return base.parent / "link"


@pytest.fixture
def copy(unloadable_base, tmp_path) -> Path:
    return shutil.copytree(unloadable_base, tmp_path / "copied" / "base")


@pytest.mark.parametrize("case", CASES)
def test_documented(case, prepare, copy, tmp_path):
    row = documented(__file__, case)
    if case in DAMAGED:
        DAMAGED[case](copy)
    base = PLACES[case](copy) if case in PLACES else copy
    ppo = {"base_model_name": base, "reward_base_model_name": base}
    for program, flags in (("policy", {"model_name_or_path": base}), ("ppo", ppo)):
        with pytest.raises(ValueError, match=row.pattern):
            prepare(program, **flags)
    assert row.skipped == "–" and not (tmp_path / "run").exists()


def test_the_undamaged_copy_passes_without_a_word(prepare, copy, caplog):
    assert len(prepare("policy", model_name_or_path=copy).train_set) == 16
    assert "chat template" not in caplog.text


def test_a_chat_template_of_another_kind_is_warned_of(prepare, copy, caplog):
    (copy / "chat_template.jinja").write_text(CHATML)
    assert len(prepare("policy", model_name_or_path=copy).train_set) == 16
    assert "was made for another prompt than --version tiny" in caplog.text
    assert "<|im_start|>user" in caplog.text and "USER: <image>" in caplog.text
