"""Data of other projects that can't be imported, and preferences that can't be exported."""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from llava_rlhf import make_dataset
from tests.errors.documented import documented
from tests.llava_rlhf.importing.cases import URL, png
from tests.support.tiny_data import command_line

BOTH = {"chosen": "a cat.", "rejected": "a dog."}
GOOD = {"prompt": "what?", **BOTH}
RATED = {"response": "a cat.", "annotations": {"Helpfulness": {"Rating": "5"}}}
JUDGED = "Question: [what?]\nThe first response: [a cat.]\nThe second response: [a dog.]\nASSISTANT:"
COCO = {"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"image_id": 2, "caption": "a cat"}]}
ANSWERED = {"question_id": 1, "image_id": 1, "answer_type": "yes/no", "multiple_choice_answer": "yes"}


def asked(role: str, content: Any = "what?") -> list[dict[str, Any]]:
    return [{"role": role, "content": "x"}, {"role": "user", "content": content}]


DAMAGED_TABLE = b"PAR1" + bytes(8) + b"PAR1"  # its last bytes are there, and no table in front of them

# case → what `rows.json` holds (a list: a good row behind it), further flags
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "no-source": (GOOD, {"source": "none.json"}),
    "empty-folder": (GOOD, {"source": "pictures"}),
    "unknown-format": (GOOD, {"format": "dpo"}),
    "no-format": ([{"foo": 1}], {}),
    "two-formats": ([{**GOOD, "question": "what?"}], {}),
    "source-twice": (GOOD, {"source": ["rows.json", "pictures/../rows.json"]}),
    "damaged-table": (DAMAGED_TABLE, {"format": "trl"}),
    "other-fields": ([{"question": "what?", **BOTH}], {"format": "vlfeedback"}),
    "cut-off": (json.dumps([GOOD, GOOD])[:-9], {"format": "trl"}),
    "no-prompt": ([{"chosen": "a cat.", "rejected": "no."}], {"format": "trl"}),
    "empty-answer": ([{**GOOD, "chosen": " "}], {}),
    "role": ([{**GOOD, "prompt": asked("tool")}], {}),
    "system": ([{**GOOD, "prompt": asked("system")}], {}),
    "part": ([{**GOOD, "prompt": asked("user", [{"type": "audio"}])[1:]}], {}),
    "video": ([{**GOOD, "videos": ["a.mp4"]}], {}),
    "markers": ([{**GOOD, "prompt": "<image><image>what?", "image": "a.png"}], {"image_folder": "pictures"}),
    "rating": ([{"prompt": "what?", "completions": [RATED, {**RATED, "annotations": {"Helpfulness": "N/A"}}]}], {"format": "vlfeedback"}),
    "huge-rating": ([{"prompt": "what?", "completions": [RATED, {**RATED, "annotations": {"Helpfulness": 10**400}}]}], {"format": "vlfeedback"}),
    "verdict": ([{"conversations": [{"from": "human", "value": JUDGED}, {"from": "gpt", "value": "hm"}]}], {"format": "llava_critic"}),
    "ties": ({**GOOD, "is_tie": True}, {"format": "mm_rlhf"}),
    "no-folder": ([{**GOOD, "image": "a.png"}], {}),
    "no-picture": ([{**GOOD, "image": "b.png"}], {"image_folder": "pictures"}),
    "not-in-archive": ([{**GOOD, "image": "b.png"}], {"image_folder": "pictures.tar"}),
    "damaged-archive": ([{**GOOD, "image": "a.png"}], {"image_folder": "damaged.zip"}),
    "packed-archive": (GOOD, {"image_folder": "pictures.tar.gz"}),
    "address": ([{**GOOD, "image": "https://example.org/a.png"}], {}),
    "no-image": ([{**GOOD, "image": {"bytes": "aGVsbG8="}}], {}),
    "bytes-list": ([{**GOOD, "image": {"bytes": [137, 80]}}], {}),
    "two-folders": ([{**GOOD, "images": ["a.png", URL]}], {"image_folder": "pictures"}),
    "copy-nothing": (GOOD, {"copy_images": True}),
    "coco-id": (COCO, {"format": "coco_captions"}),
    "coco-id-list": ({**COCO, "images": [{"id": [1], "file_name": "a.png"}]}, {"format": "coco_captions"}),
    "behind-coco": (json.dumps({**COCO, "annotations": [{"image_id": 1, "caption": "a cat"}]}) * 2, {"format": "coco_captions"}),
    "vqa-question-id": ({"annotations": [ANSWERED], "questions": [{"question_id": [1], "question": "what?"}]}, {}),
    "picture-number": ([{"question": "what?", "choices": ["a", "b", "c", "d"], "correct_choice_idx": 1, "image_id": 10**12}], {"format": "a_okvqa", "image_folder": "pictures"}),
    "vqa-questions": ({"annotations": [ANSWERED]}, {"image_folder": "pictures"}),
    "no-right-choice": ([{"question": "what?", "choices": ["a", "b", "c", "d"], "image_id": 1}], {"format": "a_okvqa"}),
    "other-settings": (GOOD, {"skip_invalid": True, "system_messages": "drop"}),
    "export-format": (GOOD, {"format": "openrlhf"}),
}  # fmt: skip
GOOD_ROWS = {
    "vlfeedback": {"prompt": "what?", "completions": [RATED, {**RATED, "annotations": {"Helpfulness": "1"}}]},
    "llava_critic": {
        "conversations": [
            {"from": "human", "value": JUDGED},
            {"from": "gpt", "value": "The first response is better."},
        ]
    },
    "a_okvqa": {
        "question": "what?",
        "choices": ["a", "b", "c", "d"],
        "correct_choice_idx": 1,
        "image": URL,
    },
}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder to work in, with a picture as a file and in archives."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "a.png").write_bytes(png(4))
    with zipfile.ZipFile("damaged.zip", "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a.png", png(300))
    damaged = bytearray(Path("damaged.zip").read_bytes())
    damaged[40:60] = bytes(byte ^ 0xFF for byte in damaged[40:60])  # within the packed picture
    Path("damaged.zip").write_bytes(damaged)
    for name, mode in (("pictures.tar", "w"), ("pictures.tar.gz", "w:gz")):
        with tarfile.open(name, mode) as file:
            file.add("pictures/a.png", "a.png")
    return tmp_path


