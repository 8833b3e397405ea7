"""Time PPO steps without a feature cache, with an empty and with a filled one, side by side in one process.

    PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/feature_cache.py --output_file FILE

Sizes and models are those of `ppo_step.py`, images JPEG photographs' size (640 × 480, one a prompt). `ViT-L` is a tower of
the published models' size before a small language model; only its images are timed.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import json
import shutil
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from benchmarks.ppo_world import SIZES, Size, build_trainer, random_model, random_prompts
from data_utils.batches import PromptBatch, collate_prompts
from data_utils.feature_files import FeatureFiles, read_images
from data_utils.images import ImagePipeline
from llava_rlhf.assembly.image_features import SeenImages
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.run_folder import write_text_whole
from llava_rlhf.runs.run_record import environment
from llava_rlhf.runs.stopping import StopSignals

KINDS = ("off", "cold", "warm")
VIT_L = Size(1024, 1, 1024, 8, 336, 1024, 24, 8, (8,))


@dataclass
class CacheBenchmarkArguments:
    """What to time."""

    _argument_group_name = "benchmark"

    output_file: str = field(metadata={"help": "JSON file to write."})
    steps: int = field(
        default=4, metadata={"help": "Steps of each kind; the first is left out of the median."}
    )


def prepare(argv: Sequence[str]) -> CacheBenchmarkArguments:
    """Parse the command line."""
    return StrictParser((CacheBenchmarkArguments,), description=__doc__).parse(argv)[0]


def run(arguments: CacheBenchmarkArguments) -> None:
    """Time all sizes, print a table and write the numbers."""
    torch.set_num_threads(1)
    results = {}
    for name, size in {"tiny": SIZES["tiny"], "mid": SIZES["mid"], "ViT-L": VIT_L}.items():
        with tempfile.TemporaryDirectory() as folder:
            results[name] = time_size(size, Path(folder), arguments.steps, whole=name != "ViT-L")
        for kind, numbers in results[name].items():
            parts = "  ".join(f"{part} {seconds:.3f} cpu s" for part, seconds in numbers.items())
            print(f"{name:<6} {kind:<5} {parts}", flush=True)
    record = {"when": time.strftime("%Y-%m-%d"), "environment": environment(), "results": results}
    write_text_whole(Path(arguments.output_file), json.dumps(record, indent=2) + "\n")


def time_size(size: Size, folder: Path, steps: int, whole: bool) -> dict[str, dict[str, float]]:
    """Kind → median CPU seconds of reading and encoding the images of a step, and of the whole step."""
    rows = len(size.lengths)
    for row in range(rows):
        photograph = torch.randint(0, 255, (15, 20, 3), generator=torch.Generator().manual_seed(row))
        Image.fromarray(photograph.byte().numpy()).resize((640, 480)).save(folder / f"{row}.jpg", quality=90)
    side = {"height": size.image, "width": size.image}
    pipeline = ImagePipeline(CLIPImageProcessorPil(size={"shortest_edge": size.image}, crop_size=side))
    files = FeatureFiles(folder / "cache", (size.positions, size.hidden))
    trainer = build_trainer(size, str(folder))[0] if whole else None
    vlm = trainer.collector.roles.policy.bank.vlm if whole else random_model(size, torch.float32, "cpu")
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
    for step in range(steps):
        for kind in KINDS:
            if kind == "cold":
                shutil.rmtree(files.folder)
            used = None if kind == "off" else files
            started = time.process_time()
            batch = read_prompts(size, pipeline, used, folder)
            SeenImages({} if used is None else {"policy": used}).encode(
                "policy", vlm, batch.images, batch.items
            )
            numbers = {"images": time.process_time() - started}
            if whole:
                if kind == "cold":
                    shutil.rmtree(files.folder)
                trainer.collector.caches = {} if used is None else {"policy": used}
                started = time.process_time()
                trainer._step(iter([read_prompts(size, pipeline, used, folder)]), step, folder, StopSignals())
                numbers["step"] = time.process_time() - started
            found[kind].append(numbers)
    return {
        kind: {name: statistics.median(one[name] for one in timed[1:]) for name in timed[0]}
        for kind, timed in found.items()
    }


def read_prompts(
    size: Size, pipeline: ImagePipeline, files: FeatureFiles | None, folder: Path
) -> PromptBatch:
    """The prompts of a step with images from `folder`, as the data set reads them."""
    items: list[Any] = []
    for item in random_prompts(replace(size, image=14), len(size.lengths)).items:
        images, stored = read_images(pipeline, files, folder, item.image_names)
        items.append(replace(item, images=images.pixels, stored=stored))
    return collate_prompts(items)


if __name__ == "__main__":
    run_program(prepare, run)
