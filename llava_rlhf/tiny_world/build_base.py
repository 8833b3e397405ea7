"""Train the tiny world's base model (its stand-in for CLIP + Vicuna) from nothing and save it.

python -m llava_rlhf.tiny_world.build_base --family llava --output_dir scripts/tiny/base --seed 0
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from data_utils.facts import RewardPrompt
from llava_rlhf.runs.parsing import StrictParser, run_program

PROMPTS = Path(__file__).resolve().parents[2] / "prompts"
FAMILIES = ("llava", "qwen2_5_vl")  # of `kinds`, which loads torch


@dataclass
class BuildArguments:
    """Settings of the base build. The curriculum's own numbers stand in `plan.Plan`, one for each family."""

    output_dir: str = field(metadata={"help": "Folder for the base; replaced once the new base is complete."})
    seed: int = field(default=0, metadata={"help": "Seed of the initial weights and of all lessons."})
    family: str = field(default="llava", metadata={"help": f"Of the base: {' or '.join(FAMILIES)}."})
    naming_steps: int | None = field(default=None, metadata={"help": "Steps of stage 1; None: the plan's."})
    checking_steps: int | None = field(default=None, metadata={"help": "Steps of stage 2; None: the plan's."})
    mixture_steps: int | None = field(default=None, metadata={"help": "Steps of stage 3; None: the plan's."})
    matching: bool = field(
        default=True,
        metadata={
            "help": "False: no lesson asks whether a word is in the picture, for a base that can't check answers by sight."
        },
    )
    threads: int = field(
        default=1, metadata={"help": "CPU threads; the model is too small for more to help."}
    )
    measured_images: int = field(
        default=256, metadata={"help": "Held-out pictures for each noise level at the end."}
    )

    def __post_init__(self) -> None:
        if not self.matching and self.checking_steps:
            raise ValueError(
                f"--checking_steps {self.checking_steps}: there are none with --matching False; leave it away"
            )
        if self.family not in FAMILIES:
            raise ValueError(
                f"--family {self.family}: there is no tiny world for it; choose {' or '.join(FAMILIES)}"
            )

    @property
    def steps(self) -> dict[str, int]:
        """Those that were given, by their names in the plan."""
        given = {
            "naming_steps": self.naming_steps,
            "checking_steps": self.checking_steps,
            "mixture_steps": self.mixture_steps,
        }
        return {name: steps for name, steps in given.items() if steps is not None}


def build(settings: BuildArguments) -> dict[str, object]:
    """Train, measure and save; returns what is also written to `build.json` beside the model."""
    import torch
    from transformers import set_seed

    from llava_rlhf.tiny_world.curriculum import Curriculum
    from llava_rlhf.tiny_world.kinds import KINDS
    from llava_rlhf.tiny_world.lessons import Teacher
    from llava_rlhf.tiny_world.measure import measure
    from models.families.registry import family_of

    torch.set_num_threads(settings.threads)
    set_seed(settings.seed)
    start, start_cpu = time.perf_counter(), time.process_time()
    kind = KINDS[settings.family]
    tokenizer = kind.build_tokenizer()
    model = kind.build_model(tokenizer)
    plain, factual = (RewardPrompt.from_file(PROMPTS / f"tiny_{k}reward_prompt.txt") for k in ("", "fact_"))
    plan = replace(kind.plan if settings.matching else kind.plan.without_matching(), **settings.steps)
    teacher = Teacher(kind, family_of(model.config), tokenizer, (plain, factual))
    curriculum = Curriculum(model, teacher, plan, settings.seed)
    model.train()
    print(f"stage 1: positions named rightly {curriculum.name_things():.3f}")
    for step, losses in curriculum.learn_language():
        numbers = ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items())
        print(f"step {step}: {numbers} ({time.perf_counter() - start:.0f} s)", flush=True)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    trained_s = time.perf_counter() - start
    record: dict[str, object] = {
        "seed": settings.seed,
        "seconds": round(trained_s),
        "cpu_seconds": round(time.process_time() - start_cpu),
        "plan": asdict(plan),
    }
    for noise in kind.measured_noise:
        skill = measure(kind, model, tokenizer, noise, settings.measured_images, settings.seed)
        record[f"noise {noise}"] = asdict(skill)
        print(f"noise {noise}: {skill.line()}", flush=True)
    folder = Path(settings.output_dir)
    kind.save_base(model, tokenizer, folder)
    (folder / "build.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(
        f"base in {folder}: {sum(p.numel() for p in model.parameters())} parameters, "
        f"{record['seconds']} s of training ({record['cpu_seconds']} s of CPU time)"
    )
    return record


def prepare(argv: Sequence[str]) -> BuildArguments:
    """Parse the command line; an unknown flag is an error that names the closest one."""
    return StrictParser([BuildArguments], description=__doc__.splitlines()[0]).parse(argv)[0]


if __name__ == "__main__":
    run_program(prepare, build)