def convert(**flags: Any) -> None:
    make_dataset.run(make_dataset.prepare(["import", *command_line(**flags)]))


@pytest.mark.parametrize("case", CASES)
def test_documented(case, place):
    row, (content, changes) = documented(__file__, case), CASES[case]
    if isinstance(content, list):
        content = [*content, GOOD_ROWS.get(changes.get("format"), GOOD)]
    elif isinstance(content, dict) and "annotations" not in content:
        content = [content]
    if isinstance(content, bytes):
        Path("rows.json").write_bytes(content)
    else:
        Path("rows.json").write_text(content if isinstance(content, str) else json.dumps(content))
    flags = {"source": "rows.json", "output_dir": "out", **changes}
    if case == "other-settings":
        with pytest.raises(ValueError):
            convert(**{**flags, "image_folder": "pictures", "format": "rlaif_v", "skip_invalid": False})
        flags["format"] = "rlaif_v"
    with pytest.raises(ValueError) as refused:
        if case == "export-format":
            flags = {"preferences_file": "rows.json", "output_file": "new.jsonl", **changes}
            make_dataset.prepare(["export", *command_line(**flags)])
        convert(**flags)
    assert re.search(row.pattern, str(refused.value)), refused.value
    assert not Path("out").exists()
    if row.skipped == "drops it":
        convert(**{**flags, "skip_invalid": True})
        (line,) = map(json.loads, Path("out/left_out.jsonl").read_text().splitlines())
        assert (line["why"], line["row"]) == ("skipped", 0) and Path("out/import.json").exists()
    else:
        with pytest.raises(ValueError):
            convert(**{**flags, "skip_invalid": True})
