"""What facts pay in a PPO step: amounts on the tokens that name things, and the coverage at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from data_utils.datasets import PromptDataset
from data_utils.fact_lists import FactList
from data_utils.items import PromptItem
from data_utils.schema import AnswerType
from llava_rlhf.assembly.image_features import ImageFeatures
from llava_rlhf.assembly.token_text import TokenText, at_tokens
from llava_rlhf.fact_rewards.arguments import FactRewardArguments
from llava_rlhf.fact_rewards.claims import known_facts
from llava_rlhf.fact_rewards.mentions import FactReward, MentionReward, truth, word_list
from llava_rlhf.fact_rewards.object_words import ObjectWords
from llava_rlhf.ppo.known_answers import KnownAnswers
from llava_rlhf.ppo.yes_no import Chance

LOOKED_AT = 2000  # prompts whose facts are counted before a run; more only while none names a thing


@dataclass(frozen=True)
class FactScores:
    """Of R answers: their texts by tokens, and what each earned by what it says."""

    texts: list[TokenText]
    rewards: list[FactReward]

    def on_mentions(self, columns: int) -> Tensor:
        """float32[R, T]: each mention's reward on the token that ends it; T is `columns`."""
        return at_tokens(self.texts, [reward.spans() for reward in self.rewards], columns)

    def by_mentions(self) -> Tensor:
        """float32[R]: sums over the mentions."""
        return torch.tensor([reward.by_mentions for reward in self.rewards])

    def coverage(self) -> Tensor:
        """float32[R]: what the share of named facts earned."""
        return torch.tensor([reward.coverage for reward in self.rewards])

    def metrics(self) -> dict[str, Tensor]:
        """Metric → float32[R]: what was earned, mentions by what became of them, and things in the facts."""
        counts = {
            f"facts/{verdict}": [reward.count(verdict) for reward in self.rewards]
            for verdict in ("right", "wrong", "repeated", "unmentioned", "unsaid")
        }
        counts["facts/there"] = [reward.there for reward in self.rewards]
        counts["facts/named"] = [reward.named for reward in self.rewards]
        counts["facts/undecided"] = [reward.undecided for reward in self.rewards]
        counts["facts/silent"] = [
            all(one.verdict == "unsaid" for one in reward.mentions) for reward in self.rewards
        ]
        earned = {"objective/fact_mentions": self.by_mentions(), "objective/fact_coverage": self.coverage()}
        return earned | {name: torch.tensor(values, dtype=torch.float32) for name, values in counts.items()}


@dataclass(frozen=True)
class FactScorer:
    """Pays answers by what they say.

    Attributes:
        reward: what is paid.
        answers: who says whether the picture shows what no fact names; None: nobody is asked.
    """

    reward: MentionReward
    answers: KnownAnswers | None = None

    def scores(
        self, items: Sequence[PromptItem], texts: Sequence[TokenText], images: ImageFeatures
    ) -> FactScores:
        """What answers to prompts earn; `images` as the reward model's base sees them."""
        seen = self._seen(items, texts, images)
        found = [
            self.reward.of(text.text, item.facts, item.answer_type is AnswerType.GENERAL, of_row)
            for item, text, of_row in zip(items, texts, seen, strict=True)
        ]
        return FactScores(list(texts), found)

    def _seen(
        self, items: Sequence[PromptItem], texts: Sequence[TokenText], images: ImageFeatures
    ) -> Sequence[Mapping[str, Chance]]:
        """For each row thing → probability that its pictures show it, of those that no fact names."""
        if self.answers is None:
            return [{}] * len(items)
        question = self.reward.arguments.question
        wanted = [
            {thing: question(thing) for thing in self.reward.unmentioned(text.text, item.facts)}
            for item, text in zip(items, texts, strict=True)
        ]
        return self.answers.about_pictures(items, wanted, images)


def check_facts(arguments: FactRewardArguments, prompts: PromptDataset) -> str:
    """What the facts of the first prompts name, as a line for a log; empty without a fact reward.

    Raises:
        ValueError: no fact of any prompt names a thing, or `--fact_synonyms` is bad.
    """
    if not arguments.on:
        return ""
    words = None if arguments.judges_claims else word_list(arguments)
    counts = _things(prompts, words, range(min(LOOKED_AT, len(prompts))))
    needed = (
        words is not None or not arguments.asks_picture
    )  # a picture can be asked of claims without any fact
    if needed and not any(counts) and not any(_things(prompts, words, range(LOOKED_AT, len(prompts)))):
        problem = f"none of the {len(prompts)} prompts has a fact"
        remedy = "or --unmentioned ask_picture"
        if words is not None:
            problem = (
                f"no fact of the {len(prompts)} prompts names a thing of --fact_words {arguments.fact_words}"
            )
            remedy = "or other words (--fact_words, --fact_synonyms)"
        raise ValueError(
            f"--fact_reward {arguments.fact_reward}, but {problem}; give captions (--image_to_caption_file) or other facts "
            f"(--image_to_facts_file), {remedy}"
        )
    known = sum(count > 0 for count in counts)
    mean = sum(counts) / max(known, 1)
    what = "there are facts" if words is None else "facts name things"
    return f"fact rewards: {what} of {known} of the first {len(counts)} prompts, {mean:.2g} each"


def _things(prompts: PromptDataset, words: ObjectWords | None, rows: range) -> list[int]:
    """How many things the facts of these prompts name; without words how many facts there are."""
    known = [FactList.of_rows(facts) for facts in prompts.select(rows).column("facts")]
    return [len(known_facts(facts) if words is None else truth(facts, words).there) for facts in known]
