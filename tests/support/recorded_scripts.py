"""Run a shell script with a launcher and a Python that only record their arguments, and read those back."""

from __future__ import annotations

import importlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from accelerate.state import AcceleratorState

from llava_rlhf.engines.arguments import ServerArguments
from llava_rlhf.evaluation.arguments import AnswerArguments
from llava_rlhf.export_policy import ExportArguments
from llava_rlhf.runs.arguments import DataArguments, ModelArguments
from llava_rlhf.runs.parsing import StrictParser
from llava_rlhf.tiny_world.label_preferences import LabelArguments
from llava_rlhf.tiny_world.make_world import WorldArguments

ROOT = Path(__file__).resolve().parents[2]
LARGE = (
    "13b-v1.5-336/train_reward_model.sh 13b-v1.5-336/initialize_policy_model.sh 13b-v1.5-336/train_rl_model.sh "
    "7b-v1.5-224/initialize_policy_model.sh 7b-v1.5-224/train_rl_model.sh"
).split()
ONE_CARD = tuple(
    f"7b-1x24gb/{name}.sh" for name in ("train_reward_model", "initialize_policy_model", "train_rl_model")
)
# Sizes of other families, and the family of each.
OTHER_SIZES = {
    "qwen2.5-vl-7b": "qwen2_5_vl",
    "qwen3-vl-8b": "qwen3_vl",
    "qwen2.5-vl-3b-1x24gb": "qwen2_5_vl",
}
OTHER_FAMILIES = tuple(
    f"{size}/{name}.sh"
    for size in OTHER_SIZES
    for name in ("train_reward_model", "initialize_policy_model", "train_rl_model")
)
# The settings of the programs that need no launcher; the others name theirs in ARGUMENTS.
TOOLS = {
    "llava_rlhf.answer_prompts": (AnswerArguments, DataArguments, ModelArguments, ServerArguments),
    "llava_rlhf.export_policy": (ExportArguments,),
    "llava_rlhf.tiny_world.make_world": (WorldArguments,),
    "llava_rlhf.tiny_world.label_preferences": (LabelArguments,),
}
# The check before a launch starts nothing, so it is not recorded; 10: it has found nothing wrong.
RECORDER = """#!/usr/bin/env bash
[ -z "${CHECK_FOR_PROCESSES:-}" ] || exit 10
printf '%s\\0' "$@" >"$RECORD_DIR/$(printf %03d "$(ls "$RECORD_DIR" | wc -l)")"
[ -z "${FAIL_ON:-}" ] || [[ "$*" != *"$FAIL_ON"* ]]
"""


@dataclass(frozen=True)
class Call:
    """One start of a program: what stands before `-m MODULE`, the module, and its arguments."""

    words: tuple[str, ...]

    @property
    def launch(self) -> tuple[str, ...]:
        return self.words[: self._at]

    @property
    def module(self) -> str:
        return self.words[self._at + 1]

    @property
    def arguments(self) -> list[str]:
        return list(self.words[self._at + 2 :])

    def value(self, flag: str) -> str:
        """The value of `--flag` (the last one, which wins)."""
        positions = [i for i, word in enumerate(self.words) if word == f"--{flag}"]
        return self.words[positions[-1] + 1]

    @property
    def _at(self) -> int:
        return max(i for i, word in enumerate(self.words) if word == "-m")


class ScriptRunner:
    """Runs scripts of a checkout from a directory elsewhere; every folder name has a space in it."""

    def __init__(self, checkout: Path, folder: Path):
        self.checkout = checkout
        self.cwd = folder / "some where"
        self.records = folder / "records"
        self.recorder = folder / "my tools" / "recorder"
        self.cwd.mkdir()
        self.recorder.parent.mkdir()
        self.recorder.write_text(RECORDER)
        self.recorder.chmod(0o755)

    def start(self, script: str, *arguments: str, **variables: str | None) -> subprocess.CompletedProcess:
        """Run `scripts/<script>`; a variable that is None is not set."""
        for record in self.records.glob("*"):
            record.unlink()
        self.records.mkdir(exist_ok=True)
        ours = {
            "LAUNCHER": str(self.recorder),
            "PYTHON": str(self.recorder),
            "RECORD_DIR": str(self.records),
            **variables,
        }
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.cwd)}
        environment |= {name: value for name, value in ours.items() if value is not None}
        return subprocess.run(
            ["bash", str(self.checkout / "scripts" / script), *arguments],
            cwd=self.cwd,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self) -> list[Call]:
        """What the last script started, in order."""
        records = sorted(self.records.iterdir())
        return [Call(tuple(record.read_text().split("\0")[:-1])) for record in records]

    def run(self, script: str, *arguments: str, **variables: str | None) -> list[Call]:
        """`start`, which must succeed, then `calls`."""
        done = self.start(script, *arguments, **variables)
        assert done.returncode == 0, done.stderr
        return self.calls()


def copy_scripts(folder: Path) -> Path:
    """Copy scripts and prompts to a new folder and return it."""
    shutil.copytree(ROOT / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("base"))
    shutil.copytree(ROOT / "prompts", folder / "prompts")
    return folder


def parsed(call: Call, tmp_path: Path) -> dict[str, object]:
    """All settings that the program's own parser reads from a call, by name; enums as their values.

    The input files are made, because the settings check that they exist. `--deepspeed` is left out: reading it
    starts a process group (`test_zero_configurations_are_filled_by_the_trainer`).
    """
    arguments = call.arguments
    if "--deepspeed" in arguments:
        at = arguments.index("--deepspeed")
        assert Path(arguments[at + 1]).is_file()
        del arguments[at : at + 2]
    for flag in {"--dataset_path", "--image_to_caption_file", "--image_folder", "--answers"} & set(arguments):
        path = Path(arguments[arguments.index(flag) + 1])
        assert tmp_path in path.parents
        (path if flag == "--image_folder" else path.parent).mkdir(parents=True, exist_ok=True)
        if flag != "--image_folder":
            path.touch()
    classes = TOOLS.get(call.module) or importlib.import_module(call.module).ARGUMENTS
    if isinstance(classes, dict):  # a program with several actions
        classes = classes[arguments.pop(0)]
    try:
        groups = StrictParser(classes).parse(arguments)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)  # TrainingArguments set up the devices
    settings = {name: value for group in groups for name, value in vars(group).items()}
    return {name: getattr(value, "value", value) for name, value in settings.items()}
