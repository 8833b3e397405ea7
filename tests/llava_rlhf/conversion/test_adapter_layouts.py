"""Adapters are found where the original and its releases put them; two candidates, halves and misfits are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llava_rlhf.conversion.adapter_layouts import POLICY_KIND, PPO_KIND, REWARD_KIND, find_original, find_ours
from llava_rlhf.conversion.adapters import plan_to_original, plan_to_ours
from llava_rlhf.runs.role_files import POLICY, REWARD
from tests.llava_rlhf.conversion.original_adapters import (
    adapter_weights,
    write_adapter,
    write_head,
    write_reward_model,
)
from tests.support.reward_models import with_mlp_head
from tests.support.tiny_models import TinyShape, save_tiny_base

LAYERS = "base_model.model.model.layers."
OURS = "base_model.model.model.language_model.layers."
PLACES = [
    f"{parent}{name}" for parent in ("", "adapter_model/") for name in ("", "lora_default", "lora_policy")
]


def plan(source: Path, base: Path, head: Path | None = None):
    files = find_original(source, head)
    return plan_to_ours(files, dict.fromkeys(files.adapters, str(base)))


@pytest.mark.parametrize("ending", ["bin", "safetensors"])
@pytest.mark.parametrize("place", PLACES)
def test_a_policy_is_found_where_releases_put_it(place, ending, small_base, weights, tmp_path):
    source = tmp_path / "released"
    write_adapter(source / place, weights, ending)
    (source / "README.md").write_text("about this adapter")
    files = find_original(source)
    assert (files.kind, files.adapters, files.head) == (POLICY_KIND, {POLICY: source / place}, None)
    assert files.left_out == ("README.md",)
    plan(source, small_base).write(tmp_path / "ours")
    state = load_file(tmp_path / "ours" / POLICY / "adapter_model.safetensors")
    assert state.keys() == {name.replace(LAYERS, OURS) for name in weights}
    assert all(torch.equal(state[name.replace(LAYERS, OURS)], value) for name, value in weights.items())


@pytest.mark.parametrize(
    ("named", "place", "head"),
    [
        (".", ".", "."),
        (".", "lora_default", "."),
        (".", "lora_default", "lora_default"),
        (".", "adapter_model/lora_default", "."),
        (".", "adapter_model", "."),
        ("adapter_model", "adapter_model/lora_default", "adapter_model"),
    ],
)
def test_a_reward_head_is_found_where_releases_put_it(named, place, head, weights, tmp_path):
    """`named` by the user, `place` of the adapter and `head`, all seen from the release."""
    release = tmp_path / "some" / "release"
    write_adapter(release / place, weights)
    path = write_head((release / head).resolve() / "reward_head")
    files = find_original(release / named)
    assert (files.kind, files.adapters, files.head) == (REWARD_KIND, {REWARD: release / place}, path)


@pytest.mark.parametrize(
    ("named", "place"),
    [
        (".", "."),
        (".", "lora_default"),
        ("adapter_model", "lora_default"),
        ("adapter_model/lora_default", "."),
    ],
)
def test_a_head_around_the_folder_that_is_named_is_none_of_its_own(named, place, weights, tmp_path):
    """Whose it is can't be known: a policy may lie in a folder of a reward model. To take it, it is named."""
    source = (tmp_path / "run" / named).resolve()
    write_adapter(source / place, weights)
    head = write_head(source.parent / "reward_head")
    write_head(source.parent / "value_head.pt")
    files = find_original(source)
    assert (files.kind, files.head) == (POLICY_KIND, None)
    files = find_original(source, head)
    assert (files.kind, files.adapters, files.head) == (REWARD_KIND, {REWARD: source / place}, head)


def test_a_head_that_is_named_makes_a_reward_model_of_any_adapter(weights, tmp_path):
    head = write_head(tmp_path / "elsewhere")
    folder = write_adapter(tmp_path / "lora_policy", weights)
    assert find_original(folder, head).kind == REWARD_KIND


def test_a_checkpoint_in_a_run_folder_has_a_head_of_its_own(small_base, checkpoints, tmp_path):
    for kind, head in ((REWARD_KIND, "reward_head"), (PPO_KIND, "value_head.pt")):
        run = shutil.copytree(checkpoints[kind], tmp_path / kind)
        inside = shutil.copytree(checkpoints[kind], run / "checkpoint-4")
        files = find_original(inside)
        assert (files.kind, files.head) == (kind, inside / head)
        assert find_original(run).head == run / head


