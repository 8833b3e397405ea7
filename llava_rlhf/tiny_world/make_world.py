"""Write a tiny world: pictures, captions, and SFT, policy-init, preference-prompt, PPO and evaluation files.

    python -m llava_rlhf.tiny_world.make_world --output_dir runs/world --seed 0

Files in `--output_dir` (all but the last two in the published formats):

    images/000000000042.png     the pictures
    image_to_caption.json       captions of every picture, and `aok_` rationales
    sft.json                    multi-turn answers with annotation noise: a model trained on them hallucinates
    policy_init.json            the same kind of rows on other pictures, fewer errors
    preference_prompts.json     prompts to sample response pairs for (a PPO prompt file)
    prompts.json                PPO prompts, all seven answer types
    eval.json                   held-out prompts: for every picture a description, a "yes", a "no" and a choice
    describe.json               of these, what asks for a description of the first 64 pictures
    scenes.json                 ground truth: picture -> its objects
    world.json                  the settings; written last

The five sets of pictures are disjoint, and each depends on the seed and its own size only.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data_utils.shapes_files import (
    PICTURES,
    AnnotationNoise,
    AnyScene,
    Row,
    ask,
    caption_entries,
    dialogue_row,
    image_name,
    prompt_row,
    scenes_to_json,
)
from data_utils.shapes_text import (
    CHOICE,
    DESCRIBE,
    YES_NO,
    choice_question,
    describe_question,
    yes_no_question,
)
from llava_rlhf.runs.parsing import StrictParser, run_program

# Every split owns a block of picture numbers and a random stream of its own.
SPLITS = ("sft", "policy_init", "preference", "ppo", "eval")
SPLIT_BLOCK = 1_000_000
DESCRIBED = 64  # pictures of describe.json


@dataclass
class WorldArguments:
    """Settings of a tiny world."""

    output_dir: str = field(metadata={"help": "Folder to write; created if needed."})
    seed: int = field(default=0, metadata={"help": "Seed of scenes, noise and annotations."})
    pictures: str = field(
        default="noisy",
        metadata={"help": "noisy: 32 x 32 pixels, hidden by noise; drawn: clear, of many sizes and shapes."},
    )
    noise: float | None = field(
        default=None,
        metadata={
            "help": "Pixel noise, standard deviation; 1 = full colour range. None: 0.4 of noisy pictures, 0 of drawn ones."
        },
    )
    train_images: int = field(default=2000, metadata={"help": "Pictures (= multi-turn rows) of sft.json."})
    init_images: int = field(default=500, metadata={"help": "Pictures (= rows) of policy_init.json."})
    preference_images: int = field(default=2000, metadata={"help": "Pictures of preference_prompts.json."})
    ppo_images: int = field(default=1000, metadata={"help": "Pictures of prompts.json."})
    eval_images: int = field(default=256, metadata={"help": "Held-out pictures of eval.json."})
    prompts_per_image: int = field(default=2, metadata={"help": "Questions per preference or PPO picture."})
    describe_share: float = field(
        default=0.6, metadata={"help": "Share of prompts that ask for a description."}
    )
    choice_share: float = field(
        default=0.1, metadata={"help": "Share of multiple-choice prompts; the rest is yes/no."}
    )
    false_object: float = field(
        default=0.6, metadata={"help": "P(an SFT description claims a false object)."}
    )
    swapped: float = field(
        default=0.1, metadata={"help": "P(an SFT description swaps an object), per object."}
    )
    wrong_yes: float = field(default=0.6, metadata={"help": "P(SFT answers 'Yes' about an absent object)."})
    clean: float = field(default=0.3, metadata={"help": "Share of SFT rows that are entirely right."})
    init_noise_scale: float = field(
        default=0.5, metadata={"help": "Error rates of policy_init.json relative to those of sft.json, 0..1."}
    )

    def __post_init__(self) -> None:
        for name in ("train_images", "init_images", "preference_images", "ppo_images", "eval_images"):
            if not 1 <= getattr(self, name) <= SPLIT_BLOCK:
                raise ValueError(f"--{name} {getattr(self, name)} — must be 1 to {SPLIT_BLOCK}")
        for name in (
            "describe_share",
            "choice_share",
            "false_object",
            "swapped",
            "wrong_yes",
            "clean",
            "init_noise_scale",
        ):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"--{name} {getattr(self, name)} — must be from 0 to 1")
        if self.describe_share + self.choice_share > 1.0:
            raise ValueError(
                f"--describe_share {self.describe_share} + --choice_share {self.choice_share} — must be at most 1"
            )
        if self.pictures not in PICTURES:
            raise ValueError(f"--pictures {self.pictures} — choose {' or '.join(PICTURES)}")
        if self.noise is None:
            self.noise = PICTURES[self.pictures].noise
        if self.noise < 0:
            raise ValueError(f"--noise {self.noise} — must be at least 0")

    @property
    def annotation_noise(self) -> AnnotationNoise:
        """The error rates of sft.json."""
        return AnnotationNoise(self.false_object, self.swapped, self.wrong_yes, self.clean)


def split_scenes(seed: int, split: str, count: int, pictures: str = "noisy") -> dict[int, AnyScene]:
    """The first `count` scenes of a split, by picture number; a larger count only adds scenes."""
    index = SPLITS.index(split)
    rng = np.random.default_rng([seed, index, 0])
    return {index * SPLIT_BLOCK + number: PICTURES[pictures].sample(rng) for number in range(count)}


def _prompts(
    scenes: dict[int, AnyScene], settings: WorldArguments, rng: np.random.Generator
) -> Iterator[Row]:
    shares = (settings.describe_share, settings.choice_share)
    kinds = (DESCRIBE, CHOICE, YES_NO)
    for index, scene in scenes.items():
        for turn in range(settings.prompts_per_image):
            kind = kinds[int(rng.choice(3, p=(*shares, 1.0 - sum(shares))))]
            yield prompt_row(f"{index}-{turn}", image_name(index), ask(kind, scene.names, rng))


def evaluation_rows(scenes: dict[int, AnyScene], rng: np.random.Generator) -> Iterator[Row]:
    """Four prompts for every picture: a description, a "yes", a "no" and a multiple-choice question."""
    for index, scene in scenes.items():
        questions = (
            describe_question(scene.names, rng),
            yes_no_question(scene.names, True, rng),
            yes_no_question(scene.names, False, rng),
            choice_question(scene.names, rng),
        )
        for turn, question in enumerate(questions):
            yield {**prompt_row(f"{index}-{turn}", image_name(index), question), "objects": list(scene.names)}


def world_rows(settings: WorldArguments, scenes: dict[str, dict[int, AnyScene]]) -> dict[str, list[Row]]:
    """The rows of every list file, by file name."""
    streams = {
        split: np.random.default_rng([settings.seed, number, 1]) for number, split in enumerate(SPLITS)
    }
    noise = settings.annotation_noise
    init_noise = noise.scaled(settings.init_noise_scale)
    held_out = list(evaluation_rows(scenes["eval"], streams["eval"]))
    return {
        "sft.json": [dialogue_row(i, s, noise, streams["sft"]) for i, s in scenes["sft"].items()],
        "policy_init.json": [
            dialogue_row(i, s, init_noise, streams["policy_init"]) for i, s in scenes["policy_init"].items()
        ],
        "preference_prompts.json": list(_prompts(scenes["preference"], settings, streams["preference"])),
        "prompts.json": list(_prompts(scenes["ppo"], settings, streams["ppo"])),
        "eval.json": held_out,
        "describe.json": [row for row in held_out if row["caption_type"] == 1][:DESCRIBED],
    }


def caption_map(settings: WorldArguments, scenes: dict[str, dict[int, AnyScene]]) -> dict[str, list[str]]:
    """Captions and `aok_` rationales of every picture."""
    captions: dict[str, list[str]] = {}
    for number, split in enumerate(SPLITS):
        rng = np.random.default_rng([settings.seed, number, 2])
        for index, scene in scenes[split].items():
            captions.update(caption_entries(image_name(index), scene.names, rng))
    return captions


def make_world(settings: WorldArguments) -> Path:
    """Write the world's files (see the top of this file) and return its folder."""
    folder = Path(settings.output_dir)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    counts = (
        settings.train_images,
        settings.init_images,
        settings.preference_images,
        settings.ppo_images,
        settings.eval_images,
    )
    scenes = {
        split: split_scenes(settings.seed, split, count, settings.pictures)
        for split, count in zip(SPLITS, counts, strict=True)
    }
    by_image = {image_name(index): scene for part in scenes.values() for index, scene in part.items()}
    for image, scene in tqdm(by_image.items(), desc="pictures", unit="image", disable=None):
        PICTURES[settings.pictures].paint(scene, settings.noise).save(folder / "images" / image)
    files: dict[str, object] = {
        **world_rows(settings, scenes),
        "image_to_caption.json": caption_map(settings, scenes),
    }
    files["scenes.json"] = scenes_to_json(by_image)
    files["world.json"] = asdict(settings)
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    rows = {name: len(content) for name, content in files.items() if isinstance(content, list)}
    print(f"world in {folder}: {len(by_image)} pictures, rows {rows}")
    return folder


def prepare(argv: Sequence[str]) -> WorldArguments:
    """Parse the command line; an unknown flag is an error that names the closest one."""
    return StrictParser([WorldArguments], description=__doc__.splitlines()[0]).parse(argv)[0]


if __name__ == "__main__":
    run_program(prepare, make_world)
