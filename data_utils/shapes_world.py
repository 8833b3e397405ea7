"""The tiny world: seeded scenes of coloured shapes, their pictures, and everything that is true about them.

A scene holds one to three different objects (colour x shape) in a 2 x 2 grid of cells. It is rendered to 32 x 32 RGB
with position and size jitter and Gaussian pixel noise; the noise is the one thing that makes seeing hard. Because the
scene is known, hallucination is measured by parsing an answer, never judged by a model.

This file leaves out what a *data file* looks like (`shapes_files.py`) and the sentences (`shapes_text.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

IMAGE_SIZE = 32
CELL_SIZE = 16
CELLS = 4
MAX_OBJECTS = 3

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 190, 60),
    "blue": (50, 80, 230),
    "yellow": (235, 215, 50),
    "purple": (170, 50, 200),
    "white": (245, 245, 245),
}
SHAPES = ("circle", "square", "triangle", "cross")
NAMES: tuple[str, ...] = tuple(f"{colour}-{shape}" for colour in COLOURS for shape in SHAPES)
BACKGROUND = (90, 90, 90)


@dataclass(frozen=True)
class PlacedObject:
    """One object of a scene.

    Attributes:
        name: one of `NAMES`.
        cell: 0..3, row by row; the picture is cut into 2 x 2 cells of 16 x 16 pixels.
        dx, dy: offset of the centre from the middle of the cell, pixels.
        radius: half the object's extent, pixels.
    """

    name: str
    cell: int
    dx: float
    dy: float
    radius: float


@dataclass(frozen=True)
class Scene:
    """Objects in cell order, and the seed of this picture's pixel noise."""

    objects: tuple[PlacedObject, ...]
    noise_seed: int

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the objects in cell order; all different."""
        return tuple(placed.name for placed in self.objects)


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draw a scene: one to three different objects in different cells, jittered."""
    count = int(rng.integers(1, MAX_OBJECTS + 1))
    names = rng.choice(len(NAMES), size=count, replace=False)
    cells = np.sort(rng.choice(CELLS, size=count, replace=False))
    objects = tuple(
        PlacedObject(
            name=NAMES[name],
            cell=int(cell),
            dx=round(float(rng.uniform(-1.5, 1.5)), 2),
            dy=round(float(rng.uniform(-1.5, 1.5)), 2),
            radius=round(float(rng.uniform(4.5, 6.0)), 2),
        )
        for name, cell in zip(names, cells, strict=True)
    )
    return Scene(objects=objects, noise_seed=int(rng.integers(2**31)))


def _draw(draw: ImageDraw.ImageDraw, placed: PlacedObject) -> None:
    colour_name, shape = placed.name.split("-")
    fill = COLOURS[colour_name]
    x = (placed.cell % 2) * CELL_SIZE + CELL_SIZE / 2 + placed.dx
    y = (placed.cell // 2) * CELL_SIZE + CELL_SIZE / 2 + placed.dy
    r = placed.radius
    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill=fill)
    elif shape == "square":
        side = 0.85 * r
        draw.rectangle((x - side, y - side, x + side, y + side), fill=fill)
    elif shape == "triangle":
        base = r * math.sqrt(3) / 2
        draw.polygon(((x, y - r), (x - base, y + 0.8 * r), (x + base, y + 0.8 * r)), fill=fill)
    else:
        arm = r / 3
        draw.rectangle((x - r, y - arm, x + r, y + arm), fill=fill)
        draw.rectangle((x - arm, y - r, x + arm, y + r), fill=fill)


def render_clean(scene: Scene) -> np.ndarray:
    """The picture without noise, uint8[32, 32, 3]."""
    image = Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE), BACKGROUND)
    draw = ImageDraw.Draw(image)
    for placed in scene.objects:
        _draw(draw, placed)
    return np.asarray(image)


def add_noise(pixels: np.ndarray, noise: float, rng: np.random.Generator) -> np.ndarray:
    """Add Gaussian noise of standard deviation `noise` (1.0 = the full 0..255 range) to uint8 pixels and clip."""
    if noise < 0:
        raise ValueError(f"noise {noise} — must be at least 0")
    jitter = rng.standard_normal(pixels.shape, dtype=np.float32) * (255.0 * noise)
    return np.clip(pixels + jitter, 0, 255).astype(np.uint8)


def render(scene: Scene, noise: float) -> Image.Image:
    """The picture of a scene, 32 x 32 RGB; the same scene and noise always give the same pixels.

    Args:
        scene: what to draw.
        noise: standard deviation of the pixel noise, in units of the full colour range.
    """
    return Image.fromarray(add_noise(render_clean(scene), noise, np.random.default_rng(scene.noise_seed)))


@dataclass(frozen=True)
class DescriptionMeasures:
    """What an exact parse of a description says about it.

    Attributes:
        mentioned: object names in the order of their first mention, without repeats.
        false: the mentioned names that are not in the scene.
        recalled: the scene's names that are mentioned.
        n_objects: number of objects in the scene.
        repeats: mentions beyond the first of a name.
    """

    mentioned: tuple[str, ...]
    false: tuple[str, ...]
    recalled: tuple[str, ...]
    n_objects: int
    repeats: int

    @property
    def hallucinated(self) -> bool:
        """Whether at least one object is mentioned that is not there (one answer's share of CHAIR_s)."""
        return bool(self.false)

    @property
    def recall(self) -> float:
        """Share of the scene's objects that are mentioned, 0..1."""
        return len(self.recalled) / self.n_objects

    def quality(self, false_weight: float = 0.5, repeat_weight: float = 0.5) -> float:
        """The oracle's score of a description: recall - false_weight * false objects - repeat_weight * repeats."""
        return self.recall - false_weight * len(self.false) - repeat_weight * self.repeats


def mentioned_objects(text: str) -> list[str]:
    """Every mention of a known object, in order, repeats included; unknown words and punctuation are ignored."""
    words = "".join(letter if letter.isalpha() or letter == "-" else " " for letter in text.lower()).split()
    return [word for word in words if word in NAMES]


def measure_description(names: Sequence[str], text: str) -> DescriptionMeasures:
    """Compare a description with the objects that are really there.

    Args:
        names: the scene's object names (all different, at least one).
        text: the answer; may be empty or anything else.
    """
    mentions = mentioned_objects(text)
    unique = tuple(dict.fromkeys(mentions))
    return DescriptionMeasures(
        mentioned=unique,
        false=tuple(name for name in unique if name not in names),
        recalled=tuple(name for name in names if name in unique),
        n_objects=len(names),
        repeats=len(mentions) - len(unique),
    )