def test_an_adapter_beside_a_value_head_says_how_to_go_on(small_base, weights, tmp_path):
    source = write_adapter(tmp_path / "flat", weights)
    write_head(source / "value_head.pt")
    with pytest.raises(
        ValueError, match=r"flat holds one adapter and value_head\.pt side by side.*folder of their own"
    ):
        find_original(source)
    (source / "value_head.pt").unlink()  # as that folder of their own
    assert find_original(source).kind == POLICY_KIND


def test_a_policy_beside_a_reward_head_is_a_policy(weights, tmp_path):
    write_adapter(tmp_path / "lora_policy", weights)
    write_head(tmp_path / "reward_head")
    assert find_original(tmp_path / "lora_policy").kind == POLICY_KIND


def test_two_candidates_are_named(small_base, weights, tmp_path):
    source = write_reward_model(tmp_path / "both" / "reward", weights)
    write_head(source / "adapter_model" / "reward_head")
    with pytest.raises(
        ValueError,
        match=r"two heads for one adapter, .*adapter_model/reward_head and .*reward/reward_head.*--reward_head",
    ):
        find_original(source)
    head = source / "reward_head"
    assert find_original(source, head).head == head
    write_adapter(source / "lora_default", weights)
    with pytest.raises(
        ValueError, match=r"several adapters: .*reward/lora_default, .*adapter_model/lora_default"
    ):
        find_original(source, head)
    shutil.rmtree(source / "adapter_model")
    save_file(weights, source / "lora_default" / "adapter_model.safetensors")
    with pytest.raises(
        ValueError, match=r"lora_default holds both adapter_model.bin and adapter_model.safetensors"
    ):
        plan(source, small_base, head)


@pytest.mark.parametrize("lost", ["lora_policy", "lora_value", "value_head.pt"])
def test_half_a_ppo_checkpoint_is_refused(lost, checkpoints, tmp_path):
    source = shutil.copytree(checkpoints[PPO_KIND], tmp_path / "ppo")
    if lost == "value_head.pt":
        (source / lost).unlink()
    else:
        shutil.rmtree(source / "adapter_model" / lost)
    with pytest.raises(
        ValueError,
        match=f"not a whole PPO checkpoint: it lacks {lost}. Name the folder that holds adapter_model",
    ):
        find_original(source)


def test_the_policy_of_a_ppo_checkpoint_can_be_named_alone(checkpoints):
    folder = checkpoints[PPO_KIND] / "adapter_model" / "lora_policy"
    assert find_original(folder).adapters == {POLICY: folder}
    with pytest.raises(ValueError, match="not a whole PPO checkpoint: it lacks lora_policy"):
        find_original(folder.with_name("lora_value"))


@pytest.mark.parametrize("lost", ["lora_policy", "lora_value", "value_head.safetensors"])
def test_half_a_ppo_checkpoint_of_ours_is_refused(lost, small_base, checkpoints, tmp_path):
    ours = tmp_path / "ours"
    plan(checkpoints[PPO_KIND], small_base).write(ours)
    shutil.move(ours / lost, tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"not a whole PPO run or checkpoint: it lacks {lost}"):
        find_ours(ours)


def test_a_head_that_the_original_has_no_file_for_is_refused(reward_run, tmp_path):
    assert find_ours(reward_run).kind == REWARD_KIND
    folder = with_mlp_head(reward_run, tmp_path / "mlp")
    with pytest.raises(
        ValueError, match="has a head of kind mlp, and the original code knows linear ones alone"
    ):
        find_ours(folder)


@pytest.mark.parametrize("lost", ["adapter_config.json", "adapter_model.bin"])
def test_an_adapter_without_a_file_is_refused(lost, small_base, weights, tmp_path):
    write_adapter(tmp_path / "lora_default", weights)
    (tmp_path / "lora_default" / lost).unlink()
    with pytest.raises(ValueError, match=f"lora_default is not a whole adapter: it lacks {lost}"):
        plan(tmp_path, small_base)


def test_nothing_is_found_in_an_empty_folder(tmp_path):
    assert find_original(tmp_path) is None


