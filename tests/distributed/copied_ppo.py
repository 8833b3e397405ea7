"""PPO whose policy is sampled from a whole copy of its base, as a server would beside the processes that train."""

from __future__ import annotations

from pathlib import Path

from data_utils.datasets import PromptDataset
from llava_rlhf.assembly.roles import TextSide
from llava_rlhf.engines.arguments import EngineArguments
from llava_rlhf.ppo import assembly
from llava_rlhf.ppo.arguments import PPOArguments
from llava_rlhf.train_rl_model import prepare, run
from models.generation import SamplingSettings
from models.roles import Policy
from tests.support.copy_engine import CopyEngine

__all__ = ["prepare", "run"]


def _copy_engine(
    arguments: EngineArguments,
    policy: Policy,
    settings: SamplingSettings,
    text: TextSide,
    prompts: PromptDataset,
    image_folder: str,
    output_dir: str,
    base: str,
    merge_adapter: bool,
) -> CopyEngine:
    """As `llava_rlhf.engines.making.make_engine`; what is written stands beside the run folder."""
    run_folder = Path(output_dir)
    return CopyEngine(policy, settings, base, run_folder.with_name(f"{run_folder.name}-served"))


assembly.make_engine = _copy_engine
PPOArguments.check_engine = lambda self, rollout_engine: None
