"""docs/walkthrough.md, done as a new user does it: every command, twenty clicks, and the model at the end.

Once with its own pictures, and once with a stranger's photographs, 5 to 50 of them: the same blocks, and no number changed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_utils.schema import AnswerType, read_preferences
from data_utils.shapes_files import parse_question, read_scenes
from data_utils.shapes_text import answer_quality
from data_utils.shapes_world import Scene
from tests.browser.collecting import Annotator, free_port, judgements, wait_for
from tests.browser.photographs import take_photographs
from tests.browser.walking import Reader, sections

pytest.importorskip("gradio")
pytestmark = pytest.mark.slow
CLICKS = 20
PPO_STEPS = 12
SPOILT = "3. A model that hallucinates"
# How many photographs: each walk takes minutes.
COUNTS = [int(count) for count in os.environ.get("WALKTHROUGH_PHOTOGRAPHS", "5").split(",")]
PLAIN = """
import json, sys
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

folder, images, questions = sys.argv[1:]
model = LlavaForConditionalGeneration.from_pretrained(folder).eval()
processor = AutoProcessor.from_pretrained(folder)
answers = {}
for line in open(questions):
    row = json.loads(line)
    text = f"USER: <image>\\n{row['text']} ASSISTANT:"
    inputs = processor(images=Image.open(f"{images}/{row['image']}").convert("RGB"), text=text, return_tensors="pt")
    tokens = model.generate(**inputs, max_new_tokens=28, do_sample=False)
    answer = processor.decode(tokens[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True)
    answers[row["question_id"]] = answer.strip()
assert not {"llava_rlhf", "models", "data_utils"} & set(sys.modules)
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def spoilt_model(tmp_path_factory) -> Path:
    """What step 3 leaves in `runs/own`: the same for every walk, and pasted once."""
    reader = Reader(tmp_path_factory.mktemp("sft"))
    (block,) = sections()[SPOILT]
    reader.paste(block)
    return reader.clone / "runs" / "own"


def better(prompt: dict, scene: Scene, answers: list[str]) -> str:
    """The key that somebody presses who sees what is in the picture."""
    question = parse_question(
        prompt["conversations"][0]["value"], AnswerType(prompt["caption_type"]), scene.names
    )
    left, right = (answer_quality(question, scene.names, answer) for answer in answers)
    return "3" if left == right else "1" if left > right else "2"


def judge_twenty(driver, port: int, own: Path) -> dict[int, list[str]]:
    """Click through twenty pairs; row → the answers that were shown."""
    prompts = json.loads((own / "data" / "prompts.json").read_text())
    scenes = read_scenes(own / "scenes.json")
    person, seen = Annotator(driver, port), {}
    person.sign_in("ann")
    while len(seen) < CLICKS:
        row, answers = int(person.row()), person.answers()
        seen[row] = answers
        person.press(better(prompts[row], scenes[prompts[row]["image"]], answers))
        assert f"{len(seen)} judged" in person.status()
    person.wait_for_goal()
    return seen


@pytest.mark.nightly
def test_every_command_from_pictures_to_a_plain_model(spoilt_model, browser, tmp_path):
    driver = browser(1280, 900)  # skips where there is none
    parts = sections()
    assert parts["1. Install"] == ["bash scripts/setup_venv.sh\nsource .venv/bin/activate\n"]
    reader, outputs = Reader(tmp_path), []
    own = reader.clone / "runs" / "own"
    for title, blocks in parts.items():
        if title == SPOILT:
            shutil.copytree(spoilt_model, own, dirs_exist_ok=True)
        for block in blocks if title not in ("1. Install", SPOILT) else ():
            if "collect_preferences" not in block:
                outputs.append(reader.paste(block))
                continue
            port = free_port()
            with reader.serving(f"{block.rstrip()} --port {port}\n"):  # another port: tests run side by side
                seen = judge_twenty(driver, port, own)
    check_training(own, seen)
    check_table(own)
    check_export(own, outputs, tmp_path)


def check_training(own: Path, seen: dict[int, list[str]]) -> None:
    """Twenty judgements on disk, those with a winner in the preference file, and what was trained on them."""
    lines = judgements(own / "collection")
    assert [line["row"] for line in lines] == list(seen)
    records, problems = read_preferences(own / "collection" / "preferences.json")
    verdicts = [line["verdict"] for line in lines]
    assert not problems and len(records) == CLICKS - verdicts.count("tie") >= 8
    dialogues = json.loads((own / "dialogues.json").read_text())
    preferred = [record.outputs[record.preference - 1] for record in records]
    assert [row["conversations"][-1]["value"] for row in dialogues] == preferred
    assert (own / "fact_reward_model" / "reward_model.json").is_file()
    assert (own / "fact_reward_model" / "reward_head.safetensors").is_file()
    steps = [json.loads(line)["step"] for line in (own / "fact_rl_model" / "metrics.jsonl").open()]
    assert steps == list(range(1, PPO_STEPS + 1))
    assert (own / "fact_rl_model" / "report.html").stat().st_size > 100_000


def check_table(own: Path) -> None:
    """Answers to questions with a known answer got better, on pictures that nobody trained on."""
    used = {
        row["image"]
        for name in ("data/prompts.json", "dialogues.json")
        for row in json.loads((own / name).read_text())
    }
    asked = [json.loads(line) for line in (own / "data" / "eval_yes_no.json").open()]
    assert len(asked) == 120 and not used & {row["image"] for row in asked}
    accuracy = {}
    for model in ("sft", "ppo"):
        scores = json.loads((own / "evaluation" / model / "scores.json").read_text())
        accuracy[model] = scores["table"]["all"]["accuracy"]["value"]
    assert accuracy["ppo"] > accuracy["sft"]
    table = (own / "table" / "table.md").read_text()
    assert all(f"| accuracy | {name} | {accuracy[name.lower()]:.3f} |" in table for name in ("SFT", "PPO"))
    assert table.splitlines()[2] in (own / "exported" / "README.md").read_text()


def check_export(own: Path, outputs: list[str], folder: Path) -> None:
    """The exported folder answers as the policy adapter does, in a process that knows nothing of this repository."""
    (difference,) = re.findall(r"max logit difference (\S+) ", outputs[-2])
    assert float(difference) < 1e-4
    # The last question about a picture set aside is one with options; the answer is one of them, letter and words.
    assert re.search(r"^which object is in the image\?.* ([A-D]\. \S+)( .*)? \1\.\n$", outputs[-1])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, own / "exported", own / "pictures", own / "data" / "eval_yes_no.json"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = (own / "evaluation" / "ppo" / "answers.jsonl").read_text().splitlines()
    adapter = {record["id"].partition("/")[2]: record["answer"].strip() for record in map(json.loads, lines)}
    assert len(adapter) == 120 and json.loads(done.stdout) == adapter


def prefer_short(driver, port: int, clicks: int) -> None:
    """Prefer the shorter answer, of equally long ones the first."""
    person = Annotator(driver, port)
    person.sign_in("ann")
    for number in range(1, clicks + 1):
        wait_for(lambda: person.row() is not None, "a pair: more are sampled meanwhile")
        left, right = person.answers()
        person.press("1" if len(left) <= len(right) else "2")
        assert f"{number} judged" in person.status()
    person.wait_for_goal()


@pytest.mark.nightly
@pytest.mark.parametrize("count", COUNTS)
def test_the_walk_with_photographs(count, spoilt_model, browser, tmp_path):
    pytest.importorskip("skimage", reason="needs scikit-image's photographs")
    driver = browser(1280, 900)  # skips where there is none
    pictures, captions = take_photographs(tmp_path, count)
    reader = Reader(tmp_path, PICTURES=str(pictures), CAPTIONS_TABLE=str(captions))
    own = reader.clone / "runs" / "own"
    shutil.copytree(spoilt_model, own)
    for title, blocks in sections().items():
        for block in blocks if title not in ("1. Install", SPOILT) else ():
            if "collect_preferences" not in block:
                last = reader.paste(block)
                continue
            port = free_port()
            with reader.serving(f"{block.rstrip()} --port {port}\n"):
                prefer_short(driver, port, CLICKS)
    check_steps(own, count)
    check_lines(reader.log.read_text(), own, count)
    question = json.loads((own / "data" / "eval.json").read_text())[-1]["conversations"][0]["value"]
    assert last.startswith(question.removeprefix("<image>\n") + " ")


def check_steps(own: Path, count: int) -> None:
    """Every step left its result, with as many steps as the document asks for."""
    assert len(judgements(own / "collection")) == 20
    held_out = {row["image"] for row in json.loads((own / "data" / "eval.json").read_text())}
    assert len(held_out) == round(count / 5)
    assert (own / "fact_reward_model" / "reward_model.json").is_file()
    steps = [json.loads(line)["step"] for line in (own / "fact_rl_model" / "metrics.jsonl").open()]
    assert steps == list(range(1, PPO_STEPS + 1))
    assert "best_of_1" in (own / "table" / "table.md").read_text()
    assert (own / "exported" / "model.safetensors").is_file()


def check_lines(log: str, own: Path, count: int) -> None:
    """What the data was too small for, and what the model can't read, is said."""
    prompts = len(json.loads((own / "data" / "prompts.json").read_text()))
    assert prompts == 6 * (count - round(count / 5))
    lowered = (
        f"{prompts} prompts are less than --rollout_batch_size 64 takes; going on with --rollout_batch_size"
    )
    assert (lowered in log) == (prompts < 64)
    assert f"--max_steps {PPO_STEPS} goes before --total_epochs" in log
    assert (
        "% of the tokens of captions are <unk>" in log and "% of the tokens of conversations are <unk>" in log
    )
