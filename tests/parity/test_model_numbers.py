"""The converted model against numbers recorded from the original: tower, projector, hidden states, logits, greedy answers.

Recorded in float32 from the same float16 weights. In the mixed batch a row without image is shorter, so it is padded behind;
where the rows are real, the recorded numbers are those of each row alone.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import LlavaForConditionalGeneration

from models.generation import SamplingSettings, sample
from models.vlm import BaseSettings, VisionLanguageModel, load_base
from tests.parity.recordings import IMAGE_ID, ORIGINAL_IMAGE_ID, expand_images

VOCABULARY = 32000
ADDED = tuple(range(IMAGE_ID, 32064))
# Logits of about ±20. The same code of the original under another version of torch differs by 1.5e-5.
TOLERANCE = {"rtol": 0, "atol": 1e-4}
IMAGE_CASES = (
    *("single", "single_image_after_text", "single_image_first_token", "single_image_last_token"),
    *("leftpad4", "rightpad4", "leftpad_plus_rightpad4"),
)
TEXT_CASES = ("text_only_no_images", "all_text_but_images_given")
MIXED = "mixed_image_and_text_only"


class Case(NamedTuple):
    """A recorded batch, images expanded, rows padded behind to the recorded length.

    `ids` int64[B, L], `mask` bool[B, L], `images` the recorded image of each slot (a row's image has the row's number),
    `hidden` float[B, L, D], `logits` float[B, L, 517] at `columns`, `lse` float[B, L], `argmax` int64[B, L].
    """

    ids: Tensor
    mask: Tensor
    images: Tensor
    hidden: Tensor
    logits: Tensor
    lse: Tensor
    argmax: Tensor


@pytest.fixture(scope="module")
def recorded(recordings) -> dict[str, Tensor]:
    with np.load(recordings / "model" / "golden_model.npz") as arrays:
        return {name: torch.from_numpy(arrays[name]) for name in arrays.files}


@pytest.fixture(scope="module")
def vlm(converted_base) -> VisionLanguageModel:
    return load_base(converted_base, BaseSettings(bits=32))


@pytest.fixture(scope="module")
def plain(converted_base: Path) -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(converted_base, dtype=torch.float32).eval()


def read_case(recorded: dict[str, Tensor], name: str) -> Case:
    ids, mask = (recorded[f"{name}/{what}"] for what in ("input_ids", "attention_mask"))
    images = torch.arange(len(ids)).repeat_interleave((ids == ORIGINAL_IMAGE_ID).sum(dim=1))
    expanded, real = expand_images(ids.numpy(), mask.numpy())
    assert torch.equal(real.bool(), recorded[f"{name}/expanded_mask"])
    numbers = (recorded[f"{name}/{what}"] for what in ("last_hidden", "logits_sel", "logits_lse", "logits_argmax"))  # fmt: skip
    return Case(expanded, real.bool(), images, *numbers)


def assert_same(
    case: Case, hidden: Tensor, logits: Tensor, columns: Tensor, rows: slice = slice(None)
) -> None:
    real = case.mask[rows]
    torch.testing.assert_close(hidden[real], case.hidden[rows][real], **TOLERANCE)
    logits = logits[..., :VOCABULARY]
    torch.testing.assert_close(logits[..., columns][real], case.logits[rows][real], **TOLERANCE)
    torch.testing.assert_close(logits.logsumexp(-1)[real], case.lse[rows][real], **TOLERANCE)
    assert torch.equal(logits.argmax(-1)[real], case.argmax[rows][real])


@torch.no_grad()
def test_tower_and_projector(recorded, vlm):
    tower = vlm.model.model.vision_tower(recorded["images"], output_hidden_states=True)
    torch.testing.assert_close(tower.hidden_states[-2], recorded["vision_hidden_-2_with_cls"], **TOLERANCE)
    torch.testing.assert_close(tower.hidden_states[-2][:, 1:], recorded["vision_features"], **TOLERANCE)
    features = vlm.encode_images(recorded["images"], torch.arange(4))
    expected = recorded["projected_features"].flatten(0, 1)
    torch.testing.assert_close(features.table, expected, **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("name", [*IMAGE_CASES, *TEXT_CASES, MIXED])
def test_hidden_states_and_logits(recorded, vlm, name):
    case = read_case(recorded, name)
    features = vlm.encode_images(recorded["images"], case.images)
    hidden = vlm(case.ids, case.mask, features)
    assert_same(case, hidden, vlm.project(hidden), recorded["vocab_columns_kept"])


@torch.no_grad()
def test_a_row_of_the_mixed_batch_is_that_row_alone(recorded, vlm):
    case = read_case(recorded, MIXED)
    assert case.images.tolist() == [0, 2]
    together = vlm(case.ids, case.mask, vlm.encode_images(recorded["images"], case.images))
    for row in range(3):
        here = slice(row, row + 1)
        features = vlm.encode_images(recorded["images"], case.images[case.images == row])
        alone = vlm(case.ids[here], case.mask[here], features)
        real = case.mask[here]
        torch.testing.assert_close(together[here][real], alone[real], rtol=0, atol=1e-5)
        assert_same(case, alone, vlm.project(alone), recorded["vocab_columns_kept"], here)


@torch.no_grad()
@pytest.mark.parametrize("name", [*IMAGE_CASES, *TEXT_CASES])
def test_hugging_face_alone(recorded, plain, name):
    """`LlavaForConditionalGeneration` itself, every layer; where layers were recorded at one column, it is the last."""
    case = read_case(recorded, name)
    pixels = recorded["images"][case.images] if len(case.images) else None
    # The original counted positions from the first column on, padding included.
    positions = torch.arange(case.ids.shape[1]).expand_as(case.ids)
    output = plain(
        input_ids=case.ids,
        attention_mask=case.mask.long(),
        position_ids=positions,
        pixel_values=pixels,
        output_hidden_states=True,
    )
    assert_same(case, output.hidden_states[-1], output.logits, recorded["vocab_columns_kept"])
    for layer in range(3):
        expected = recorded[f"{name}/hidden_{layer}"]
        if expected.dim() == 3:
            torch.testing.assert_close(
                output.hidden_states[layer][case.mask], expected[case.mask], **TOLERANCE
            )
        else:
            last = case.mask[:, -1]
            torch.testing.assert_close(output.hidden_states[layer][last, -1], expected[last], **TOLERANCE)
    if name == "single":
        torch.testing.assert_close(output.logits[:, -3:, :VOCABULARY], recorded["single/logits_full_last3"], **TOLERANCE)  # fmt: skip


def greedy_prompts(recorded: dict[str, Tensor]) -> tuple[Case, Tensor]:
    """The batch of prompts that was answered greedily, and the answers int64[4, 16]."""
    case = read_case(recorded, "leftpad4")
    prompts = recorded["leftpad4/input_ids"]
    assert torch.equal(recorded["greedy/sequences"][:, : prompts.shape[1]], prompts)
    return case, recorded["greedy/sequences"][:, prompts.shape[1] :]


def test_greedy_answers_of_our_sampler(recorded, vlm):
    case, answers = greedy_prompts(recorded)
    settings = SamplingSettings(max_new_tokens=16, stop_ids=(2,), pad_id=0, temperature=0.0, banned_ids=ADDED)
    features = vlm.encode_images(recorded["images"], case.images)
    assert torch.equal(sample(vlm, case.ids, case.mask, features, settings).ids, answers)


def test_greedy_answers_of_hugging_face(recorded, plain):
    """With the converted generation settings alone: the added ids take no probability."""
    case, answers = greedy_prompts(recorded)
    output = plain.generate(
        input_ids=case.ids,
        attention_mask=case.mask.long(),
        pixel_values=recorded["images"],
        do_sample=False,
        max_new_tokens=16,
        output_scores=True,
        return_dict_in_generate=True,
    )
    assert torch.equal(output.sequences[:, case.ids.shape[1] :], answers)
    scores = torch.stack(output.scores, dim=1)
    torch.testing.assert_close(scores[..., recorded["vocab_columns_kept"]], recorded["greedy/scores_sel"], **TOLERANCE)  # fmt: skip
    torch.testing.assert_close(scores.logsumexp(-1), recorded["greedy/scores_lse"], **TOLERANCE)
