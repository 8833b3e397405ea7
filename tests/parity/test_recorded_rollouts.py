"""Rollouts of the original on 32 hand-written responses, replayed: stops, the reward model's input, scores, rewards, advantages.

The same responses were rolled out with no reward prompt, with the plain one and with the factual one.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from data_utils.batches import left_pad
from data_utils.conversation import TEMPLATES
from data_utils.facts import FactBook, MissingCaptions, RewardPrompt
from data_utils.image_choices import ImageChoices
from data_utils.schema import AnswerType, PromptRecord, read_captions
from llava_rlhf.assembly.roles import TextSide
from llava_rlhf.ppo.arguments import RewardArguments
from llava_rlhf.ppo.experience import Experience
from llava_rlhf.ppo.numerics import Numerics
from llava_rlhf.ppo.reward_shaping import ShapedReward, shape_rewards
from models.families.llava import Llava
from models.roles import Policy
from tests.parity.recordings import IMAGE_ID, ORIGINAL_IMAGE_ID
from tests.parity.written_rollouts import LOWERED, PAD, RESPONSE_LEN, Played, play, say, targets

REFERENCES = Path(__file__).parents[1] / "references"
PROMPT_FILES = Path(__file__).parents[2] / "prompts"
STOP, ROWS = 2, 32
ENDLESS = [1, 15, 25]  # written without a stop
# Rated otherwise here (docs/departures.md): the recorded bonus, ours.
OTHER_BONUSES = {"Nobody is there.": (0.5, 0.0), "Yesterday it was.": (-0.5, 0.0), "no": (0.0, 0.5)}


@pytest.fixture(scope="module")
def arrays() -> dict[str, Tensor]:
    with np.load(REFERENCES / "ppo_math.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


@pytest.fixture(scope="module")
def notes() -> dict:
    """Caption orders and, for each response, its text and what came of it."""
    return json.loads((REFERENCES / "ppo_math.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def roll_out(arrays, notes, llama_tokenizer, llama_encoder):
    """roll_out(prompt, numerics, …) plays the recorded batch with that reward prompt."""

    def reward_prompts(prompt: str) -> list[list[int]]:
        if prompt == "noprompt":
            return [[]] * ROWS
        orders = notes["rollout_stub/fact/caption_orders"] if prompt == "fact" else [None] * ROWS
        file = "fact_rlhf_reward_prompt.txt" if prompt == "fact" else "reward_prompt.txt"
        text = RewardPrompt.from_file(PROMPT_FILES / file)
        return [llama_encoder.encode_reward_prompt(text.render(order)) for order in orders]

    def _roll_out(prompt: str, *settings) -> Played:
        given, recorded = (
            {name.removeprefix(stem): x for name, x in arrays.items() if name.startswith(stem)}
            for stem in ("rollout_stub/in/", f"rollout_stub/{prompt}/")
        )
        stops = (llama_tokenizer.eos_token_id,)
        text = TextSide(
            llama_tokenizer, llama_encoder, Llava, None, TEMPLATES["v1"], stops, ImageChoices("pad")
        )
        return play(given, recorded, reward_prompts(prompt), text, *settings)

    return _roll_out


@pytest.fixture(scope="module", params=["noprompt", "plain", "fact"])
def played(request, roll_out) -> Played:
    return roll_out(request.param, Numerics.PUBLISHED)


def distance(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max())


# --- where a response stops


@pytest.mark.parametrize(
    ("recording", "raw", "stops", "different"),
    [
        ("eos_only", "trunc/in", (2,), []),
        ("eos_q1_q2", "trunc/in", (2, 1577, 29973), [6, 8]),
        ("q2_then_q1", "trunc/in", (2, 29973, 1577), [7, 8]),
        ("rand_eos2_add_4_5", "leftpad/rand_in", (2, 4, 5), [1, 3, 5, 6, 7, *range(9, 19)]),
    ],
)
def test_the_first_stop_token_of_a_response_ends_it(arrays, recording, raw, stops, different):
    """There, a later one in the list of stop tokens overrode an earlier one, wherever in the response they stood."""
    said, theirs = (
        x.masked_fill(x == ORIGINAL_IMAGE_ID, IMAGE_ID) for x in (arrays[raw], arrays[f"trunc/{recording}"])
    )
    found, width = say(said, stops), said.shape[1]
    longest = found.ids.shape[1]
    for row, tokens in enumerate(said.tolist()):
        places = [tokens.index(token) for token in stops if token in tokens] or [width - 1]
        first, last_listed = min(places) + 1, places[-1] + 1
        assert found.ids[row].tolist() == tokens[:first] + [PAD] * (longest - first)
        assert found.mask[row].tolist() == [True] * first + [False] * (longest - first)
        assert theirs[row].tolist() == tokens[:last_listed] + [PAD] * (width - last_listed)
        assert (first != last_listed) == (row in different)


def test_answers_up_to_their_stop(arrays, notes):
    """The same as lists. There, image tokens were taken out of a response; here they can't be said."""
    said = arrays["trunc/in"]
    for row, expected in enumerate(notes["truncate_after_eos"]):
        tokens = said[row : row + 1, said[row] != ORIGINAL_IMAGE_ID]
        found = say(tokens, (STOP,))
        assert found.ids[found.mask].tolist() == expected


