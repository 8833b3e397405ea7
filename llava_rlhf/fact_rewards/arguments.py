"""Settings of rewards for what an answer says. Loads no torch."""

# No `from __future__ import annotations`: HfArgumentParser reads the types of the fields.
from dataclasses import dataclass, field, fields
from typing import Literal

from llava_rlhf.runs.missing_paths import require_file

THING = "{thing}"  # its place in a question
OF_MENTIONS = ("fact_words", "fact_synonyms", "picture_question")
OF_CLAIMS = ("claim_judge_url", "claim_judge_model")


@dataclass
class FactRewardArguments:
    """What the things that an answer names earn, beside the reward model or alone."""

    _argument_group_name = "fact rewards"

    fact_reward: Literal["none", "mentions", "claims"] = field(
        default="none",
        metadata={
            "help": "mentions: each thing that an answer names is compared with the facts of its row, and paid on the token that "
            "says it; claims: each sentence is judged by a model, and paid where it ends (docs/facts.md); none: as published."
        },
    )
    fact_words: Literal["coco", "shapes"] = field(
        default="coco",
        metadata={
            "help": "Of mentions: which things are known: COCO's 80 objects, or those of the tiny world."
        },
    )
    fact_synonyms: str | None = field(
        default=None,
        metadata={
            "help": "Of mentions: more words and things: a line each, its name first, then other words, by commas."
        },
    )
    fact_right_score: float = field(
        default=1.0,
        metadata={"help": "What the first mention of a thing, or a claim, earns that the facts support."},
    )
    fact_wrong_score: float = field(
        default=-0.5,
        metadata={"help": "What the first mention of a thing that is not there, or a false claim, earns."},
    )
    fact_coverage_score: float = field(
        default=1.0,
        metadata={
            "help": "Times the share of the things in the facts that the answer names (claims: of the facts that it tells), at its end; open "
            "questions alone."
        },
    )
    unmentioned: Literal["neutral", "penalise", "ask_picture"] = field(
        default="neutral",
        metadata={
            "help": "A thing that no fact names, or a claim that they leave open: neutral: earns nothing, unless the facts say that "
            "they are complete; penalise: counts as not there, or false; ask_picture: the reward model's base, or the judge of "
            "claims, is asked whether the picture shows it."
        },
    )
    picture_question: str = field(
        default="Is there a {thing} in the image?",
        metadata={"help": "What ask_picture asks of mentions, to be answered with Yes or No."},
    )
    claim_judge_url: str | None = field(
        default=None,
        metadata={
            "help": "Of claims: an OpenAI-compatible endpoint that judges them, up to and with /v1; its key in OPENAI_API_KEY "
            "(None: the reward model's base, without its adapter)."
        },
    )
    claim_judge_model: str | None = field(
        default=None, metadata={"help": "The model, as that endpoint calls it."}
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
        self._check_kind()
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

    def _check_kind(self) -> None:
        """Raise ValueError for a flag that the other kind of fact reward reads."""
        others = OF_MENTIONS if self.judges_claims else OF_CLAIMS
        for one in fields(self):
            if one.name in others and self._changed(one):
                other = "mentions" if self.judges_claims else "claims"
                raise ValueError(
                    f"--{one.name} {getattr(self, one.name)} with --fact_reward {self.fact_reward}, which does not read it; use "
                    f"--fact_reward {other}, or leave it out"
                )
        if (self.claim_judge_url is None) != (self.claim_judge_model is None):
            raise ValueError(
                "--claim_judge_url and --claim_judge_model belong together: give both, or neither (the reward model's base then "
                "judges)"
            )

    def _changed(self, one) -> bool:
        return getattr(self, one.name) != one.default

    @property
    def on(self) -> bool:
        """Whether facts are paid at all."""
        return self.fact_reward != "none"

    @property
    def judges_claims(self) -> bool:
        """Whether sentences are judged, not things that are named."""
        return self.fact_reward == "claims"

    @property
    def asks(self) -> bool:
        """Whether anybody is asked for Yes or No."""
        return self.judges_claims or self.asks_picture

    @property
    def asks_base(self) -> bool:
        """Whether the reward model's base answers questions."""
        return self.asks and self.claim_judge_url is None

    @property
    def asks_picture(self) -> bool:
        """Whether somebody is asked what the picture shows, where the facts leave it open."""
        return self.on and self.unmentioned == "ask_picture"

    def question(self, thing: str) -> str:
        """What is asked of the picture."""
        return self.picture_question.replace(THING, thing)

    def check_with(self, reward_model_coef: float, divides_base: bool) -> None:
        """Raise ValueError where nothing would be left to learn from, or a base that is divided would be asked."""
        if self.asks_base and divides_base:
            # Processes ask different numbers of questions, and every pass of a divided base needs all of them.
            asking, instead = (
                ("--fact_reward claims", "--claim_judge_url and --claim_judge_model")
                if self.judges_claims
                else ("--unmentioned ask_picture", "--unmentioned neutral or penalise")
            )
            raise ValueError(
                f"{asking} under ZeRO-3, where no process can ask the base alone; use ZeRO-2, or {instead}"
            )
        if reward_model_coef == 0 and not self.on:
            raise ValueError(
                "--reward_model_coef 0 without a fact reward: no score would be left to learn from; add --fact_reward mentions, or "
                "leave it out"
            )
