"""The comparison page in a real browser: two checkpoints, streaming, and the reward model's score under each answer."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from llava_rlhf import initialize_policy_model, score
from llava_rlhf.runs.run_folder import read_json_lines
from tests.browser.collecting import BASE, ROOT, free_port, served, wait_for, write_world
from tests.browser.conftest import outside, requested
from tests.support.tiny_data import command_line

pytest.importorskip("gradio")
pytestmark = pytest.mark.slow
LENGTHS = {"version": "tiny", "response_len": 28, "model_max_length": 256, "use_cpu": True}
QUESTION = "what is in the image?"
CAPTION = "a red-circle and a blue-square."


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_world(tmp_path_factory.mktemp("demo") / "world", images=8)


@pytest.fixture(scope="module")
def policy(world) -> Path:
    """A policy that answers otherwise than its base."""
    argv = command_line(
        model_name_or_path=BASE,
        dataset_path=world / "sft.json",
        image_folder=world / "images",
        output_dir=world / "policy",
        query_len=256,
        max_steps=6,
        learning_rate=2e-2,
        lora_r=4,
        per_device_train_batch_size=2,
        eval_size=0,
        save_strategy="no",
        **{**LENGTHS, "response_len": 256},
    )
    initialize_policy_model.run(initialize_policy_model.prepare(argv))
    return world / "policy"


@pytest.fixture(scope="module")
def reward(world) -> Path:
    from tests.browser.collecting import train_on

    rows = [
        {
            "id": f"p{index}",
            "image": prompt["image"],
            "conversations": [prompt["conversations"][0], {"from": "gpt", "value": "Yes."}],
            "output_1": {"from": "llava", "value": "the image shows a red-circle."},
            "output_2": {"from": "llava", "value": "the image shows a blue-square."},
            "preference": 1 + index % 2,
        }
        for index, prompt in enumerate(json.loads((world / "preference_prompts.json").read_text()))
    ]
    (world / "preferences.json").write_text(json.dumps(rows))
    train_on(world, world / "preferences.json", world / "reward")
    return world / "reward"


def test_two_checkpoints_side_by_side_with_scores(browser, world, policy, reward, tmp_path):
    from selenium.webdriver.common.keys import Keys

    port = free_port()
    picture = next((world / "images").iterdir())
    argv = ["--checkpoints", f"SFT={BASE}", f"RLHF={BASE},{policy}"]
    argv += command_line(reward_model_name_or_path=reward, port=port, **LENGTHS)
    with served("llava_rlhf.demo", argv, tmp_path / "demo.log"):
        driver = browser(1280, 900)
        find = open_with_picture(driver, port, picture)
        find("#captions textarea")[0].send_keys(f"  {CAPTION}\n\n")
        find("#question textarea")[0].send_keys(QUESTION)
        find("#ask")[0].send_keys(Keys.ENTER)
        scores = wait_for(
            lambda: driver.execute_script(
                "const e = [...document.querySelectorAll('.score strong')].map(e => e.textContent);"
                "return e.length == 2 ? e : null"
            ),
            "two scores",
        )
        answers = driver.execute_script(
            "return [...document.querySelectorAll('.answer .words')].map(e => e.textContent)"
        )
        assert len(find(".best")) == 1
        assert outside(requested(driver)) == []
    assert answers == [answer_of(None, picture), answer_of(policy, picture)] and answers[0] != answers[1]
    expected = scores_of(reward, answers, picture, CAPTION, tmp_path)
    assert [float(value) for value in scores] == pytest.approx(expected, abs=1e-3)  # shown with three digits


def open_with_picture(driver, port: int, picture: Path) -> Callable[[str], list]:
    """Open the page and choose a picture; returns how elements are found by their CSS selector."""
    from selenium.webdriver.common.by import By

    def find(selector: str) -> list:
        return driver.find_elements(By.CSS_SELECTOR, selector)

    driver.get(f"http://127.0.0.1:{port}/")
    (chooser,) = wait_for(lambda: find("#picture input[type=file]"), "the picture's file input")
    chooser.send_keys(str(picture))
    wait_for(lambda: find("#picture img"), "the preview")
    return find


def answer_of(adapter: Path | None, picture: Path) -> str:
    """What the chat program says: its standard output is the answer."""
    argv = command_line(base_model_name=BASE, image=picture, **LENGTHS)
    argv += command_line(adapter=adapter) if adapter else []
    done = subprocess.run(
        [sys.executable, "-m", "llava_rlhf.chat", *argv],
        input=f"{QUESTION}\n",
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return done.stdout.strip()


def scores_of(reward: Path, answers: list[str], picture: Path, caption: str, folder: Path) -> list[float]:
    """What score.py gives the same answers."""
    rows = [
        {"question": QUESTION, "answer": a, "image": picture.name, "captions": [caption]} for a in answers
    ]
    (folder / "answers.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    argv = command_line(
        reward_model_name_or_path=reward,
        dataset_path=folder / "answers.jsonl",
        image_folder=picture.parent,
        output_file=folder / "scores.jsonl",
        use_cpu=True,
    )
    score.run(score.prepare(argv))
    return [line["score"] for line in read_json_lines(folder / "scores.jsonl")]


@pytest.mark.nightly
def test_a_file_that_is_no_picture_is_refused(browser, world, tmp_path):
    broken = tmp_path / "broken.png"
    whole = tmp_path / "whole.png"
    Image.new("RGB", (64, 64), "red").save(whole)
    broken.write_bytes(whole.read_bytes()[:60])
    port = free_port()
    with served(
        "llava_rlhf.demo",
        ["--checkpoints", f"SFT={BASE}", *command_line(port=port, **LENGTHS)],
        tmp_path / "log",
    ):
        driver = browser(400, 800)
        find = open_with_picture(driver, port, broken)
        find("#question textarea")[0].send_keys(QUESTION)
        find("#ask")[0].click()
        wait_for(lambda: find("[data-testid=toast-body]"), "a message")
        assert driver.execute_script("return document.documentElement.scrollWidth") <= 400
