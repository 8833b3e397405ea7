"""Plans of every family: published sizes, and what real tiny models take, pictures of a size included."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data_utils.image_choices import ImageChoices
from llava_rlhf import plan_memory
from llava_rlhf.memory_planning.bases import BaseSpec, weight_shapes
from llava_rlhf.memory_planning.passes import Bank, Head, Pass, image_encoding, scoring, training
from llava_rlhf.memory_planning.pictures import within_limits
from llava_rlhf.memory_planning.tracing import LiveBytes
from llava_rlhf.memory_planning.weights import adapter_numbers, base_parts, merged_bytes
from models.adapters import AdapterBank, AdapterSpec
from models.heads import ScalarHead
from models.image_settings import PROCESSOR_FILE
from models.packed_features import PackedFeatures, pack
from models.settings import LoraSettings
from models.vlm import BaseSettings, load_base, load_image_processor
from tests.support.tiers import tiered
from tests.support.tiny_families import DAILY_FAMILIES, TINY_FAMILIES
from tests.support.tiny_families.common import TinyFamily, picture

LORA = LoraSettings(r=4)
SIZE, ROWS, WORDS = (130, 100), 3, 12
# As the files of the published weights add up; tied embeddings counted once. Of InternVL3 and Idefics3 only the first three
# digits were known from elsewhere.
WEIGHTS = {
    "qwen2.5-vl-3b": 3_754_622_976,
    "qwen2.5-vl-7b": 8_292_166_656,
    "qwen2.5-vl-32b": 33_452_718_336,
    "qwen2.5-vl-72b": 73_410_777_344,
    "qwen3-vl-2b": 2_127_532_032,
    "qwen3-vl-4b": 4_437_815_808,
    "qwen3-vl-8b": 8_767_123_696,
    "qwen3-vl-32b": 33_357_390_064,
    "internvl3-1b": 938_193_024,
    "internvl3-2b": 2_088_957_440,
    "internvl3-8b": 7_944_373_760,
    "internvl3-14b": 15_117_256_704,
    "smolvlm2-500m": 507_482_304,
    "smolvlm2-2.2b": 2_246_784_880,
    "idefics3-8b": 8_462_086_384,
    "gemma-3-4b": 4_300_079_472,
    "gemma-3-12b": 12_187_325_040,
    "gemma-3-27b": 27_432_406_640,
}
QWEN = "qwen2.5-vl-7b"


@dataclass
class Real:
    """A tiny base of a family with an adapter, rows of one picture and some words, and how it is planned."""

    spec: BaseSpec
    bank: AdapterBank
    pixels: Tensor
    grids: list[tuple[int, ...]]
    features: PackedFeatures
    ids: Tensor

    def known(self) -> list[Tensor]:
        weights = [*self.bank.parameters(), *self.bank.buffers()]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        return [*weights, *gradients, self.pixels, self.features.table, self.ids]


def real_base(family: TinyFamily, folder: Path) -> Real:
    base = family.save(folder / family.model_type)
    vlm, processor = load_base(base, BaseSettings()), load_image_processor(base)
    tensors = processor(images=[picture(*SIZE, seed=number) for number in range(ROWS)], return_tensors="pt")
    if vlm.family.fixed_positions is None:
        pixels, grids = vlm.family.cut(tensors)
    else:
        pixels, grids = tensors["pixel_values"], [()] * ROWS
    features = pack(vlm.encode_pictures(pixels, grids), grids)
    ids = torch.tensor([[*vlm.family.placeholder(grids[0]), *[7] * WORDS]] * ROWS)
    bank = AdapterBank(vlm, {"it": AdapterSpec(LORA, trainable=True)})
    for weight in bank.parameters():
        if weight.requires_grad:
            weight.grad = torch.zeros_like(weight)
    return Real(BaseSpec.in_folder(base, picture=SIZE), bank, pixels, list(grids), features, ids)


@pytest.fixture(
    scope="module",
    params=tiered(
        TINY_FAMILIES,
        quick=("llava", "qwen2_5_vl"),
        daily=DAILY_FAMILIES,
        name=lambda family: family.model_type,
    ),
)
def real(request, tmp_path_factory) -> Real:
    return real_base(request.param, tmp_path_factory.mktemp("planned"))


@pytest.mark.parametrize("name", WEIGHTS)
def test_published_bases_have_the_published_number_of_weights(name):
    shapes = weight_shapes(BaseSpec.published(name)).values()
    assert sum(shape.numel() * count for shape, count in shapes) == WEIGHTS[name]


def test_weights_and_adapters_are_those_of_the_real_model(real):
    adapter = [weight for weight in real.bank.parameters() if weight.requires_grad]
    base = [weight for weight in real.bank.parameters() if not weight.requires_grad]
    assert sum(part.size for part in base_parts(real.spec)) == 4 * sum(weight.numel() for weight in base)
    assert sum(adapter_numbers(real.spec, LORA)) == sum(weight.numel() for weight in adapter)
    wrapped = [name for name, _ in real.bank.named_parameters() if name.endswith("base_layer.weight")]
    weights = dict(real.bank.named_parameters())
    assert merged_bytes(real.spec, LORA) == 4 * sum(weights[name].numel() for name in wrapped)


def test_a_picture_takes_what_the_image_processor_makes_of_it(real):
    assert real.spec.pixels * ROWS == real.pixels.numel()
    assert real.spec.features * ROWS == len(real.features.table)
    assert real.spec.feature_bytes * ROWS == real.features.table.nbytes
    assert real.spec.positions + WORDS == real.ids.shape[1]


def test_encoding_pictures_takes_what_it_takes_in_the_real_tower(real):
    live = LiveBytes(real.known())
    with live:
        pack(real.bank.vlm.encode_pictures(real.pixels, real.grids), real.grids)
    assert image_encoding(real.spec, ROWS) == pytest.approx(live.peak, rel=0.001)


@pytest.mark.parametrize("masked", [False, True])
def test_passes_take_what_they_take_in_the_real_model(real, masked):
    head, mask = ScalarHead(real.spec.hidden), None
    if masked:
        mask = torch.ones_like(real.ids, dtype=torch.bool)
        mask[0, -2:] = False
    work, bank = Pass(ROWS, real.ids.shape[1], Head(real.ids.numel()), masked), Bank(real.spec, LORA)

    def forward(is_training: bool) -> Tensor:
        with real.bank.use("it", is_training) as vlm:
            return head(vlm(real.ids, mask, real.features).flatten(0, 1)).sum()

    known = [*real.known(), *head.parameters(), *([] if mask is None else [mask])]
    live = LiveBytes(known)
    with live, torch.no_grad():
        forward(False)
    # The model keeps what it was given until the last layer has run; the plan doesn't.
    given = real.ids.numel() * real.spec.hidden * 4
    assert scoring(bank, work) <= live.peak <= (scoring(bank, work) + given) * 1.05
    live = LiveBytes(known)
    with live:
        result = forward(True)
        saved = live.live
        result.backward()
    planned = training(bank, work)
    assert (planned.peak, planned.saved) == (
        pytest.approx(live.peak, rel=0.01),
        pytest.approx(saved, rel=0.01),
    )


def test_attention_that_keeps_its_weights_is_counted_over_whole_pictures():
    base = BaseSpec.published(QWEN, picture=(448, 448))
    eager = BaseSpec.published(QWEN, picture=(448, 448), attention="eager")
    heads, patches = 16, 32 * 32
    assert image_encoding(eager, 1) - image_encoding(base, 1) > 4 * heads * patches**2


def plan_of(*argv: str) -> plan_memory.MemoryPlan:
    ((_, plan),) = plan_memory.prepare(argv).planned
    return plan


@pytest.mark.slow
def test_larger_pictures_take_more_positions_and_the_plan_says_how_many():
    lengths = ["--query_len", "100", "--response_len", "20", "--model_max_length", "4096", "--bf16", "True"]
    asked = ["train_rl_model", "--shape", QWEN, "--bits", "4", *lengths]
    small, large = (plan_of(*asked, "--picture", size) for size in ("280x280", "560x560"))
    # 28 pixels a side of a position, and two marks around a picture.
    for plan, size, positions in ((small, "280x280", 102), (large, "560x560", 402)):
        assert f"picture(s) of {size} pixels that take {positions} positions each" in " ".join(plan.notes)
    (sampling,) = [phase.name for phase in small.phases if "prompts of" in phase.name]
    assert sampling.endswith(f"prompts of {100 - 1 + 102} positions")
    assert large.peak > small.peak


@pytest.mark.slow
def test_limits_of_a_picture_s_size_are_those_of_the_flags():
    asked = ["initialize_policy_model", "--shape", QWEN, "--bits", "4", "--bf16", "True"]
    notes = " ".join(plan_of(*asked, "--max_pixels", str(280**2)).notes)
    assert "picture(s) of 1024x1024 pixels that take 102 positions each" in notes
    with pytest.raises(ValueError, match="--max_pixels"):
        plan_of(*asked[:2], "internvl3-1b", *asked[3:], "--max_pixels", "78400")


@pytest.mark.slow
def test_rows_are_never_longer_than_the_limit_that_counts_positions():
    asked = ["train_reward_model", "--shape", QWEN, "--bits", "4", "--model_max_length", "1500"]
    assert any("pairs of 1500 positions" in phase.name for phase in plan_of(*asked).phases)


def test_a_picture_of_so_many_positions_is_found():
    base = BaseSpec.published(QWEN)
    for positions in (102, 103):
        found = base.with_pictures_of(positions)
        assert found.positions >= positions
        side = found.picture[0] - 1
        assert BaseSpec.published(QWEN, picture=(side, side)).positions < positions
    assert base.with_pictures_of(None) is base
    wide = BaseSpec.published(QWEN, picture=(560, 140))
    assert (
        wide.with_pictures_of(wide.positions) is wide
    )  # those that are seen, not a square that takes as much
    llava = BaseSpec.published("7b-v1.5-224")
    assert llava.with_pictures_of(1000) is llava


@pytest.mark.parametrize(
    "shape, size, features, marks",
    [
        # A picture of three to four takes twelve tiles and is seen whole, with 256 positions each.
        ("internvl3-1b", (1200, 900), 13 * 256, 2),
        ("internvl3-1b", (448, 448), 256, 2),
        # Each of up to sixteen tiles and the whole behind two marks; a line break behind each row, one mark more at the end.
        ("smolvlm2-500m", (1024, 1024), 17 * 64, 17 * 2 + 4 + 1),
        ("smolvlm2-2.2b", (640, 480), 13 * 81, 13 * 2 + 3 + 1),
        ("idefics3-8b", (400, 100), 5 * 169, 5 * 2 + 1 + 1),
        ("gemma-3-4b", (640, 480), 256, 2),
    ],
)
def test_pictures_of_published_bases_take_the_positions_that_released_ones_take(shape, size, features, marks):
    base = BaseSpec.published(shape, picture=size)
    assert (base.features, base.positions) == (features, features + marks)


@pytest.mark.parametrize(
    "shape, fewest, most", [("qwen2.5-vl-3b", 4, 16384), (QWEN, 4, 16384), ("qwen3-vl-8b", 64, 16384)]
)
def test_pictures_of_published_qwens_lie_between_the_released_limits(shape, fewest, most, tmp_path):
    """By size alone: the largest picture would take a gigabyte here."""
    base = BaseSpec.published(shape)
    (tmp_path / PROCESSOR_FILE).write_text(base.processor)
    processor = base.family.load_image_processor(tmp_path)
    found = [base.family.positions(processor, (side, side)) for side in (28, 8000)]
    assert found == [fewest + 2, most + 2]  # and two marks


def test_limits_that_are_chosen_stand_in_the_image_processor_s():
    base = BaseSpec.published(QWEN)
    fitted = within_limits(base.config, base.processor, ImageChoices(max_pixels=280**2), "it")
    assert replace(base, processor=fitted, picture=(560, 560)).positions == 10 * 10 + 2


@pytest.mark.parametrize(
    "shape, tiles", [("internvl3-1b", (1, 4, 5, 7, 10, 13)), ("smolvlm2-500m", (17, 13, 9, 5))]
)
def test_pictures_of_so_many_tiles_are_found_of_any_shape(shape, tiles):
    base = BaseSpec.published(shape, picture=(1200, 900))
    one = base.positions // base.cut_picture.grid[0]
    for count in tiles:
        found = base.with_pictures_of(count * one)
        assert count <= found.cut_picture.grid[0] <= count + 1 and found.positions >= count * one


def test_a_picture_that_takes_what_all_of_its_family_take_keeps_its_size():
    base = BaseSpec.published("gemma-3-4b", picture=(640, 480))
    assert base.with_pictures_of(base.positions) is base


@pytest.mark.parametrize(
    "path, shape",
    tiered(
        [
            ("Qwen/Qwen3-VL-8B-Instruct", "qwen3-vl-8b"),
            ("checkpoints/qwen3-vl-8b", "qwen3-vl-8b"),
            ("OpenGVLab/InternVL3-14B-hf", "internvl3-14b"),
            ("google/gemma-3-4b-it", "gemma-3-4b"),
            ("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", "smolvlm2-500m"),
        ],
        quick=("HuggingFaceTB/SmolVLM2-500M-Video-Instruct",),
        name=lambda case: case[0],
    ),
)
def test_a_path_that_names_a_published_size_is_planned_with_it(path, shape):
    assert plan_of("train_reward_model", "--model_name_or_path", path, "--bits", "4").title.endswith(shape)


@pytest.mark.parametrize("size", ["1024", "0x10", "axb", "100X100"])
def test_a_size_of_pictures_that_is_none_is_refused(size):
    with pytest.raises(ValueError, match=f"--picture {size}: must be WIDTHxHEIGHT in pixels"):
        plan_memory.prepare(["train_reward_model", "--shape", QWEN, "--picture", size])
