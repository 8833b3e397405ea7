"""COCO's annotation files and VQA questions: captions, facts, prompts with their answer types."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data_utils.problems import DataError
from data_utils.schema import AnswerType, read_captions, read_prompts
from tests.llava_rlhf.importing.cases import write_pictures
from tests.llava_rlhf.importing.test_formats import run

IMAGES = [{"id": 9, "file_name": "COCO_val2014_000000000009.jpg"}, {"id": 10, "file_name": "b.jpg"}]
CAPTIONS = {
    "info": {},
    "images": IMAGES,
    "annotations": [
        {"id": 1, "image_id": 9, "caption": "A cat on a mat. "},
        {"id": 2, "image_id": 10, "caption": "A dog."},
        {"id": 3, "image_id": 9, "caption": "A sleeping cat."},
        {"id": 4, "image_id": 9, "caption": "A cat on a mat."},
    ],
}
INSTANCES = {
    "annotations": [  # before what it refers to
        {"id": 1, "image_id": 9, "category_id": 17, "bbox": [0, 0, 1, 1]},
        {"id": 2, "image_id": 9, "category_id": 17, "bbox": [2, 2, 1, 1]},
        {"id": 3, "image_id": 9, "category_id": 18, "iscrowd": 1},
        {"id": 4, "image_id": 10, "category_id": 18},
    ],
    "images": IMAGES,
    "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}],
}
# name → (file, what stands in the map, or field and words of the refusal)
COCO: dict[str, tuple[Any, Any]] = {
    "captions": (CAPTIONS, {IMAGES[0]["file_name"]: ["A cat on a mat.", "A sleeping cat."], "b.jpg": ["A dog."]}),
    "instances": (
        INSTANCES,
        {
            IMAGES[0]["file_name"]: [
                {"source": "coco", "object": "cat", "confidence": 1.0},
                {"source": "coco", "object": "dog", "confidence": 1.0},
            ],
            "b.jpg": [{"source": "coco", "object": "dog", "confidence": 1.0}],
        },
    ),
    "caption of an unknown picture": (
        {**CAPTIONS, "annotations": [{"image_id": 8, "caption": "x"}]},
        ("image_id", "is no id of `images`"),
    ),
    "empty caption": ({**CAPTIONS, "annotations": [{"image_id": 9, "caption": " "}]}, ("caption", "must not be empty")),
    "caption as a number": ({**CAPTIONS, "annotations": [{"image_id": 9, "caption": 3}]}, ("caption", "must be a string")),
    "instance of an unknown kind": (
        {**INSTANCES, "annotations": [{"image_id": 9, "category_id": 99}]},
        ("category_id", "is no id of `categories`"),
    ),
    "annotation that is a list": (
        {**CAPTIONS, "annotations": [{"image_id": 9, "caption": "x"}, []]},
        ("row", "must be a JSON object"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", COCO)
def test_coco(name, tmp_path):
    content, expected = COCO[name]
    source, output = tmp_path / "annotations.json", tmp_path / "out"
    source.write_text(json.dumps(content, indent=1 if name == "captions" else None))
    if isinstance(expected, tuple):
        with pytest.raises(DataError) as error:
            run(source=source, output_dir=output)
        (problem,) = error.value.problems
        assert problem.field == expected[0] and expected[1] in problem.remedy
        return
    run(source=source, output_dir=output)  # the format is told
    file = "image_to_caption.json" if name == "captions" else "image_to_facts.json"
    assert json.loads((output / file).read_text()) == expected
    if name == "captions":
        captions, problems = read_captions(output / file)
        assert not problems and len(captions) == 2
    names = {path.name for path in output.iterdir()}
    assert names == {file, "import.json"}


def test_an_image_without_a_name_is_refused(tmp_path):
    source = tmp_path / "annotations.json"
    source.write_text(json.dumps({**CAPTIONS, "images": [{"id": 9}]}))
    with pytest.raises(ValueError, match="images must be objects with id and file_name"):
        run(source=source, output_dir=tmp_path / "out")


def questions(*texts: str) -> dict[str, Any]:
    rows = [{"question_id": number, "image_id": 9, "question": text} for number, text in enumerate(texts)]
    return {"info": {}, "data_subtype": "val2014", "questions": rows}


def answered(number: int, kind: str, answer: str, **fields: Any) -> dict[str, Any]:
    return {
        "question_id": number,
        "image_id": 9,
        "answer_type": kind,
        "multiple_choice_answer": answer,
        "question_type": "is",
        **fields,
    }


VQA_ROWS = [
    answered(0, "yes/no", "yes"),
    answered(1, "yes/no", "No"),
    answered(2, "other", "red"),
    answered(3, "yes/no", "maybe"),
    answered(4, "other", "no"),  # "What does the sign say?" "no"
]


def write_vqa(folder: Path, rows: list[Any]) -> list[Path]:
    files = [folder / "questions.json", folder / "annotations.json"]
    files[0].write_text(
        json.dumps(questions("Is it a cat?", "Is it a dog?", "Which colour?", "Is it old?", "What is said?"))
    )
    files[1].write_text(json.dumps({"info": {}, "annotations": rows, "data_subtype": "val2014"}))
    return files


def test_vqa_questions_have_the_types_of_their_answers(tmp_path):
    output = tmp_path / "out"
    files = write_vqa(tmp_path, VQA_ROWS)
    pictures = write_pictures(tmp_path / "pictures")
    run(source=files, output_dir=output, image_folder=pictures)
    prompts, problems = read_prompts(output / "prompts.jsonl")
    assert not problems
    told = [
        (row.turns[0].text, row.answer_type, row.length_bonus, row.extra.get("answer")) for row in prompts
    ]
    assert told == [
        ("<image>\nIs it a cat?", AnswerType.YES_IN_YESNO, 0.0, None),
        ("<image>\nIs it a dog?", AnswerType.NO_IN_YESNO, 0.0, None),
        ("<image>\nWhich colour?", AnswerType.GENERAL, 1.0, "red"),
        ("<image>\nIs it old?", AnswerType.GENERAL, 1.0, "maybe"),
        ("<image>\nWhat is said?", AnswerType.GENERAL, 1.0, "no"),
    ]
    assert {row.images for row in prompts} == {("COCO_val2014_000000000009.jpg",)}
    assert [row.id for row in prompts] == ["0", "1", "2", "3", "4"]


BROKEN_VQA = {
    "unknown question": (answered(77, "yes/no", "yes"), "question_id", "name both files with --source"),
    "no answer": ({**answered(0, "yes/no", "yes"), "multiple_choice_answer": None}, "multiple_choice_answer", "string"),
    "no such picture": (answered(0, "yes/no", "yes", image_id=12345), "image_id", "--image_folder has neither"),
    "picture by name": (answered(0, "yes/no", "yes", image_id="9"), "image_id", "must be the number of a picture"),
    "empty question": (answered(0, "yes/no", "yes", question=" "), "question", "must not be empty"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_VQA)
def test_broken_vqa_rows(name, tmp_path):
    row, field, words = BROKEN_VQA[name]
    files = write_vqa(tmp_path, [row])
    flags = {"source": files, "output_dir": tmp_path / "out", "format": "vqa_v2"}
    with pytest.raises(DataError) as error:
        run(**flags, image_folder=write_pictures(tmp_path / "pictures"))
    (problem,) = error.value.problems
    assert problem.field == field and words in problem.remedy


def choice(**fields: Any) -> dict[str, Any]:
    return {
        "split": "val",
        "image_id": 10,
        "question_id": "q1",
        "question": "What is it?",
        "choices": ["a cat", "a dog", "a cow", "a car"],
        "correct_choice_idx": 1,
        "rationales": ["It barks.", "It has a tail.", "It barks."],
        **fields,
    }


# name → (row, answer type or None, rationales or field, words)
A_OKVQA: dict[str, tuple[dict[str, Any], AnswerType | None, Any, str]] = {
    "good": (choice(), AnswerType.B_IN_ABCD, ["It barks.", "It has a tail."], ""),
    "last choice": (choice(correct_choice_idx=3), AnswerType.D_IN_ABCD, ["It barks.", "It has a tail."], ""),
    "own picture": (choice(image="a.png"), AnswerType.B_IN_ABCD, ["It barks.", "It has a tail."], ""),
    "no rationales": (choice(rationales=[]), AnswerType.B_IN_ABCD, None, ""),
    "three choices": (choice(choices=["a", "b", "c"]), None, "choices", "must be four texts"),
    "test split": (choice(correct_choice_idx=None), None, "correct_choice_idx", "the test split has no answers"),
    "rationale as a number": (choice(rationales=[1]), None, "rationales[0]", "must be a string"),
    "no picture": (choice(image_id=None), None, "image_id", "must be the number of a picture of COCO"),
}  # fmt: skip


@pytest.mark.parametrize("name", A_OKVQA)
def test_a_okvqa(name, tmp_path):
    row, kind, rationales, words = A_OKVQA[name]
    source, output = tmp_path / "a_okvqa.json", tmp_path / "out"
    source.write_text(json.dumps([row]))
    flags = {"source": source, "output_dir": output, "image_folder": write_pictures(tmp_path / "pictures")}
    if kind is None:
        with pytest.raises(DataError) as error:
            run(**flags)
        (problem,) = error.value.problems
        assert problem.field == rationales and words in problem.remedy
        return
    run(**flags)
    (prompt,), problems = read_prompts(output / "prompts.jsonl")
    image = row.get("image", "000000000010.jpg")
    assert not problems and prompt.answer_type is kind and prompt.images == (image,)
    assert prompt.turns[0].text == "<image>\nWhat is it?\nA. a cat\nB. a dog\nC. a cow\nD. a car"
    captions = output / "image_to_caption.json"
    found = json.loads(captions.read_text()) if captions.exists() else {}
    assert found == ({} if rationales is None else {f"aok_{image}": rationales})