def renamed(old: str, new: str) -> Callable[[dict], dict]:
    return lambda weights: {name.replace(old, new): value for name, value in weights.items()}


def without(part: str) -> Callable[[dict], dict]:
    return lambda weights: {name: value for name, value in weights.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("layers.1.mlp.up_proj.lora_A"), rf"1 missing: {LAYERS}1\.mlp\.up_proj\.lora_A\.weight$"),
        (without("layers.1."), rf"14 missing: {LAYERS}1\.mlp\.down_proj.*, .* and 8 more$"),
        (without("q_proj"), "4 missing"),
        (renamed("layers.1", "layers.2"), r"14 missing: .*layers\.1.*; 14 unexpected: .*layers\.2"),
        (renamed("lora_A.weight", "lora_A.default.weight"), "14 missing: .*; 14 unexpected: .*lora_A.default.weight"),
        (lambda w: {**w, "base_model.model.lm_head.weight": torch.ones(2, 2)}, r"also holds whole weights \(1 of its tensors, such as base_model.model.lm_head"),
        (lambda w: {k: v[:3] if "lora_A" in k else v for k, v in w.items()}, r"14 of another shape: .*\[3, 96\], should be \[4, 96\]"),
    ],
)  # fmt: skip
def test_every_tensor_is_accounted_for(change, message, small_base, weights, tmp_path):
    write_adapter(tmp_path / "lora_default", change(weights))
    with pytest.raises(ValueError, match=f"(?s)lora_default/adapter_model.bin .*{message}"):
        plan(tmp_path, small_base)


def test_layers_that_the_configuration_does_not_name_are_unexpected(small_base, weights, tmp_path):
    write_adapter(tmp_path / "lora_default", weights, target_modules=["q_proj", "v_proj"])
    with pytest.raises(ValueError, match=r"of rank 4 for q_proj, v_proj of .* 20 unexpected"):
        plan(tmp_path, small_base)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_hidden_layers", 3, r"\(3 layers, hidden size 48\)\. 14 missing"),
        ("num_hidden_layers", 1, "14 unexpected"),
        (
            "intermediate_size",
            80,
            r"6 of another shape: .*down_proj.lora_A.weight is \[4, 96\], should be \[4, 80\]",
        ),
        (
            "num_key_value_heads",
            4,
            r"4 of another shape: .*k_proj.lora_B.weight is \[24, 4\], should be \[48, 4\]",
        ),
        ("head_dim", 24, r"8 of another shape"),
    ],
)
def test_a_base_of_another_shape_is_refused(field, value, message, small_base, checkpoints, tmp_path):
    content = json.loads((small_base / "config.json").read_text())
    content["text_config"][field] = value
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"(?s){message}"):
        plan(checkpoints[POLICY_KIND], tmp_path)


def test_the_value_model_may_have_another_base(small_base, checkpoints, tmp_path):
    reward = save_tiny_base(tmp_path / "reward", TinyShape(hidden=64, layers=3))
    source = shutil.copytree(checkpoints[PPO_KIND], tmp_path / "ppo")
    shutil.rmtree(source / "adapter_model" / "lora_value")
    write_adapter(source / "adapter_model" / "lora_value", adapter_weights(reward))
    write_head(source / "value_head.pt", 64)
    files = find_original(source)
    with pytest.raises(ValueError, match=r"lora_value/adapter_model.bin is not an adapter"):
        plan(source, small_base)
    conversion = plan_to_ours(files, {"lora_policy": str(small_base), "lora_value": str(reward)})
    conversion.write(tmp_path / "ours")
    config = json.loads((tmp_path / "ours" / "lora_value" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(reward)


def test_the_way_back_checks_what_there_is(small_base, checkpoints, tmp_path):
    ours = tmp_path / "ours"
    plan(checkpoints[POLICY_KIND], small_base).write(ours)
    path = ours / POLICY / "adapter_model.safetensors"
    state = load_file(path)
    state.pop(f"{OURS}0.mlp.up_proj.lora_B.weight")
    save_file(state, path)
    with pytest.raises(ValueError, match=rf"of a base\. 1 missing: {OURS}0\.mlp\.up_proj\.lora_B\.weight"):
        plan_to_original(find_ours(ours), {POLICY: None})
