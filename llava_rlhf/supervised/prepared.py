"""What the two programs have ready before a model is loaded. `--help` shows all this, so nothing here loads torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_utils.conversation import ChatTemplate, Template
from llava_rlhf.runs.arguments import AdapterArguments, DataArguments, FactArguments, RunArguments
from llava_rlhf.runs.output_place import check_writable
from llava_rlhf.runs.run_record import adapter_identity, base_identity, file_identity, run_record
from llava_rlhf.runs.starting import starting_point
from llava_rlhf.supervised.head_arguments import RewardHeadArguments
from llava_rlhf.supervised.objective_arguments import ObjectiveArguments

if TYPE_CHECKING:
    from data_utils.datasets import ExampleDataset
    from data_utils.feature_files import FeatureFiles
    from llava_rlhf.assembly.roles import TextSide
    from llava_rlhf.runs.training_arguments import LlavaTrainingArguments


@dataclass(frozen=True)
class SupervisedRun:
    """A checked run: settings, data, its record and the checkpoint that it continues from, if any."""

    training: LlavaTrainingArguments
    data: DataArguments
    model: AdapterArguments
    run: RunArguments
    text: TextSide
    train_set: ExampleDataset
    eval_set: ExampleDataset | None
    record: Mapping[str, Any]
    checkpoint: Path | None
    files: FeatureFiles | None


def find_start(
    training: LlavaTrainingArguments,
    data: DataArguments,
    model: AdapterArguments,
    run: RunArguments,
    template: Template,
    facts: FactArguments | None = None,
    head: RewardHeadArguments | None = None,
    objective: ObjectiveArguments | None = None,
    adapter: Path | None = None,
) -> tuple[Mapping[str, Any], Path | None]:
    """The run's record, and the checkpoint that it continues from, if any.

    Args:
        training, data, model, run: of every run.
        template: how dialogues are written.
        facts, head: of a reward model.
        objective: of a policy.
        adapter: PEFT folder that it starts from, or None.

    Raises:
        ValueError: no base, a checkpoint of other settings, or an output folder that can't be written.
    """
    inputs = {
        "dataset_path": file_identity(data.dataset_path),
        "deepspeed": file_identity(training.deepspeed),
        "model_name_or_path": base_identity(training.model_name_or_path),
    }
    settings = [training, data, model, run]
    if isinstance(template, ChatTemplate):  # a base's own, which its files may say otherwise one day
        settings.append(template)
    if facts is not None:
        settings.append(facts)
        inputs["image_to_caption_file"] = file_identity(facts.image_to_caption_file)
        inputs["image_to_facts_file"] = file_identity(facts.image_to_facts_file)
        inputs["reward_prompt_file"] = file_identity(facts.reward_prompt_file)
    if head is not None:
        settings.append(head)
    if objective is not None:
        settings.append(objective)
    if adapter is not None:
        inputs["policy_model_name_or_path"] = adapter_identity(adapter)
    record = run_record(settings, inputs, training.world_size, training.rows_per_step)
    checkpoint = starting_point(run, training.output_dir, record, settings, training.process_index == 0)
    check_writable("--output_dir", training.output_dir)
    return record, checkpoint
