"""Train the tiny world's base model (its stand-in for CLIP + Vicuna) from nothing and save it.

python -m llava_rlhf.tiny_world.build_base --output_dir scripts/tiny/base --seed 0
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from data_utils.facts import RewardPrompt
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.tiny_world.plan import Plan

PROMPTS = Path(__file__).resolve().parents[2] / "prompts"
MEASURED_NOISE = (0.0, 0.2, 0.4, 0.5)


@dataclass
class BuildArguments:
    """Settings of the base build. The curriculum's own numbers stand in `plan.Plan`."""

    output_dir: str = field(metadata={"help": "Folder for the base; replaced once the new base is complete."})
    seed: int = field(default=0, metadata={"help": "Seed of the initial weights and of all lessons."})
    naming_steps: int = field(default=Plan.naming_steps, metadata={"help": "Steps of stage 1."})
    mixture_steps: int = field(default=Plan.mixture_steps, metadata={"help": "Steps of stage 3."})
    threads: int = field(
        default=1, metadata={"help": "CPU threads; the model is too small for more to help."}
    )
    measured_images: int = field(
        default=256, metadata={"help": "Held-out pictures for each noise level at the end."}
    )


def build(settings: BuildArguments) -> dict[str, object]:
    """Train, measure and save; returns what is also written to `build.json` beside the model."""
    import torch
    from transformers import set_seed

    from llava_rlhf.tiny_world.base_model import build_model, save_base
    from llava_rlhf.tiny_world.curriculum import Curriculum
    from llava_rlhf.tiny_world.lessons import Teacher
    from llava_rlhf.tiny_world.measure import measure
    from llava_rlhf.tiny_world.tokenizer import build_tokenizer

    torch.set_num_threads(settings.threads)
    set_seed(settings.seed)
    start, start_cpu = time.perf_counter(), time.process_time()
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    plain, factual = (RewardPrompt.from_file(PROMPTS / f"tiny_{k}reward_prompt.txt") for k in ("", "fact_"))
    plan = Plan(naming_steps=settings.naming_steps, mixture_steps=settings.mixture_steps)
    curriculum = Curriculum(model, Teacher(tokenizer, plain, factual), plan, settings.seed)
    model.train()
    print(f"stage 1: cells named rightly {curriculum.name_things():.3f}")
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
    for noise in MEASURED_NOISE:
        skill = measure(model, tokenizer, noise, settings.measured_images, settings.seed)
        record[f"noise {noise}"] = asdict(skill)
        print(f"noise {noise}: {skill.line()}", flush=True)
    folder = Path(settings.output_dir)
    save_base(model, tokenizer, folder)
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
