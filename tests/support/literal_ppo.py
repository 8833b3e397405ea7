"""PPO written out: row by row, without padding, batches, chunks or adapters that share a base. Slow on purpose.

Rows of one prompt stand behind one another.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from llava_rlhf.fact_rewards.arguments import FactRewardArguments
from llava_rlhf.ppo.arguments import PPOArguments, RewardArguments
from llava_rlhf.ppo.estimator_arguments import EstimatorArguments
from llava_rlhf.ppo.loss_arguments import LossArguments
from llava_rlhf.ppo.symbolic_rewards import correctness
from llava_rlhf.runs.ensemble_arguments import EnsembleArguments
from tests.support.literal_facts import paid_mentions
from tests.support.literal_losses import LiteralPolicyLoss
from tests.support.literal_numbers import engine_differences, mean_of, std_of
from tests.support.literal_rows import Row
from tests.support.literal_sentences import early_sentences
from tests.support.plain_models import PlainRole, plain_reward, seen, value_ids
from tests.support.tiny_models import STOP


class LiteralPPO:
    """Two trained roles, two frozen ones, one AdamW."""

    def __init__(
        self,
        policy_base: Path,
        reward_base: Path,
        policy: Path,
        reward: Path,
        ppo: PPOArguments,
        shaping: RewardArguments,
        response_len: int,
        stops: Sequence[int] = (STOP,),
        estimator: EstimatorArguments | None = None,
        decode: Callable[[list[int]], str] | None = None,
        loss: LossArguments | None = None,
        ensemble: EnsembleArguments | None = None,
        warmth: float = 1.0,
        facts: FactRewardArguments | None = None,
    ):
        adapter, reward_adapter = policy / "lora_policy", reward / "lora_reward"
        self.policy = PlainRole(policy_base, adapter, trainable=True)
        self.reference = PlainRole(policy_base, adapter)
        self.estimator = estimator or EstimatorArguments()
        self.critic = self.estimator.advantage_estimator == "gae"
        self.value = PlainRole(reward_base, reward_adapter, trainable=True)
        self.ensemble = ensemble or EnsembleArguments()
        self.rewards = [plain_reward(reward_base, f) for f in (reward, *self.ensemble.more_reward_models)]
        self.groups = [self.policy.adapter_parameters()]
        if self.critic:
            self.groups.append([*self.value.adapter_parameters(), self.value.weight, self.value.bias])
        self.loss = loss or LossArguments()
        self.terms = LiteralPolicyLoss(ppo, shaping, self.loss, response_len)
        rates = (ppo.learning_rate, self.estimator.value_learning_rate or ppo.learning_rate)
        self.optimizer = torch.optim.AdamW(
            [{"params": group, "lr": rate} for group, rate in zip(self.groups, rates, strict=False)],
            weight_decay=0.0,
        )
        self.steps_done = 0
        self.units = (0.0, 1.0)  # a value is units[0] + units[1] × what the critic says
        self.sums = [0.0, 0.0, 0.0]  # weights, returns and their squares, older PPO steps for less
        self.ppo, self.shaping, self.response_len, self.stops = ppo, shaping, response_len, stops
        self.warmth = warmth  # the engine samples at so many times the temperature
        self.decode = decode  # ids → text; only for rewards by sentence and by fact
        self.facts = facts or FactRewardArguments()

    def step(self, rows: list[Row]) -> dict[str, float]:
        """One PPO step in which every optimizer step takes all rows."""
        metrics = self._look(rows)
        self._shape(rows)
        rows = [row for row in rows if not row.masked]
        for row in rows:
            row.advantages = [self.terms.cut_off(number) for number in row.advantages]
        metrics["ppo/returns/mean"] = mean_of([value for row in rows for value in row.returns])
        self._move_units(rows)
        critic_alone = self.steps_done < self.estimator.value_warmup_steps
        self.steps_done += 1
        tokens = sum(len(row.response) for row in rows)
        sums: dict[str, float] = {"ppo/loss/policy": 0.0, "ppo/loss/value": 0.0, "ppo/policy/approxkl": 0.0}
        norms = [0.0 for _ in self.groups]
        taken, step_kl = 0, 0.0
        for _ in range(self.ppo.noptepochs):
            if self.loss.update_kl_limit and step_kl > self.loss.update_kl_limit:
                break
            taken, step_kl = taken + 1, 0.0
            self.optimizer.zero_grad()
            for row in rows:
                policy, value, approxkl = self._losses(row)
                policy = policy * self.terms.share(len(row.response), [len(other.response) for other in rows])
                value, approxkl = value / tokens, approxkl / tokens
                loss = policy * (not critic_alone) + self.ppo.vf_coef * value * self.critic
                loss.backward()
                for name, number in zip(sums, (policy, value, approxkl), strict=True):
                    sums[name] += float(number.detach())
                step_kl += float(approxkl)
            for index, group in enumerate(self.groups):
                norm = math.sqrt(sum(float(weight.grad.square().sum()) for weight in group))
                norms[index] += norm
                scale = min(1.0, self.ppo.max_grad_norm / (norm + 1e-6))
                for weight in group:
                    weight.grad *= scale
            if critic_alone:
                for weight in self.groups[0]:
                    weight.grad = None
            self.optimizer.step()
        if not self.critic:
            del sums["ppo/loss/value"]
        sums |= dict(zip(("ppo/loss/grad_norm_policy", "ppo/loss/grad_norm_value"), norms, strict=False))
        if self.loss.update_kl_limit:
            metrics["ppo/optimizer_steps"] = taken
        return metrics | {name: number / taken for name, number in sums.items()}

    @torch.no_grad()
    def _look(self, rows: list[Row]) -> dict[str, float]:
        kls, log_ratios, scores, spreads = [], [], [], []
        for row in rows:
            item, (images, shown) = row.item, seen(row.item)
            asked = (item.query_ids, row.response, images, self.ppo.temperature)
            row.log_probs, _ = self.policy.response_log_probs(*asked)
            reference, _ = self.reference.response_log_probs(*asked)
            warm = self.warmth * self.ppo.temperature
            row.engine_log_probs, _ = self.policy.response_log_probs(*asked[:3], warm)
            row.values = self.value.response_values(value_ids(item, self.estimator), row.response, shown)
            score, spread = self._score(row, len(row.response))
            spreads.append(spread)
            score *= self.shaping.reward_model_coef
            never_stopped = row.response[-1] not in self.stops
            row.masked = never_stopped and self.terms.masks(len(row.response))
            if never_stopped and not row.masked:
                score += self.shaping.penalty_reward_value
            share = len(row.response) / self.response_len
            score += self.shaping.length_bonus_score * share * item.length_bonus
            score += self.shaping.correct_bonus_score * correctness(row.text, item.answer_type)
            row.ref_log_probs = reference
            ratios = [
                mine - its for mine, its in zip(row.log_probs.tolist(), reference.tolist(), strict=True)
            ]
            kl = [self.terms.kl(ratio) for ratio in ratios]
            coef = self.shaping.kl_coef if self.loss.kl_placement == "reward" else 0.0
            row.rewards = [-coef * number for number in kl]
            row.rewards[-1] += score
            self._pay_sentences(row)
            score += self._pay_facts(row)
            kls.append(sum(kl))
            log_ratios.append(sum(ratios))
            scores.append(score)
        metrics = {
            "objective/kl_sum_seq": mean_of(kls),
            "objective/log_ratio": mean_of(log_ratios),
            "objective/rewards": mean_of(scores),
        }
        if self.warmth != 1:
            metrics |= engine_differences([(row.log_probs, row.engine_log_probs) for row in rows], self.terms)
        return metrics if len(self.rewards) == 1 else metrics | {"objective/reward_spread": mean_of(spreads)}

    def _score(self, row: Row, tokens: int) -> tuple[float, float]:
        """What the reward models say of so many tokens of the response, and on how much they disagree."""
        ids = [*row.item.query_ids, *row.response[:tokens], *row.item.reward_prompt_ids]
        said = [float(reward.score(ids, seen(row.item)[1])) for reward in self.rewards]
        spread = std_of(said)
        return mean_of(said) - (self.ensemble.ensemble_beta or 0) * spread, spread

    def _pay_sentences(self, row: Row) -> None:
        if self.shaping.reward_placement == "sentence":
            for token, amount in early_sentences(
                row.response, self.decode, lambda tokens: self._score(row, tokens)[0]
            ):
                amount *= self.shaping.reward_model_coef
                row.rewards[token] += amount
                row.rewards[-1] -= amount

    def _pay_facts(self, row: Row) -> float:
        """Put on tokens what things and their coverage earn; returns the sum."""
        if self.facts.fact_reward == "none":
            return 0.0
        item, total = row.item, 0.0
        said = [fact.text for fact in item.facts.facts]
        for token, amount in paid_mentions(row.response, self.decode, said, item.answer_type, self.facts):
            row.rewards[token] += amount
            total += amount
        return total

    def _shape(self, everyone: list[Row]) -> None:
        """What masked answers earned is on the same scale, for their groups; they take no other part."""
        rows = [row for row in everyone if not row.masked]
        scale, shift = self.shaping.reward_scale, 0.0
        if self.shaping.whiten_rewards:
            every = [number for row in rows for number in row.rewards]
            shift, scale = mean_of(every), 1 / (std_of(every) + 1e-8)
        for row in everyone:
            row.rewards = [(number - shift) * scale + shift for number in row.rewards]
        if not self.critic:
            self._compare(everyone)
            return
        gamma, lam = self.ppo.gamma, self.ppo.lam
        if self.estimator.normalize_returns and not self.steps_done:
            sums = [
                [sum(gamma**k * r for k, r in enumerate(row.rewards[t:])) for t in range(len(row.rewards))]
                for row in rows
            ]
            self._see([number for row_sums in sums for number in row_sums])
        for row in rows:
            values = [*self._in_rewards(row), 0.0]
            # A_t = Σ_k (γλ)^k δ_(t+k), written as the double sum that it is.
            deltas = [row.rewards[t] + gamma * values[t + 1] - values[t] for t in range(len(row.response))]
            row.advantages = [
                sum((gamma * lam) ** k * delta for k, delta in enumerate(deltas[t:]))
                for t in range(len(deltas))
            ]
            row.returns = [advantage + values[t] for t, advantage in enumerate(row.advantages)]
        self._whiten(rows)

    def _compare(self, rows: list[Row]) -> None:
        """Advantages without a critic."""
        kind, size = self.estimator.advantage_estimator, self.estimator.samples_per_prompt
        for index, row in enumerate(rows):
            row.returns = [sum(row.rewards)]
            length = len(row.response)
            if kind == "reinforce":
                gamma = self.ppo.gamma
                row.advantages = [
                    sum(gamma ** (later - t) * row.rewards[later] for later in range(t, length))
                    for t in range(length)
                ]
                continue
            first = index // size * size
            group = [sum(other.rewards) for other in rows[first : first + size]]
            mine = group[index - first]
            if kind == "rloo":
                others = [number for place, number in enumerate(group) if place != index - first]
                advantage = mine - mean_of(others)
            else:
                advantage = mine - mean_of(group)
                if self.estimator.divide_by_group_spread:
                    squares = sum((number - mean_of(group)) ** 2 for number in group)
                    advantage /= math.sqrt(squares / (size - 1)) + 1e-6
            row.advantages = [advantage] * length
        asked = self.estimator.whiten_advantages
        if asked or (asked is None and kind == "reinforce"):
            self._whiten([row for row in rows if not row.masked])

    def _whiten(self, rows: list[Row]) -> None:
        every = [number for row in rows for number in row.advantages]
        mean, std = mean_of(every), std_of(every)
        for row in rows:
            row.advantages = [(number - mean) / (std + 1e-8) for number in row.advantages]

    def _in_rewards(self, row: Row) -> list[float]:
        mean, spread = self.units
        return [mean + spread * number for number in row.values.tolist()]

    def _see(self, returns: list[float]) -> None:
        for index, number in enumerate((1.0, mean_of(returns), mean_of([x * x for x in returns]))):
            self.sums[index] = 0.9 * self.sums[index] + 0.1 * number
        mean, square = self.sums[1] / self.sums[0], self.sums[2] / self.sums[0]
        self.units = (mean, math.sqrt(square - mean**2))

    def _move_units(self, rows: list[Row]) -> None:
        """The critic says the same in its new units; what it shall say is put into them, too."""
        if not self.estimator.normalize_returns:
            return
        (mean, spread), said = self.units, [self._in_rewards(row) for row in rows]
        self._see([number for row in rows for number in row.returns])
        new_mean, new_spread = self.units
        with torch.no_grad():
            self.value.bias.copy_((self.value.bias * spread + mean - new_mean) / new_spread)
            self.value.weight.mul_(spread / new_spread)
        for row, values in zip(rows, said, strict=True):
            row.values = torch.tensor([(number - new_mean) / new_spread for number in values])
            row.returns = [(number - new_mean) / new_spread for number in row.returns]

    def _losses(self, row: Row) -> tuple[Tensor, Tensor, Tensor]:
        item, (images, reward_images) = row.item, seen(row.item)
        log_probs, entropies = self.policy.response_log_probs(
            item.query_ids, row.response, images, self.ppo.temperature
        )
        values = self.value.response_values(value_ids(item, self.estimator), row.response, reward_images)
        policy, value, approxkl = torch.zeros(()), torch.zeros(()), torch.zeros(())
        for t in range(len(row.response)):
            policy = policy + self.terms.of_token(
                *(log_probs[t], row.log_probs[t], row.ref_log_probs[t], row.advantages[t], entropies[t]),
                row.engine_log_probs[t],
            )
            approxkl = approxkl + 0.5 * (log_probs[t] - row.log_probs[t]).detach() ** 2
            if not self.critic:
                continue
            old, width = row.values[t], self.ppo.cliprange_value
            clipped = torch.max(torch.min(values[t], old + width), old - width)
            target = row.returns[t]
            value = value + 0.5 * torch.max((values[t] - target) ** 2, (clipped - target) ** 2)
        return policy, value, approxkl
