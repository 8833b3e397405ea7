"""A real server answers as the policy itself does, and whatever makes it answer otherwise is caught."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from PIL import Image, ImageOps

from llava_rlhf.engines import adapters
from llava_rlhf.engines.adapters import ServedAdapter
from llava_rlhf.runs.stopping import EngineError
from models.families.llava import Llava
from tests.support.vllm_server import TINY_BASE
from tests.vllm.served_world import largest_log_prob_difference, make_world, pair, rows_of

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
ALL = list(range(96))
QWEN_BASE = TINY_BASE.with_name("base-qwen2_5_vl")


@pytest.fixture(scope="module")
def command(world, vllm_server, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return lambda **changes: world.command(folder / "run", vllm_server.url, **changes)


@pytest.fixture
def both(command):
    with pair(command()) as engines:
        yield engines


def test_greedy_answers_are_equal_token_for_token(both, vllm_server):
    """Adapters as a policy begins with them, and as training moves them; rows with one picture, two and none."""
    items = [both.parts.prepared.prompts[row] for row in ALL]
    counts = [len(item.image_names) for item in items]
    assert {0, 1, 2} == set(counts) and sum(count > 0 for count in counts) >= 64
    served, local = both.with_settings(temperature=0.0)
    seen = []
    for step, spread in enumerate((0.0, 0.02, 0.05)):
        both.move(spread, seed=step)
        served.begin_step(step)
        expected, found = both.answers(local, ALL), both.answers(served, ALL)
        assert rows_of(found) == rows_of(expected)
        assert found.ids.tolist() == expected.ids.tolist() and bool(found.finite.all())
        seen.append(rows_of(found))
    assert seen[0] != seen[1] != seen[2]
    names = [card["id"] for card in vllm_server.call("/v1/models")[1]["data"]]
    assert sum(name.startswith("policy-step") for name in names) == 1  # the older ones were taken back


def test_log_probabilities_are_those_of_the_model_that_trains(both):
    both.move(0.05, seed=1)
    both.served.begin_step(0)
    experience = both.parts.collect(ALL[:32], 8)
    assert experience.engine_log_probs is not None and float(experience.log_probs.min()) < -1
    assert largest_log_prob_difference(experience) <= 1e-4


def test_a_row_answers_as_it_does_alone_and_in_any_order(both):
    both.served.begin_step(0)
    rows = ALL[:24]
    together = dict(zip(rows, rows_of(both.answers(both.served, rows)), strict=True))
    backwards = rows[::-1]
    assert rows_of(both.answers(both.served, backwards)) == [together[row] for row in backwards]
    for row in rows[::6]:
        assert rows_of(both.answers(both.served, [row])) == [together[row]]
    assert len({tuple(answer) for answer in together.values()}) > 5


def test_an_adapter_whose_tensors_find_no_place_is_caught(both, monkeypatch):
    save = adapters.save_adapter

    def renamed(state, *rest):
        save(
            {key.replace("language_model.", "language_model.model."): value for key, value in state.items()},
            *rest,
        )

    monkeypatch.setattr(adapters, "save_adapter", renamed)
    with pytest.raises(EngineError, match=r"other weights than those that train.*as without an adapter"):
        both.served.begin_step(0)


def test_an_adapter_that_was_never_trained_is_no_mistake(both):
    policy = both.parts.roles.policy
    with torch.no_grad():
        for name, weight in policy.bank.parameters_of(policy.adapter).items():
            if "lora_B" in name:
                weight.zero_()
    both.served.begin_step(0)
    assert both.answers(both.served, [0]).mask.any()


def test_what_was_read_of_an_older_adapter_is_caught(both, monkeypatch, vllm_server):
    """Where a name and its path come back with other weights, the server goes on with the prefix that it has kept."""
    probe = both.served.adapter._probe
    long = replace(
        probe, item=replace(probe.item, query_ids=[*probe.item.query_ids, *probe.item.query_ids[-9:] * 14])
    )
    monkeypatch.setattr(both.served.adapter, "_probe", long)
    both.served.begin_step(0)  # such a probe is answered as it must be
    write = ServedAdapter._write
    fixed = f"again-{both.served.adapter._folder.parent.name}"

    def same_name(self, step, state):
        version = write(self, step, state)
        folder = self._folder / fixed
        if not folder.exists():
            version.folder.rename(folder)
        else:
            for file in version.folder.iterdir():
                file.replace(folder / file.name)
        return replace(version, name=fixed, folder=folder)

    monkeypatch.setattr(ServedAdapter, "_write", same_name)
    both.served.begin_step(1)
    vllm_server.call("/v1/unload_lora_adapter", {"lora_name": fixed})
    both.move(0.05, seed=2)
    with pytest.raises(EngineError, match="of an older adapter"):
        both.served.begin_step(2)
    vllm_server.call("/v1/unload_lora_adapter", {"lora_name": fixed})


def test_weights_of_another_base_are_caught(both):
    with torch.no_grad():
        layer = both.parts.roles.policy.bank.vlm.language_model.layers[0]
        layer.post_attention_layernorm.weight.mul_(1.1)
    with pytest.raises(EngineError, match="other weights than those that train"):
        both.served.begin_step(0)


def test_changed_pixels_are_caught(both, monkeypatch):
    served_picture = Llava.served_picture

    def darker(self, processor, picture, grid) -> Image.Image:
        return ImageOps.invert(served_picture(self, processor, picture, grid))

    monkeypatch.setattr(Llava, "served_picture", darker)
    with pytest.raises(EngineError, match="reads pictures in another way"):
        both.served.begin_step(0)


def test_a_placeholder_for_each_position_is_caught(both, monkeypatch):
    both.served.begin_step(0)
    monkeypatch.setattr(Llava, "served_placeholder", Llava.placeholder)
    with pytest.raises(EngineError, match=r"it read another prompt: .* tokens, .* were meant"):
        both.answers(both.served, [0, 1, 2])


def test_an_adapter_that_the_server_has_lost_is_loaded_again(both, vllm_server):
    both.served.begin_step(0)
    expected = rows_of(both.answers(both.served, ALL[:8]))
    status, _ = vllm_server.call("/v1/unload_lora_adapter", {"lora_name": both.served._model})
    assert status == 200
    assert rows_of(both.answers(both.served, ALL[:8])) == expected


def test_another_adapter_under_its_name_is_caught(both, vllm_server, tmp_path):
    """As a server has that was given it by somebody else: what it says is looked at before rows are asked again."""
    both.served.begin_step(0)
    version = both.served.adapter._current
    vllm_server.call("/v1/unload_lora_adapter", {"lora_name": version.name})
    config = version.folder / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "lora_alpha": 99}))
    with pytest.raises(EngineError, match="other weights than those that train"):
        both.answers(both.served, [0])


def test_a_qwen_answers_token_for_token(start_vllm, tmp_path):
    """Pictures in their own sizes, between their marks; rows with one, two and none, greedy and drawn."""
    world = make_world(tmp_path, QWEN_BASE, "chat")
    server = start_vllm(BASE_MODEL=str(QWEN_BASE))
    command = world.command(tmp_path / "run", server.url, query_len=120, model_max_length=400)
    with pair(command) as both:
        both.move(0.05, seed=1)
        served, local = both.with_settings(temperature=0.0)
        served.begin_step(0)
        assert rows_of(both.answers(served, ALL[:64])) == rows_of(both.answers(local, ALL[:64]))
        both.served.begin_step(1)
        assert largest_log_prob_difference(both.parts.collect(ALL[:32], 8)) <= 1e-4
