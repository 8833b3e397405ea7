"""Four PPO steps of the original, replayed from its recorded responses with `--numerics published`.

Recorded are: which prompts, what was answered, in which order the reward model saw the captions, and in which order the
rollouts were taken. All numbers are ours: log-probabilities, values, scores, rewards, losses, norms, rates, weights.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from data_utils.batches import PromptBatch, collate_prompts
from llava_rlhf.ppo.actor_critic import Responses
from llava_rlhf.ppo.experience import Experience
from llava_rlhf.ppo.reward_shaping import shape_rewards
from llava_rlhf.ppo.trainer import PPOTrainer
from llava_rlhf.runs.role_files import POLICY, VALUE, VALUE_HEAD
from models.generation import Sample
from models.roles import Policy
from tests.parity.conftest import FACT_PROMPT
from tests.parity.recordings import IMAGE_ID, ORIGINAL_IMAGE_ID
from tests.support.ppo_world import Assembled, assemble, metrics_of, record_experience
from tests.support.tiny_data import command_line

ROWS, STEPS, RESPONSE_LEN = 8, 4, 32


class Recording:
    """The recorded run; steps count from 0."""

    def __init__(self, folder: Path):
        self.arrays = dict(np.load(folder / "golden.npz"))
        self.log = json.loads((folder / "golden.json").read_text())

    def of(self, step: int, name: str) -> Tensor:
        """A recorded array."""
        return torch.tensor(self.arrays[f"s{step + 1}/{name}"])

    def losses(self, step: int, kind: str) -> list[dict]:
        """What was logged of each micro-batch: one of each kind in each of two passes."""
        return [entry for entry in self.log["micro"] if entry["step"] == step + 1 and entry["kind"] == kind]

    def norms(self, step: int) -> list[float]:
        """Gradient norms before clipping."""
        return [entry["pre_clip_norm"] for entry in self.log["clip"] if entry["step"] == step + 1]

    def sample(self, step: int) -> Sample:
        """The responses, trimmed to the longest; no response holds the padding id."""
        responses = self.of(step, "rollout/responses")
        mask = responses != 0
        width = int(mask.sum(dim=1).max())
        return Sample(responses[:, :width], mask[:, :width])


class RecordedOrder:
    """Takes the place of the prompt stream: the recorded rollouts in the recorded order."""

    steps_per_epoch, prompts_per_step = 1, ROWS

    def __init__(self, recording: Recording):
        self.recording = recording
        self.step = 0

    def uniforms(self, step: int, columns: int) -> Tensor:
        """Nothing is drawn; the loop asks once a step."""
        self.step = step
        return torch.zeros(ROWS, columns)

    def sampling_order(self, step: int) -> list[int]:
        """As recorded."""
        return list(range(ROWS))

    def optimizer_batches(self, step: int, epoch: int, step_batch_size: int) -> list[list[int]]:
        """One batch of all rows in each pass."""
        return [self.recording.losses(step, "policy")[epoch]["rows"]]


def recorded_batch(parts: Assembled, recording: Recording, step: int) -> PromptBatch:
    """Our rows of the recorded prompts; captions in the recorded order, which is no function of the seed there."""
    prompts = [parts.prepared.prompts[row] for row in range(len(parts.prepared.prompts))]
    queries, query_mask = recording.of(step, "batch0/queries"), recording.of(step, "batch0/query_attn_masks")
    files = recording.of(step, "batch0/image_file_ids")
    scored, scored_mask = (
        recording.of(step, f"reward_call0/{name}") for name in ("input_ids", "attention_mask")
    )
    items = []
    for row in range(ROWS):
        query = queries[row][query_mask[row].bool()].tolist()
        query = [IMAGE_ID if token == ORIGINAL_IMAGE_ID else token for token in query]
        name = f"{int(files[row]):012d}.jpg"
        (item,) = (it for it in prompts if list(it.query_ids) == query and it.image_names == (name,))
        response = [token for token in recording.of(step, "rollout/responses")[row].tolist() if token]
        whole = scored[row][scored_mask[row]].tolist()
        tail = whole[len(query) + len(response) :]
        assert [IMAGE_ID if token == ORIGINAL_IMAGE_ID else token for token in whole[: -len(tail)]] == (
            query + response
        )
        assert sorted(tail) == sorted(item.reward_prompt_ids), "the same captions, perhaps in another order"
        items.append(replace(item, reward_prompt_ids=tuple(tail)))
    return collate_prompts(items)


@pytest.fixture(scope="module")
def recording(recordings) -> Recording:
    return Recording(recordings / "ppo")


@pytest.fixture(scope="module")
def command(golden, recordings, converted_base, converted_policy, converted_rm8, tmp_path_factory):
    return command_line(
        base_model_name=converted_base,
        policy_model_name_or_path=converted_policy,
        reward_model_name_or_path=converted_rm8,
        output_dir=tmp_path_factory.mktemp("replay"),
        dataset_path=recordings / "data" / "rl16.json",
        image_folder=recordings / "images",
        image_to_caption_file=recordings / "data" / "image_to_caption.json",
        reward_prompt_file=FACT_PROMPT,
        recipe="published",
        numerics="published",
        stop_at_question_mark=True,
        query_len=64,
        response_len=RESPONSE_LEN,
        rollout_batch_size=ROWS,
        rollout_per_device_batch_size=ROWS,
        reward_model_per_device_batch_size=ROWS,
        step_batch_size=ROWS,
        step_per_device_batch_size=ROWS,
        total_epochs=2,
        learning_rate=1e-3,
        warmup_steps=0,
        use_cpu=True,
    )


@pytest.fixture(scope="module")
def replay(command, recording) -> tuple[Path, list[Experience], PPOTrainer]:
    """The run folder, the experience of each step, and the trainer after the last."""
    parts = assemble(command)
    order = RecordedOrder(recording)
    parts.trainer.stream = parts.trainer.updater.stream = order
    with pytest.MonkeyPatch.context() as patch:
        seen = record_experience(patch)
        patch.setattr(Policy, "sample", lambda *_: recording.sample(order.step))
        parts.trainer.train((recorded_batch(parts, recording, step) for step in range(STEPS)), 0)
    return Path(parts.prepared.settings.ppo.output_dir), seen, parts.trainer


def distance(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).abs()


@pytest.mark.parametrize("step", range(STEPS))
def test_what_the_roles_say_of_the_responses(replay, recording, step):
    experience = replay[1][step]
    assert torch.equal(experience.responses, recording.of(step, "rollout/responses"))
    assert distance(experience.values, recording.of(step, "rollout/values")).max() < 1e-5
    assert distance(experience.scores, recording.of(step, "reward_call0/rewards")).max() < 1e-5
    assert distance(experience.ref_entropies, recording.of(step, "rollout/ref_entropies")).max() < 1e-4
    # The trained policy carries the one weight that went elsewhere (see the test of the adapters).
    limit = 1e-4 if step == 0 else 1e-3
    assert distance(experience.entropies, recording.of(step, "rollout/entropies")).max() < limit
    for ours, theirs in (("log_probs", "logprobs"), ("ref_log_probs", "ref_logprobs")):
        found, recorded = getattr(experience, ours), recording.of(step, f"rollout/{theirs}")
        apart = distance(found, recorded)
        # Where a token is likely, the original's log-softmax lost digits: it adds 32 000 small numbers to a 1.
        likely = recorded.exp() > 0.5
        assert apart[likely].max() < 1e-3, ours
        assert apart[~likely].max() < limit, ours


def test_our_log_probabilities_of_likely_tokens_are_the_exact_ones(replay, command, recording):
    """The claim above: float64 agrees with ours to 1e-5, and with the recording ten times less."""
    experience = replay[1][0]
    parts = assemble(command)
    sequences = parts.trainer.collector.policy_sequences(
        experience.items,
        Responses(experience.responses, experience.response_mask, experience.counted),
        experience.policy_images.select(range(ROWS)),
    )
    with torch.no_grad():
        states = parts.roles.policy.response_states(*sequences)
    recorded = recording.of(0, "rollout/logprobs")
    likely = (recorded.exp() > 0.5) & experience.response_mask
    weight = parts.roles.policy.bank.vlm.model.lm_head.weight.detach()[:IMAGE_ID].double()
    logits = states[likely].double() @ weight.T
    exact = logits.log_softmax(dim=-1).gather(1, experience.responses[likely].unsqueeze(1)).squeeze(1)
    ours, theirs = distance(experience.log_probs[likely], exact), distance(recorded[likely], exact)
    assert ours.max() < 1e-5 < 1e-4 < theirs.max()


@pytest.mark.parametrize("step", range(STEPS))
def test_losses_norms_rates_and_statistics(replay, recording, step):
    line = metrics_of(replay[0])[step]
    policy, value = (recording.losses(step, kind) for kind in ("policy", "value"))
    stats = recording.log["steps"][step]["stats"]

    def mean(name, entries):
        return sum(entry[name] for entry in entries) / len(entries)

    assert line["ppo/loss/policy"] == pytest.approx(mean("loss/policy", policy), abs=1e-5)
    assert line["ppo/loss/value"] == pytest.approx(mean("loss/value", value), rel=1e-5)
    assert line["ppo/policy/approxkl"] == pytest.approx(mean("policy/approxkl", policy), abs=1e-6)
    assert line["ppo/policy/clipfrac"] == pytest.approx(mean("policy/clipfrac", policy), abs=1e-6)
    assert line["ppo/policy/entropy"] == pytest.approx(mean("policy/entropy", policy), abs=1e-4)
    norms = recording.norms(step)
    assert line["ppo/loss/grad_norm"] == pytest.approx(sum(norms) / len(norms), rel=1e-5)
    assert line["objective/lr"] == pytest.approx(recording.log["opt_lr"][2 * step])
    for name in ("kl_sum_seq", "kl_avg_seq", "non_score_rewards", "entropies", "ref_entropies"):
        assert line[f"objective/{name}"] == pytest.approx(stats[f"objective/{name}"], abs=1e-4), name
    for name in ("returns/mean", "returns/var", "val/mean", "val/var", "val/vpred", "val/error"):
        assert line[f"ppo/{name}"] == pytest.approx(stats[f"ppo/{name}"], rel=1e-5), name
    # Their terms are logged before their weights, ours after; the weight of the length term is −10.
    assert line["objective/length_bonus"] == pytest.approx(-10 * stats["objective/length_bonus"], rel=1e-5)
    assert line["objective/correct_bonus"] == pytest.approx(2 * stats["objective/correct_bonus"], abs=1e-6)
    assert line["objective/shaped_rewards"] == pytest.approx(stats["objective/shaped_rewards"], rel=1e-5)


@pytest.mark.parametrize("step", range(STEPS))
def test_rewards_returns_and_advantages_of_every_column(replay, recording, step):
    _, seen, trainer = replay
    shaped = shape_rewards(seen[step], RESPONSE_LEN, trainer.reward_arguments, kl_coef=0.1)
    targets, _ = trainer.target_maker.make(seen[step], shaped)
    # Theirs are the scores with the stop penalty, before length and correctness.
    before = shaped.score - shaped.length_bonus - shaped.correct_bonus
    assert distance(before, recording.of(step, "rollout/rewards")).max() < 1e-5
    for ours, name in (
        (shaped.kl, "kl"),
        (shaped.non_score, "non_score_rewards"),
        (shaped.rewards, "shaped_rewards"),
    ):
        assert distance(ours, recording.of(step, f"rollout/{name}")).max() < 1e-3, name
    assert torch.allclose(targets.returns, recording.of(step, "rollout/returns"), rtol=1e-4, atol=1e-3)
    assert torch.allclose(targets.advantages, recording.of(step, "rollout/advantages"), rtol=0, atol=1e-4)


def test_the_adapters_and_the_value_head_after_four_steps(
    replay, recordings, converted_policy, converted_rm8
):
    folder, last = replay[0] / f"checkpoint-{STEPS}", recordings / "ppo" / "after-step-4"
    starts = {POLICY: converted_policy / POLICY, VALUE: converted_rm8 / "lora_reward"}
    for role, start in starts.items():
        found = load_file(folder / role / "adapter_model.safetensors")
        before = load_file(start / "adapter_model.safetensors")
        recorded = torch.load(last / "adapter_model" / role / "adapter_model.bin", weights_only=True)
        recorded = {
            key.replace(".model.layers.", ".model.language_model.layers."): value
            for key, value in recorded.items()
        }
        assert found.keys() == recorded.keys()
        apart, moved = (
            torch.cat([distance(other[key], recorded[key]).flatten() for key in recorded])
            for other in (found, before)
        )
        assert moved.mean() > 1e-3
        # One of 28 416 policy weights went 4e-4 elsewhere: Adam divides its tiny gradient by its own size.
        assert (
            apart.mean() < 1e-6
            and (apart > 1e-4).sum() <= (1 if role == POLICY else 0)
            and apart.max() < 1e-3
        )
    head = load_file(folder / VALUE_HEAD)
    for key, value in torch.load(last / "value_head.pt", weights_only=True).items():
        assert distance(head[key], value).max() < 1e-5
