"""The files of a converted model: names, bytes, settings, shards; written whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from llava_rlhf.conversion import original_files
from llava_rlhf.conversion.base_model import plan_base
from llava_rlhf.conversion.original_files import open_weights
from models.base_check import check_base
from models.base_files import read_base_facts
from tests.support.original_models import (
    OriginalShape,
    language_weights,
    tower_weights,
    write_original,
    write_tower,
    write_weights,
)


def test_names_and_bytes_are_those_that_save_pretrained_writes(converted, tmp_path):
    model, info = LlavaForConditionalGeneration.from_pretrained(converted.output, output_loading_info=True)
    assert not any(info.values()), info
    assert model.dtype == torch.float16
    model.save_pretrained(tmp_path)
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (converted.output, tmp_path))
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype, name
        assert torch.equal(ours[name], value), name
    config, saved = (
        json.loads((folder / "config.json").read_text()) for folder in (converted.output, tmp_path)
    )
    for part in ("text_config", "vision_config"):
        del saved[part]["dtype"]  # a loaded model repeats its number format there
    assert config == saved


def test_the_configuration_says_what_the_original_said(converted):
    config = json.loads((converted.output / "config.json").read_text())
    assert config["image_aspect_ratio"] == "pad"
    assert (config["vision_feature_layer"], config["vision_feature_select_strategy"]) == (-2, "default")
    assert (config["image_token_index"], config["image_seq_length"]) == (380, 25)
    assert config["tie_word_embeddings"] is config["text_config"]["tie_word_embeddings"] is False
    assert config["text_config"]["rope_parameters"] == {
        "rope_type": "linear",
        "factor": 2.0,
        "rope_theta": 5000.0,
    }
    assert config["text_config"]["num_key_value_heads"] == 2
    assert not any(name.startswith("mm_") for name in config)
    facts = read_base_facts(converted.output)
    assert (facts.image_token_id, facts.positions, facts.layers, facts.hidden_size) == (380, 25, 2, 48)


def test_output_shards_hold_what_one_file_holds(converted, tmp_path):
    plan = plan_base(converted.source, converted.tower)
    plan.write(tmp_path / "sharded", max_shard_bytes=50_000)
    files = sorted((tmp_path / "sharded").glob("model-*.safetensors"))
    index = json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())
    assert len(files) > 3
    assert {file.name for file in files} == set(index["weight_map"].values())
    assert index["metadata"]["total_size"] == plan.nbytes
    assert all(load_file(file).keys() == {n for n, f in index["weight_map"].items() if f == file.name} for file in files)  # fmt: skip
    joined = {name: value for file in files for name, value in load_file(file).items()}
    whole = load_file(converted.output / "model.safetensors")
    assert joined.keys() == whole.keys()
    assert all(torch.equal(joined[name], whole[name]) for name in whole)
    _, info = LlavaForConditionalGeneration.from_pretrained(tmp_path / "sharded", output_loading_info=True)
    assert not any(info.values()), info


def test_number_formats_stay_and_every_value_lies_at_a_multiple_of_its_size(tmp_path):
    # An odd number of float16 values in the tower: behind them no float32 value would be where it must be.
    shape = OriginalShape(vision_hidden=25, vision_heads=5, image_size=56)
    assert (
        sum(value.numel() for name, value in tower_weights(shape).items() if "position_ids" not in name) % 2
    )
    source = write_original(tmp_path / "original", shape)
    weights = {name: value.float() for name, value in language_weights(shape).items()}
    weights["model.norm.weight"] = weights["model.norm.weight"].bfloat16()
    write_weights(source, weights)
    # Its path comes first, but its values must come last.
    plan_base(source, write_tower(tmp_path / "a_tower", shape)).write(tmp_path / "converted")
    file = tmp_path / "converted" / "model.safetensors"
    formats = {name: value.dtype for name, value in load_file(file).items()}
    assert formats.pop("language_model.model.norm.weight") == torch.bfloat16
    for name, dtype in formats.items():
        assert dtype == (torch.float16 if name.startswith("vision_tower") else torch.float32), name
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    sizes = {"F32": 4, "F16": 2, "BF16": 2}
    for name, entry in header.items():
        if name != "__metadata__":
            assert (8 + length + entry["data_offsets"][0]) % sizes[entry["dtype"]] == 0, name


def test_no_mapping_outlives_the_next_and_each_file_is_opened_once(converted, tmp_path, monkeypatch):
    """What bounds the memory: with a limit on mapped bytes below a file's size, its former mapping is gone each time."""
    import weakref

    alive: list[list[weakref.ref]] = []

    def watched(path: Path) -> dict[str, Tensor]:
        assert not any(reference() is not None for references in alive for reference in references)
        opened = open_weights(path)
        alive.append([weakref.ref(tensor) for tensor in opened.values()])
        return opened

    plan = plan_base(converted.source, converted.tower)
    monkeypatch.setattr(original_files, "open_weights", watched)
    plan.write(tmp_path / "a")
    assert len(alive) == 4  # three shards and the tower
    monkeypatch.setattr(original_files, "MAPPED_BYTES", 20_000)
    plan.write(tmp_path / "b")
    assert len(alive) > 4 + 8


# --- whole or not at all


def test_an_output_that_exists_is_refused(converted, tmp_path):
    with pytest.raises(ValueError, match="exists already"):
        plan_base(converted.source, converted.tower).write(tmp_path)


def test_a_conversion_that_breaks_off_leaves_nothing(pair, tmp_path):
    plan = plan_base(pair.source, pair.tower)
    (pair.tower / "pytorch_model.bin").write_bytes(b"")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match="is empty"):
        plan.write(pair.output)
    assert sorted(tmp_path.rglob("*")) == before
    write_weights(pair.tower, tower_weights(pair.shape))
    plan.write(pair.output)
    check_base(pair.output)


def test_what_a_kill_left_behind_is_written_over(pair):
    left = pair.output.parent / ".incomplete" / pair.output.name
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")
    plan_base(pair.source, pair.tower).write(pair.output)
    check_base(pair.output)
    assert not left.parent.exists()


def test_a_full_disk_is_seen_before_anything_is_written(pair, monkeypatch):
    plan = plan_base(pair.source, pair.tower)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": plan.nbytes - 1}))
    with pytest.raises(ValueError, match=r"needs 16\.\d MB, .* has \d+\.\d kB left"):
        plan.write(pair.output)
