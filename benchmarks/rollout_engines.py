"""Answers of both rollout engines: tokens per CPU second of the policy itself and of a vLLM server, side by side.

    VLLM_VENV=.venv-vllm PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/rollout_engines.py --output_file FILE

Two bases, the tiny world's and a random one of `ppo_step.py`'s mid size, with the adapter of a policy and without. Every
N-th word ends an answer, so that lengths are mixed; prompts and pictures are new in every round, as nothing may be kept of
the last. CPU seconds of the server are those of its whole process group, those of its client, this process, are added.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import psutil
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, LlavaProcessor

from benchmarks.ppo_world import PATCH, SIZES, random_model, stand_in_tokenizer
from data_utils.batches import PromptBatch, collate_prompts
from data_utils.image_choices import ImageChoices
from data_utils.items import PromptItem
from data_utils.schema import AnswerType
from llava_rlhf.assembly.image_features import encode_images, padded_queries
from llava_rlhf.assembly.reward_models import load_frozen
from llava_rlhf.assembly.roles import TextSide, load_text_side, new_policy
from llava_rlhf.conversion.published_names import publish_names
from llava_rlhf.engines.adapters import ServedAdapter
from llava_rlhf.engines.http import Server
from llava_rlhf.engines.pictures import ServedPictures
from llava_rlhf.engines.policy_engine import PolicyEngine
from llava_rlhf.engines.pool import ServerPool
from llava_rlhf.engines.probe import Probe
from llava_rlhf.engines.prompts import PromptWriter
from llava_rlhf.engines.serving import SERVED_NAME
from llava_rlhf.engines.vllm_engine import VLLMEngine
from llava_rlhf.runs.arguments import AdapterArguments
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.run_folder import write_text_whole
from llava_rlhf.runs.run_record import environment
from models.base_files import read_family
from models.generation import Sample, SamplingSettings, sample
from models.roles import Policy
from models.vlm import BaseSettings, VisionLanguageModel
from tests.support.vllm_server import TINY_BASE, VLLMServer, new_server

BASES = ("tiny", "mid")
RANK = 64  # of the adapter, as in the published recipe
SECONDS = 3600.0  # for all rounds of a base
Answering = Callable[[PromptBatch, torch.Tensor], Sample]


@dataclass
class EnginesArguments:
    """What to time."""

    _argument_group_name = "benchmark"

    output_file: str = field(metadata={"help": "JSON file to write."})
    rows: int = field(default=32, metadata={"help": "Answers of a round, all at once."})
    rounds: int = field(default=3, metadata={"help": "Rounds that count; one more comes before them."})
    response_len: int = field(default=128, metadata={"help": "Tokens of an answer, at most."})
    mean_len: int = field(default=40, metadata={"help": "One word in so many ends an answer."})

    def __post_init__(self):
        for name in ("rows", "rounds", "response_len", "mean_len"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class World:
    """A base with a policy's adapter and without (`bare`), and how both answer; pictures lie in `folder`."""

    folder: Path
    text: TextSide
    policy: Policy
    bare: VisionLanguageModel
    settings: SamplingSettings

    @staticmethod
    def of(base: Path, folder: Path, arguments: EnginesArguments) -> "World":
        """Load a base, with an adapter of random weights."""
        policy = new_policy(base, BaseSettings(), AdapterArguments(lora_r=RANK), False)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in policy.bank.parameters_of(policy.adapter).values():
                weight += 0.01 * torch.randn(weight.shape, generator=generator)
        text = load_text_side(base, ImageChoices("pad"), "tiny")
        family = text.family
        banned = (family.image_token_id,)
        stops = tuple(
            set(range(arguments.mean_len - 1, policy.bank.vlm.vocab_size, arguments.mean_len)) - {*banned}
        )
        pad = text.tokenizer.pad_token_id
        settings = SamplingSettings(arguments.response_len, stops, pad, 1.0, banned)
        return World(folder, text, policy, load_frozen(base, BaseSettings()), settings)

    def prompts(self, seed: int, rows: int) -> PromptBatch:
        """Prompts of 12 to 48 random words; three of four have a picture."""
        generator = torch.Generator().manual_seed(seed)
        return collate_prompts([self._prompt(row, seed, generator) for row in range(rows)])

    def _prompt(self, row: int, seed: int, generator: torch.Generator) -> PromptItem:
        words = int(torch.randint(12, 49, (), generator=generator))
        ids = torch.randint(5, self.policy.bank.vlm.vocab_size - 1, (words,), generator=generator).tolist()
        names: tuple[str, ...] = ()
        if row % 4:
            names, ids[words // 2] = (f"{seed}-{row}.png",), self.text.image_token_id
            picture = torch.randint(0, 255, (8, 8, 3), generator=generator).byte().numpy()
            Image.fromarray(picture).resize((224, 224)).save(self.folder / names[0])
        pixels = self.text.pipeline(self.folder, names).pixels
        place = {"row": row, "id": str(row), "query_ids": ids, "image_names": names, "images": pixels}
        nothing = {"reward_prompt_ids": [], "reward_images": None, "captions": (), "question": ""}
        return PromptItem(**place, **nothing, answer_type=AnswerType.GENERAL, length_bonus=1.0)


def prepare(argv: Sequence[str]) -> EnginesArguments:
    """Parse the command line."""
    return StrictParser((EnginesArguments,), description=__doc__).parse(argv)[0]


def run(arguments: EnginesArguments) -> None:
    """Time both engines on all bases, print a table and write the numbers."""
    torch.set_num_threads(1)
    results = []
    for name in BASES:
        with tempfile.TemporaryDirectory() as folder:
            base = TINY_BASE if name == "tiny" else write_mid_base(Path(folder, "base"))
            world = World.of(base, Path(folder), arguments)
            variables = {"BASE_MODEL": str(base), "LORA_RANK": str(RANK), "IMAGES_PER_PROMPT": "1"}
            server = new_server(Path(folder), **variables).start()
            try:
                found = [{"base": name, **one} for one in time_world(world, server, arguments)]
            finally:
                server.stop()
        print(table(found), flush=True)
        results += found
    record = {"when": time.strftime("%Y-%m-%d"), "environment": environment(), "results": results}
    write_text_whole(Path(arguments.output_file), json.dumps(record, indent=2) + "\n")


def write_mid_base(folder: Path) -> Path:
    """The random base of `ppo_world.py`'s mid size, as a released one comes."""
    size = SIZES["mid"]
    random_model(size, torch.float32, "cpu").model.save_pretrained(folder)
    side = {"height": size.image, "width": size.image}
    tokenizer = stand_in_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})  # vLLM looks for it in a text
    LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": size.image}, crop_size=side),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    publish_names(folder, read_family(folder).published_name)
    return folder


