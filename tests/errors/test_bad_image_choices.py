"""What a family leaves to choose of how pictures become pixels, and two bases for policy and reward model: what is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from data_utils.image_choices import ImageChoices
from llava_rlhf import train_reward_model
from llava_rlhf.assembly.reward_models import new_reward_model
from llava_rlhf.assembly.roles import load_text_side
from llava_rlhf.runs.arguments import AdapterArguments
from llava_rlhf.runs.reward_card import RewardModelCard
from models.base_fingerprint import base_fingerprint
from models.vlm import BaseSettings
from tests.errors.documented import documented
from tests.llava_rlhf.exporting.exports import write_run
from tests.support.tiny_data import FACT_PROMPT
from tests.support.tiny_families.qwen import save_tiny_qwen3, save_tiny_qwen25

QWEN = {"version": "chat", "query_len": 300, "response_len": 60, "model_max_length": 900}
# case → flags of a policy's training on a Qwen
OF_ONE_BASE = {
    "aspect-ratio-of-a-qwen": {"image_aspect_ratio": "pad"},
    "no-pixels": {"max_pixels": 0},
    "limits-crossed": {"min_pixels": 5000, "max_pixels": 4000},
    "limits-cross-the-base": {"min_pixels": 50_000},
}
# case → program, flags
OTHERS = {
    "pixels-of-a-llava": ("policy", {"max_pixels": 50_000}),
    "judge-of-other-limits": ("ppo", {**QWEN, "max_pixels": 9000}),
    "policy-of-other-limits": ("ppo", {**QWEN, "max_pixels": 9000, "allow_prompt_change": True}),
    "two-families": ("ppo", QWEN),
}
CASES = (*OF_ONE_BASE, *OTHERS)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory) -> Path:
    return save_tiny_qwen25(tmp_path_factory.mktemp("qwen") / "base")


def roles_of(base: Path, folder: Path, **limits: int) -> tuple[Path, Path]:
    """A policy and a reward model of random weights; pictures have the sizes that their base says, the policy's may have others."""
    model = new_reward_model(base, BaseSettings(), AdapterArguments(lora_r=4), False)
    images = load_text_side(base, ImageChoices(), "chat").image_choices
    sizes = {"min_pixels": images.min_pixels, "max_pixels": images.max_pixels}
    prompt = (FACT_PROMPT, True, "chat", None)
    (folder / "reward").mkdir()
    card = RewardModelCard(str(base), *prompt, base_fingerprint(base), **sizes)
    train_reward_model.save_reward_model(model, card, folder / "reward")
    return write_run(base, folder / "policy", version="chat", **limits), folder / "reward"


@pytest.mark.parametrize("case", CASES)
def test_documented(case, qwen, prepare, tmp_path):
    row = documented(__file__, case)
    if case in OF_ONE_BASE:
        start = partial(prepare, "policy", model_name_or_path=qwen, **QWEN, **OF_ONE_BASE[case])
    else:
        program, flags = OTHERS[case]
        start = partial(
            prepare, program, **flags, **(roles(case, qwen, tmp_path) if program == "ppo" else {})
        )
    with pytest.raises(ValueError, match=row.pattern):
        start()
    assert row.skipped == "–" and not (tmp_path / "run").exists()


def roles(case: str, qwen: Path, folder: Path) -> dict[str, Path]:
    """Flags of PPO on a Qwen2.5-VL; or of a policy on a Qwen3-VL, whose words are others."""
    limits = {"max_pixels": 9000} if case == "judge-of-other-limits" else {}
    policy, reward = roles_of(qwen, folder, **limits)
    base = qwen
    if case == "two-families":
        base = save_tiny_qwen3(folder / "other")
        text = (base / "tokenizer.json").read_text()
        (base / "tokenizer.json").write_text(text.replace("<|video_pad|>", "<|film_pad|>"))
        policy = write_run(base, folder / "its", version="chat")
    return {
        "base_model_name": base,
        "reward_base_model_name": qwen,
        "policy_model_name_or_path": policy,
        "reward_model_name_or_path": reward,
    }


def test_the_same_sizes_are_read(qwen, prepare, tmp_path):
    """Named or not, they are those of the judge."""
    flags = roles("same", qwen, tmp_path)
    for limits in ({}, {"min_pixels": 3136, "max_pixels": 12544}):
        assert len(prepare("ppo", **QWEN, **flags, **limits).prompts) == 16
