"""Hidden states against Hugging Face's own forward, and what may not matter: neighbours, padding, sharing."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch.testing import assert_close
from transformers import LlavaForConditionalGeneration

from models.base_files import read_base_facts
from models.base_kind import check_kind
from models.vlm import BaseSettings, load_base, load_image_processor, load_tokenizer
from tests.models.tiny_rows import IMAGE_FIRST, IMAGE_ROW, MIXED, PIXELS, SHARED_IMAGE, TEXT, TWO_IMAGES, pad
from tests.support.tiny_models import IMAGE

# Another position offset or batch shape gives the same sums in another order: measured up to 3e-6 on logits of size 3.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def vlm(tiny_base):
    return load_base(tiny_base, BaseSettings())


@pytest.fixture(scope="module")
def hf_model(tiny_base):
    return LlavaForConditionalGeneration.from_pretrained(tiny_base, dtype=torch.float32).eval()


def our_logits(vlm, batch, pixels=PIXELS):
    with torch.no_grad():
        features = vlm.encode_images(pixels, batch.image_index)
        return vlm.project(vlm(batch.input_ids, batch.mask, features))


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize(
    "rows",
    [(IMAGE_ROW,), (TEXT,), (TWO_IMAGES,), (TEXT, IMAGE_ROW), (TWO_IMAGES, IMAGE_FIRST), MIXED],
    ids=["image", "text", "two images", "text beside image", "two beside one", "mixed"],
)
def test_logits_equal_hugging_face(vlm, hf_model, rows, side):
    batch = pad(rows, side)
    pixels = PIXELS[batch.image_index] if len(batch.image_index) else None
    with torch.no_grad():
        theirs = hf_model(batch.input_ids, pixel_values=pixels, attention_mask=batch.mask.long()).logits
    ours = our_logits(vlm, batch)
    assert ours.isfinite().all()
    assert_close(ours[batch.mask], theirs[batch.mask], **CLOSE)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("extra", [0, 5])
def test_neighbours_and_padding_do_not_matter(vlm, side, extra):
    batch = pad(MIXED, side, extra)
    together = our_logits(vlm, batch)
    for index, row in enumerate(MIXED):
        alone = our_logits(vlm, pad((row,)))[0]
        assert_close(together[index][batch.mask[index]], alone, **CLOSE)


def test_images_matter(vlm):
    batch = pad(MIXED)
    other = batch._replace(image_index=batch.image_index.flip(0))
    moved = (our_logits(vlm, batch) - our_logits(vlm, other)).abs().amax(dim=(1, 2))
    text_row = MIXED.index(TEXT)
    assert moved[text_row] == 0
    assert (moved[[i for i in range(len(MIXED)) if i != text_row]] > 0.1).all()


def test_features_are_not_shared_out_by_counting_only(vlm):
    """The second row's image is its own even when a text row stands between."""
    order = (IMAGE_ROW, TEXT, IMAGE_FIRST)
    reversed_order = pad(order[::-1])
    assert_close(our_logits(vlm, pad(order)), our_logits(vlm, reversed_order).flip(0), **CLOSE)


@pytest.mark.parametrize(
    "index", [[0, 1], [0, 1, 2, 1], []], ids=["one image too few", "one too many", "none given"]
)
def test_a_mismatch_of_images_and_features_is_refused(vlm, index):
    batch = pad((IMAGE_ROW, TWO_IMAGES))
    with pytest.raises(ValueError, match=r"12 image positions in the text, \d+ image features"):
        our_logits(vlm, batch._replace(image_index=torch.tensor(index, dtype=torch.long)))


def test_features_for_a_text_only_batch_are_refused(vlm):
    with pytest.raises(ValueError, match="0 image positions in the text, 4 image features"):
        our_logits(vlm, pad((TEXT,))._replace(image_index=torch.tensor([0])))


