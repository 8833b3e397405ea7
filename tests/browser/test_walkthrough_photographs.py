"""docs/walkthrough.md with a stranger's own photographs, 5 to 50 of them: the same blocks, and no number changed."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.browser.collecting import Annotator, free_port, judgements, wait_for
from tests.browser.walking import Reader, sections

pytest.importorskip("gradio")
skimage_data = pytest.importorskip("skimage.data", reason="needs scikit-image's photographs")
pytestmark = pytest.mark.slow
CAPTIONS = Path(__file__).parents[1] / "references" / "photographs" / "image_to_caption.json"
ORIENTATION = 0x0112
PPO_STEPS = 12
# How many photographs: each walk takes minutes.
COUNTS = [int(count) for count in os.environ.get("WALKTHROUGH_PHOTOGRAPHS", "5").split(",")]


def take_photographs(folder: Path, count: int) -> tuple[Path, Path]:
    """`count` JPEG files cut out of scikit-image's photographs, as phones and cameras leave them, and their captions."""
    known = {name: texts for name, texts in json.loads(CAPTIONS.read_text()).items() if "aok_" not in name}
    rng, rows = random.Random(count), []
    pictures = folder / "my photographs"
    (pictures / "trip").mkdir(parents=True)
    for number in range(count):
        name = sorted(known)[number % len(known)]
        photograph = Image.open(Path(skimage_data.__file__).parent / name)
        width, height = photograph.size
        left, top = rng.randint(0, width // 2), rng.randint(0, height // 2)
        photograph = photograph.crop((left, top, left + width // 2, top + height // 2))
        photograph = photograph.resize((rng.randint(180, 1600), rng.randint(180, 1200)))
        exif = Image.Exif()
        exif[ORIENTATION] = rng.choice([1, 3, 6, 8])
        target = f"trip/IMG {number:04d}.JPG" if number % 3 == 0 else f"{Path(name).stem}_{number}.jpeg"
        photograph.convert(rng.choice(["RGB", "RGB", "L"])).save(pictures / target, "JPEG", exif=exif)
        rows += [(target, caption) for caption in known[name]]
    with (folder / "captions.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("image", "caption"), *rows])
    return pictures, folder / "captions.csv"


@pytest.fixture(scope="module")
def spoilt_model(tmp_path_factory) -> Path:
    """What step 3 leaves in `runs/own`: the same for every folder of photographs."""
    reader = Reader(tmp_path_factory.mktemp("sft"))
    (block,) = sections()["3. A model that hallucinates"]
    reader.paste(block)
    return reader.clone / "runs" / "own"


def judge(driver, port: int, clicks: int) -> None:
    """Prefer the shorter answer, of equally long ones the first."""
    person = Annotator(driver, port)
    person.sign_in("ann")
    for number in range(1, clicks + 1):
        wait_for(lambda: person.row() is not None, "a pair: more are sampled meanwhile")
        left, right = person.answers()
        person.press("1" if len(left) <= len(right) else "2")
        assert f"{number} judged" in person.status()
    person.wait_for_goal()


@pytest.mark.parametrize("count", COUNTS)
def test_the_walk_with_photographs(count, spoilt_model, browser, tmp_path):
    driver = browser(1280, 900)  # skips where there is none
    pictures, captions = take_photographs(tmp_path, count)
    reader = Reader(tmp_path, PICTURES=str(pictures), CAPTIONS_TABLE=str(captions))
    own = reader.clone / "runs" / "own"
    shutil.copytree(spoilt_model, own)
    for title, blocks in sections().items():
        for block in blocks if title[:2] not in ("1.", "3.") else ():
            if "collect_preferences" not in block:
                last = reader.paste(block)
                continue
            port = free_port()
            with reader.serving(f"{block.rstrip()} --port {port}\n"):
                judge(driver, port, clicks=20)
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
    lowered = f"{prompts} prompts are less than --rollout_batch_size 64; going on with --rollout_batch_size"
    assert (lowered in log) == (prompts < 64)
    assert f"--max_steps {PPO_STEPS} goes before --total_epochs" in log
    assert (
        "% of the tokens of captions are <unk>" in log and "% of the tokens of conversations are <unk>" in log
    )
