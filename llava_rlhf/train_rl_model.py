"""PPO with a factually augmented reward model: policy, value, reference and reward over a shared frozen base.

    python -m llava_rlhf.train_rl_model --base_model_name checkpoints/llava-7b-v1.5-224-sft \\
        --policy_model_name_or_path runs/policy_init --reward_model_name_or_path runs/reward_model \\
        --dataset_path data/llava_ppo50k-aokvqa12k-vqa10k.json --image_to_caption_file data/image_to_caption.json \\
        --reward_prompt_file prompts/fact_rlhf_reward_prompt.txt --image_folder data/coco/train2017 \\
        --output_dir runs/rl_model
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llava_rlhf.engines.arguments import EngineArguments
from llava_rlhf.fact_rewards.arguments import FactRewardArguments
from llava_rlhf.memory_planning.names import PPO
from llava_rlhf.ppo.arguments import PPOArguments, RewardArguments
from llava_rlhf.ppo.estimator_arguments import EstimatorArguments
from llava_rlhf.ppo.limits import GuardArguments
from llava_rlhf.ppo.loss_arguments import LossArguments
from llava_rlhf.runs.arguments import DataArguments, FactArguments, ModelArguments, RunArguments
from llava_rlhf.runs.checkpoints import step_of
from llava_rlhf.runs.ensemble_arguments import EnsembleArguments
from llava_rlhf.runs.logs import announce_result
from llava_rlhf.runs.parsing import StrictParser, run_program
from llava_rlhf.runs.starting import mark_finished, open_run_folder
from llava_rlhf.runs.stopping import shield_workers_from_signals

if TYPE_CHECKING:
    from accelerate import Accelerator

    from data_utils.batches import PromptBatch
    from llava_rlhf.assembly.roles import PPORoles
    from llava_rlhf.ppo.preparation import PPORun
    from llava_rlhf.ppo.trainer import PPOTrainer
    from llava_rlhf.runs.watchdog import Watchdog

ARGUMENTS = (
    PPOArguments,
    RewardArguments,
    DataArguments,
    FactArguments,
    ModelArguments,
    RunArguments,
    GuardArguments,
    EstimatorArguments,
    LossArguments,
    EnsembleArguments,
    EngineArguments,
    FactRewardArguments,
)

logger = logging.getLogger(__name__)


def prepare(argv: Sequence[str]) -> PPORun | None:
    """Parse and check everything before a model is loaded; None when `--summary_only` asks for no more.

    Raises ValueError for what a user can get wrong.
    """
    parsed = StrictParser(ARGUMENTS, description=__doc__).parse(argv)
    from llava_rlhf.ppo.assembly import PPOSettings
    from llava_rlhf.ppo.preparation import check_run, summarize_prompts

    settings = PPOSettings(*parsed)
    if settings.run.summary_only:
        summarize_prompts(settings)
        return None
    return check_run(settings)


def run(prepared: PPORun | None) -> None:
    """Load the roles, run the loop and save policy and value."""
    if prepared is None:
        return
    from llava_rlhf.ppo.assembly import make_accelerator
    from llava_rlhf.runs.watchdog import Watchdog

    settings = prepared.settings
    accelerator = make_accelerator(settings.ppo, prepared.plan, settings.guards.ddp_timeout)
    with Watchdog(settings.guards.ddp_timeout) as watchdog:
        _train(prepared, accelerator, watchdog)


def _train(prepared: PPORun, accelerator: Accelerator, watchdog: Watchdog) -> None:
    from accelerate.utils import set_seed

    from llava_rlhf.engines.making import make_room
    from llava_rlhf.memory_planning.programs import announce_plan

    settings, plan = prepared.settings, prepared.plan
    ppo = settings.ppo
    # 1. Seeds, the record of the arguments.
    watchdog.progress("loading the roles")
    set_seed(ppo.seed)
    if accelerator.is_main_process:
        open_run_folder(ppo.output_dir, prepared.record)
        announce_plan(
            *(PPO, vars(settings).values(), prepared.prompts, plan.world_size, prepared.reward_base),
            in_full=settings.run.verbose,
        )
    # 2. The roles; servers on the same GPUs make room.
    make_room(settings.engine)
    roles = roles_of(prepared, accelerator)
    # 3. The loop.
    trainer = trainer_of(prepared, accelerator, roles)
    # 4. From where the run stands, to the end.
    first_step, metrics_lines = _steps_done(prepared)
    if accelerator.is_main_process:
        logger.info("%d of %d PPO steps are done", first_step, plan.ppo_steps)
    # It draws a random number, so before the random state is restored.
    prompts = _batches(prepared, trainer, first_step)
    if prepared.checkpoint is not None:
        trainer.state.load(prepared.checkpoint)
    trainer.on_progress = watchdog.progress
    trainer.train(prompts, first_step, metrics_lines)
    # 5. The result.
    trainer.state.save_roles(Path(ppo.output_dir))
    if accelerator.is_main_process:
        mark_finished(ppo.output_dir, plan.ppo_steps)
        announce_result(ppo.output_dir)
    accelerator.end_training()


def roles_of(prepared: PPORun, accelerator: Accelerator) -> PPORoles:
    """Load the models of a run on a process's device."""
    from llava_rlhf.assembly.roles import load_roles

    ppo = prepared.settings.ppo
    return load_roles(
        ppo.base_model_name,
        prepared.reward_base,
        prepared.policy_adapter,
        Path(ppo.reward_model_name_or_path),
        prepared.settings.model.base_settings(ppo.bf16, ppo.fp16, accelerator.device),
        ppo.init_value_with_reward,
        ppo.gradient_checkpointing,
        prepared.settings.estimator.has_critic,
        [Path(folder) for folder in prepared.settings.ensemble.more_reward_models],
    )


def trainer_of(prepared: PPORun, accelerator: Accelerator, roles: PPORoles) -> PPOTrainer:
    """Put the loop of a run together around its roles."""
    from llava_rlhf.ppo.assembly import assemble_trainer

    return assemble_trainer(
        accelerator,
        prepared.settings,
        prepared.plan,
        roles,
        prepared.text,
        [len(ids) for ids in prepared.prompts.column("query_ids")],
        prepared.reward_base,
        prepared.learning_rate,
        prepared.record,
        prepared.caches,
        prepared.prompts,
    )


def _steps_done(prepared: PPORun) -> tuple[int, int]:
    """Finished steps, and lines of metrics, of the checkpoint that the run continues from."""
    from llava_rlhf.ppo.checkpoints import read_state

    if prepared.checkpoint is None:
        return 0, 0
    return step_of(prepared.checkpoint), read_state(prepared.checkpoint)["metrics_lines"]


def _batches(prepared: PPORun, trainer: PPOTrainer, first_step: int) -> Iterator[PromptBatch]:
    """The prompts of the steps that are left, as this process samples them."""
    from torch.utils.data import DataLoader

    from data_utils.batches import collate_prompts

    ppo = prepared.settings.ppo
    batches = trainer.stream.micro_batches(
        first_step, prepared.plan.ppo_steps, ppo.rollout_per_device_batch_size
    )
    loader = DataLoader(
        prepared.prompts,
        batch_sampler=list(batches),
        collate_fn=collate_prompts,
        num_workers=ppo.dataloader_num_workers,
    )
    shield_workers_from_signals(loader)
    return iter(loader)


if __name__ == "__main__":
    run_program(prepare, run)