def test_shared_images_equal_repeated_ones_and_are_encoded_once(vlm):
    batch = pad((IMAGE_ROW, SHARED_IMAGE, TWO_IMAGES, IMAGE_ROW))
    repeated = PIXELS[batch.image_index]
    seen = []
    hook = vlm.model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs.get("pixel_values", args[0] if args else None))),
        with_kwargs=True,
    )
    try:
        shared = our_logits(vlm, batch)
        assert seen == [3]  # one call with the 3 distinct images, for 5 slots
        separate = our_logits(vlm, batch._replace(image_index=torch.arange(5)), repeated)
    finally:
        hook.remove()
    assert seen == [3, 5]
    assert_close(shared, separate, **CLOSE)


def test_features_carry_no_gradient_and_none_means_none(vlm):
    features = vlm.encode_images(PIXELS, torch.tensor([2, 0, 2]))
    assert features.table.shape == (12, vlm.hidden_size) and features.lengths == (4, 4, 4)
    assert not features.table.requires_grad
    first, _, third = features.split()
    assert torch.equal(first, third)
    assert vlm.encode_images(None, None) is None
    assert vlm.encode_images(PIXELS, torch.tensor([], dtype=torch.long)) is None


def test_facts_of_a_base(vlm, tiny_base, tiny_reward_base):
    facts, reward = read_base_facts(tiny_base), read_base_facts(tiny_reward_base)
    assert (facts.image_token_id, facts.positions, reward.positions) == (IMAGE, 4, 9)
    assert (vlm.image_token_id, vlm.family.fixed_positions, vlm.vocab_size) == (
        IMAGE,
        4,
        len(load_tokenizer(tiny_base)),
    )
    assert load_image_processor(tiny_reward_base).crop_size == {"height": 42, "width": 42}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "no config.json"),
        ({"model_type": "llama"}, "model_type 'llama' is not a LLaVA .*model"),
        ({"model_type": "llava", "mm_vision_tower": "clip"}, "convert it to the Hugging Face format first"),
    ],
)
def test_another_folder_is_refused(tmp_path, config, message):
    if config is not None:
        (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message):
        check_kind(tmp_path)


def test_other_bits_are_refused(tiny_base):
    with pytest.raises(ValueError, match="choose 4, 8, 16 or 32"):
        load_base(tiny_base, BaseSettings(bits=3))


def test_a_folder_without_a_fast_tokenizer_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_are_counted_from_a_rows_first_real_token(vlm, side):
    batch = pad(MIXED, side, extra=3)
    seen = []
    handle = vlm.model.model.language_model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    try:
        our_logits(vlm, batch)
    finally:
        handle.remove()
    for positions, real in zip(seen[0], batch.mask, strict=True):
        assert positions[real].tolist() == list(range(int(real.sum())))


def test_pixels_reach_the_vision_tower_unrounded(vlm):
    seen = []
    handle = vlm.model.model.vision_tower.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["pixel_values"]),
        with_kwargs=True,
    )
    try:
        vlm.encode_images(PIXELS, torch.arange(3))
    finally:
        handle.remove()
    assert not torch.equal(PIXELS, PIXELS.bfloat16().float())
    assert torch.equal(seen[0], PIXELS)


def test_a_base_that_keeps_the_class_token_has_one_position_more(vlm, tiny_base, tmp_path):
    folder = tmp_path / "full"
    shutil.copytree(tiny_base, folder)
    config = json.loads((folder / "config.json").read_text())
    config["vision_feature_select_strategy"] = "full"
    (folder / "config.json").write_text(json.dumps(config))
    full = load_base(folder, BaseSettings())
    positions = vlm.family.fixed_positions + 1
    assert full.family.fixed_positions == read_base_facts(folder).positions == positions
    features = full.encode_images(PIXELS, torch.arange(len(PIXELS)))
    assert features.lengths == (positions,) * len(PIXELS)
    patches = torch.cat([one[1:] for one in features.split()])
    assert_close(patches, vlm.encode_images(PIXELS, torch.arange(len(PIXELS))).table, **CLOSE)