@pytest.mark.parametrize(
    ("given", "moved"), [("trunc/in", "leftpad/out"), ("leftpad/rand_in", "leftpad/rand_out")]
)
def test_padding_in_front(arrays, given, moved):
    ids, mask = left_pad([row[row != PAD].tolist() for row in arrays[given]], PAD)
    assert torch.equal(ids, arrays[moved]) and torch.equal(mask, arrays[moved] != PAD)


# --- rollouts


def test_responses_stops_and_lengths(played, notes):
    experience, samples = played.experience, notes["rollout_stub/samples"]
    assert torch.equal(experience.responses, played.recorded["responses"])
    assert torch.equal(experience.response_mask, played.recorded["responses"] != PAD)
    assert experience.counted.all()
    assert experience.stopped.tolist() == [sample["has_stop"] for sample in samples]
    assert experience.texts == [sample["text_after_truncation"].strip() for sample in samples]
    assert experience.lengths.tolist() == [sum(map(bool, sample["truncated_ids"])) for sample in samples]
    assert len(set(experience.lengths.tolist())) > 8 and sum(experience.stopped.tolist()) == ROWS - 7


def test_a_sampled_id_0_is_a_token(roll_out, arrays):
    """There it was padding wherever it stood; here responses without a stop reach the limit."""
    experience = roll_out("noprompt", Numerics.PUBLISHED, Policy).experience
    there = (arrays["rollout_stub/noprompt/responses"] != PAD).sum(dim=1)
    assert experience.lengths[ENDLESS].tolist() == [RESPONSE_LEN] * 3 and max(there[ENDLESS]) == 8
    others = [row for row in range(ROWS) if row not in ENDLESS]
    assert torch.equal(experience.lengths[others], there[others])


def test_the_reward_model_reads_query_response_and_reward_prompt(played):
    ids, mask = played.scored
    there, there_mask = (played.recorded[f"reward_model_{name}"] for name in ("input_ids", "attention_mask"))
    for row in range(ROWS):
        assert ids[row][mask[row]].tolist() == there[row][there_mask[row]].tolist(), row


def test_the_facts_of_a_row_are_those_that_were_read(recordings, arrays, notes):
    """Four of the answer types read the rationale of the picture, the others its captions; the order is random."""
    captions, problems = read_captions(recordings / "data" / "image_to_caption.json")
    book = FactBook(captions, MissingCaptions.ERROR)
    assert not problems
    files, kinds = (
        arrays[f"rollout_stub/in/{name}"].tolist() for name in ("image_file_ids", "caption_types")
    )
    for row, order in enumerate(notes["rollout_stub/fact/caption_orders"]):
        images, kind = (f"{files[row]:012d}.jpg",), AnswerType(kinds[row])
        record = PromptRecord("", row, "", images, (), None, {}, kind, 1.0)
        assert sorted(book.find(record, kind)) == sorted(order), row


