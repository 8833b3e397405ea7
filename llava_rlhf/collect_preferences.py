"""Collect preferences: two answers of a checkpoint to each prompt, judged by people on a page or by an AI annotator.

    python -m llava_rlhf.collect_preferences --output_dir runs/preferences \\
        --base_model_name checkpoints/llava-7b-v1.5-224-sft --dataset_path data/prompts.json --image_folder data/images

runs/preferences/preferences.json is a preference file in the published format, written after every judgement; started again, the
program goes on where it was. See docs/pages.md.
"""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_utils.facts import FactBook, MissingCaptions
from data_utils.problems import DataError
from data_utils.schema import read_captions
from llava_rlhf.collection.ai_annotator import AIAnnotator, read_prompt
from llava_rlhf.collection.arguments import CollectArguments, CollectedDataArguments, PreferenceJudgeArguments
from llava_rlhf.collection.assignments import AssignmentQueue
from llava_rlhf.collection.folder import CollectionFolder, answered_rows
from llava_rlhf.collection.pairs import Pair
from llava_rlhf.engines.arguments import ServerArguments
from llava_rlhf.engines.judge_client import Endpoint, JudgeClient, JudgeError, ReplyCache
from llava_rlhf.pages.arguments import PageArguments
from llava_rlhf.runs.arguments import ModelArguments
from llava_rlhf.runs.logs import start_logging
from llava_rlhf.runs.parsing import StrictParser, run_program

if TYPE_CHECKING:
    from llava_rlhf.collection.sampling import Lines
    from llava_rlhf.collection.sources import Source


@dataclass(frozen=True)
class CollectRun:
    """A checked collection with its open folder; `endpoint` is None where people judge."""

    arguments: CollectArguments
    image_folder: Path
    page: PageArguments
    source: "Source"
    folder: CollectionFolder
    facts: FactBook
    endpoint: Endpoint | None
    judge_prompt: str
    label_noise: float


def prepare(argv: Sequence[str]) -> CollectRun:
    """Parse and check everything before a model is loaded. Raises ValueError for what a user can get wrong."""
    classes = (
        CollectArguments,
        CollectedDataArguments,
        PreferenceJudgeArguments,
        PageArguments,
        ModelArguments,
    )
    arguments, data, judge, page, model, engine = StrictParser(
        (*classes, ServerArguments), description=__doc__
    ).parse(argv)
    print(f"loading what is needed to collect into {arguments.output_dir} …", flush=True)
    from llava_rlhf.collection.sources import find_source

    start_logging(main_process=True)
    model.check_attention(arguments.bf16, False, arguments.use_cpu)
    endpoint = None
    if arguments.annotator == "judge":
        endpoint = judge.endpoint()
    else:
        judge.refuse_without_judge()
        page.check_free()
    judge_prompt = read_prompt(judge.judge_prompt_file)
    facts = read_facts(arguments.image_to_caption_file)
    source = find_source(arguments, data, model, engine)
    source.ask_servers(answered_rows(arguments.output_dir))
    folder = CollectionFolder(arguments.output_dir, source.identity())
    image_folder = Path(data.image_folder)
    return CollectRun(
        arguments, image_folder, page, source, folder, facts, endpoint, judge_prompt, judge.label_noise
    )


def run(prepared: CollectRun) -> None:
    """Sample a little ahead of whoever judges, and keep the preference file up to date."""
    from llava_rlhf.collection.sampling import filled_in_background
    from llava_rlhf.pages.serving import serve

    arguments, folder = prepared.arguments, prepared.folder
    try:
        queue = folder.queue(arguments.shared_share, arguments.seed)
        known = folder.pairs.rows
        if prepared.endpoint is not None:
            label_with_judge(prepared, queue, prepared.source.batches(known))
        else:
            enough = lambda: queue.untouched() >= arguments.pairs_ahead  # noqa: E731
            with filled_in_background(folder.pairs, prepared.source.batches(known), enough):
                serve(lambda: labelling(prepared, queue), prepared.page)
        summary = folder.summarise()
        print(
            f"{summary['preferences']} preferences of {summary['judged']} judged pairs in {folder.preferences.path}"
        )
        if summary["preferences"]:
            print(f"next: {next_step(folder)}")
    except JudgeError as error:
        raise SystemExit(
            f"error: {error}\nJudgements and replies so far are kept: the same command goes on from there"
        ) from None
    finally:
        folder.close()


def labelling(prepared: CollectRun, queue: AssignmentQueue) -> Any:
    """The page for people."""
    from llava_rlhf.pages.labelling_page import labelling_page  # brings Gradio, see `serving`
    from llava_rlhf.pages.labelling_screen import Showable

    showable = Showable(
        prepared.image_folder,
        lambda pair: captions_of(prepared, pair),
        prepared.arguments.goal,
        next_step(prepared.folder),
    )
    return labelling_page(queue, showable, prepared.folder.summarise)


def captions_of(prepared: CollectRun, pair: Pair) -> Sequence[str]:
    """The captions of a pair's images, else its own."""
    # `find` reads images and own captions, which a pair has like a record.
    return prepared.facts.find(pair, pair.answer_type) or ()


def next_step(folder: CollectionFolder) -> str:
    """What comes after a collection; which size of model is trained is not known here."""
    return (
        f"scripts/SIZE/train_reward_model.sh with PREFERENCES={shlex.quote(str(folder.preferences.path))}, "
        "see step 5 of docs/walkthrough.md"
    )


def label_with_judge(prepared: CollectRun, queue: AssignmentQueue, batches: "Iterable[Lines]") -> None:
    """Let the AI annotator judge every pair that it has not judged, batch by batch.

    Raises:
        JudgeError: the endpoint gives no replies; what was judged before is on disk.
    """
    folder, arguments = prepared.folder, prepared.arguments
    cache = ReplyCache(folder.path / "judge_cache.jsonl")
    client = JudgeClient(prepared.endpoint, cache)
    annotator = AIAnnotator(
        client, prepared.judge_prompt, prepared.image_folder, prepared.label_noise, arguments.seed
    )

    def judge_new() -> None:
        pairs = [
            pair for row, pair in folder.pairs.pairs.items() if annotator.name not in folder.journal.of(row)
        ]
        for start in range(0, len(pairs), arguments.prompts_per_batch):
            chosen = pairs[start : start + arguments.prompts_per_batch]
            captions = [captions_of(prepared, pair) for pair in chosen]
            queue.take(annotator.judgements(chosen, captions))

    try:
        judge_new()
        for lines in batches:
            folder.pairs.add(lines)
            judge_new()
    finally:
        cache.close()
        usage = client.usage
        print(
            f"{client.name}: {usage.requests} requests ({usage.prompt_tokens} prompt and {usage.completion_tokens} "
            f"completion tokens), {usage.from_cache} replies from the cache"
        )


def read_facts(path: str | None) -> FactBook:
    """The caption map. Raises DataError when its file breaks the format."""
    captions, problems = (None, []) if path is None else read_captions(path)
    if problems:
        raise DataError(problems)
    return FactBook(captions, MissingCaptions.NO_FACT)


if __name__ == "__main__":
    run_program(prepare, run)