def time_world(world: World, server: VLLMServer, arguments: EnginesArguments) -> Iterator[dict]:
    """Each engine with and without the adapter, in turn within each round."""
    with engines(world, server) as found:
        spent = {kind: {"tokens": 0, "cpu s": 0.0, "wall s": 0.0} for kind in found}
        for turn in range(arguments.rounds + 1):
            for place, (kind, answer) in enumerate(found.items()):
                batch = world.prompts(turn * len(found) + place, arguments.rows)
                generator = torch.Generator().manual_seed(turn)
                uniforms = torch.rand(arguments.rows, arguments.response_len, generator=generator)
                wall, cpu = time.perf_counter(), cpu_seconds(server.group)
                tokens = int(answer(batch, uniforms).mask.sum())
                if turn:
                    spent[kind]["tokens"] += tokens
                    spent[kind]["cpu s"] += cpu_seconds(server.group) - cpu
                    spent[kind]["wall s"] += time.perf_counter() - wall
    answers = arguments.rounds * arguments.rows
    for (engine, adapter), numbers in spent.items():
        yield {"engine": engine, "adapter": adapter, "mean length": numbers["tokens"] / answers, **numbers}


@contextmanager
def engines(world: World, server: VLLMServer) -> Iterator[dict[tuple[str, str], Answering]]:
    """(engine, adapter) → how prompts are answered by it."""
    pool = ServerPool([Server(server.url, None, SECONDS, 65)], 64)
    writer = PromptWriter(world.text, ServedPictures(world.folder, world.text.pipeline, world.text.family))
    batch = world.prompts(10_000, 2)
    probe = Probe(batch.items[1], writer, world.settings)
    adapter = ServedAdapter(world.policy, pool, world.folder / "adapters", probe, str(TINY_BASE))
    bare = SimpleNamespace(deliver=lambda step, until: SERVED_NAME, shown=lambda server: True)
    vocabulary = world.policy.bank.vlm.vocab_size

    def served(brought: ServedAdapter | SimpleNamespace) -> Answering:
        engine = VLLMEngine(pool, writer, world.settings, vocabulary, brought, SECONDS)
        engine.begin_step(0)
        return lambda batch, uniforms: engine.start(batch, uniforms, None)()

    try:
        yield {
            ("local", "yes"): lambda batch, uniforms: answered_here(world, batch, uniforms, True),
            ("vllm", "yes"): served(adapter),
            ("local", "no"): lambda batch, uniforms: answered_here(world, batch, uniforms, False),
            ("vllm", "no"): served(bare),
        }
    finally:
        adapter.end()
        pool.close()


def answered_here(world: World, batch: PromptBatch, uniforms: torch.Tensor, adapter: bool) -> Sample:
    """By the policy, pictures included, as a server encodes them too."""
    vlm = world.policy.bank.vlm if adapter else world.bare
    with torch.no_grad():
        features = encode_images(vlm, batch.images)
        if adapter:
            return PolicyEngine(world.policy, world.settings).start(batch, uniforms, features)()
        queries = [item.query_ids for item in batch.items]
        prompts = padded_queries(queries, features, vlm, world.settings.pad_id)
        return sample(vlm, *prompts, features, world.settings, uniforms)


def cpu_seconds(group: int) -> float:
    """Of this process and of all processes of a group, in user and system mode, so far."""
    total = 0.0
    for process in psutil.process_iter():
        try:
            if process.pid == os.getpid() or os.getpgid(process.pid) == group:
                times = process.cpu_times()
                total += times.user + times.system
        except (psutil.Error, ProcessLookupError):  # it has just ended
            continue
    return total


def table(results: Sequence[dict]) -> str:
    """A line for each base, engine and adapter."""
    lines = [
        "| base | engine | adapter | mean length | tokens | CPU s | tokens per CPU s |",
        "|" + "---|" * 7,
    ]
    for one in results:
        rate = one["tokens"] / one["cpu s"]
        lines.append(
            f"| {one['base']} | {one['engine']} | {one['adapter']} | {one['mean length']:.0f} | {one['tokens']} "
            f"| {one['cpu s']:.1f} | {rate:.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_program(prepare, run)
