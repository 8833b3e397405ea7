"""Reward model and policy initialisation on other families, against the model's own classes with pixels, row by row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor

from data_utils.batches import DialogueCollator
from llava_rlhf import initialize_policy_model, train_reward_model
from llava_rlhf.runs.run_folder import read_json_lines
from models.base_files import read_family
from tests.support.literal_dpo import labelled_answer, literal_dpo
from tests.support.plain_models import PlainRole
from tests.support.tiny_data import dpo_command, policy_command, reward_command
from tests.support.tiny_families import OTHERS
from tests.support.tiny_families.common import TinyFamily

SETTINGS = {
    "max_steps": 2,
    "learning_rate": 1e-2,
    "eval_size": 8,
    "per_device_eval_batch_size": 8,
    "query_len": 300,
    "response_len": 60,
    "model_max_length": 900,
}
ALIKE = ("gemma3",)  # whose pictures all take the same number of positions


def several_pictures(base: Path) -> bool:
    """Whether its rows may have them; if not, such rows are left out."""
    return read_family(base).several_pictures


@dataclass(frozen=True)
class Base:
    """A base of a family, asked in the words of its own chat template."""

    folder: Path
    family: TinyFamily

    @property
    def settings(self) -> dict[str, object]:
        """Flags of a training."""
        return {"version": "chat", "skip_invalid": not several_pictures(self.folder), **SETTINGS}


@pytest.fixture(scope="module", params=OTHERS)
def base(request, tmp_path_factory) -> Base:
    return Base(request.param.save(tmp_path_factory.mktemp("other") / "base"), request.param)


@torch.no_grad()
def plain_states(base: Base, adapter: Path, ids: list[int], item) -> tuple[Tensor, Tensor, PeftModel]:
    """One row by plain transformers and PEFT: its ids with placeholders, and hidden states [L, D]."""
    family, waiting = read_family(base.folder), iter(item.grids)
    model = family.model_class().from_pretrained(base.folder, use_safetensors=True).eval()
    model = PeftModel.from_pretrained(model, adapter)
    expanded = [
        family.placeholder(next(waiting)) if index == family.image_token_id else [index] for index in ids
    ]
    row = torch.tensor([[index for part in expanded for index in part]])
    pixels = item.images if item.grids else None
    output = model.model.model(
        input_ids=row, attention_mask=torch.ones_like(row), **base.family.native(row, pixels, item.grids)
    )
    return row[0], output.last_hidden_state[0], model


@pytest.mark.slow
def test_a_reward_model_scores_as_plain_models_do(tiny_data, base, tmp_path):
    argv = reward_command(tiny_data, base.folder, tmp_path, **base.settings)
    prepared = train_reward_model.prepare(argv)
    train_reward_model.run(prepared)
    head = load_file(tmp_path / "reward_head.safetensors")
    loss, total, items = 0.0, 0.0, [prepared.eval_set[index] for index in range(len(prepared.eval_set))]
    assert {len(item.grids) for item in items} >= ({0, 1, 2} if several_pictures(base.folder) else {0, 1})
    sizes = {grid for item in items for grid in item.grids}
    assert len(sizes) > 1 or base.family.model_type in ALIKE  # pictures of different sizes
    for item in items:
        scores = []
        for ids in item.input_ids:
            _, hidden, _ = plain_states(base, tmp_path / "lora_reward", ids, item)
            scores.append(float(hidden[-1] @ head["weight"][0] + head["bias"][0]))
        margin = scores[0] - scores[1] if item.preference == 1 else scores[1] - scores[0]
        loss += math.log1p(math.exp(-margin)) / len(items)
        total += sum(scores)
    loss += 1e-3 * abs(total / len(items))
    (final,) = (line for line in read_json_lines(tmp_path / "metrics.jsonl") if "final_loss" in line)
    assert final["final_loss"] == pytest.approx(loss, rel=1e-4)
    # The reward prompt is one more question, and the score is read where its answer would begin.
    text = prepared.text
    assert text.tokenizer.decode(items[0].input_ids[0]).endswith(text.template.ask)


def test_a_policy_has_the_loss_of_plain_models(tiny_data, base, tmp_path):
    prepared = initialize_policy_model.prepare(
        policy_command(tiny_data, base.folder, tmp_path, **base.settings)
    )
    initialize_policy_model.run(prepared)
    total, count = 0.0, 0
    for item in (prepared.eval_set[index] for index in range(len(prepared.eval_set))):
        row, hidden, model = plain_states(base, tmp_path / "lora_policy", item.input_ids, item)
        logits = model.lm_head(hidden).detach()
        banned = [*prepared.text.family.banned_ids, *range(len(prepared.text.tokenizer), logits.shape[1])]
        logits[:, banned] = -torch.inf
        # From behind: supervised flags count an image as one, rows count all its positions, and answers hold none.
        places = [len(row) - len(item.supervised) + n for n, flag in enumerate(item.supervised) if flag]
        losses = torch.nn.functional.cross_entropy(
            logits[[place - 1 for place in places]], row[places], reduction="none"
        )
        total, count = total + float(losses.sum()), count + len(places)
    (final,) = (line for line in read_json_lines(tmp_path / "metrics.jsonl") if "final_loss" in line)
    assert final["final_loss"] == pytest.approx(total / count, rel=1e-4)


@pytest.mark.slow
def test_preferences_have_the_loss_of_plain_models(tiny_data, base, tmp_path):
    """The reference is the base itself; pictures take as many positions in both answers of a pair."""
    prepared = initialize_policy_model.prepare(dpo_command(tiny_data, base.folder, tmp_path, **base.settings))
    initialize_policy_model.run(prepared)
    items = [prepared.eval_set[index] for index in range(len(prepared.eval_set))]
    expected = literal_dpo(
        PlainRole(base.folder, tmp_path / "lora_policy"), None, items, 0.1, 0.0, labelled_answer
    )
    (final,) = (line for line in read_json_lines(tmp_path / "metrics.jsonl") if "final_loss" in line)
    assert abs(final["final_reward_margin"]) > 1e-4
    for name in ("loss", "reward_margin", "chosen_log_prob", "rejected_log_prob", "approxkl"):
        assert final[f"final_{name}"] == pytest.approx(float(expected[name].detach()), rel=1e-4, abs=1e-5), (
            name
        )


def test_another_template_whose_answers_end_otherwise_is_refused(tiny_data, base, tmp_path):
    if base.family.model_type == "llava_next":
        pytest.skip("its answers end as those of `v1` do")
    with pytest.raises(
        ValueError, match=r"no token of .*only LLaVAs on Vicuna-1.5 fit `v1`; `--version chat`"
    ):
        initialize_policy_model.prepare(policy_command(tiny_data, base.folder, tmp_path / "v1", version="v1"))


def test_features_are_kept_with_how_pictures_are_cut_up(tiny_data, base, tmp_path):
    """The second run reads what the first has stored, and sees the same."""
    cache, metrics = tmp_path / "cache", []
    for name in ("first", "second"):
        argv = policy_command(
            tiny_data, base.folder, tmp_path / name, **base.settings, feature_cache=cache, save_strategy="no"
        )
        prepared = initialize_policy_model.prepare(argv)
        initialize_policy_model.run(prepared)
        metrics.append(
            [line for line in read_json_lines(tmp_path / name / "metrics.jsonl") if "loss" in line]
        )
    items = [prepared.train_set[index] for index in range(len(prepared.train_set))]
    known = [features for item in items for features in item.stored.features]
    assert all(features is not None for features in known)
    assert len({len(features) for features in known}) > 1 or base.family.model_type in ALIKE
    assert {features.shape[1] for features in known} == {read_family(base.folder).feature_width}
    assert [line["loss"] for line in metrics[0]] == [line["loss"] for line in metrics[1]] != []


def test_lengths_count_what_a_picture_takes(tiny_data, base, tmp_path):
    """Known from its header, upright; a row that is too long by its pictures alone is left out."""
    settings = {**base.settings, "eval_size": 0, "save_strategy": "no"}
    argv = policy_command(tiny_data, base.folder, tmp_path / "run", **settings)
    dataset = initialize_policy_model.prepare(argv).train_set
    family = read_family(base.folder)
    collate = DialogueCollator(0, family.image_token_id, family.placeholder)
    found = [collate([dataset[index]]).input_ids.shape[1] for index in range(len(dataset))]
    assert dataset.report.token_lengths["total"] == found
    longest = max(found)
    argv = policy_command(
        tiny_data, base.folder, tmp_path / "short", **{**settings, "model_max_length": longest - 1}
    )
    report = initialize_policy_model.prepare(argv).train_set.report
    dropped = report.dropped[f"sequence longer than model_max_length {longest - 1}"]
    assert dropped == sum(length == longest for length in found) > 0
