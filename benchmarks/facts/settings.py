"""Settings of the studies."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field
from typing import ClassVar

STUDIES = (
    "best_of_n",
    "pairs",
    "gradients",
    "noisy_captions",
    "unmentioned",
    "pareto",
    "selection",
    "long_ppo",
    "blind_base",
    "blind_ppo",
)


@dataclass
class FactsArguments:
    """What to run, and how large."""

    _argument_group_name = "studies"
    WORLD: ClassVar = ("train_images", "init_images", "preference_images", "ppo_images", "eval_images")

    studies: list[str] = field(metadata={"help": f"Of {', '.join(STUDIES)}."})
    output_dir: str = field(
        metadata={"help": "Folder of everything; what is in it is not made again. Other sizes want another."}
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2, 3, 4],
        metadata={"help": "Each draws pairs, trains judges and policies, and samples anew, in one world."},
    )
    pictures_dir: str | None = field(default=None, metadata={"help": "Folder for the pictures (PNG)."})
    train_images: int = field(default=2000, metadata={"help": "As in make_world."})
    init_images: int = field(default=500, metadata={"help": "As in make_world."})
    preference_images: int = field(default=9500, metadata={"help": "As in make_world; about one pair each."})
    ppo_images: int = field(default=1000, metadata={"help": "As in make_world."})
    eval_images: int = field(default=512, metadata={"help": "As in make_world."})
    held_out_pairs: int = field(default=1500, metadata={"help": "Pairs that judges are measured on."})
    pairs: list[int] = field(
        default_factory=lambda: [100, 1000, 8000],
        metadata={"help": "Sizes of the study `pairs`; other studies take the most."},
    )
    few_pairs: int = field(default=100, metadata={"help": "Of long_ppo, beside the most."})
    noisy_pairs: int = field(default=1000, metadata={"help": "Of noisy_captions."})
    noise_percent: list[int] = field(
        default_factory=lambda: [10, 30, 50], metadata={"help": "Objects of captions missing, or wrong."}
    )
    reward_steps: int = field(
        default=50, metadata={"help": "Steps of a judge of 100 pairs; times (pairs / 100)^0.4 of others."}
    )
    pictures: int = field(default=128, metadata={"help": "Of best_of_n and blind_base, a seed."})
    samples: int = field(default=64, metadata={"help": "Of best_of_n and blind_base, a picture."})
    temperature: float = field(default=1.3, metadata={"help": "Of these samples."})
    selected_pictures: int = field(default=384, metadata={"help": "Of selection."})
    selected_of: int = field(default=16, metadata={"help": "Samples of which selection learns the best."})
    ppo_steps: int = field(default=24, metadata={"help": "Of PPO."})
    long_steps: int = field(default=100, metadata={"help": "Of PPO in long_ppo."})
    long_kl_coef: float = field(default=0.001, metadata={"help": "KL weight in long_ppo."})
    long_learning_rate: float = field(
        default=3e-3,
        metadata={"help": "In long_ppo; three times the default, with which a run did not get far."},
    )
    base_steps: int | None = field(
        default=None, metadata={"help": "Steps of each stage of the blind base; None: its plan's."}
    )

    def __post_init__(self):
        unknown = [name for name in self.studies if name not in STUDIES]
        if unknown or not self.studies:
            raise ValueError(f"--studies {' '.join(unknown)}: choose from {', '.join(STUDIES)}")
        if len(set(self.seeds)) < len(self.seeds) or not self.seeds:
            raise ValueError(f"--seeds {' '.join(map(str, self.seeds))}: name one or more, each once")
        if self.few_pairs not in self.pairs:
            raise ValueError(
                f"--few_pairs {self.few_pairs}: must be one of --pairs, so that judges are shared"
            )

    def of_base(self) -> list[str]:
        """Flags of build_base."""
        if self.base_steps is None:
            return []
        return ["--naming_steps", str(self.base_steps), "--mixture_steps", str(self.base_steps)]
