"""The bases of policy and reward model: one, or two that share a vocabulary."""

from __future__ import annotations

from pathlib import Path

from llava_rlhf.assembly.roles import TextSide, load_text_side
from llava_rlhf.ppo.arguments import PPOArguments
from llava_rlhf.runs.arguments import DataArguments
from llava_rlhf.runs.role_files import piece_differences, pieces_of
from models.base_check import check_base
from models.base_files import read_base_facts, read_family
from models.base_place import why_absent
from models.vlm import load_tokenizer


def check_reward_base(ppo: PPOArguments, reward_base: str, weights: bool = True) -> None:
    """Raise ValueError when the reward model's base is not there, or the value model can't start from the policy adapter."""
    if not Path(reward_base).is_dir():
        raise ValueError(
            f"the base of the reward model, {reward_base}, is no directory (named by reward_model.json of "
            f"{ppo.reward_model_name_or_path}): {why_absent(reward_base)}; name it with --reward_base_model_name"
        )
    check_base(reward_base, weights)
    reward, policy = read_base_facts(reward_base), read_base_facts(ppo.base_model_name)
    if not ppo.init_value_with_reward and (reward.layers, reward.hidden_size) != (
        policy.layers,
        policy.hidden_size,
    ):
        raise ValueError(
            f"--init_value_with_reward False: the policy's adapter ({policy.layers} layers of {policy.hidden_size}) does "
            f"not fit the reward model's base ({reward.layers} layers of {reward.hidden_size}); use True"
        )


def load_text_sides(policy_base: str, reward_base: str, data: DataArguments) -> tuple[TextSide, TextSide]:
    """Tokenizers, image pipelines and templates of both bases. Raises ValueError when vocabularies or templates differ."""
    asked = (data.image_choices(), data.version, data.system_message)
    text = load_text_side(policy_base, *asked)
    if Path(reward_base).resolve() == Path(policy_base).resolve():
        return text, text
    vocabulary, family = load_tokenizer(reward_base).get_vocab(), read_family(reward_base)
    if vocabulary != text.tokenizer.get_vocab() or family.image_token_id != text.image_token_id:
        bases = f"{policy_base} and {reward_base} have different tokenizers"
        if family.title != text.family.title:
            bases = (
                f"{policy_base} is a {text.family.title} and {reward_base} a {family.title}, with different tokenizers; "
                "bases of two families work together only where they share one"
            )
        raise ValueError(
            f"{bases}; the reward model reads the policy's token ids, so both must share one vocabulary"
        )
    reward = load_text_side(reward_base, *asked)
    differing = piece_differences(pieces_of(reward.template), pieces_of(text.template), "there", "here")
    if differing:
        raise ValueError(
            f"{reward_base} has another chat template than {policy_base}: {'; '.join(differing)}; the reward model reads the "
            "policy's dialogues, so take the same template file into both"
        )
    return text, reward
