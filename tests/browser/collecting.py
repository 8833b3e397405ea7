"""A collection in a process of its own, and a person who clicks through it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from llava_rlhf import train_reward_model
from llava_rlhf.tiny_world import make_world
from tests.support.tiny_data import command_line

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "scripts" / "tiny" / "base"
PATIENCE = 120.0  # seconds; a slow machine should not fail a test


def write_world(folder: Path, images: int = 24) -> Path:
    """A tiny world with `images` pictures to collect preferences on."""
    few = {"train_images": 2, "init_images": 2, "ppo_images": 2, "eval_images": 2}
    argv = command_line(output_dir=folder, preference_images=images, **few)
    make_world.make_world(make_world.prepare(argv))
    return folder


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def collect_command(world: Path, output: Path, port: int, **changes) -> list[str]:
    """Command line of the collection program on a tiny world; `changes` replace or add flags."""
    settings = {
        "output_dir": output,
        "base_model_name": BASE,
        "dataset_path": world / "preference_prompts.json",
        "image_folder": world / "images",
        "version": "tiny",
        "query_len": 40,
        "response_len": 28,
        "temperature": 1.5,
        "use_cpu": True,
        "port": port,
    }
    return command_line(
        **{name: value for name, value in {**settings, **changes}.items() if value is not None}
    )


def train_on(world: Path, preferences: Path, output: Path) -> None:
    """Two steps of the reward model, as the README has it."""
    argv = command_line(
        model_name_or_path=ROOT / "scripts" / "tiny" / "base",
        dataset_path=preferences,
        image_folder=world / "images",
        image_to_caption_file=world / "image_to_caption.json",
        reward_prompt_file=ROOT / "prompts" / "tiny_fact_reward_prompt.txt",
        output_dir=output,
        version="tiny",
        query_len=40,
        response_len=28,
        model_max_length=256,
        per_device_train_batch_size=4,
        max_steps=2,
        eval_size=0,
        eval_strategy="no",
        save_strategy="no",
        lora_r=4,
        use_cpu=True,
    )
    train_reward_model.run(train_reward_model.prepare(argv))
    assert (output / "reward_model.json").is_file() and (output / "reward_head.safetensors").is_file()


@contextmanager
def served(module: str, argv: list[str], log: Path):
    """Run a page program until it serves; yields the process, which is killed with SIGKILL at the end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *argv], stdout=file, stderr=subprocess.STDOUT, env=environment
        )
    try:
        wait_for(lambda: process.poll() is not None or "open http" in log.read_text(), "the page is served")
        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def wait_for(condition, what: str):
    """The first true value of `condition()`."""
    deadline = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {PATIENCE} s in vain: {what}"
        time.sleep(0.05)
    return value


class Annotator:
    """A person at a window of the collection page."""

    def __init__(self, driver, port: int):
        self.driver = driver
        driver.get(f"http://127.0.0.1:{port}/")

    def find(self, selector: str) -> list:
        from selenium.webdriver.common.by import By

        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def sign_in(self, name: str) -> None:
        from selenium.webdriver.common.keys import Keys

        (box,) = wait_for(lambda: self.find("#name input, #name textarea"), "the name box")
        box.send_keys(name, Keys.ENTER)
        wait_for(self.row, "the first pair")

    def come_back(self) -> None:
        """Nothing but wait: the browser has kept the name."""
        wait_for(self.row, "the pair of somebody who was here before")

    def row(self) -> str | None:
        """Row of the pair on the screen."""
        # In one step: between two the page may draw the next pair.
        script = "return document.querySelector('article.pair')?.dataset.row ?? null"
        return self.driver.execute_script(script)

    def answers(self) -> list[str]:
        script = "return [...document.querySelectorAll('.answers .words')].map(e => e.textContent)"
        return self.driver.execute_script(script)

    def status(self) -> str:
        return self.driver.execute_script("return document.querySelector('#status').textContent").strip()

    def wait_for_goal(self) -> None:
        """Wait for what docs/walkthrough.md tells the reader to look for."""
        wait_for(
            lambda: self.find("#reached") and "Goal reached" in self.find("#reached")[0].text, "the goal"
        )

    def press(self, key: str) -> None:
        """Press a key wherever the focus is, and wait for another pair."""
        before = self.row()
        self.driver.switch_to.active_element.send_keys(key)
        wait_for(lambda: self.row() != before, f"another pair after {key!r}")

    def click(self, button: str) -> None:
        """Click a button by its id, and wait for another pair."""
        before = self.row()
        self.find(f"#{button}")[0].click()
        wait_for(lambda: self.row() != before, f"another pair after {button}")


def judgements(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "judgements.jsonl").read_text().splitlines()]
