"""Name of a benchmark → the benchmark, with its judge where it needs one."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from llava_rlhf.engines.judge_client import Judge, JudgeClient, ReplyCache
from llava_rlhf.evaluation.arguments import JudgeArguments
from llava_rlhf.evaluation.benchmark_arguments import BenchmarkArguments
from llava_rlhf.evaluation.benchmarks import hallusionbench, mmhal, object_halbench
from llava_rlhf.evaluation.benchmarks.amber import Amber
from llava_rlhf.evaluation.benchmarks.chair import Chair
from llava_rlhf.evaluation.benchmarks.hallusionbench import HallusionBench
from llava_rlhf.evaluation.benchmarks.items import Benchmark
from llava_rlhf.evaluation.benchmarks.judge_prompts import JudgePrompt
from llava_rlhf.evaluation.benchmarks.mm_rlhf_rewardbench import MMRLHFRewardBench
from llava_rlhf.evaluation.benchmarks.mmhal import MMHal
from llava_rlhf.evaluation.benchmarks.multimodal_rewardbench import MultimodalRewardBench
from llava_rlhf.evaluation.benchmarks.object_halbench import ObjectHalBench
from llava_rlhf.evaluation.benchmarks.pope import Pope
from llava_rlhf.evaluation.benchmarks.reward_files import BestOfN, RewardAccuracy
from llava_rlhf.evaluation.benchmarks.tiny_world import TinyWorld
from llava_rlhf.evaluation.benchmarks.vl_rewardbench import VLRewardBench
from llava_rlhf.evaluation.benchmarks.words import ListedWords, TaggedWords, Words

if TYPE_CHECKING:
    from llava_rlhf.evaluation.local_judge import JudgeModel

PAIRS = {one.name: one for one in (VLRewardBench, MMRLHFRewardBench, MultimodalRewardBench)}
PROMPTS = Path(__file__).parents[2] / "prompts"
# Benchmarks that a judge can read → what its prompt shows.
JUDGED = {
    "mmhal": mmhal.PROMPT_NAMES,
    "hallusionbench": hallusionbench.PROMPT_NAMES,
    "object_halbench": object_halbench.PROMPT_NAMES,
}


@dataclass(frozen=True)
class Scoring:
    """How answers are scored.

    Attributes:
        answers: file of answers, or of scores.
        cache: where a judge's replies are kept, if the judge's own settings name no file.
        device: of a judge on this machine: auto, cpu, cuda …
        judge: who rates.
        models: folder and device → the language model there; scorings that share this load each of them once.
    """

    answers: str
    cache: Path
    device: str
    judge: JudgeArguments
    models: dict[tuple[str, str], JudgeModel] = field(default_factory=dict)


def make_benchmark(arguments: BenchmarkArguments, scoring: Scoring | None = None) -> Benchmark:
    """The benchmark that was asked for; without `scoring` it only asks.

    Raises:
        ValueError: its files can't be read, or the judge can't be asked.
    """
    files, name = arguments.benchmark_files, arguments.benchmark
    if name == "pope":
        return Pope(files)
    if name == "chair":
        return Chair(
            files, arguments.synonyms_file, arguments.question, arguments.images, arguments.image_seed
        )
    if name == "amber":
        return Amber(files[0], _words(arguments) if scoring else None, arguments.amber_reading)
    if name == "tiny_world":
        return TinyWorld(files[0])
    if name in PAIRS:
        return PAIRS[name](files[0])
    if name == "reward_accuracy":
        return RewardAccuracy()
    if name == "best_of_n":
        return BestOfN(scoring.answers if scoring else "")
    judge, prompt = (None, None) if scoring is None else _judge_and_prompt(name, scoring)
    if name == "hallusionbench":
        return HallusionBench(files[0], judge, prompt)
    if name == "object_halbench":
        return ObjectHalBench(files, arguments.synonyms_file, judge, prompt)
    return MMHal(files[0], judge, prompt, scoring.judge.judge_repeats if scoring else 0)


def _words(arguments: BenchmarkArguments) -> Callable[[Collection[str]], Words]:
    if arguments.amber_words == "lists":
        return ListedWords
    return lambda vocabulary: TaggedWords(arguments.spacy_model)


def _judge_and_prompt(name: str, scoring: Scoring) -> tuple[Judge | None, JudgePrompt | None]:
    """Both None where a rule reads the answers. Raises ValueError where it is not said who does, or said twice."""
    judge = scoring.judge
    if name != "mmhal":
        if judge.verdict is None:
            raise ValueError(
                f"--benchmark {name}: say who reads the answers, --verdict judge (with --judge_url and --judge_model, or "
                "--judge_model_path) or --verdict rule; their numbers are not comparable"
            )
        if judge.judge_repeats > 1:
            raise ValueError(f"--judge_repeats {judge.judge_repeats}: {name} asks once")
        if judge.verdict == "rule":
            named = judge.judge_url or judge.judge_model or judge.judge_model_path
            if named:
                raise ValueError(
                    f"--verdict rule with the judge {named}: nobody would ask it; leave one of the two out"
                )
            return None, None
    elif judge.verdict == "rule":
        raise ValueError("--verdict rule: mmhal is read by a judge only")
    prompt = JudgePrompt(judge.judge_prompt_file or PROMPTS / f"{name}_judge_prompt.txt", JUDGED[name])
    return _make_judge(judge, scoring), prompt


def _make_judge(arguments: JudgeArguments, scoring: Scoring) -> Judge:
    endpoint = arguments.endpoint()
    if endpoint is not None:
        endpoint.key()  # a missing one is noticed before a file is opened
    cache = ReplyCache(arguments.judge_cache or scoring.cache)
    if endpoint is not None:
        return JudgeClient(endpoint, cache)
    import torch  # only a judge of one's own needs it

    from llava_rlhf.evaluation.local_judge import JudgeModel, LocalJudge

    device = scoring.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch without CUDA
        raise ValueError(f"--judge_device {device}: {str(error).splitlines()[0]}") from None
    place = (arguments.judge_model_path, device)
    if place not in scoring.models:
        scoring.models[place] = JudgeModel(*place)
    return LocalJudge(scoring.models[place], arguments.options(), cache)
