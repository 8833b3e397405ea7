"""Do files written for others give our inputs? Pictures and questions → ids and pixels, by plain transformers and by us.

Asked of the folder itself, through `AutoProcessor`, with pictures of every kind: a processor that crops where we pad has
the right tensors and the wrong pixels.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor, AutoTokenizer, GenerationConfig, PreTrainedTokenizerBase

from data_utils.conversation import Template, query_segments
from data_utils.images import open_picture
from data_utils.schema import IMAGE_MARKER, Turn
from llava_rlhf.assembly.chat_templates import picture_marks
from llava_rlhf.assembly.roles import TextSide, unsampled_ids
from models.families.base import Family

SIDEWAYS = 6  # EXIF orientation: turn by 90 degrees
QUESTIONS = ("What is in the image?", "Describe the image, please.")
WITHOUT_PICTURE = "no picture"


@dataclass(frozen=True)
class PlainInput:
    """A question, and what the model gets of it when our programs ask.

    Attributes:
        name: of the kind of picture, for messages.
        picture: its file; None: a question without picture.
        question: the text.
        query_ids: one image token an image.
        ids: the same with all positions of the image.
        pixels: float32 [P, …], of no picture or one.
        grids: of each picture, as `data_utils.images.Pictures` has them.
        tensors: all that the image processor makes of the picture, under the names by which plain transformers takes them.
    """

    name: str
    picture: Path | None
    question: str
    query_ids: list[int]
    ids: list[int]
    pixels: Tensor
    grids: tuple[tuple[int, ...], ...] | None
    tensors: Mapping[str, Tensor]


def write_pictures(folder: Path) -> list[Path]:
    """One small picture of each kind that programs are apt to read differently; drawn from a fixed seed."""
    rng = np.random.default_rng(0)

    def noise(width: int, height: int, channels: int = 3) -> Image.Image:
        coarse = rng.integers(0, 256, (max(1, height // 8), max(1, width // 8), channels), dtype=np.uint8)
        whole = Image.fromarray(coarse.squeeze(2) if channels == 1 else coarse)
        return whole.resize((width, height), Image.Resampling.BICUBIC)

    turned = Image.Exif()
    turned[0x0112] = SIDEWAYS
    rising = np.arange(70 * 50, dtype=np.uint16).reshape(50, 70) * 18  # 16 bits
    pictures: dict[str, tuple[Image.Image, dict[str, Any]]] = {
        "wide.png": (noise(120, 40), {}),
        "tall.png": (noise(40, 120), {}),
        "square.png": (noise(64, 64), {}),
        "grey.png": (noise(90, 50, 1), {}),
        "16-bit-grey.png": (Image.fromarray(rising), {}),
        "rgba.png": (noise(50, 90, 4), {}),
        "palette.png": (noise(90, 50).quantize(16), {}),
        "transparent-palette.png": (noise(50, 90).quantize(16), {"transparency": 3}),
        "exif-rotated.jpg": (noise(100, 40), {"exif": turned}),
        "1-pixel-high.png": (noise(60, 1), {}),
        "1-pixel-wide.png": (noise(1, 60), {}),
    }
    for name, (picture, options) in pictures.items():
        picture.save(folder / name, **options)
    return [folder / name for name in pictures]


def our_inputs(text: TextSide, template: Template, pictures: Sequence[Path]) -> list[PlainInput]:
    """What our programs make of a question on each picture, and of one on none."""
    inputs = []
    for number, picture in enumerate([*pictures, None]):
        folder, names = ("", []) if picture is None else (picture.parent, [picture.name])
        question = QUESTIONS[number % len(QUESTIONS)]
        turns = [Turn("human", f"{IMAGE_MARKER}\n" * len(names) + question)]
        seen = text.pipeline(folder, names)
        query = list(text.encoder.encode(query_segments(template, turns, len(names))).ids)
        inputs.append(
            PlainInput(
                picture.stem if picture else WITHOUT_PICTURE,
                picture,
                question,
                query,
                text.expand(query, seen.grids or [()] * len(names)),
                seen.pixels,
                seen.grids,
                _tensors(text.pipeline.tensors(folder, names)) if names else {},
            )
        )
    return inputs


def _tensors(made: Mapping[str, Any]) -> dict[str, Tensor]:
    """Without lists that say how a picture was cut up, which no model takes."""
    return {name: value for name, value in made.items() if isinstance(value, Tensor)}


def plain_reader(folder: Path, text: TextSide) -> Callable[[str, Path | None], Mapping[str, Tensor]]:
    """What plain transformers makes of a question, with the files in `folder`: messages, chat template, processor.

    Where pictures are made square by us, through the one processor of the folder, as the model card says. Processors of other
    families want torchvision: there image processor and tokenizer are asked apart, and the positions of a picture written
    in by its family.
    """
    if text.family.squares_pictures:
        processor = AutoProcessor.from_pretrained(folder)

        def read(question: str, picture: Path | None) -> Mapping[str, Tensor]:
            prompt = processor.apply_chat_template(_messages(question, picture), add_generation_prompt=True)
            images = {} if picture is None else {"images": open_picture(picture)}
            return processor(text=prompt, return_tensors="pt", **images)

        return read
    family, tokenizer = text.family, AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    images = family.load_image_processor(folder)

    def read_apart(question: str, picture: Path | None) -> Mapping[str, Tensor]:
        prompt = tokenizer.apply_chat_template(
            _messages(question, picture), add_generation_prompt=True, tokenize=False
        )
        tensors = {} if picture is None else dict(images(images=[open_picture(picture)], return_tensors="pt"))
        if tensors:
            prompt = _with_positions(prompt, family, tokenizer, family.cut(tensors)[1][0])
        begins = tokenizer.bos_token is not None and prompt.startswith(tokenizer.bos_token)
        return {**tokenizer(prompt, return_tensors="pt", add_special_tokens=not begins), **tensors}

    return read_apart


def _messages(question: str, picture: Path | None) -> list[dict[str, Any]]:
    content = [{"type": "image"}] * (picture is not None) + [{"type": "text", "text": question}]
    return [{"role": "user", "content": content}]


def _with_positions(
    prompt: str, family: Family, tokenizer: PreTrainedTokenizerBase, grid: tuple[int, ...]
) -> str:
    """The prompt with all positions of its picture, as the family's own processor writes it."""
    mark = next((mark for mark in picture_marks(family, tokenizer) if mark in prompt), None)
    if mark is None:
        raise ValueError(f"its chat template writes no picture: {prompt!r}")
    positions = tokenizer.decode(family.placeholder(grid), clean_up_tokenization_spaces=False)
    return prompt.replace(mark, f"{family.beside_pictures}{positions}{family.beside_pictures}")


