"""`--feature_cache`: other towers never meet each other's files, and a run is the same whatever the cache holds already."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from contextlib import contextmanager

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import ImageFile
from safetensors.torch import load_file
from torch.nn.modules.module import register_module_forward_hook
from transformers import CLIPVisionModel

from data_utils.batches import ImageBatch
from data_utils.feature_files import content_key
from data_utils.images import ImagePipeline
from llava_rlhf import initialize_policy_model, train_reward_model, train_rl_model
from llava_rlhf.assembly.feature_cache import ingredients, open_feature_cache
from llava_rlhf.assembly.image_features import encode_images
from models.vlm import BaseSettings, load_base, load_image_processor
from tests.distributed.processes import PPO, run_in_processes
from tests.support.ppo_world import largest_difference, metrics_of, run_ppo, trained
from tests.support.tiers import tiered
from tests.support.tiny_data import policy_command, ppo_command, reward_command


@pytest.fixture(scope="module")
def command(tiny_data, tiny_base, policy_run, reward_run, own_base_reward_run):
    """command(output_dir, two_towers, **changes): two PPO steps, with one shared base or with the reward model's own."""

    def make(output_dir, two_towers=False, **changes):
        reward_model = own_base_reward_run if two_towers else reward_run
        return ppo_command(tiny_data, tiny_base, policy_run, reward_model, output_dir, **changes)

    return make


@contextmanager
def work(monkeypatch):
    """Counts images that towers see and that are decoded."""
    counts = {"encoded": 0, "decoded": 0}

    def count(module, args, kwargs, output):
        if isinstance(module, CLIPVisionModel):
            counts["encoded"] += len(kwargs.get("pixel_values", args[0] if args else None))

    load = ImageFile.ImageFile.load

    def counting(self):
        counts["decoded"] += 1
        return load(self)

    handle = register_module_forward_hook(count, with_kwargs=True)
    with monkeypatch.context() as patch:
        patch.setattr(ImageFile.ImageFile, "load", counting)
        try:
            yield counts
        finally:
            handle.remove()


def ppo_with_counts(argv, monkeypatch):
    prepared = train_rl_model.prepare(argv)
    with work(monkeypatch) as counts:
        train_rl_model.run(prepared)
    return counts


@pytest.mark.parametrize("two_towers", tiered([False, True], quick=[False]))
def test_ppo_with_a_warm_cache_looks_at_no_image_and_is_the_same_run(
    command, tmp_path, monkeypatch, two_towers
):
    cache = tmp_path / "cache"
    cold = ppo_with_counts(command(tmp_path / "cold", two_towers, feature_cache=cache), monkeypatch)
    assert cold["encoded"] > 0 and cold["decoded"] > 0
    towers = list(cache.iterdir())
    assert len(towers) == 1 + two_towers
    warm = ppo_with_counts(command(tmp_path / "warm", two_towers, feature_cache=cache), monkeypatch)
    assert warm == {"encoded": 0, "decoded": 0}
    assert metrics_of(tmp_path / "warm") == metrics_of(tmp_path / "cold")
    assert largest_difference(trained(tmp_path / "warm"), trained(tmp_path / "cold")) == 0
    for folder in towers:
        assert {"tower and projector", "dtype", "image_aspect_ratio"} <= json.loads(
            (folder / "about.json").read_text()
        ).keys()


@pytest.fixture
def own_number_format():
    """Accelerate keeps that of the first run in a process."""
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.slow
def test_in_bf16_the_cache_changes_no_number(command, tmp_path, own_number_format):
    for name, cache in {"without": None, "with": tmp_path / "cache"}.items():
        run_ppo(command(tmp_path / name, bf16=True, max_steps=1, feature_cache=cache))
    assert metrics_of(tmp_path / "with") == metrics_of(tmp_path / "without")
    assert largest_difference(trained(tmp_path / "with"), trained(tmp_path / "without")) == 0


def test_stored_are_the_towers_own_features_rounded(command, tiny_data, tiny_base, tmp_path):
    prepared = run_ppo(command(tmp_path / "run", max_steps=1, feature_cache=tmp_path / "cache"))
    vlm, files = load_base(tiny_base, BaseSettings()), prepared.caches["policy"]
    pipeline = ImagePipeline(load_image_processor(tiny_base))
    stored = 0
    for path in sorted(tiny_data.images.iterdir()):
        features = files.load(content_key(path))
        if features is not None:
            stored += 1
            pixels = pipeline(path.parent, [path.name]).pixels
            exact = vlm.encode_images(pixels, torch.tensor([0])).table
            torch.testing.assert_close(features.float(), exact, rtol=2**-8, atol=1e-6)
    assert stored == files.count() > 0


def test_pixels_whose_features_came_in_meanwhile_are_not_encoded_again(tiny_base, tmp_path, monkeypatch):
    """As those in a data loader's queue; nor are equal images of one batch."""
    pipeline, vlm = ImagePipeline(load_image_processor(tiny_base)), load_base(tiny_base, BaseSettings())
    files = open_feature_cache(str(tmp_path), tiny_base, pipeline, torch.float32, False)
    images = ImageBatch(
        torch.randn(3, 3, *pipeline.size, generator=torch.Generator().manual_seed(0)),
        torch.tensor([2, 0, 1]),
        image_keys=torch.tensor([[1] * 32, [1] * 32, [2] * 32], dtype=torch.uint8),
    )
    with work(monkeypatch) as counts:
        first = encode_images(vlm, images, files)
        assert counts["encoded"] == 2
        second = encode_images(vlm, images, files)
        assert counts["encoded"] == 2
    one, two, three = first.split()
    assert torch.equal(first.table, second.table) and torch.equal(two, three)
    assert first.table.dtype == torch.bfloat16 and not torch.equal(one, two)


