"""Rows of every format, and what must become of them: good, several pictures, none, text alone, ties, broken."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

ASKED, CAT, DOG = "What is on the mat?", "A cat.", "A dog."


def png(side: int) -> bytes:
    """A picture that is told from others by its size."""
    file = io.BytesIO()
    Image.new("RGB", (side, 4)).save(file, "png")
    return file.getvalue()


def write_pictures(folder: Path) -> Path:
    """a.png and b.png, and COCO's number 9 under its names of 2014 and 2017."""
    folder.mkdir()
    for number, name in enumerate(("a.png", "b.png", "COCO_val2014_000000000009.jpg", "000000000010.jpg")):
        (folder / name).write_bytes(png(4 + number))
    return folder


@dataclass(frozen=True)
class Made:
    """A pair: questions and answers in turn, pictures, the better and the worse answer."""

    turns: tuple[str, ...] = (f"<image>\n{ASKED}",)
    images: tuple[str, ...] = ("a.png",)
    chosen: str = CAT
    rejected: str = DOG
    preference: int = 1


@dataclass(frozen=True)
class Refused:
    """A row that is named: what its message holds."""

    field: str
    words: str


@dataclass(frozen=True)
class Case:
    """A row, and what becomes of it, ties counted."""

    row: Any
    made: list[Made] = field(default_factory=list)
    ties: int = 0
    refused: Refused | None = None


URL = "data:image/png;base64," + base64.b64encode(png(4)).decode()
NO_IMAGE = Made((ASKED,), ())
TWO = Made((f"<image>\n<image>\n{ASKED}",), ("a.png", "b.png"))