def check_inputs(folder: Path, text: TextSide, inputs: Sequence[PlainInput], vocab_size: int) -> None:
    """Compare what the files in `folder` make of the questions with what our programs make of them.

    Args:
        folder: what was written for others.
        text: of the base, in the mode of training.
        inputs: of `our_inputs`.
        vocab_size: rows of the vocabulary projection.

    Raises:
        RuntimeError: ids or pixels differ in anything, or generation would not stop where our sampling does.
    """
    read = plain_reader(folder, text)
    for ours in inputs:
        try:
            theirs = read(ours.question, ours.picture)
        except Exception as error:  # of many types
            raise RuntimeError(f"{ours.name}: the processor in {folder} fails ({error!r})") from error
        ids = theirs["input_ids"][0].tolist()
        if ids != ours.ids:
            place = next(
                (i for i, pair in enumerate(zip(ids, ours.ids, strict=False)) if pair[0] != pair[1]), "end"
            )
            raise RuntimeError(
                f"{ours.name}: other ids than ours from the files in {folder}, first at {place}: "
                f"{text.tokenizer.decode(ids)!r} ({len(ids)} ids) instead of {text.tokenizer.decode(ours.ids)!r} "
                f"({len(ours.ids)})"
            )
        for name, expected in ours.tensors.items():
            found = theirs[name]
            if not torch.equal(found, expected):
                apart = (
                    f"{float((found - expected).abs().max()):.3g} apart"
                    if found.shape == expected.shape
                    else f"{list(found.shape)} instead of {list(expected.shape)}"
                )
                what = "pixels" if name == "pixel_values" else name
                raise RuntimeError(f"{ours.name}: other {what} than ours from the files in {folder}, {apart}")
    _check_stops(folder, text, vocab_size)


def questions_on_all_pictures(
    text: TextSide, template: Template, folder: Path, vocab_size: int
) -> list[PlainInput]:
    """Questions on a picture of every kind, of which the files in `folder` are known to make the same as our programs.

    Raises RuntimeError as `check_inputs` does.
    """
    with tempfile.TemporaryDirectory() as pictures:
        inputs = our_inputs(text, template, write_pictures(Path(pictures)))
        check_inputs(folder, text, inputs, vocab_size)
    return inputs


def _check_stops(folder: Path, text: TextSide, vocab_size: int) -> None:
    written = GenerationConfig.from_pretrained(folder)
    expected = {
        "eos_token_id": text.eos_token_id,
        "suppress_tokens": unsampled_ids(text, vocab_size).tolist(),
    }
    found = {name: getattr(written, name) for name in expected}
    if found != expected:
        raise RuntimeError(f"the generation configuration in {folder} has {found}, our sampling {expected}")
