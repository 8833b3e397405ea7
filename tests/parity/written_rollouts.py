"""A rollout whose models are written down: every response, log-probability, value and score is given.

The recorded rollouts of the original were made with such stand-ins. Here `WrittenModel` stands for a transformer with
its adapters, and everything around it (sampling, roles, collecting, shaping, targets) is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from data_utils.batches import collate_prompts
from data_utils.items import PromptItem
from data_utils.schema import AnswerType
from llava_rlhf.assembly.roles import PPORoles, TextSide
from llava_rlhf.engines.policy_engine import PolicyEngine
from llava_rlhf.ppo.actor_critic import ScoringSettings
from llava_rlhf.ppo.arguments import PPOArguments, RewardArguments
from llava_rlhf.ppo.assembly import stop_ids
from llava_rlhf.ppo.estimator_arguments import EstimatorArguments
from llava_rlhf.ppo.experience import Experience
from llava_rlhf.ppo.micro_batches import MicroBatches
from llava_rlhf.ppo.numerics import Numerics
from llava_rlhf.ppo.reward_shaping import ShapedReward, shape_rewards
from llava_rlhf.ppo.rollout import RolloutCollector
from llava_rlhf.ppo.targets import TargetMaker, Targets
from models.families.llava import Llava
from models.generation import Sample, SamplingSettings, sample
from models.heads import ScalarHead
from models.roles import Policy, RewardModel, ValueModel

PAD, VOCABULARY, RESPONSE_LEN = 0, 32001, 20
# Some written log-probabilities are above 0. All are lowered by this, which no difference between two of them feels.
LOWERED = 1.0


class WrittenModel:
    """A language model with adapters, whose words and hidden states are given.

    Args:
        says: int64[B, T], the tokens that it says when asked for one after the other.
        states: (ids, mask) of whole sequences int64, bool[B, L] → hidden states [B, L, D]; no mask where all is real.
    """

    # Its prompts have no pictures: what stands for one is read like any other token.
    image_token_id, family, device = None, Llava, torch.device("cpu")
    tower_is_divided = False

    def __init__(self, says: Tensor | None = None, states: Callable[[Tensor, Tensor], Tensor] | None = None):
        self.says, self.states = says, states
        self.model, self.vlm = nn.Identity().eval(), self
        self.model.lm_head = nn.Identity()
        self.read: tuple[Tensor, Tensor] | None = None
        self.real: Tensor | None = None

    @contextmanager
    def use(self, adapter: str, training: bool) -> Iterator[WrittenModel]:
        """All its adapters are one."""
        yield self

    use_for_sampling = use

    def __call__(self, input_ids, mask, image_features=None) -> Tensor:
        """The given states."""
        mask = self.real if mask is None else mask
        self.read = (input_ids, mask)
        return self.states(input_ids, mask)

    def read_prompts(self, input_ids, mask, image_features, cache) -> tuple[Tensor, Tensor]:
        """The first state (token, log-probability 0), and a position."""
        self.rows, self.said = torch.arange(len(input_ids)), 0
        cache.keep = self._keep
        return self._say(), mask.sum(dim=1, keepdim=True)

    def decode(self, token: Tensor, mask, position_ids, past_key_values) -> Tensor:
        """The next state of the rows that still answer."""
        self.said += 1
        return self._say()

    def _keep(self, kept: Tensor, columns: int) -> None:
        self.rows = self.rows[kept]

    def _say(self) -> Tensor:
        token = self.says[self.rows, self.said]
        return torch.stack([token, torch.zeros_like(token)], dim=-1).float()

    def project(self, states: Tensor) -> Tensor:
        """Logits [..., V] of states (token, its log-probability); one other token takes the rest."""
        token, log_prob = states[..., :1].long(), states[..., 1:]
        logits = torch.full((*states.shape[:-1], VOCABULARY), -torch.inf)
        logits.scatter_(-1, (token + 1) % VOCABULARY, torch.log(-torch.expm1(log_prob)))
        return logits.scatter_(-1, token, log_prob)


class WatchedReward(RewardModel):
    """Its model is told which columns are real, though attention needs no mask."""

    def forward(self, input_ids, mask, image_features, training=False, right_padded=False) -> Tensor:
        self.bank.real = mask
        return super().forward(input_ids, mask, image_features, training, right_padded)


class InOrder(MicroBatches):
    """All rows at once, in their order: what is written stands by the number of its row."""

    def run(self, lengths, work) -> None:
        work(list(range(len(lengths))))


def before_each(*numbers: Tensor, queries: Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """Hidden states that hold these numbers [B, T] one position before each response column, elsewhere NaN.

    `queries` are the lengths of the queries in front; a row is as long as its response columns.
    """

    def states(ids: Tensor, mask: Tensor) -> Tensor:
        hidden = torch.full((*ids.shape, len(numbers)), torch.nan)
        for row, start in enumerate(queries):
            width = min(RESPONSE_LEN, ids.shape[1] - start)
            hidden[row, start - 1 : start - 1 + width] = torch.stack(
                [x[row, :width].float() for x in numbers], dim=-1
            )
        return hidden

    return states


def at_the_end(scores: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Hidden states that hold a row's score at its last real token, elsewhere NaN."""

    def states(ids: Tensor, mask: Tensor) -> Tensor:
        hidden = torch.full((*ids.shape, 1), torch.nan)
        for row, score in enumerate(scores):
            hidden[row, mask[row].nonzero()[-1]] = score
        return hidden

    return states


