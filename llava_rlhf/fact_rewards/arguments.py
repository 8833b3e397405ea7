"""Settings of rewards for what an answer says. Loads no torch."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field, fields
from typing import Literal

from llava_rlhf.runs.missing_paths import require_file

THING = "{thing}"  # its place in a question


@dataclass
class FactRewardArguments:
    """What the things that an answer names earn, beside the reward model or alone."""

    _argument_group_name = "fact rewards"

    fact_reward: Literal["none", "mentions"] = field(
        default="none",
        metadata={
            "help": "mentions: each thing that an answer names is compared with the facts of its row, and paid on the token that "
            "says it (docs/facts.md); none: as published."
        },
    )
    fact_words: Literal["coco", "shapes"] = field(
        default="coco",
        metadata={"help": "Which things are known: COCO's 80 objects, or those of the tiny world."},
    )
    fact_synonyms: str | None = field(
        default=None,
        metadata={"help": "More words and things: a line each, its name first, then other words, by commas."},
    )
    fact_right_score: float = field(
        default=1.0, metadata={"help": "What the first mention of a thing earns that the facts name."}
    )
    fact_wrong_score: float = field(
        default=-0.5, metadata={"help": "What the first mention of a thing earns that is not there."}
    )
    fact_coverage_score: float = field(
        default=1.0,
        metadata={
            "help": "Times the share of the things in the facts that the answer names, at its end; open questions alone."
        },
    )
    unmentioned: Literal["neutral", "penalise", "ask_picture"] = field(
        default="neutral",
        metadata={
            "help": "A thing that no fact names: neutral: earns nothing, unless the facts say that they are complete; penalise: "
            "counts as not there; ask_picture: the reward model's base is asked whether the picture shows it."
        },
    )
    picture_question: str = field(
        default="Is there a {thing} in the image?",
        metadata={"help": "What ask_picture asks, to be answered with Yes or No."},
    )

    def __post_init__(self):
        if self.fact_synonyms is not None:
            require_file("--fact_synonyms", self.fact_synonyms)
        if not self.on:
            changed = [
                f"--{one.name} {getattr(self, one.name)}" for one in fields(self) if self._changed(one)
            ]
            if changed:
                raise ValueError(
                    f"{', '.join(changed)} without a fact reward, which alone reads it; add --fact_reward mentions, or leave it "
                    "out"
                )
            return
        if self.picture_question != type(self).picture_question and not self.asks_picture:
            raise ValueError(
                f"--picture_question {self.picture_question!r} with --unmentioned {self.unmentioned}, which asks nothing; add "
                "--unmentioned ask_picture, or leave it out"
            )
        if self.picture_question.count(THING) != 1:
            raise ValueError(f"--picture_question {self.picture_question!r}: must hold {THING} once")
        signs = (("fact_right_score", 1), ("fact_wrong_score", -1), ("fact_coverage_score", 1))
        for name, sign in signs:
            if not 0 <= sign * getattr(self, name) < float("inf"):
                bound = "at least 0" if sign > 0 else "at most 0"
                raise ValueError(f"--{name} {getattr(self, name)}: must be {bound}, and finite")
        if self.fact_right_score + self.fact_coverage_score == 0:
            raise ValueError(
                "--fact_right_score 0 with --fact_coverage_score 0: an answer that says nothing would earn most; raise one of them"
            )

    def _changed(self, one) -> bool:
        return getattr(self, one.name) != one.default

    @property
    def on(self) -> bool:
        """Whether facts are paid at all."""
        return self.fact_reward != "none"

    @property
    def asks_picture(self) -> bool:
        """Whether the reward model's base is asked for what no fact names."""
        return self.on and self.unmentioned == "ask_picture"

    def question(self, thing: str) -> str:
        """What is asked of the picture."""
        return self.picture_question.replace(THING, thing)

    def check_with(self, reward_model_coef: float, divides_base: bool) -> None:
        """Raise ValueError where nothing would be left to learn from, or a base that is divided would be asked."""
        if self.asks_picture and divides_base:
            # Processes ask different numbers of questions, and every pass of a divided base needs all of them.
            raise ValueError(
                "--unmentioned ask_picture under ZeRO-3, where no process can ask the base alone; use ZeRO-2, or --unmentioned "
                "neutral or penalise"
            )
        if reward_model_coef == 0 and not self.on:
            raise ValueError(
                "--reward_model_coef 0 without a fact reward: no score would be left to learn from; add --fact_reward mentions, or "
                "leave it out"
            )
