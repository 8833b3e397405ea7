"""Small data files in the published formats, their images, and the command lines that run the three programs on them.

Every file holds plain rows (one image), rows without an image, rows with two images, and rows whose image the caption
map does not know and which bring their own `captions`. All words are known to `tests.support.tiny_models.tiny_tokenizer`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

COLOURS = {"red": (210, 30, 30), "green": (20, 160, 60), "blue": (30, 60, 200), "white": (240, 240, 240)}
THINGS = ("cat", "dog", "bird", "car", "tree", "table")
SIZES = ((40, 30), (28, 28), (20, 50), (64, 36), (33, 17), (45, 45))
UNMAPPED_IMAGE = "unmapped.png"  # not in the caption map
FACT_PROMPT = "USER: is the answer good? {factual_prompt}\nASSISTANT: score"
PLAIN_PROMPT = "USER: is the answer good?\nASSISTANT: score"
QUESTION = {1: "what is in the picture?", 6: "is there a big dog?", 7: "is there a small cat?"}
OPTIONS_QUESTION = "which is right? A. cat B. dog C. bird D. car"


@dataclass(frozen=True)
class TinyData:
    """Paths of one set of files; `images` is the image folder."""

    images: Path
    preferences: Path
    dialogues: Path
    prompts: Path
    captions: Path
    fact_prompt: Path
    plain_prompt: Path


def write_tiny_data(folder: Path, rows: int = 16) -> TinyData:
    """Write six images and the files; each list has `rows` rows, and 7 prompts in a row have all answer types."""
    images = folder / "images"
    images.mkdir(parents=True)
    for name, colour, size in zip(_image_names(), [*COLOURS.values()] * 2, SIZES, strict=False):
        _two_coloured(colour, size).save(images / name)
    data = TinyData(
        images,
        *(folder / f"{name}.json" for name in ("preferences", "dialogues", "prompts", "captions")),
        folder / "fact_prompt.txt",
        folder / "plain_prompt.txt",
    )
    _write(data.preferences, [preference_row(index) for index in range(rows)])
    _write(data.dialogues, [dialogue_row(index) for index in range(rows)])
    _write(data.prompts, [prompt_row(index) for index in range(rows)])
    _write(data.captions, caption_map())
    data.fact_prompt.write_text(FACT_PROMPT)
    data.plain_prompt.write_text(PLAIN_PROMPT)
    return data


def changed(path: Path, name: str, change: Callable[[Any], Any]) -> Path:
    """A sibling file `name` with the changed content; `change` may edit in place (and return None) or return it."""
    content = json.loads(path.read_text())
    result = change(content)
    return _write(path.with_name(name), content if result is None else result)


def preference_row(index: int) -> dict[str, Any]:
    """A preference pair; outputs differ in length, and both preferences occur."""
    turns = _turns(index, "what is in the picture?", ("a cat.",))
    if index % 3 == 0:  # an earlier exchange, so that the pair answers a second question
        turns += [_message("human", "how many?"), _message("gpt", "two.")]
    outputs = (f"there is a {_thing(index)}.", f"a {_colour(index)} {_thing(index + 1)} and a table.")
    return {
        **_common(index),
        "conversations": turns,
        "output_1": _message("gpt", outputs[0]),
        "output_2": _message("gpt", outputs[1]),
        "preference": 1 + (index // 2) % 2,
    }


def dialogue_row(index: int) -> dict[str, Any]:
    """A dialogue of one or two exchanges."""
    answers = (f"a {_colour(index)} {_thing(index)}.", "one.")[: 1 + index % 2]
    return {**_common(index), "conversations": _turns(index, "what is in the picture?", answers)}


def prompt_row(index: int) -> dict[str, Any]:
    """A PPO prompt of answer type 1 + index mod 7, every fifth with a length multiplier of its own."""
    kind = 1 + index % 7
    row = {
        **_common(index),
        "conversations": _turns(index, QUESTION.get(kind, OPTIONS_QUESTION), ("a cat.",)),
        "caption_type": kind,
    }
    return row | ({"length_bonus": 0.5} if index % 5 == 0 else {})


def caption_map() -> dict[str, list[str]]:
    """Three captions for each image but the unmapped one, and the rationales of multiple-choice rows."""
    captions: dict[str, list[str]] = {}
    for index, name in enumerate(_image_names()):
        if name != UNMAPPED_IMAGE:
            thing, colour = _thing(index), _colour(index)
            captions[name] = [f"a {colour} {thing}", f"this shows a {thing}", f"the {thing} is {colour}"]
            captions[f"aok_{name}"] = [f"the right answer is {thing}", f"not a table: a {thing}"]
    return captions


def command_line(**settings: Any) -> list[str]:
    """`flag=value` → `--flag value`; None leaves a flag out, a list gives several values."""
    words: list[str] = []
    for name, value in settings.items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, (list, tuple)) else [value])]
    return words


def _shared(data: TinyData, **settings: Any) -> dict[str, Any]:
    return {
        "image_folder": data.images,
        "version": "tiny",
        "query_len": 60,
        "response_len": 12,
        "model_max_length": 200,
        "use_cpu": True,
        "seed": 3,
        **settings,
    }


def _trainer(data: TinyData, base: Path, output_dir: Path) -> dict[str, Any]:
    return _shared(
        data,
        model_name_or_path=base,
        output_dir=output_dir,
        lora_r=4,
        per_device_train_batch_size=4,
        max_steps=2,
        learning_rate=1e-3,
        eval_size=0,
        logging_steps=1,
        save_steps=1,
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )


def reward_command(data: TinyData, base: Path, output_dir: Path, /, **changes: Any) -> list[str]:
    """Command line of train_reward_model.py: 2 steps of 4 pairs with facts; `changes` replace or add flags."""
    settings = {
        **_trainer(data, base, output_dir),
        "dataset_path": data.preferences,
        "reward_prompt_file": data.fact_prompt,
        "image_to_caption_file": data.captions,
    }
    return command_line(**{**settings, **changes})


def policy_command(data: TinyData, base: Path, output_dir: Path, /, **changes: Any) -> list[str]:
    """Command line of initialize_policy_model.py: 2 steps of 4 dialogues."""
    settings = {**_trainer(data, base, output_dir), "dataset_path": data.dialogues, "response_len": 60}
    return command_line(**{**settings, **changes})


def dpo_command(data: TinyData, base: Path, output_dir: Path, /, **changes: Any) -> list[str]:
    """Command line of initialize_policy_model.py on preferences: 2 steps of 4 pairs."""
    settings = {"dataset_path": data.preferences, "objective": "dpo"}
    return policy_command(data, base, output_dir, **{**settings, **changes})


def ppo_command(
    data: TinyData, base: Path, policy: Path, reward_model: Path, output_dir: Path, /, **changes: Any
) -> list[str]:
    """Command line of train_rl_model.py: 2 PPO steps of 8 rollouts, 2 optimizer steps of 4 rows each, settings as published."""
    settings = _shared(
        data,
        dataset_path=data.prompts,
        base_model_name=base,
        policy_model_name_or_path=policy,
        reward_model_name_or_path=reward_model,
        reward_prompt_file=data.fact_prompt,
        image_to_caption_file=data.captions,
        output_dir=output_dir,
        recipe="published",
        rollout_batch_size=8,
        rollout_per_device_batch_size=4,
        reward_model_per_device_batch_size=4,
        step_batch_size=4,
        step_per_device_batch_size=4,
        noptepochs=1,
        max_steps=2,
        response_len=6,
        learning_rate=1e-3,
        warmup_steps=0,
        lr_scheduler_type="constant",
        gradient_checkpointing=False,
        save_steps=1,
    )
    return command_line(**{**settings, **changes})


def _common(index: int) -> dict[str, Any]:
    row: dict[str, Any] = {"id": f"row {index}"}
    names = _image_names()
    if index % 4 == 3:  # no image
        return row
    if index % 4 == 2:
        return row | {"image": [names[index % 5], names[(index + 1) % 5]]}
    if index % 8 == 5:
        return row | {"image": UNMAPPED_IMAGE, "captions": [f"a {_thing(index)}", "a white table"]}
    return row | {"image": names[index % 5]}


def _turns(index: int, question: str, answers: tuple[str, ...]) -> list[dict[str, str]]:
    image = _common(index).get("image", [])
    markers = len(image) if isinstance(image, list) else 1
    turns = [_message("human", "<image>\n" * markers + question), _message("gpt", answers[0])]
    for answer in answers[1:]:
        turns += [_message("human", "how many?"), _message("gpt", answer)]
    return turns


def _message(role: str, text: str) -> dict[str, str]:
    return {"from": role, "value": text}


def _image_names() -> list[str]:
    return [f"{index:012d}.jpg" for index in range(5)] + [UNMAPPED_IMAGE]


def _thing(index: int) -> str:
    return THINGS[index % len(THINGS)]


def _colour(index: int) -> str:
    return list(COLOURS)[index % len(COLOURS)]


def _two_coloured(colour: tuple[int, int, int], size: tuple[int, int]) -> Image.Image:
    image = Image.new("RGB", size, colour)
    image.paste((15, 15, 15), (0, 0, size[0] // 3, size[1] // 2))
    return image


def _write(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path
