"""Somebody's pictures, captions and questions → files in the published formats, or a list of what is wrong."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest
from PIL import Image

from data_utils.facts import FactBook, MissingCaptions
from data_utils.schema import AnswerType, read_captions, read_dialogues, read_preferences, read_prompts
from llava_rlhf import make_dataset
from llava_rlhf.evaluation.benchmarks.pope import Pope
from llava_rlhf.tiny_world import draw_pictures
from tests.support.tiny_data import command_line, write_tiny_data

NAMES = [f"sub/{index}.png" for index in range(10)]


@pytest.fixture
def own(tmp_path) -> dict[str, Path]:
    """Ten pictures with two captions each, four questions, and the flags that name them."""
    (tmp_path / "images" / "sub").mkdir(parents=True)
    for index, name in enumerate(NAMES):
        Image.new("RGB", (8 + index, 8)).save(tmp_path / "images" / name)
    captions = [(name, f"{text} {name}") for name in NAMES for text in ("a box, black,", "seen from above:")]
    write_table(tmp_path / "captions.csv", ("image", "caption"), captions)
    (tmp_path / "questions.txt").write_text("# ours\nWhat is it?\n\n  Where is it?  \nHow big is it?\n")
    checked = [(name, "Is it big?", "yes") for name in NAMES] + [(name, "Which?", "b") for name in NAMES]
    write_table(tmp_path / "checked.csv", ("image", "question", "answer"), checked)
    return {
        "image_folder": tmp_path / "images",
        "captions_table": tmp_path / "captions.csv",
        "questions_file": tmp_path / "questions.txt",
        "checked_questions": tmp_path / "checked.csv",
        "output_dir": tmp_path / "data",
    }


def write_table(path: Path, header: tuple[str, ...], rows: list[tuple]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def make(action: str, **flags) -> None:
    make_dataset.run(make_dataset.prepare([action, *command_line(**flags)]))


def rows(folder: Path, name: str) -> list[dict]:
    return json.loads((folder / name).read_text())


def test_every_file_is_valid_and_says_what_the_tables_say(own):
    make("prompts", **own)
    data = own["output_dir"]
    captions, problems = read_captions(data / "image_to_caption.json")
    assert not problems and set(captions) == set(NAMES)
    assert captions[NAMES[3]] == (f"a box, black, {NAMES[3]}", f"seen from above: {NAMES[3]}")
    prompts, problems = read_prompts(data / "prompts.json")
    held_out, others = read_prompts(data / "eval.json")
    assert not problems and not others
    assert len(prompts) == 8 * 4 and len(held_out) == 2 * 4  # 2 open and 2 checked questions a picture
    kept, aside = ({image for row in part for image in row.images} for part in (prompts, held_out))
    assert len(kept) == 8 and len(aside) == 2 and not kept & aside
    assert len({row.id for row in prompts + held_out}) == 40
    for image in NAMES:
        asked = [row for row in prompts + held_out if row.images == (image,)]
        texts = {row.turns[0].text.removeprefix("<image>\n"): row for row in asked}
        assert {"Is it big?", "Which?"} < set(texts)
        assert set(texts) - {"Is it big?", "Which?"} < {"What is it?", "Where is it?", "How big is it?"}
        assert texts["Is it big?"].answer_type is AnswerType.YES_IN_YESNO
        assert texts["Which?"].answer_type is AnswerType.B_IN_ABCD
        bonuses = sorted(row.length_bonus for row in asked)
        assert bonuses == [0, 0, 1, 1]
        # The reward model finds facts for every row, also for those whose rationale nobody wrote.
        book = FactBook(captions, MissingCaptions.ERROR)
        assert all(book.find(row, row.answer_type) == captions[image] for row in asked)
    assert [row.images[0] for row in prompts] != sorted(row.images[0] for row in prompts)


def test_held_out_yes_no_questions_are_a_benchmark(own):
    write_table(
        own["checked_questions"],
        ("image", "question", "answer"),
        [(name, "Big?", "NO") for name in NAMES] + [(name, "Black?", "Yes") for name in NAMES],
    )
    make("prompts", **own)
    items = Pope([str(own["output_dir"] / "eval_yes_no.json")]).items()
    held_out = {row["image"] for row in rows(own["output_dir"], "eval.json")}
    expected = {
        (image, text, there) for image in held_out for text, there in (("Big?", False), ("Black?", True))
    }
    assert {(item.image, item.question, item.truth) for item in items} == expected and len(items) == 4


def test_what_is_drawn_depends_on_the_seed_alone(own, tmp_path):
    contents = []
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        make("prompts", **(own | {"output_dir": tmp_path / name, "seed": seed}))
        contents.append([(tmp_path / name / file).read_text() for file in ("prompts.json", "eval.json")])
    assert contents[0] == contents[1] != contents[2]


def test_without_held_out_pictures_or_checked_questions_there_are_no_such_files(own, capsys):
    Image.new("RGB", (4, 4)).save(own["image_folder"] / "forgotten.png")
    make("prompts", **(own | {"checked_questions": None, "held_out_share": 0}))
    names = {path.name for path in own["output_dir"].iterdir()}
    assert names == {"image_to_caption.json", "prompts.json", "dataset.json"}
    assert "without a caption, left out: 1, such as forgotten.png" in capsys.readouterr().out


BAD_TABLES = {
    "no such picture": ("captions_table", "image,caption\nsub/0.png,x\nnone.png,x\n", "row 3, field 'image': value 'none.png' — no such file"),
    "a way out": ("captions_table", "image,caption\n../x.png,x\n", "row 2, field 'image': value '../x.png' — must be a path relative"),
    "empty caption": ("captions_table", "image,caption\nsub/0.png, \n", "row 2, field 'caption': value '' — must not be empty"),
    "cell missing": ("captions_table", "image,caption\nsub/0.png\n", "row 2, field 'caption': value '' — must not be empty"),
    "comma without quotes": ("captions_table", "image,caption\nsub/0.png,a, b\n", "row 2, field 'row': value 'sub/0.png,a, b' — has 3 cells under 2 columns"),
    "caption twice": ("captions_table", "image,caption\nsub/0.png,a\nsub/0.png,a\n", "row 3, field 'caption': value 'a' — this image has this caption already"),
    "other separator": ("captions_table", "image;caption\nsub/0.png;a\n", "row 1, field 'image': value 'image;caption' — the first line must name the column image"),
    "no rows": ("captions_table", "image,caption\n\n", "must have a row for each caption"),
    "open quote": ("captions_table", 'image,caption\nsub/0.png,"a\n', "must be a readable CSV file in UTF-8 with the columns image, caption"),
    "empty file": ("captions_table", "", "is empty"),
    "question twice": ("questions_file", "What?\nWhat?\n", "row 2, field 'question': value 'What?' — stands there twice"),
    "marker": ("questions_file", "What is in <image>?\n", "row 1, field 'question': value 'What is in <image>?' — must not hold <image>"),
    "only comments": ("questions_file", "# What?\n", "must have at least one question"),
    "too few questions": ("questions_file", "What?\n", "--questions_per_image 2: "),
    "answer": ("checked_questions", "image,question,answer\nsub/0.png,Big?,maybe\n", "row 2, field 'answer': value 'maybe' — must be yes, no, A, B, C or D"),
    "unknown picture": ("checked_questions", "image,question,answer\n./sub/0.png,Big?,no\n", "row 2, field 'image': value './sub/0.png' — has no caption in the table"),
    "asked twice": ("checked_questions", "image,question,answer\nsub/0.png,Big?,no\nsub/0.png,Big?,yes\n", "row 3, field 'question': value 'Big?' — is asked about this image twice"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_TABLES)
def test_a_bad_row_is_named_and_nothing_is_written(case, own):
    flag, text, message = BAD_TABLES[case]
    own[flag].write_text(text)
    if flag == "captions_table":
        own["checked_questions"] = None
    with pytest.raises(ValueError, match=re.escape(message)):
        make("prompts", **own)
    assert not own["output_dir"].exists()


def test_everything_wrong_is_said_at_once(own):
    own["captions_table"].write_text("image,caption\nsub/0.png,a\nnone.png,b\nnone.png,c\nsub/1.png,\n")
    own["checked_questions"].write_text("image,question,answer\nsub/0.png,Big?,maybe\n")
    with pytest.raises(ValueError, match=r"^3 problems in the data:"):  # a missing picture once
        make("prompts", **own)


def test_a_spreadsheet_program_may_have_saved_the_table(own):
    """A byte order mark, Windows line ends, a line break within quotes, columns of its own, an empty line at the end."""
    text = '\ufeffimage,note,caption\r\nsub/0.png,,"a box,\r\nblack"\r\nsub/1.png,x, two \r\n,,\r\n'
    own["captions_table"].write_bytes(text.encode())
    make("prompts", **(own | {"checked_questions": None, "held_out_share": 0}))
    captions = json.loads((own["output_dir"] / "image_to_caption.json").read_text())
    assert captions == {"sub/0.png": ["a box,\r\nblack"], "sub/1.png": ["two"]}


def test_flags_are_checked(own):
    for changes, message in (
        ({"questions_per_image": 0}, "--questions_per_image 0: must be at least 1"),
        ({"held_out_share": 1}, "--held_out_share 1.0: must be at least 0 and below 1"),
        ({"image_folder": own["image_folder"] / "none"}, "no such folder"),
        ({"output_dir": own["image_folder"]}, "exists already"),
    ):
        with pytest.raises(ValueError, match=message):
            make_dataset.prepare(["prompts", *command_line(**(own | changes))])
    with pytest.raises(ValueError, match="unknown action prompt: choose from prompts, dialogues"):
        make_dataset.prepare(["prompt"])


def test_dialogues_end_with_the_preferred_answer(tmp_path):
    data = write_tiny_data(tmp_path / "tiny")
    output = tmp_path / "new" / "dialogues.json"
    make("dialogues", preferences_file=data.preferences, output_file=output)
    preferences, _ = read_preferences(data.preferences)
    dialogues, problems = read_dialogues(output)
    assert not problems and len(dialogues) == len(preferences) == 16
    for dialogue, pair in zip(dialogues, preferences, strict=True):
        assert dialogue.turns[:-1] == pair.turns and dialogue.images == pair.images
        assert dialogue.turns[-1].text == pair.outputs[pair.preference - 1]
    assert {pair.preference for pair in preferences} == {1, 2}
    assert {len(pair.images) for pair in preferences} == {0, 1, 2}


def test_dialogues_of_no_or_bad_preferences_are_refused(tmp_path):
    preferences, output = tmp_path / "preferences.json", tmp_path / "dialogues.json"
    for text, message in (
        ("[]", "holds no preferences yet"),
        ('[{"preference": 3}]', "row 0, field 'conversations'"),
    ):
        preferences.write_text(text)
        with pytest.raises(ValueError, match=message):
            make("dialogues", preferences_file=preferences, output_file=output)
    with pytest.raises(ValueError, match="is the preference file; choose another"):
        make("dialogues", preferences_file=preferences, output_file=preferences)
    assert not output.exists()


def test_drawn_pictures_are_described_rightly_and_go_straight_in(tmp_path):
    own = tmp_path / "own"
    draw_pictures.run(draw_pictures.prepare(command_line(output_dir=own, images=12)))
    scenes = json.loads((own / "scenes.json").read_text())
    tables = {path.stem: list(csv.DictReader(path.open())) for path in own.glob("*.csv")}
    for image, scene in scenes.items():
        words = " ".join(row["caption"] for row in tables["captions"] if row["image"] == image)
        assert all(words.count(name) == scene["names"].count(name) for name in scene["names"])
        questions = [row for row in tables["checked_questions"] if row["image"] == image]
        assert len(questions) == 3
        for row in questions:
            if row["answer"] in ("yes", "no"):
                there = any(f"is there a {name} in" in row["question"] for name in scene["names"])
                assert there == (row["answer"] == "yes")
            else:
                assert any(f"{row['answer']}. {name}" in row["question"] for name in scene["names"])
    make(
        "prompts",
        image_folder=own / "pictures",
        captions_table=own / "captions.csv",
        questions_file=own / "questions.txt",
        checked_questions=own / "checked_questions.csv",
        output_dir=own / "data",
    )
    assert len(rows(own / "data", "prompts.json")) == 10 * 5
    with pytest.raises(ValueError, match="exists already"):
        draw_pictures.prepare(command_line(output_dir=own))


def test_drawn_pictures_take_no_negative_seed(tmp_path):
    with pytest.raises(ValueError, match="--seed -1: must be at least 0"):
        draw_pictures.prepare(command_line(output_dir=tmp_path / "own", seed=-1))


def test_one_picture_has_one_name(own, tmp_path):
    """Under two it could be set aside and trained on at once."""
    table = Path(own["captions_table"])
    table.write_text(table.read_text() + f"./{NAMES[0]},the same picture\n")
    with pytest.raises(ValueError, match=rf"write {re.escape(NAMES[0])}"):
        make_dataset.prepare(["prompts", *command_line(**own)])