def say(tokens: Tensor, stops: tuple[int, ...]) -> Sample:
    """Sample from a model that says these tokens int64[B, T]."""
    nothing = torch.zeros(len(tokens), 1, dtype=torch.long)
    settings = SamplingSettings(tokens.shape[1], stops, PAD, temperature=0.0)
    return sample(WrittenModel(tokens), nothing, nothing == 0, None, settings)


class HandWrittenPolicy(Policy):
    """Three responses were written without a stop and filled with id 0, which nobody said."""

    def sample(self, *arguments) -> Sample:
        """What was said, without the fill."""
        said = super().sample(*arguments)
        return said._replace(mask=said.mask & (said.ids != PAD))


@dataclass(frozen=True)
class Played:
    """A rollout batch: theirs under its recorded names, ours, and what our reward model read (ids, mask)."""

    recorded: dict[str, Tensor]
    experience: Experience
    shaped: ShapedReward
    scored: tuple[Tensor, Tensor]


def play(
    given: dict[str, Tensor],
    recorded: dict[str, Tensor],
    reward_prompts: Sequence[Sequence[int]],
    text: TextSide,
    numerics: Numerics,
    policy: type[Policy] = HandWrittenPolicy,
) -> Played:
    """Roll the given responses out and shape their rewards, with the settings of the recording.

    Args:
        given, recorded: arrays of `rollout_stub/in/` and of one rollout, without their prefixes.
        reward_prompts: what the reward model reads behind each response.
        text: the tokenizer.
        numerics: which columns count.
        policy: the role that speaks.
    """
    responses = recorded["responses"]
    items = _items(given, reward_prompts)
    lengths = [len(item.query_ids) for item in items]
    speaks, refers = (
        before_each(responses, given[name] - LOWERED, queries=lengths)
        for name in ("logprobs_unmasked", "ref_logprobs_unmasked")
    )
    reward_model = WrittenModel(states=at_the_end(given["rewards_from_model"]))
    roles = PPORoles(
        policy(WrittenModel(given["raw_responses"], speaks), "policy"),
        Policy(WrittenModel(states=refers), "reference"),
        ValueModel(WrittenModel(states=before_each(given["values"], queries=lengths)), "value", _identity()),
        WatchedReward(reward_model, "reward", _identity()),
        shared=True,
    )
    sampling = SamplingSettings(RESPONSE_LEN, stop_ids(text, at_question_mark=True), PAD)
    scoring = ScoringSettings(temperature=1.0, chunk_size=128, banned_ids=None)
    collector = RolloutCollector(
        roles,
        text.tokenizer,
        text.stop_ids,
        PolicyEngine(roles.policy, sampling),
        scoring,
        InOrder(len(responses)),
        InOrder(len(responses)),
        numerics,
    )
    uniforms = torch.rand(len(responses), RESPONSE_LEN, generator=torch.Generator().manual_seed(0))
    experience = collector.collect([collate_prompts(items)], uniforms)
    return Played(
        recorded,
        experience,
        shape_rewards(experience, RESPONSE_LEN, RewardArguments(), 0.1),
        reward_model.read,
    )


def targets(experience: Experience, shaped: ShapedReward) -> Targets:
    """Advantages and returns as the loop makes them."""
    arguments = PPOArguments("base", "policy", "reward", "output")
    maker = TargetMaker(Accelerator(cpu=True), arguments, RewardArguments(), EstimatorArguments())
    return maker.make(experience, shaped)[0]


def _items(given: dict[str, Tensor], reward_prompts: Sequence[Sequence[int]]) -> list[PromptItem]:
    # No pictures: nobody would look at them.
    return [
        PromptItem(
            row=row,
            id=str(row),
            query_ids=given["queries"][row][given["query_attn_masks"][row].bool()].tolist(),
            reward_prompt_ids=list(ids),
            image_names=(),
            images=torch.zeros(0, 3, 2, 2),
            reward_images=None,
            answer_type=AnswerType(int(given["caption_types"][row])),
            length_bonus=float(given["length_bonus_multiplier"][row]),
            captions=(),
            question="",
        )
        for row, ids in enumerate(reward_prompts)
    ]


def _identity() -> ScalarHead:
    head = ScalarHead(1)
    nn.init.ones_(head.linear.weight)
    return head.requires_grad_(False)
