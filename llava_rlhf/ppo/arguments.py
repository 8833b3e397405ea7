"""Settings of PPO."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from llava_rlhf.engines.arguments import LOCAL
from llava_rlhf.functional.estimators import KLEstimator
from llava_rlhf.ppo.numerics import Numerics
from llava_rlhf.ppo.trackers import check_trackers
from llava_rlhf.runs.arguments import cuda_is_available

SAMPLES_FROM_PARTS = (
    "--deepspeed {}: the policy samples from whole weights here, which ZeRO stage 3 divides; use stage 2 (scripts/zero2.json), "
    "or --rollout_engine vllm"
)


@dataclass
class RewardArguments:
    """Every ingredient of the reward; each can be switched off on its own."""

    _argument_group_name = "reward"

    kl_coef: float = field(
        default=0.1, metadata={"help": "Weight of the KL penalty per token (start value if adaptive)."}
    )
    kl_estimator: KLEstimator = field(
        default=KLEstimator.K1_CLAMPED, metadata={"help": "k1_clamped: as published; k1; k2; k3 (Schulman)."}
    )
    kl_controller: Literal["fixed", "adaptive"] = field(
        default="fixed", metadata={"help": "How kl_coef evolves."}
    )
    kl_target: float = field(
        default=6.0, metadata={"help": "Adaptive controller: wanted KL per sequence in nats."}
    )
    kl_horizon: int = field(default=10000, metadata={"help": "Adaptive controller: horizon in episodes."})
    penalize_no_stop_token: bool = field(
        default=True, metadata={"help": "Penalise responses without a stop token."}
    )
    penalty_reward_value: float = field(
        default=-8.0, metadata={"help": "Missing-stop penalty in reward-model units."}
    )
    relative_stop_token_penalty: bool = field(
        default=True,
        metadata={"help": "True: the penalty is added to the score; False: it replaces the score."},
    )
    length_bonus_score: float = field(
        default=-10.0,
        metadata={"help": "Times (tokens / response_len) × the row's length_bonus; 0 switches it off."},
    )
    correct_bonus_score: float = field(
        default=2.0, metadata={"help": "Times the correctness of a checkable answer; 0 switches it off."}
    )
    reward_model_coef: float = field(
        default=1.0,
        metadata={
            "help": "Times the reward model's score; 0: fact rewards and the other terms alone, the score is only logged."
        },
    )
    reward_bias: float = field(default=0.0, metadata={"help": "Added to every score."})
    reward_placement: Literal["last", "sentence"] = field(
        default="last",
        metadata={
            "help": "last: the reward model's score stands on the last token; sentence: each sentence earns what it changed "
            "in the score, for a score of every beginning."
        },
    )
    whiten_rewards: bool = field(
        default=False, metadata={"help": "Divide token rewards by their standard deviation."}
    )
    reward_scale: float = field(
        default=10.0, metadata={"help": "Token rewards are multiplied by it when not whitened."}
    )

    def __post_init__(self):
        self.kl_estimator = KLEstimator(self.kl_estimator)
        if not 0 <= self.reward_model_coef < float("inf"):
            raise ValueError(f"--reward_model_coef {self.reward_model_coef}: must be at least 0, and finite")
        if self.kl_coef < 0:
            raise ValueError(f"--kl_coef {self.kl_coef}: must be at least 0")
        if self.kl_controller == "adaptive" and not (
            self.kl_coef > 0 and self.kl_target > 0 and self.kl_horizon > 0
        ):
            raise ValueError("--kl_controller adaptive needs --kl_coef, --kl_target and --kl_horizon above 0")


@dataclass
class PPOArguments:
    """The loop, its batches and its optimizer."""

    _argument_group_name = "PPO"

    base_model_name: str = field(metadata={"help": "Base (SFT LLaVA) of policy and reference."})
    policy_model_name_or_path: str = field(metadata={"help": "Adapter from initialize_policy_model.py."})
    reward_model_name_or_path: str = field(metadata={"help": "Reward model from train_reward_model.py."})
    output_dir: str = field(metadata={"help": "Run folder."})
    reward_base_model_name: str | None = field(
        default=None,
        metadata={"help": "Base of reward and value; default: the one named in reward_model.json."},
    )
    init_value_with_reward: bool = field(
        default=True,
        metadata={"help": "Value adapter starts from the reward adapter; False: from the policy's."},
    )
    allow_prompt_change: bool = field(
        default=False, metadata={"help": "Score with another prompt than the reward model was trained with."}
    )
    total_epochs: int = field(default=4, metadata={"help": "Passes over the prompts."})
    max_steps: int = field(
        default=-1,
        metadata={"help": "PPO steps of the run, whatever total_epochs says; -1: as total_epochs says."},
    )
    rollout_batch_size: int = field(
        default=512,
        metadata={
            "help": "Rollouts per PPO step, all processes together; --samples_per_prompt of them answer one prompt."
        },
    )
    rollout_per_device_batch_size: int = field(
        default=32, metadata={"help": "Prompts sampled and scored at once."}
    )
    reward_model_per_device_batch_size: int = field(
        default=16, metadata={"help": "Rows the reward model scores at once."}
    )
    step_batch_size: int = field(
        default=256, metadata={"help": "Rollouts per optimizer step, all processes together."}
    )
    step_per_device_batch_size: int = field(
        default=16, metadata={"help": "Rollouts per backward pass, at most."}
    )
    tokens_per_micro_batch: int = field(
        default=0,
        metadata={
            "help": "Scoring and backward passes take rows × longest row ≤ so many tokens (an image counts in full); "
            "0: as the batch sizes say. Halved by itself when CUDA runs out of memory, but for DeepSpeed's backward passes: "
            "its engine has exchanged part of the gradients by then."
        },
    )
    noptepochs: int = field(default=2, metadata={"help": "Passes over a rollout batch."})
    temperature: float = field(default=1.0, metadata={"help": "Of sampling and of all log-probabilities."})
    merge_adapter_for_sampling: bool = field(
        default=True,
        metadata={
            "help": "Sample with a copy of the base's weights that holds the policy's adapter: faster, for the memory of "
            "that copy. A base in 4 or 8 bits is never copied."
        },
    )
    stop_at_question_mark: bool = field(
        default=False,
        metadata={"help": "Also cut a response after its first '?', which then lacks the stop token."},
    )
    gamma: float = field(default=1.0, metadata={"help": "Discount per token."})
    lam: float = field(default=1.0, metadata={"help": "GAE λ."})
    cliprange: float = field(default=0.2, metadata={"help": "Clip of the probability ratio."})
    cliprange_value: float = field(
        default=0.2, metadata={"help": "Clip of the value change, in reward units."}
    )
    vf_coef: float = field(default=0.1, metadata={"help": "Weight of the value loss."})
    learning_rate: float = field(default=3e-5, metadata={"help": "Peak learning rate."})
    lr_scheduler_type: str = field(
        default="cosine", metadata={"help": "A schedule of transformers.get_scheduler."}
    )
    warmup_steps: int = field(
        default=5, metadata={"help": "PPO steps of linear warm-up; the first step already moves."}
    )
    weight_decay: float = field(default=0.0, metadata={"help": "AdamW weight decay."})
    max_grad_norm: float = field(
        default=1.0, metadata={"help": "Clip of the gradient norm, for each role on its own."}
    )
    numerics: Numerics = field(
        default=Numerics.CORRECTED,
        metadata={
            "help": "corrected: only real tokens count, each role is clipped on its own; published: every response "
            "column counts (padding too, the score sits in the last), policy and value are clipped together."
        },
    )
    optim: str = field(
        default="adamw_torch", metadata={"help": "adamw_torch, adamw_torch_fused, or a bitsandbytes AdamW."}
    )
    gradient_checkpointing: bool = field(
        default=True, metadata={"help": "Recompute activations: less memory, slower."}
    )
    logits_chunk_size: int = field(
        default=128, metadata={"help": "Response tokens per vocabulary projection."}
    )
    log_entropy: bool = field(
        default=True, metadata={"help": "Measure the entropy of policy and reference; no loss needs it."}
    )
    bf16: bool = field(default=False, metadata={"help": "Weights and activations in bfloat16."})
    fp16: bool = field(default=False, metadata={"help": "Weights and activations in float16."})
    use_cpu: bool = field(default=False, metadata={"help": "Stay on the CPU even where CUDA is present."})
    deepspeed: str | None = field(
        default=None,
        metadata={"help": "DeepSpeed configuration (JSON): ZeRO-2, or ZeRO-3 with --rollout_engine vllm."},
    )
    seed: int = field(
        default=42, metadata={"help": "Order of prompts, sampling, caption order, initialisation."}
    )
    save_steps: int = field(
        default=10, metadata={"help": "A checkpoint every so many PPO steps, and after the last."}
    )
    save_total_limit: int = field(default=0, metadata={"help": "Keep so many newest checkpoints; 0: all."})
    report_to: str = field(
        default="none", metadata={"help": "tensorboard, wandb, both separated by a comma, or none."}
    )
    rollout_table_steps: int = field(
        default=10,
        metadata={"help": "With wandb: a table of rollouts with pictures every so many steps; 0: none."},
    )
    dataloader_num_workers: int = field(default=0, metadata={"help": "Processes that decode images."})

    def __post_init__(self):
        self.numerics = Numerics(self.numerics)
        positive = (
            "rollout_batch_size rollout_per_device_batch_size reward_model_per_device_batch_size step_batch_size "
            "step_per_device_batch_size noptepochs total_epochs logits_chunk_size save_steps"
        )
        for name in positive.split():
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least 1")
        if not self.temperature > 0:
            raise ValueError(f"--temperature {self.temperature}: must be above 0")
        not_negative = (
            "cliprange cliprange_value vf_coef warmup_steps weight_decay save_total_limit tokens_per_micro_batch "
            "rollout_table_steps"
        )
        for name in not_negative.split():
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} {getattr(self, name)}: must be at least 0")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} {getattr(self, name)}: must be from 0 to 1")
        if not self.max_grad_norm > 0:
            raise ValueError(f"--max_grad_norm {self.max_grad_norm}: must be above 0")
        if self.bf16 and self.fp16:
            raise ValueError("--bf16 and --fp16 exclude each other")
        if self.fp16 and (self.use_cpu or not cuda_is_available()):
            raise ValueError("--fp16 needs CUDA (its gradients have to be scaled there); use --bf16 on a CPU")
        check_trackers(self.report_to)
        if self.deepspeed is not None:
            self.deepspeed_config()

    def deepspeed_config(self) -> dict[str, Any]:
        """The DeepSpeed configuration. Raises ValueError for an unreadable file."""
        try:
            config = json.loads(Path(self.deepspeed).read_text(encoding="utf-8"))
            config.get("zero_optimization", {}).get("stage", 0)
        except (OSError, ValueError, AttributeError) as error:
            raise ValueError(
                f"--deepspeed {self.deepspeed}: not a DeepSpeed configuration ({error})"
            ) from error
        return config

    @property
    def divides_base(self) -> bool:
        """Whether DeepSpeed divides the frozen weights among the processes (ZeRO-3)."""
        if self.deepspeed is None:
            return False
        return self.deepspeed_config().get("zero_optimization", {}).get("stage", 0) > 2

    def check_engine(self, rollout_engine: str) -> None:
        """Raise ValueError where the policy samples in processes that have only parts of its weights."""
        if self.divides_base and rollout_engine == LOCAL:
            raise ValueError(SAMPLES_FROM_PARTS.format(self.deepspeed))
