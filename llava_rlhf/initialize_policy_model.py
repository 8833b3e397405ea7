"""Initialise the policy: one epoch of LoRA SFT on multi-turn dialogues, loss on assistant tokens only.

    python -m llava_rlhf.initialize_policy_model --model_name_or_path checkpoints/llava-7b-v1.5-224-sft \\
        --dataset_path data/llava_reward10k-aokvqa5k.json --image_folder data/coco/train2017 \\
        --output_dir runs/policy_init
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from llava_rlhf.hub.places import base_name
from llava_rlhf.memory_planning.names import POLICY_INIT
from llava_rlhf.runs.arguments import AdapterArguments, DataArguments, RunArguments
from llava_rlhf.runs.logs import start_logging
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.role_files import POLICY
from llava_rlhf.runs.training_flags import TrainingFlags
from llava_rlhf.supervised.prepared import SupervisedRun, find_start
from models.base_check import check_base

if TYPE_CHECKING:
    from models.roles import Policy

ARGUMENTS = (TrainingFlags, DataArguments, AdapterArguments, RunArguments)


def prepare(argv: Sequence[str]) -> SupervisedRun | None:
    """Parse and check everything before a model is loaded; None when `--summary_only` asks for no more.

    Raises ValueError for what a user can get wrong.
    """
    training, data, model, run = StrictParser(ARGUMENTS, description=__doc__).parse(argv)
    from data_utils.building import build_dialogues
    from llava_rlhf.assembly.conversations import check_conversation
    from llava_rlhf.assembly.feature_cache import with_feature_cache
    from llava_rlhf.assembly.image_choices import with_aspect_ratio
    from llava_rlhf.assembly.roles import load_text_side, row_settings
    from llava_rlhf.supervised.training import announce_and_split

    start_logging(training.process_index == 0)
    model.check_attention(training.bf16, training.fp16, training.use_cpu)
    check_base(training.model_name_or_path, not run.summary_only)
    base = training.model_name_or_path
    data = with_aspect_ratio(data, base)
    text = load_text_side(base, data.image_choices(), data.version, data.system_message)
    start = None if run.summary_only else find_start(training, data, model, run, text.template)
    check_conversation(base, text.tokenizer, text.template)
    dataset = build_dialogues(data.dataset_path, row_settings(data, text))
    cache = None if run.summary_only else run.feature_cache
    dataset, files = with_feature_cache(dataset, cache, training, model, text.pipeline)
    train_set, eval_set, record = announce_and_split(dataset, training, run, start)
    if start is None:
        return None
    return SupervisedRun(training, data, model, run, text, train_set, eval_set, record, start[1], files)


def run(prepared: SupervisedRun | None) -> None:
    """Load the model, train it and save the adapter."""
    if prepared is None:
        return
    from data_utils.batches import DialogueCollator
    from llava_rlhf.assembly.roles import new_policy, unsampled_ids
    from llava_rlhf.memory_planning.programs import announce_plan
    from llava_rlhf.supervised.sft_trainer import DialogueLoss, SFTTrainer
    from llava_rlhf.supervised.training import begin_run, train_to_the_end, trainer_settings

    training, text = prepared.training, prepared.text
    # 1. The model: seeded before its adapter is drawn.
    begin_run(training, prepared.record, prepared.checkpoint)
    if training.process_index == 0:
        settings = (training, prepared.data, prepared.model, prepared.run)
        announce_plan(
            POLICY_INIT, settings, prepared.train_set, training.world_size, in_full=prepared.run.verbose
        )
    base_settings = prepared.model.base_settings(training.bf16, training.fp16, training.device)
    policy = new_policy(
        training.model_name_or_path, base_settings, prepared.model, training.checkpoint_activations
    )
    # 2. Training.
    trainer = SFTTrainer(
        model=DialogueLoss(policy, unsampled_ids(text, policy.bank.vlm.vocab_size), files=prepared.files),
        save_role=partial(save_policy, policy, base_name(training.model_name_or_path)),
        load_role=partial(load_policy, policy),
        **trainer_settings(prepared, DialogueCollator),
    )
    train_to_the_end(trainer, prepared.checkpoint)


def save_policy(policy: Policy, base_model: str, folder: Path) -> None:
    """Write the policy adapter."""
    policy.bank.save(policy.adapter, folder / POLICY, base_model=base_model)


def load_policy(policy: Policy, folder: Path) -> None:
    """Read the policy adapter back. Raises ValueError when it does not fit."""
    policy.bank.load(policy.adapter, folder / POLICY)


if __name__ == "__main__":
    run_program(prepare, run)
