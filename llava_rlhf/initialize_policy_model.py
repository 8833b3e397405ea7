"""Initialise the policy: one epoch of LoRA SFT on multi-turn dialogues, loss on assistant tokens only.

    python -m llava_rlhf.initialize_policy_model --model_name_or_path checkpoints/llava-7b-v1.5-224-sft \\
        --dataset_path data/llava_reward10k-aokvqa5k.json --image_folder data/coco/train2017 \\
        --output_dir runs/policy_init

With `--objective dpo` it learns from the preference rows of the reward model instead (docs/dpo.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llava_rlhf.hub.places import base_name
from llava_rlhf.memory_planning.names import POLICY_INIT
from llava_rlhf.runs.arguments import AdapterArguments, DataArguments, RunArguments
from llava_rlhf.runs.logs import start_logging
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.role_files import POLICY, check_pieces, check_template, find_policy_adapter
from llava_rlhf.runs.training_flags import TrainingFlags
from llava_rlhf.supervised.objective_arguments import ObjectiveArguments
from llava_rlhf.supervised.prepared import SupervisedRun, find_start
from models.base_check import check_base

if TYPE_CHECKING:
    from llava_rlhf.supervised.role_trainer import RoleTrainer
    from models.roles import Policy
    from models.vlm import BaseSettings

ARGUMENTS = (TrainingFlags, DataArguments, AdapterArguments, RunArguments, ObjectiveArguments)


@dataclass(frozen=True)
class PolicyRun(SupervisedRun):
    """A checked run of a policy; `adapter` is what it starts from, None: the base."""

    objective: ObjectiveArguments
    adapter: Path | None


def prepare(argv: Sequence[str]) -> PolicyRun | None:
    """Parse and check everything before a model is loaded; None when `--summary_only` asks for no more.

    Raises ValueError for what a user can get wrong.
    """
    training, data, model, run, objective = StrictParser(ARGUMENTS, description=__doc__).parse(argv)
    from data_utils.building import build_answer_pairs, build_dialogues
    from llava_rlhf.assembly.conversations import check_conversation
    from llava_rlhf.assembly.feature_cache import with_feature_cache
    from llava_rlhf.assembly.image_choices import check_limits, with_aspect_ratio
    from llava_rlhf.assembly.roles import load_text_side, row_settings
    from llava_rlhf.supervised.training import announce_and_split

    start_logging(training.process_index == 0)
    model.check_attention(training.bf16, training.fp16, training.use_cpu)
    check_base(training.model_name_or_path, not run.summary_only)
    base = training.model_name_or_path
    adapter = None if run.summary_only else find_adapter(objective, base, data, model)
    data = with_aspect_ratio(data, base)
    text = load_text_side(base, data.image_choices(), data.version, data.system_message)
    start = None
    if not run.summary_only:
        start = find_start(training, data, model, run, text.template, objective=objective, adapter=adapter)
    check_conversation(base, text.tokenizer, text.template)
    if adapter is not None:
        check_limits(base, adapter, text.image_choices)
        check_pieces(base, adapter, text.template)
    rows = row_settings(data, text)
    if objective.compares:
        dataset = build_answer_pairs(data.dataset_path, rows)
    else:
        dataset = build_dialogues(data.dataset_path, rows)
    cache = None if run.summary_only else run.feature_cache
    dataset, files = with_feature_cache(dataset, cache, training, model, text.pipeline)
    train_set, eval_set, record = announce_and_split(dataset, training, run, start)
    if start is None:
        return None
    return PolicyRun(
        training, data, model, run, text, train_set, eval_set, record, start[1], files, objective, adapter
    )


def find_adapter(
    objective: ObjectiveArguments, base: str, data: DataArguments, model: AdapterArguments
) -> Path | None:
    """The adapter that the policy starts from, or None. Raises ValueError where it can't be gone on from."""
    if objective.policy_model_name_or_path is None:
        return None
    from llava_rlhf.assembly.preference_roles import check_start

    adapter = find_policy_adapter(objective.policy_model_name_or_path)
    check_start(adapter, base, model)
    check_template(base, adapter, data.version, data.system_message)
    return adapter


def run(prepared: PolicyRun | None) -> None:
    """Load the model, train it and save the adapter."""
    if prepared is None:
        return
    from llava_rlhf.memory_planning.programs import announce_plan
    from llava_rlhf.supervised.training import begin_run, train_to_the_end

    training = prepared.training
    # 1. The model: seeded before its adapter is drawn.
    begin_run(training, prepared.record, prepared.checkpoint)
    if training.process_index == 0:
        settings = (training, prepared.data, prepared.model, prepared.run, prepared.objective)
        announce_plan(
            POLICY_INIT, settings, prepared.train_set, training.world_size, in_full=prepared.run.verbose
        )
    base_settings = prepared.model.base_settings(training.bf16, training.fp16, training.device)
    # 2. Training.
    make = preference_trainer if prepared.objective.compares else dialogue_trainer
    train_to_the_end(make(prepared, base_settings), prepared.checkpoint)


def dialogue_trainer(prepared: PolicyRun, settings: BaseSettings) -> RoleTrainer:
    """What trains a new adapter on dialogues."""
    from data_utils.batches import DialogueCollator
    from llava_rlhf.assembly.roles import new_policy, unsampled_ids
    from llava_rlhf.supervised.sft_trainer import DialogueLoss, SFTTrainer
    from llava_rlhf.supervised.training import trainer_settings

    training = prepared.training
    policy = new_policy(
        training.model_name_or_path, settings, prepared.model, training.checkpoint_activations
    )
    banned = unsampled_ids(prepared.text, policy.bank.vlm.vocab_size)
    return SFTTrainer(
        model=DialogueLoss(policy, banned, files=prepared.files),
        **files_of(policy, training.model_name_or_path),
        **trainer_settings(prepared, DialogueCollator),
    )


def preference_trainer(prepared: PolicyRun, settings: BaseSettings) -> RoleTrainer:
    """What trains an adapter on preferences."""
    from data_utils.answer_pairs import AnswerPairCollator
    from llava_rlhf.assembly.preference_roles import policy_and_reference
    from llava_rlhf.assembly.roles import unsampled_ids
    from llava_rlhf.supervised.dpo_trainer import AnswerComparison, DPOTrainer
    from llava_rlhf.supervised.training import trainer_settings

    training = prepared.training
    base, checkpointing = training.model_name_or_path, training.checkpoint_activations
    policy, reference = policy_and_reference(base, settings, prepared.model, checkpointing, prepared.adapter)
    banned = unsampled_ids(prepared.text, policy.bank.vlm.vocab_size)
    return DPOTrainer(
        model=AnswerComparison(policy, reference, banned, files=prepared.files),
        objective=prepared.objective,
        **files_of(policy, base),
        **trainer_settings(prepared, AnswerPairCollator),
    )


def files_of(policy: Policy, base: str) -> dict[str, partial[None]]:
    """How a `RoleTrainer` writes and reads the policy."""
    return {
        "save_role": partial(save_policy, policy, base_name(base)),
        "load_role": partial(load_policy, policy),
    }


def save_policy(policy: Policy, base_model: str, folder: Path) -> None:
    """Write the policy adapter."""
    policy.bank.save(policy.adapter, folder / POLICY, base_model=base_model)


def load_policy(policy: Policy, folder: Path) -> None:
    """Read the policy adapter back. Raises ValueError when it does not fit."""
    policy.bank.load(policy.adapter, folder / POLICY)


if __name__ == "__main__":
    run_program(prepare, run)
