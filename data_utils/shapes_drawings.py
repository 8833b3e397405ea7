"""The same objects as in `shapes_world`, drawn clearly: flat colours and dark outlines, in pictures of many sizes and shapes.

Nothing is hidden by pixel noise, and a person names every object. What makes seeing hard is that objects are often small, lie
partly behind one another or reach over the edge, and that shades of neighbouring colours come close.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from data_utils.shapes_world import MAX_OBJECTS, NAMES, add_noise

SHORTEST_SIDE, LONGEST_SIDE = 80, 168
# Pixels of a picture: up to a square of 120, however long its sides are.
MAX_AREA = 120 * 120
# Half of an object's extent, pixels: small ones are as frequent as large ones.
RADII = (8.0, 25.0)
# How far the centres of two objects are apart at least: pixels, and as a share of the sum of their radii.
APART, UNCOVERED = 30.0, 0.8
TURN = 12.0  # degrees, either way
# Drawn at this many times the size, then reduced, so that edges are smooth.
FINER = 3

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (216, 52, 48),
    "green": (52, 160, 72),
    "blue": (48, 100, 214),
    "yellow": (242, 200, 40),
    "purple": (140, 66, 176),
    "white": (252, 252, 252),
}
SHADE = 18  # each channel of an object's colour is off by up to this much
OUTLINE = (52, 52, 60)
BACKGROUNDS = ((240, 232, 214), (214, 230, 242), (222, 238, 216), (238, 222, 234), (226, 226, 226))


@dataclass(frozen=True)
class DrawnObject:
    """One object of a drawing.

    Attributes:
        name: one of `NAMES`.
        x, y: its centre, pixels from the left and from the top.
        radius: half its extent, pixels.
        turn: degrees that it is turned by.
        fill: its colour.
    """

    name: str
    x: float
    y: float
    radius: float
    turn: float
    fill: tuple[int, int, int]


@dataclass(frozen=True)
class Drawing:
    """A picture's size in pixels, what lies on it, the hindmost first, and the seed of its pixel noise, if any is wanted."""

    width: int
    height: int
    background: tuple[int, int, int]
    objects: tuple[DrawnObject, ...]
    noise_seed: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the objects; all different."""
        return tuple(placed.name for placed in self.objects)


def sample_drawing(rng: np.random.Generator) -> Drawing:
    """Draw a size, and one to three different objects that lie apart enough to be told apart."""
    width, height = _sample_size(rng)
    count = int(rng.integers(1, MAX_OBJECTS + 1))
    names = [NAMES[index] for index in rng.choice(len(NAMES), size=count, replace=False)]
    objects: list[DrawnObject] = []
    while len(objects) < count:
        new = _sample_object(names[len(objects)], width, height, rng)
        if all(_apart(new, other) for other in objects):
            objects.append(new)
    background = BACKGROUNDS[int(rng.integers(len(BACKGROUNDS)))]
    return Drawing(width, height, background, tuple(objects), int(rng.integers(2**31)))


def _sample_size(rng: np.random.Generator) -> tuple[int, int]:
    while True:
        width, height = (int(side) for side in rng.integers(SHORTEST_SIDE, LONGEST_SIDE + 1, size=2))
        if width * height <= MAX_AREA:
            return width, height


def _sample_object(name: str, width: int, height: int, rng: np.random.Generator) -> DrawnObject:
    low, high = (math.log(radius) for radius in RADII)
    radius = math.exp(rng.uniform(low, high))
    inside = 0.6 * radius  # the rest may reach over the edge
    x, y = (rng.uniform(inside, side - inside) for side in (width, height))
    shade = rng.integers(-SHADE, SHADE + 1, size=3)
    fill = np.clip(np.array(COLOURS[name.split("-")[0]]) + shade, 0, 255)
    return DrawnObject(
        name=name,
        x=round(float(x), 1),
        y=round(float(y), 1),
        radius=round(radius, 1),
        turn=round(float(rng.uniform(-TURN, TURN)), 1),
        fill=(int(fill[0]), int(fill[1]), int(fill[2])),
    )


def _apart(one: DrawnObject, other: DrawnObject) -> bool:
    distance = math.hypot(one.x - other.x, one.y - other.y)
    return distance >= max(APART, UNCOVERED * (one.radius + other.radius))


def outline_of(placed: DrawnObject) -> list[tuple[float, float]]:
    """The corners of an object, pixels; of a circle so many that it is round."""
    shape = placed.name.split("-")[1]
    if shape == "circle":
        corners = [(math.cos(k * math.pi / 24), math.sin(k * math.pi / 24)) for k in range(48)]
    elif shape == "square":
        corners = [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)]
    elif shape == "triangle":
        corners = [(0.0, -1.0), (0.95, 0.8), (-0.95, 0.8)]
    else:
        arm = 0.36
        quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
        corners = [_turned(corner, 90.0 * side) for side in range(4) for corner in quarter]
    turned = [_turned(corner, placed.turn) for corner in corners]
    return [(placed.x + placed.radius * x, placed.y + placed.radius * y) for x, y in turned]


def _turned(corner: tuple[float, float], degrees: float) -> tuple[float, float]:
    x, y = corner
    sine, cosine = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    return x * cosine - y * sine, x * sine + y * cosine


def draw_clean(drawing: Drawing) -> Image.Image:
    """The picture without noise, RGB."""
    image = Image.new("RGB", (drawing.width * FINER, drawing.height * FINER), drawing.background)
    pen = ImageDraw.Draw(image)
    for placed in drawing.objects:
        corners = [(x * FINER, y * FINER) for x, y in outline_of(placed)]
        line = max(1.0, 0.09 * placed.radius) * FINER
        pen.polygon(corners, fill=placed.fill)
        pen.line([*corners, *corners[:2]], fill=OUTLINE, width=round(line), joint="curve")
    return image.reduce(FINER)


def draw(drawing: Drawing, noise: float) -> Image.Image:
    """The picture of a drawing, RGB; the same drawing and noise always give the same pixels.

    Args:
        drawing: what to draw.
        noise: standard deviation of the pixel noise, in units of the full colour range.
    """
    clean = draw_clean(drawing)
    if noise == 0:
        return clean
    return Image.fromarray(add_noise(np.asarray(clean), noise, np.random.default_rng(drawing.noise_seed)))
