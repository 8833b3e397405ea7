"""The steps that studies share: worlds, judges, answers, scores, policies. What is there already is not made again."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.facts.programs import SCRIPTS, run_program, run_script
from benchmarks.facts.settings import FactsArguments
from benchmarks.facts.world import drawn_pairs, noisy_captions, split_pairs
from data_utils.shapes_files import read_scenes
from data_utils.shapes_world import Scene
from llava_rlhf.runs.run_folder import read_json_lines, write_text_whole

FINISHED = "finished.json"  # a training program writes it last
KINDS = ("plain", "factual")
DPO_RATE = "2e-4"  # a guess, a fifth of supervised fine-tuning's
QUERY, RESPONSE, BATCH = "40", "28", "256"  # tokens, tokens, answers at once, as in scripts/tiny


@dataclass(frozen=True)
class Noise:
    """Errors in captions: a kind of `world.NOISES`, and the share of objects in percent."""

    kind: str
    percent: int

    def __str__(self) -> str:
        return f"{self.kind}-{self.percent}"


@dataclass(frozen=True)
class Judge:
    """A reward model: with facts or without, of so many pairs, a seed, captions with errors or none, and its base."""

    kind: str
    pairs: int
    seed: int
    noise: Noise | None = None
    base: str = "sighted"

    def __str__(self) -> str:
        parts = (self.kind, self.pairs, *(() if self.noise is None else (self.noise,)), self.base, self.seed)
        return "-".join(map(str, parts))


class Stages:
    """Files of all studies below one folder."""

    def __init__(self, arguments: FactsArguments):
        self.arguments = arguments
        self.folder = Path(arguments.output_dir).absolute()
        self.shared = self.folder / "shared"
        self.world = self.shared / "world"

    def make_shared(self) -> None:
        """World, SFT model, policy init and preferences."""
        world = {name.upper(): str(getattr(self.arguments, name)) for name in self.arguments.WORLD}
        self._script_once("make_world", self.world / "world.json", world)
        self._script_once("train_sft", self.sft() / "config.json", {})
        self._script_once("sample_preferences", self.shared / "preferences" / "preferences.json", {})
        self._script_once("initialize_policy_model", self.init() / FINISHED, {})

    def make_blind(self) -> None:
        """A base that was never taught to match words with the picture, and its SFT model and policy init."""
        base = self.folder / "blind" / "base"
        argv = ["--matching", "False", "--output_dir", str(base), *self.arguments.of_base()]
        if not (base / "build.json").exists():
            self._start([sys.executable, "-m", "llava_rlhf.tiny_world.build_base", *argv], "build_base", {})
        own = {"RUN_DIR": str(self.folder / "blind"), "WORLD_DIR": str(self.world)}
        self._script_once("train_sft", self.sft("blind") / "config.json", {**own, "BASE_MODEL": str(base)})
        self._script_once("initialize_policy_model", self.init("blind") / FINISHED, own)

    def sft(self, base: str = "sighted") -> Path:
        """The base of judges and policies."""
        return self._of(base) / "sft" / "merged"

    def init(self, base: str = "sighted") -> Path:
        """The policy that studies start from."""
        return self._of(base) / "policy_init"

    def scenes(self) -> dict[str, Scene]:
        """Ground truth by image name."""
        return read_scenes(self.world / "scenes.json")

    def held_out(self) -> Path:
        """Preference file that no judge is trained on."""
        return self._pairs()[1]

    def judge(self, judge: Judge) -> Path:
        """Its run folder, trained where it isn't yet."""
        folder = self.folder / "judges" / str(judge)
        if (folder / FINISHED).exists():
            return folder
        rows = drawn_pairs(json.loads(self._pairs()[0].read_text()), judge.pairs, judge.seed)
        pairs = self.write(f"pairs/{judge.pairs}-{judge.seed}.json", rows)
        steps = round(self.arguments.reward_steps * (judge.pairs / 100) ** 0.4)
        variables = self._variables(judge.seed, judge.kind, judge.noise, folder) | {
            "BASE_MODEL": str(self.sft(judge.base)),
            "PREFERENCES": str(pairs),
            "MAX_STEPS": str(max(1, steps)),
            "EVAL_SIZE": "0",
        }
        whole = ("--eval_strategy", "no", "--load_best_model_at_end", "False", "--save_strategy", "no")
        self._train("train_reward_model", variables, whole, folder)
        return folder

    def scores(self, judge: Judge, rows: Path, name: str) -> list[dict[str, Any]]:
        """Rows of answers or pairs with the judge's scores."""
        output = self.folder / "scores" / str(judge) / f"{name}.jsonl"
        if not output.exists():
            flags = {
                "reward_model_name_or_path": self.judge(judge),
                "base_model_name": self.sft(judge.base),
                "dataset_path": rows,
                "image_folder": self.world / "images",
                "image_to_caption_file": self.captions(judge.noise),
                "output_file": output,
                "batch_size": "64",
                "use_cpu": True,
                **self._lengths(),
                # An answer may be longer in tokens when its text is read again than as it was written; none is left out.
                "response_len": str(2 * int(RESPONSE)),
            }
            run_program("score", _argv(flags), output.with_suffix(".log"))
        return read_json_lines(output)

    def prompts(self, name: str, source: str, open_only: bool, images: Sequence[str] | None = None) -> Path:
        """Rows of a file of the world: requests to describe alone, and those of some pictures."""
        rows = [
            row
            for row in json.loads((self.world / source).read_text())
            if (not open_only or row["caption_type"] == 1) and (images is None or row["image"] in images)
        ]
        return self.write(f"prompts/{name}.json", rows)

    def answers(
        self, name: str, prompts: Path, adapter: Path, temperature: float, samples: int, seed: int,
        base: str = "sighted",
    ) -> Path:  # fmt: skip
        """Answers of a policy."""
        output = self.folder / "answers" / f"{name}.jsonl"
        if not output.exists():
            flags = {
                "base_model_name": self.sft(base),
                "adapter": adapter,
                "dataset_path": prompts,
                "image_folder": self.world / "images",
                "output_file": output,
                "temperature": temperature,
                "samples": samples,
                "seed": seed,
                "batch_size": BATCH,
                "use_cpu": True,
                **self._lengths(),
            }
            run_program("answer_prompts", _argv(flags), output.with_suffix(".log"))
        return output

    def policy(
        self, name: str, judge: Judge, noise: Noise | None, changes: dict[str, str], flags: Sequence[str] = (),
        base: str = "sighted",
    ) -> Path:  # fmt: skip
        """A policy trained by PPO from the policy init against a judge; `changes` are variables of train_rl_model.sh."""
        folder = self.folder / "policies" / f"{name}-{judge.seed}"
        if not (folder / FINISHED).exists():
            variables = self._variables(judge.seed, judge.kind, noise, folder) | {
                "BASE_MODEL": str(self.sft(base)),
                "POLICY_MODEL": str(self.init(base)),
                "REWARD_MODEL": str(self.judge(judge)),
                "MAX_STEPS": str(self.arguments.ppo_steps),
                **changes,
            }
            own = () if judge.base == base else ("--reward_base_model_name", str(self.sft(judge.base)))
            self._train("train_rl_model", variables, (*flags, *own), folder)
        return folder

    def supervised(self, name: str, seed: int, rows: list[Any], changes: dict[str, str], preferences: bool = False) -> Path:  # fmt: skip
        """A policy trained on rows: the SFT model on dialogues, or the policy init on preferences, by DPO.

        `changes` are variables of initialize_policy_model.sh.
        """
        folder = self.folder / "policies" / f"{name}-{seed}"
        if not (folder / FINISHED).exists():
            file = str(self.write(f"rows/{name}-{seed}.json", rows))
            compared = {
                "OBJECTIVE": "dpo",
                "PREFERENCES": file,
                "POLICY_MODEL": str(self.init()),
                "LEARNING_RATE": DPO_RATE,
            }
            variables = self._variables(seed, "plain", None, folder) | {
                "BASE_MODEL": str(self.sft()),
                **(compared if preferences else {"DIALOGUES": file}),
                **changes,
            }
            self._train("initialize_policy_model", variables, (), folder)
        return folder

    def captions(self, noise: Noise | None) -> Path:
        """The file of captions, right or with errors."""
        if noise is None:
            return self.world / "image_to_caption.json"
        file = self.folder / "captions" / f"{noise}.json"
        if not file.exists():
            content = noisy_captions(self.scenes(), noise.kind, noise.percent / 100, 0)
            self.write(f"captions/{noise}.json", content)
        return file

    def _of(self, base: str) -> Path:
        return self.shared if base == "sighted" else self.folder / base

    def _pairs(self) -> tuple[Path, Path]:
        files = tuple(self.folder / "pairs" / f"{part}.json" for part in ("pool", "held_out"))
        if not files[1].exists():
            rows = json.loads((self.shared / "preferences" / "preferences.json").read_text())
            for file, part in zip(files, split_pairs(rows, self.arguments.held_out_pairs), strict=True):
                self.write(f"pairs/{file.name}", part)
        return files[0], files[1]

    def write(self, name: str, rows: Any) -> Path:
        """A JSON file below the folder of the studies."""
        file = self.folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(file, json.dumps(rows, indent=1) + "\n")
        return file

    def _lengths(self) -> dict[str, str]:
        return {"version": "tiny", "query_len": QUERY, "response_len": RESPONSE}

    def _variables(self, seed: int, kind: str, noise: Noise | None, folder: Path) -> dict[str, str]:
        return {
            "RUN_DIR": str(self.shared),
            "OUTPUT_DIR": str(folder),
            "SEED": str(seed),
            "FACTS": str(kind == "factual"),
            "CAPTIONS": str(self.captions(noise)),
        }

    def _train(self, script: str, variables: dict[str, str], flags: Sequence[str], folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was cut off
        used = run_script(script, variables, flags, folder.parent / f"{folder.name}.log")
        write_text_whole(folder / "cpu.json", json.dumps({"cpu": used}) + "\n")

    def _script_once(self, script: str, marker: Path, variables: dict[str, str]) -> None:
        if not marker.exists():
            own = {"RUN_DIR": str(self.shared), "PART_OF": "facts", **variables}
            self._start(["bash", str(SCRIPTS / f"{script}.sh")], script, own)

    def _start(self, command: list[str], name: str, variables: dict[str, str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        environment = {"PYTHON": sys.executable, **os.environ, **variables}
        log = self.folder / f"{name}.log"
        with log.open("w", encoding="utf-8") as file:
            done = subprocess.run(command, env=environment, stdout=file, stderr=file, check=False)
        if done.returncode:
            raise RuntimeError(f"{name} failed: {log}")


def _argv(flags: dict[str, Any]) -> list[str]:
    return [word for name, value in flags.items() for word in (f"--{name}", str(value))]
