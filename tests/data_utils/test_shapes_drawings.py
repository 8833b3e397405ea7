"""Clear drawings: what is in them, how they differ, and that they can be read back."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from data_utils.shapes_drawings import (
    APART,
    COLOURS,
    LONGEST_SIDE,
    MAX_AREA,
    RADII,
    SHADE,
    SHORTEST_SIDE,
    UNCOVERED,
    Drawing,
    DrawnObject,
    draw,
    draw_clean,
    outline_of,
    sample_drawing,
)
from data_utils.shapes_files import read_scenes, scenes_to_json
from data_utils.shapes_world import NAMES

SKY = (214, 230, 242)


def drawings(count: int, seed: int = 0) -> list[Drawing]:
    rng = np.random.default_rng(seed)
    return [sample_drawing(rng) for _ in range(count)]


def one_object(name: str, radius: float = 20.0, turn: float = 0.0) -> Drawing:
    fill = COLOURS[name.split("-")[0]]
    return Drawing(100, 90, SKY, (DrawnObject(name, 50.0, 45.0, radius, turn, fill),), 0)


def test_a_seed_draws_the_same_pictures_and_another_seed_others():
    assert drawings(5) == drawings(5) != drawings(5, seed=1)
    for one, other in zip(drawings(5), drawings(5), strict=True):
        assert np.array_equal(draw(one, 0.0), draw(other, 0.0))


def test_pictures_have_many_sizes_and_shapes_within_limits():
    sizes = [(one.width, one.height) for one in drawings(200)]
    assert all(SHORTEST_SIDE <= side <= LONGEST_SIDE for size in sizes for side in size)
    assert all(width * height <= MAX_AREA for width, height in sizes)
    assert len(set(sizes)) > 150
    ratios = [width / height for width, height in sizes]
    assert min(ratios) < 0.6 and max(ratios) > 1.6
    assert all(draw_clean(one).size == (one.width, one.height) for one in drawings(10))


def test_objects_differ_lie_apart_and_mostly_inside():
    for one in drawings(300):
        assert 1 <= len(one.objects) == len(set(one.names)) <= 3
        for index, placed in enumerate(one.objects):
            assert placed.name in NAMES and RADII[0] <= placed.radius <= RADII[1] + 0.1
            inside = 0.6 * placed.radius - 0.2  # rounded
            assert inside <= placed.x <= one.width - inside and inside <= placed.y <= one.height - inside
            for other in one.objects[:index]:
                distance = math.hypot(placed.x - other.x, placed.y - other.y)
                assert distance >= max(APART, UNCOVERED * (placed.radius + other.radius)) - 0.3


def test_every_name_and_every_number_of_objects_comes_up():
    many = drawings(600)
    assert {name for one in many for name in one.names} == set(NAMES)
    counts = np.bincount([len(one.objects) for one in many])[1:]
    assert (counts > 150).all()


@pytest.mark.parametrize("name", NAMES)
def test_an_object_has_its_colour_in_the_middle_an_outline_and_background_around(name):
    pixels = np.asarray(draw_clean(one_object(name))).astype(int)
    assert abs(pixels[45, 50] - COLOURS[name.split("-")[0]]).max() <= 2
    assert tuple(pixels[2, 2]) == SKY
    assert (pixels.sum(-1) < 250).sum() > 20  # dark outline


def test_colours_stay_apart_whatever_their_shades():
    colours = np.array(list(COLOURS.values()))
    for index, one in enumerate(colours):
        for other in colours[:index]:
            assert abs(one - other).max() > 2 * SHADE


def test_shapes_cover_their_own_areas():
    def covered(shape: str) -> int:
        pixels = np.asarray(draw_clean(one_object(f"red-{shape}"))).astype(int)
        return int((abs(pixels - SKY).sum(-1) > 60).sum())

    assert covered("circle") == pytest.approx(math.pi * 21**2, rel=0.1)  # half the outline lies outside
    assert covered("square") == pytest.approx((2 * 0.85 * 20 + 2) ** 2, rel=0.1)
    assert covered("cross") < covered("square")
    assert covered("triangle") < covered("circle")


def test_a_turn_turns_round_the_centre():
    straight, turned = (
        np.array(outline_of(one_object("red-square", turn=turn).objects[0])) for turn in (0, 90)
    )
    assert np.allclose(straight[[1, 2, 3, 0]], turned)


def test_what_comes_later_lies_in_front():
    back, front = one_object("red-square").objects[0], one_object("blue-circle", radius=10).objects[0]
    both = replace(one_object("red-square"), objects=(back, front))
    pixels = np.asarray(draw_clean(both)).astype(int)
    assert abs(pixels[45, 50] - COLOURS["blue"]).max() <= 2


def test_noise_is_only_what_is_asked_for():
    one = one_object("green-cross")
    clean = np.asarray(draw_clean(one)).astype(int)
    assert np.array_equal(clean, draw(one, 0.0))
    noisy = np.asarray(draw(one, 0.1)).astype(int)
    assert 10 < np.std(noisy[:20] - clean[:20]) < 30
    assert np.array_equal(noisy, draw(one, 0.1)) and not np.array_equal(
        noisy, draw(replace(one, noise_seed=1), 0.1)
    )


def test_drawings_are_read_back_as_they_were_written(tmp_path):
    scenes = {f"{index}.png": one for index, one in enumerate(drawings(20))}
    file = tmp_path / "scenes.json"
    file.write_text(json.dumps(scenes_to_json(scenes)))
    assert read_scenes(file) == scenes