@pytest.mark.slow
def test_a_resumed_run_with_the_cache_is_the_same_run(command, tmp_path):
    cache = {"feature_cache": tmp_path / "cache"}
    run_ppo(command(tmp_path / "whole", **cache))
    shutil.rmtree(tmp_path / "cache")
    run_ppo(command(tmp_path / "parts", max_steps=1, **cache))
    run_ppo(command(tmp_path / "parts", allow_changed_arguments=True, **cache))
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
    assert largest_difference(trained(tmp_path / "parts"), trained(tmp_path / "whole")) == 0


@pytest.mark.slow
def test_workers_that_load_ahead_change_nothing(command, tmp_path):
    for name, workers in {"none": 0, "two": 2}.items():
        cache = tmp_path / f"cache of {name}"
        run_ppo(command(tmp_path / name, dataloader_num_workers=workers, feature_cache=cache))
    assert metrics_of(tmp_path / "two") == metrics_of(tmp_path / "none")


@pytest.mark.slow
@pytest.mark.distributed
def test_two_processes_fill_one_cache_and_then_only_read_it(command, tmp_path):
    for name in ("cold", "warm"):
        argv = command(tmp_path / name, rollout_per_device_batch_size=2, feature_cache=tmp_path / "cache")
        run_in_processes(PPO, argv, 2, tmp_path / name)
    assert metrics_of(tmp_path / "warm") == metrics_of(tmp_path / "cold")
    assert largest_difference(trained(tmp_path / "warm"), trained(tmp_path / "cold")) == 0


@pytest.mark.parametrize("program", [train_reward_model, initialize_policy_model])
def test_the_trainers_with_a_warm_cache_look_at_no_image(
    program, tiny_data, tiny_base, tmp_path, monkeypatch
):
    make = reward_command if program is train_reward_model else policy_command
    weights, counts = {}, {}
    for name in ("cold", "warm"):
        folder = tmp_path / name
        settings = {"eval_size": 4, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 3}
        prepared = program.prepare(
            make(tiny_data, tiny_base, folder, feature_cache=tmp_path / "cache", **settings)
        )
        with work(monkeypatch) as counts[name]:
            program.run(prepared)
        weights[name] = {
            f"{path.parent.name} {key}": value
            for path in folder.glob("lora_*/adapter_model.safetensors")
            for key, value in load_file(path).items()
        }
    assert counts["cold"]["encoded"] > 0 and counts["warm"] == {"encoded": 0, "decoded": 0}
    assert weights["cold"] and largest_difference(weights["warm"], weights["cold"]) == 0


def test_every_ingredient_gives_other_files(tiny_base, tiny_reward_base, tmp_path):
    processor = load_image_processor(tiny_base)

    def folder(base=tiny_base, mode="pad", dtype=torch.float32, **settings):
        changed = type(processor).from_dict({**processor.to_dict(), **settings})
        return open_feature_cache(
            str(tmp_path / "cache"), base, ImagePipeline(changed, mode), dtype, False
        ).folder

    other = shutil.copytree(tiny_base, tmp_path / "moved")
    assert folder() == folder(other)  # wherever the base lies
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "vision_feature_layer": -1}))
    folders = [
        folder(),
        folder(tiny_reward_base),  # weights; every one of them: tests/models/test_vision_fingerprint.py
        folder(other),
        folder(mode="square"),
        folder(dtype=torch.bfloat16),
        folder(image_mean=[0.5, 0.5, 0.5]),
        folder(image_std=[0.5, 0.5, 0.5]),
        folder(crop_size={"height": 42, "width": 42}),
        folder(resample=2),
    ]
    assert len(set(folders)) == len(folders)
    about = json.loads((folder() / "about.json").read_text())
    assert about == json.loads(
        json.dumps(ingredients(tiny_base, ImagePipeline(processor), torch.float32), default=str)
    )


def test_a_folder_that_cannot_be_used_is_refused_before_a_model_is_loaded(command, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"--feature_cache .*file: .* can't be made or written"):
        train_rl_model.prepare(command(tmp_path / "run", feature_cache=tmp_path / "file"))
    with caplog.at_level("INFO"):
        train_rl_model.prepare(command(tmp_path / "run", feature_cache=tmp_path / "cache"))
    assert "0 images, 0.00 GiB (0.00 MiB an image)" in caplog.text


def test_zero_3_is_refused(tiny_data, tiny_base, tmp_path):
    config = tmp_path / "zero3.json"
    config.write_text(
        json.dumps({"zero_optimization": {"stage": 3}, "train_micro_batch_size_per_gpu": "auto"})
    )
    argv = reward_command(tiny_data, tiny_base, tmp_path / "run", feature_cache=tmp_path, deepspeed=config)
    with (  # a process of its own: DeepSpeed's settings stay where they were once read
        multiprocessing.get_context("fork").Pool(1) as pool,
        pytest.raises(ValueError, match="--feature_cache: ZeRO-3"),
    ):
        pool.apply(train_reward_model.prepare, (argv,))