def case(row: Any, *made: Made, ties: int = 0, refused: tuple[str, str] | None = None) -> Case:
    return Case(row, list(made), ties, Refused(*refused) if refused else None)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def told(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def parts(*words: str | None) -> list[dict[str, str]]:
    return [{"type": "image"} if word is None else {"type": "text", "text": word} for word in words]


def human(text: str) -> dict[str, str]:
    return {"from": "human", "value": text}


def gpt(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


BOTH = {"chosen": CAT, "rejected": DOG}
TRL = {
    "plain": case({"prompt": ASKED, **BOTH, "image": "a.png"}, Made()),
    "list": case({"prompt": ASKED, **BOTH, "images": ["a.png"]}, Made()),
    "conversational": case(
        {
            "prompt": [user(parts(None, ASKED))],
            "chosen": [told(parts(CAT))],
            "rejected": [told(parts(DOG))],
            "images": ["a.png"],
        },
        Made(),
    ),
    "texts in messages": case(
        {"prompt": [user(ASKED)], "chosen": [told(CAT)], "rejected": [told(DOG)], "images": ["a.png"]}, Made()
    ),
    "several pictures": case(
        {
            "prompt": [user(parts(None, None, ASKED))],
            "chosen": [told(CAT)],
            "rejected": [told(DOG)],
            "images": ["a.png", "b.png"],
        },
        TWO,
    ),
    "several, unmarked": case({"prompt": ASKED, **BOTH, "images": ["a.png", "b.png"]}, TWO),
    "picture within the part": case(
        {
            "prompt": [user([{"type": "image", "image": "a.png"}, *parts(ASKED)])],
            "chosen": [told(CAT)],
            "rejected": [told(DOG)],
        },
        Made(),
    ),
    "no picture": case({"prompt": ASKED, **BOTH, "images": []}, NO_IMAGE),
    "text alone": case({"prompt": [user(ASKED)], "chosen": [told(CAT)], "rejected": [told(DOG)]}, NO_IMAGE),
    "several turns": case(
        {
            "prompt": [user(parts(None, "Hello?")), told("Hello."), user(ASKED)],
            "chosen": [told(CAT)],
            "rejected": [told(DOG)],
            "images": ["a.png"],
        },
        Made(("<image>\nHello?", "Hello.", ASKED)),
    ),
    "implicit prompt in messages": case(
        {
            "chosen": [user(parts(None, ASKED)), told(CAT)],
            "rejected": [user(parts(None, ASKED)), told(DOG)],
            "images": ["a.png"],
        },
        Made(),
    ),
    # As extract_prompt does it: up to the first character that differs, without the space before it.
    "implicit prompt in texts": case(
        {"chosen": "The sky is blue.", "rejected": "The sky is green."},
        Made(("The sky is",), (), " blue.", " green."),
    ),
    "no common prompt": case({"chosen": CAT, "rejected": "None."}, refused=("chosen", "has no prompt")),
    "tool call": case(
        {"prompt": [{"role": "tool", "content": "x"}, user(ASKED)], **BOTH},
        refused=("prompt[0].role", "must be one of user"),
    ),
    "system message": case(
        {"prompt": [{"role": "system", "content": "Be kind."}, user(ASKED)], **BOTH},
        refused=("prompt[0]", "--system_messages drop"),
    ),
    "two answers": case(
        {"prompt": ASKED, "chosen": [told(CAT), told(CAT)], "rejected": [told(DOG)]},
        refused=("chosen", "must be an answer"),
    ),
    "empty answer": case(
        {"prompt": ASKED, "chosen": " ", "rejected": DOG}, refused=("chosen", "must not be empty")
    ),
    "one marker for two": case(
        {"prompt": f"<image>\n{ASKED}", **BOTH, "images": ["a.png", "b.png"]},
        refused=("prompt", "must have one <image> for each picture"),
    ),
    "ends with an answer": case(
        {"prompt": [user(ASKED), told(CAT)], **BOTH}, refused=("prompt", "must be a question")
    ),
    "pictures twice": case(
        {"prompt": [user([{"type": "image", "image": "a.png"}])], **BOTH, "images": ["b.png"]},
        refused=("prompt[0].content[0]", "the row has pictures under images"),
    ),
    "video": case({"prompt": ASKED, **BOTH, "videos": ["a.mp4"]}, refused=("videos", "only pictures are read")),
    "sound in a part": case(
        {"prompt": [user([{"type": "audio", "audio": "a.wav"}])], **BOTH},
        refused=("prompt[0].content[0]", "must be a part of type"),
    ),
}  # fmt: skip
RLAIF_V = {
    "good": case({"ds_name": "x", "image": "a.png", "question": ASKED, **BOTH, "idx": 3}, Made()),
    "path": case({"image_path": "a.png", "question": ASKED, **BOTH}, Made()),
    "data url": case(
        {"image": URL, "question": ASKED, **BOTH},
        Made(images=("33/33",)),  # replaced by the name after the content
    ),
    "several pictures": case({"image": ["a.png", "b.png"], "question": ASKED, **BOTH}, TWO),
    "no picture": case({"image": None, "question": ASKED, **BOTH}, NO_IMAGE),
    "text alone": case({"question": ASKED, **BOTH}, NO_IMAGE),
    "marked": case({"image": "a.png", "question": f"<image>\n{ASKED}", **BOTH}, Made()),
    "no question": case({"question": 3, **BOTH}, refused=("question", "must be a string")),
    "empty question": case(
        {"question": " ", **BOTH}, refused=("conversations[0].value of the converted row", "needs a text")
    ),
    "no such picture": case(
        {"image": "c.png", "question": ASKED, **BOTH}, refused=("image", "no such file in the image folder")
    ),
    "address": case(
        {"image": "https://example.org/a.png", "question": ASKED, **BOTH}, refused=("image", "is an address")
    ),
    "half a surrogate": case(
        {"question": ASKED, "chosen": "\ud800", "rejected": DOG}, refused=("chosen", "surrogate pair")
    ),
}
RLHF_V = {
    "good": case({"text": '{"question": "What is on the mat?", "chosen": "A cat.", "rejected": "A dog."}', "image": "a.png"}, Made()),
    "already an object": case({"text": {"question": ASKED, **BOTH}, "image": "a.png"}, Made()),
    "several pictures": case({"text": {"question": ASKED, **BOTH}, "image": ["a.png", "b.png"]}, TWO),
    "no picture": case({"text": {"question": ASKED, **BOTH}, "ds_name": "x"}, NO_IMAGE),
    "path": case({"text": {"question": ASKED, **BOTH}, "image_path": "a.png"}, Made()),
    "cut off": case({"text": '{"question": "What', "image": "a.png"}, refused=("text", "must be a JSON object")),
    "not an object": case({"text": '["a"]'}, refused=("text", "must be a JSON object")),
    "lacks an answer": case({"text": {"question": ASKED, "chosen": CAT}}, refused=("text.rejected", "must be a string")),
}  # fmt: skip


def completion(text: str, *ratings: Any) -> dict[str, Any]:
    aspects = ("Helpfulness", "Ethical Considerations", "Visual Faithfulness")
    given = zip(aspects, ratings, strict=False)
    return {"model": "m", "response": text, "annotations": {name: {"Rating": one} for name, one in given}}


GOOD, FAIR, POOR = completion("g", "5", "5", "5"), completion("f", "3", "5", "4"), completion("p", "1", 5, 3)
VLFEEDBACK = {
    # Means 5, 4 and 3: three pairs.
    "good": case(
        {"prompt": ASKED, "image": "a.png", "completions": [FAIR, GOOD, POOR]},
        Made(chosen="g", rejected="f", preference=2),
        Made(chosen="f", rejected="p"),
        Made(chosen="g", rejected="p"),
    ),
    "ties": case(
        {"prompt": ASKED, "image": "a.png", "completions": [GOOD, completion("h", 5, 5, 5), POOR]},
        Made(chosen="g", rejected="p"),
        Made(chosen="h", rejected="p"),
        ties=1,
    ),
    "equal means of other ratings": case(
        {"prompt": ASKED, "completions": [completion("g", 5, 1, 3), completion("f", 3, 3, 3)]}, ties=1
    ),
    "an object of lists": case(
        {
            "prompt": ASKED,
            "image": "a.png",
            "completions": {
                "response": ["g", "p"],
                "annotations": [GOOD["annotations"], POOR["annotations"]],
            },
        },
        Made(chosen="g", rejected="p"),
    ),
    "several pictures": case(
        {"prompt": ASKED, "image": ["a.png", "b.png"], "completions": [GOOD, POOR]},
        Made(TWO.turns, TWO.images, "g", "p"),
    ),
    "text alone": case({"prompt": ASKED, "completions": [POOR, GOOD]}, Made((ASKED,), (), "g", "p", 2)),
    "no rating": case(
        {"prompt": ASKED, "completions": [GOOD, completion("n", "N/A", 1, 1)]},
        refused=("completions[1].annotations.Helpfulness", "must have a Rating that is a number"),
    ),
    "nan": case(
        {"prompt": ASKED, "completions": [GOOD, completion("n", "nan", 1, 1)]},
        refused=("completions[1].annotations.Helpfulness", "finite number"),
    ),
    "one answer": case(
        {"prompt": ASKED, "completions": [GOOD]}, refused=("completions", "a list of two or more objects")
    ),
    "no annotations": case(
        {"prompt": ASKED, "completions": [{"response": "g"}, GOOD]},
        refused=("completions[0].annotations", "must be an object"),
    ),
    "lists of two lengths": case(
        {"prompt": ASKED, "completions": {"response": ["g"], "annotations": []}},
        refused=("completions", "of one length"),
    ),
}
MM_RLHF = {
    "good": case({"prompt": ASKED, **BOTH, "image": "a.png", "is_tie": False, "id": 7}, Made()),
    "tie": case({"prompt": ASKED, **BOTH, "image": "a.png", "is_tie": True}, ties=1),
    "several pictures": case({"prompt": ASKED, **BOTH, "image": ["a.png", "b.png"], "is_tie": False}, TWO),
    "no picture": case({"prompt": ASKED, **BOTH, "image": None, "is_tie": False}, NO_IMAGE),
    "text alone": case({"prompt": ASKED, **BOTH, "is_tie": False}, NO_IMAGE),
    "video": case(
        {"prompt": ASKED, **BOTH, "video": "a.mp4", "is_tie": False}, refused=("video", "only pictures are read")
    ),
    "odd tie": case({"prompt": ASKED, **BOTH, "is_tie": "no"}, refused=("is_tie", "must be true or false")),
    "no answer": case({"prompt": ASKED, "chosen": "", "rejected": DOG, "is_tie": False}, refused=("chosen", "empty")),
}  # fmt: skip