def test_scores_and_their_terms(played):
    shaped, recorded = played.shaped, played.recorded
    assert distance(played.experience.scores + shaped.stop_penalty, recorded["rewards"]) < 1e-5
    assert distance(shaped.length_bonus, -10.0 * recorded["length_bonus"]) < 1e-5
    different = {
        text: (there, ours / 2)
        for text, there, ours in zip(
            played.experience.texts,
            recorded["correct_bonus"].tolist(),
            shaped.correct_bonus.tolist(),
            strict=True,
        )
        if there != ours / 2
    }
    assert different == OTHER_BONUSES
    assert set(recorded["correct_bonus"].tolist()) == {1.0, 0.5, 0.0, -0.5}


@pytest.mark.parametrize("penalize", [True, False])
@pytest.mark.parametrize("relative", [True, False])
def test_the_missing_stop_penalty_on_and_off(roll_out, arrays, penalize, relative):
    scores, responses = (arrays[f"post_reward/in/{name}"] for name in ("rewards", "responses"))
    experience, rows = roll_out("noprompt", Numerics.PUBLISHED).experience, len(scores)
    names = {field.name for field in fields(Experience)} - {"policy_images", "reward_images"}
    names = {name for name in names if getattr(experience, name) is not None}
    few = replace(experience, **{name: getattr(experience, name)[:rows] for name in names})
    few = replace(few, scores=scores, stopped=(responses == STOP).any(dim=1))
    settings = RewardArguments(
        penalize_no_stop_token=penalize,
        relative_stop_token_penalty=relative,
        length_bonus_score=0.0,
        correct_bonus_score=0.0,
    )
    found = shape_rewards(few, RESPONSE_LEN, settings, kl_coef=0.0).score
    assert torch.equal(found, arrays[f"post_reward/penalize{penalize}_relative{relative}"])


def as_rated_there(played: Played) -> ShapedReward:
    """Our rewards, with the recorded bonus of the three answers that are rated otherwise here."""
    rewards = played.shaped.rewards.clone()
    for row, text in enumerate(played.experience.texts):
        there, ours = OTHER_BONUSES.get(text, (0.0, 0.0))
        last = played.experience.counted[row].nonzero()[-1]
        rewards[row, last] += 2.0 * (there - ours)
    return replace(played.shaped, rewards=rewards)


def test_rewards_returns_and_advantages(played):
    experience, recorded, shaped = played.experience, played.recorded, as_rated_there(played)
    lowered = LOWERED * experience.response_mask
    for ours, name in (
        (experience.log_probs + lowered, "logprobs"),
        (experience.ref_log_probs + lowered, "ref_logprobs"),
        (experience.values, "values"),
        (shaped.kl, "kl"),
        (shaped.non_score, "non_score_rewards"),
    ):
        assert distance(ours, recorded[name]) < 1e-6, name
    assert distance(shaped.rewards, recorded["shaped_rewards"]) < 1e-5
    found = targets(experience, shaped)
    assert distance(found.returns, recorded["returns"]) < 5e-6  # of returns up to 138
    assert distance(found.advantages, recorded["advantages"]) < 1e-6
    # With our own bonuses the returns of three rows are others, and all advantages.
    ours = targets(experience, played.shaped)
    elsewhere = [row for row, text in enumerate(experience.texts) if text not in OTHER_BONUSES]
    assert torch.equal(ours.returns[elsewhere], found.returns[elsewhere])
    assert distance(ours.returns, recorded["returns"]) > 9
    assert distance(ours.advantages, recorded["advantages"]) > 0.1


def test_the_default_numerics_keep_the_returns_of_real_tokens(roll_out):
    corrected = roll_out("fact", Numerics.CORRECTED)
    experience, recorded, shaped = corrected.experience, corrected.recorded, as_rated_there(corrected)
    real = recorded["responses"] != PAD
    assert torch.equal(experience.counted, real)
    found = targets(experience, shaped)
    # The original added values on padding and took them off again.
    assert distance(found.returns[real], recorded["returns"][real]) < 5e-5
    assert not found.returns[~real].any() and recorded["returns"][~real].abs().min() > 0.4
    assert distance(shaped.rewards.sum(dim=1), recorded["shaped_rewards"].sum(dim=1)) < 1e-5
    exact = 10.0 * recorded["shaped_rewards"].double().flip(1).cumsum(1).flip(1) - recorded["values"]
    exact = (exact - exact[real].mean()) / exact[real].std(correction=0)
    assert distance(found.advantages[real], exact[real]) < 1e-6
    assert distance(found.advantages[real], recorded["advantages"][real]) > 0.1
