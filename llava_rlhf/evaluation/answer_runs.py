"""A checked run that answers prompts, for `answer_prompts` and `evaluate answer`."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from data_utils.datasets import PromptDataset
from llava_rlhf.assembly.image_choices import LIMITS, with_aspect_ratio
from llava_rlhf.assembly.roles import TextSide
from llava_rlhf.engines.arguments import ServerArguments
from llava_rlhf.evaluation.answer_engines import ask_servers, open_answerer
from llava_rlhf.evaluation.answer_files import AnswerFile, content_hash
from llava_rlhf.evaluation.answering import check_answerer, load_prompts
from llava_rlhf.evaluation.arguments import AnswerArguments
from llava_rlhf.hub.flags import places_of
from llava_rlhf.runs.arguments import DataArguments, ModelArguments
from llava_rlhf.runs.logs import start_logging
from llava_rlhf.runs.output_place import check_writable
from models.base_fingerprint import base_fingerprint


@dataclass(frozen=True)
class AnswerRun:
    """A checked answering run."""

    arguments: AnswerArguments
    data: DataArguments
    model: ModelArguments
    engine: ServerArguments
    adapter: Path | None
    text: TextSide
    prompts: PromptDataset
    output: AnswerFile


def prepare_answers(
    arguments: AnswerArguments, data: DataArguments, model: ModelArguments, engine: ServerArguments
) -> AnswerRun:
    """Check prompts, adapter, what is already answered, and servers. Raises ValueError."""
    start_logging(main_process=True)
    engine.check_bits(model.bits)
    if Path(arguments.output_file).is_dir():
        raise ValueError(f"--output_file {arguments.output_file} is a directory; name a file")
    check_writable("--output_file", Path(arguments.output_file).parent)
    data = with_aspect_ratio(data, arguments.base_model_name)
    adapter, text = check_answerer(arguments.base_model_name, arguments.adapter, data)
    prompts = load_prompts(data, text, arguments.seed)
    output = AnswerFile(arguments.output_file, answer_settings(arguments, data, model, engine, adapter))
    if not output.complete:
        ask_servers(arguments.base_model_name, adapter, engine, text, prompts, data)
    return AnswerRun(arguments, data, model, engine, adapter, text, prompts, output)


def answer_settings(
    arguments: AnswerArguments,
    data: DataArguments,
    model: ModelArguments,
    engine: ServerArguments,
    adapter: Path | None,
) -> dict[str, Any]:
    """All that the answers depend on: flags, and the contents of base, adapter and prompts. The batch size is not there.

    Of servers it is only that they answer: which ones, and how many, makes no difference. With them, how a base is loaded
    is their own affair; files of before there were any go on.
    """
    flags = {**asdict(arguments), **asdict(data), **asdict(model)}
    unnamed = [name for name in LIMITS if flags[name] is None]  # files of before there were limits go on
    ours = [*asdict(model), "bf16", "use_cpu"] if engine.served else []
    for name in ("output_file", "batch_size", *unnamed, *ours):
        del flags[name]
    flags |= places_of(flags)  # another commit is another setting, another cache is not
    where = {"rollout_engine": engine.rollout_engine} if engine.served else {"device": _device(arguments)}
    return {
        **flags,
        **where,
        "base_fingerprint": base_fingerprint(arguments.base_model_name),
        "adapter_sha256": {path.name: content_hash(path) for path in sorted(adapter.glob("adapter_*"))}
        if adapter
        else None,
        "dataset_sha256": content_hash(data.dataset_path),
    }


def write_answers(prepared: AnswerRun) -> None:
    """Load, answer what is not answered yet, and write the file whole."""
    arguments, text, output = prepared.arguments, prepared.text, prepared.output
    if output.complete:
        print(f"{output.path} is complete and was made under these settings: nothing to do")
        return
    loading = prepared.model.base_settings(arguments.bf16, False, _device(arguments))
    with open_answerer(
        arguments.base_model_name,
        prepared.adapter,
        loading,
        prepared.engine,
        text,
        prepared.prompts,
        prepared.data,
        arguments.temperature,
    ) as answerer:
        output.write(
            lambda first: answerer.answers(
                prepared.prompts, text, arguments.batch_size, arguments.samples, arguments.seed, first
            )
        )
    print(f"wrote {output.path}")


def _device(arguments: AnswerArguments) -> str:
    return "cuda" if torch.cuda.is_available() and not arguments.use_cpu else "cpu"
