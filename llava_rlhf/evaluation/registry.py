"""Name of a benchmark → the benchmark, with its judge where it needs one."""

from __future__ import annotations

from pathlib import Path

from llava_rlhf.engines.judge_client import Judge, JudgeClient, ReplyCache
from llava_rlhf.evaluation.arguments import BenchmarkArguments, JudgeArguments, ScoreArguments
from llava_rlhf.evaluation.benchmarks.chair import Chair
from llava_rlhf.evaluation.benchmarks.items import Benchmark
from llava_rlhf.evaluation.benchmarks.mm_rlhf_rewardbench import MMRLHFRewardBench
from llava_rlhf.evaluation.benchmarks.mmhal import JudgePrompt, MMHal
from llava_rlhf.evaluation.benchmarks.multimodal_rewardbench import MultimodalRewardBench
from llava_rlhf.evaluation.benchmarks.pope import Pope
from llava_rlhf.evaluation.benchmarks.reward_files import BestOfN, RewardAccuracy
from llava_rlhf.evaluation.benchmarks.tiny_world import TinyWorld
from llava_rlhf.evaluation.benchmarks.vl_rewardbench import VLRewardBench

PAIRS = {one.name: one for one in (VLRewardBench, MMRLHFRewardBench, MultimodalRewardBench)}


def make_benchmark(
    arguments: BenchmarkArguments, scoring: ScoreArguments | None = None, judge: JudgeArguments | None = None
) -> Benchmark:
    """The benchmark that was asked for; without `scoring` and `judge` it only asks.

    Raises:
        ValueError: its files can't be read, or the judge can't be asked.
    """
    files = arguments.benchmark_files
    if arguments.benchmark == "pope":
        return Pope(files)
    if arguments.benchmark == "chair":
        return Chair(
            files, arguments.synonyms_file, arguments.question, arguments.images, arguments.image_seed
        )
    if arguments.benchmark == "tiny_world":
        return TinyWorld(files[0])
    if arguments.benchmark in PAIRS:
        return PAIRS[arguments.benchmark](files[0])
    if arguments.benchmark == "reward_accuracy":
        return RewardAccuracy()
    if arguments.benchmark == "best_of_n":
        return BestOfN("" if scoring is None else scoring.answers)
    if scoring is None or judge is None:
        return MMHal(files[0], None, None, 0)
    prompt = JudgePrompt(judge.judge_prompt_file)
    return MMHal(files[0], _make_judge(judge, scoring), prompt, judge.judge_repeats)


def _make_judge(arguments: JudgeArguments, scoring: ScoreArguments) -> Judge:
    endpoint = arguments.endpoint()
    if endpoint is not None:
        endpoint.key()  # a missing one is noticed before a file is opened
    cache = ReplyCache(arguments.judge_cache or Path(scoring.output_file).parent / "judge_cache.jsonl")
    if endpoint is not None:
        return JudgeClient(endpoint, cache)
    import torch  # only a judge of one's own needs it

    from llava_rlhf.evaluation.local_judge import LocalJudge

    device = scoring.judge_device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch without CUDA
        raise ValueError(f"--judge_device {device}: {str(error).splitlines()[0]}") from None
    return LocalJudge(arguments.judge_model_path, arguments.options(), cache, device)
