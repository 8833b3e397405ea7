"""What the files hold that a PPO run is made from: by this, not by where they lie, a run and its continuation are compared."""

from __future__ import annotations

from pathlib import Path

from llava_rlhf.ppo.assembly import PPOSettings
from llava_rlhf.runs.role_files import REWARD, REWARD_HEAD
from llava_rlhf.runs.run_record import adapter_identity, base_identity, file_identity


def identify_inputs(settings: PPOSettings, policy_adapter: Path, reward_base: str) -> dict[str, str | None]:
    """Flag → what its file or folder holds; None for a flag that names nothing.

    Args:
        settings: of the run.
        policy_adapter: PEFT folder of the policy.
        reward_base: where the reward model's base lies.

    Raises:
        ValueError: a base is none.
    """
    ppo, members = settings.ppo, settings.ensemble.more_reward_models
    return {
        "dataset_path": file_identity(settings.data.dataset_path),
        "image_to_caption_file": file_identity(settings.facts.image_to_caption_file),
        "image_to_facts_file": file_identity(settings.facts.image_to_facts_file),
        "fact_synonyms": file_identity(settings.fact_reward.fact_synonyms),
        "reward_prompt_file": file_identity(settings.facts.reward_prompt_file),
        "deepspeed": file_identity(ppo.deepspeed),
        "base_model_name": base_identity(ppo.base_model_name),
        "reward_base_model_name": base_identity(reward_base),
        "policy_model_name_or_path": adapter_identity(policy_adapter),
        "reward_model_name_or_path": _reward_model_identity(ppo.reward_model_name_or_path),
        "more_reward_models": " | ".join(map(_reward_model_identity, members)) or None,
    }


def _reward_model_identity(folder: str) -> str:
    return f"{adapter_identity(Path(folder) / REWARD)}; {file_identity(Path(folder) / REWARD_HEAD)}"
