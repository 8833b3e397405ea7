"""What studies are made of, as pure functions: parts of preferences, noisy captions, chosen answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from data_utils.shapes_files import Row, caption_entries
from data_utils.shapes_world import NAMES, Scene

NOISES = ("missing", "wrong")


def split_pairs(rows: Sequence[Row], held_out: int) -> tuple[list[Row], list[Row]]:
    """Pairs to train on and at least `held_out` others, of other pictures: the last ones of the file.

    Raises:
        ValueError: nothing is left to train on.
    """
    first_held_out = rows[-held_out]["image"] if held_out <= len(rows) else None
    cut = next((at for at, row in enumerate(rows) if row["image"] == first_held_out), 0)
    if not cut:
        raise ValueError(f"--held_out_pairs {held_out}: there are {len(rows)} pairs; make more preferences")
    return list(rows[:cut]), list(rows[cut:])


def drawn_pairs(rows: Sequence[Row], count: int, seed: int) -> list[Row]:
    """`count` of the pairs. The fewer of one seed are among the more of the same seed.

    Raises:
        ValueError: there are not so many.
    """
    if count > len(rows):
        raise ValueError(f"--pairs {count}: there are {len(rows)} pairs to train on; make more preferences")
    order = np.random.default_rng([seed, 5]).permutation(len(rows))
    return [rows[place] for place in order[:count]]


def noisy_captions(scenes: Mapping[str, Scene], kind: str, share: float, seed: int) -> dict[str, list[str]]:
    """Captions of every picture in which `share` of the objects are wrong; rationales stay right.

    Args:
        scenes: ground truth by image name.
        kind: "missing": such an object is left out; "wrong": another one that is not there takes its place.
        share: probability of each object, 0..1.
        seed: of the errors, and of the captions' order.
    """
    rng = np.random.default_rng([seed, 6])
    found: dict[str, list[str]] = {}
    for image, scene in scenes.items():
        said: list[str] = []
        for name in scene.names:
            if rng.random() >= share:
                said.append(name)
            elif kind == "wrong":
                absent = [other for other in NAMES if other not in (*scene.names, *said)]
                said.append(absent[int(rng.integers(len(absent)))])
        right = caption_entries(image, scene.names, rng)
        found |= {**right, image: caption_entries(image, said, rng)[image]}
    return found


def dialogue(record: Mapping[str, Any]) -> Row:
    """An answer as a row to learn from."""
    turns = [
        {"from": "human", "value": f"<image>\n{record['question']}"},
        {"from": "gpt", "value": record["answer"]},
    ]
    return {"id": record["id"], "image": record["image"][0], "conversations": turns}


def labelled_pair(
    first: Mapping[str, Any], other: Mapping[str, Any], scores: tuple[float, float]
) -> Row | None:
    """Two answers to one prompt as a preference of who gave the scores; None where answers or scores are equal, or one is empty."""
    answers = (first["answer"].strip(), other["answer"].strip())
    if scores[0] == scores[1] or answers[0] == answers[1] or "" in answers:
        return None
    row = dialogue(first)
    return row | {
        "output_1": {"from": "gpt", "value": first["answer"]},
        "output_2": {"from": "gpt", "value": other["answer"]},
        "preference": 1 if scores[0] > scores[1] else 2,
    }


def pairs_needed(curve: Mapping[int, float], accuracy: float) -> float:
    """How many pairs a curve (pairs → accuracy) needs to reach `accuracy`: linear in the logarithm of the pairs between its points.

    Infinite where it doesn't get there; the fewest pairs of the curve where those suffice.
    """
    sizes = sorted(curve)
    if curve[sizes[0]] >= accuracy:
        return float(sizes[0])
    for low, high in pairwise(sizes):
        if curve[high] >= accuracy:
            share = (accuracy - curve[low]) / (curve[high] - curve[low])
            return float(np.exp(np.log(low) + share * (np.log(high) - np.log(low))))
    return float("inf")
