"""Is the run healthy? What its own metrics say, in plain words: what was seen, why it matters, what to do.

Levels are means over the last quarter of the steps, trends compare it with the first quarter. The thresholds below are rules
of thumb, and stand in docs/run_report.md too: a flag asks for a look, it proves nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from llava_rlhf.reporting.changes import Measured, short
from llava_rlhf.reporting.run_data import RunData
from llava_rlhf.runs.metrics import ENGINE_KL, NOTABLE_ENGINE_KL

MIN_EXPLAINED_VARIANCE = 0.1  # of the returns; 0 is what a constant explains
MAX_VALUE_CLIP = 0.3  # of the tokens
MAX_WITHOUT_SPREAD = 0.5  # of the groups
MAX_KL = 20.0  # nats a response
MAX_KL_PER_TOKEN = 0.5  # nats
MIN_KL = 0.01  # nats a response
MIN_STOP_RATE = 0.9
MIN_LENGTH_RATIO = 0.5  # last quarter to first quarter
MIN_STEPS_FOR_TRENDS = 4
REWARD_RISE = 2.0  # standard errors of the difference between the quarters

IN_GROUPS = ("rloo", "grpo")  # estimators that measure an answer against others to its prompt
OK, FLAG, UNKNOWN = "fine", "look", "not checked"


@dataclass(frozen=True)
class Check:
    """One question to a run.

    Attributes:
        name: which, for links and tests.
        state: OK, FLAG or UNKNOWN.
        seen: the answer, with its number.
        why: why that matters; of flags only.
        todo: what to do, with the flag of the program; of flags only.
    """

    name: str
    state: str
    seen: str
    why: str = ""
    todo: str = ""


def lines_of(checks: Iterable[Check]) -> list[str]:
    """A line for each check that is not fine."""
    return [f"{check.state}: {check.seen}" for check in checks if check.state != OK]


def health(run: RunData, held_out: Measured | None) -> list[Check]:
    """Every check of a PPO run, flags first; none of a run of another program."""
    if not run.series("objective/rewards")[1]:
        return []
    checks = [_kl(run), _stop_rate(run), _reward_alone(run, held_out), _length(run), *_engine(run)]
    estimator = run.arguments.get("EstimatorArguments", {}).get("advantage_estimator", "gae")
    if estimator == "gae":
        checks = [_critic(run), *_value_clip(run), *checks]
    elif estimator in IN_GROUPS:
        checks += _groups(run)
    return sorted(checks, key=lambda check: (FLAG, OK, UNKNOWN).index(check.state))


def first_quarter(values: Sequence[float]) -> Sequence[float]:
    """At least one number."""
    return values[: max(1, len(values) // 4)]


def last_quarter(values: Sequence[float]) -> Sequence[float]:
    """At least one number."""
    return values[-max(1, len(values) // 4) :]


def rise(values: Sequence[float]) -> float | None:
    """Last less first quarter, in standard errors of that difference; None for too few steps.

    The errors come from the spread of the steps within their quarter; without any spread a difference is infinite.
    """
    if len(values) < MIN_STEPS_FOR_TRENDS:
        return None
    ends = first_quarter(values), last_quarter(values)
    difference = fmean(ends[1]) - fmean(ends[0])
    spread = [stdev(end) ** 2 / len(end) if len(end) > 1 else 0.0 for end in ends]
    error = math.sqrt(sum(spread))
    return difference / error if error else math.copysign(math.inf, difference) if difference else 0.0


def _level(run: RunData, name: str) -> float | None:
    values = run.series(name)[1]
    return fmean(last_quarter(values)) if values else None


def _critic(run: RunData) -> Check:
    name, explained = "critic", _level(run, "ppo/val/explained_variance")
    if explained is None:
        return Check(name, UNKNOWN, "The run logged no explained variance of the critic.")
    shown = short(explained)
    if explained >= MIN_EXPLAINED_VARIANCE:
        return Check(name, OK, f"The critic explains {shown} of the variance of the returns.")
    worse = "is worse than a constant" if explained < -MIN_EXPLAINED_VARIANCE else "explains nothing"
    return Check(
        name,
        FLAG,
        f"The critic {worse}: explained variance {shown} (1 is perfect, 0 a constant, "
        f"below {MIN_EXPLAINED_VARIANCE} is flagged).",
        "Advantages are then returns less a constant: right on average, but noisy, so that learning is slow.",
        "Compare ppo/val/error with ppo/returns/var below. Where returns are far from 0 or much larger than 1, set "
        "--normalize_returns True, lower --reward_scale or set --whiten_rewards True. Where the reward model sees facts, let "
        "the critic see them: --value_sees_facts True. Or raise --value_learning_rate.",
    )


def _value_clip(run: RunData) -> list[Check]:
    name, clipped = "value clip", _level(run, "ppo/val/clipfrac")
    if clipped is None:
        return []
    if clipped <= MAX_VALUE_CLIP:
        return [Check(name, OK, f"{clipped:.0%} of the values are held back by their clip.")]
    return [
        Check(
            name,
            FLAG,
            f"The clip holds {clipped:.0%} of the values back (above {MAX_VALUE_CLIP:.0%} is flagged).",
            "A value that is clipped learns nothing more in this PPO step: the critic lags behind the returns.",
            "Set --normalize_returns True, which puts the clip in units of the returns' spread, or raise --cliprange_value.",
        )
    ]


def _groups(run: RunData) -> list[Check]:
    name, alike = "groups", _level(run, "ppo/groups/without_spread")
    if alike is None:
        return []
    if alike <= MAX_WITHOUT_SPREAD:
        return [Check(name, OK, f"In {1 - alike:.0%} of the groups answers to one prompt earn differently.")]
    return [
        Check(
            name,
            FLAG,
            f"In {alike:.0%} of the groups all answers to a prompt earn the same (above {MAX_WITHOUT_SPREAD:.0%} is flagged).",
            "Where nothing differs, an answer is neither better nor worse than the others, and nothing is learned from the group.",
            "Raise --samples_per_prompt or --temperature, take prompts that are neither trivial nor hopeless, or use "
            "--advantage_estimator reinforce.",
        )
    ]


def _kl(run: RunData) -> Check:
    name, kl = "kl", _level(run, "objective/kl_sum_seq")
    per_token = _level(run, "objective/kl_avg_seq")
    if kl is None:
        return Check(name, UNKNOWN, "The run logged no KL.")
    shown = f"KL to the first policy: {short(kl)} nats a response"
    shown += f", {short(per_token)} a token" if per_token is not None else ""
    if kl > MAX_KL or (per_token or 0) > MAX_KL_PER_TOKEN:
        return Check(
            name,
            FLAG,
            f"The policy ran away. {shown} (above {MAX_KL:g} a response or {MAX_KL_PER_TOKEN} a token is flagged).",
            "Far from the first policy the reward model judges answers unlike any it was trained on; high scores there "
            "mean little.",
            "Raise --kl_coef, or --kl_controller adaptive with a --kl_target; lower --learning_rate. --max_kl stops a run.",
        )
    if abs(kl) < MIN_KL and len(run.series("objective/kl_sum_seq")[1]) >= MIN_STEPS_FOR_TRENDS:
        return Check(
            name,
            FLAG,
            f"The policy did not move. {shown} (below {MIN_KL} is flagged).",
            "Whatever the reward did, the policy is the one it started from.",
            "Raise --learning_rate, lower --kl_coef, or train longer (--max_steps, --total_epochs); see that "
            "ppo/loss/grad_norm_policy is not 0.",
        )
    return Check(name, OK, f"{shown}.")


def _stop_rate(run: RunData) -> Check:
    name, rate = "stop", _level(run, "response/stop_rate")
    if rate is None:
        return Check(name, UNKNOWN, "The run logged no stop rate.")
    if rate >= MIN_STOP_RATE:
        return Check(name, OK, f"{rate:.0%} of the responses end with the stop token.")
    return Check(
        name,
        FLAG,
        f"Only {rate:.0%} of the responses end with the stop token (below {MIN_STOP_RATE:.0%} is flagged).",
        "The others are cut off at the length limit: their scores are those of half answers, and each pays the penalty.",
        "Raise --response_len if answers need more room; else --penalize_no_stop_token True with a lower "
        "--penalty_reward_value, and look whether the policy was trained on answers with a stop token.",
    )


def _reward_alone(run: RunData, held_out: Measured | None) -> Check:
    name, rewards = "reward", run.series("objective/rewards")[1]
    risen = rise(rewards)
    if risen is None:
        return Check(
            name, UNKNOWN, f"Too few steps for a trend of the reward: {MIN_STEPS_FOR_TRENDS} are needed."
        )
    told = f"{short(fmean(first_quarter(rewards)))} → {short(fmean(last_quarter(rewards)))}"
    if held_out is None:
        return Check(
            name,
            UNKNOWN,
            f"Reward {told} (first to last quarter of the steps). Whether answers got better it cannot say: give "
            "the report on this run held-out scores (--scores BEFORE AFTER).",
        )
    if risen < REWARD_RISE:
        return Check(name, OK, f"Reward {told}: no clear rise, so nothing to hold against held-out quality.")
    improved = held_out.measures[0].improved()
    if improved:
        return Check(name, OK, f"Reward {told}, and held-out quality went along: {held_out.sentence()}.")
    return Check(
        name,
        FLAG,
        f"Reward {told}, but held-out quality {'is flat' if improved is None else 'fell'}: {held_out.sentence()}.",
        "The policy learned what the reward model likes, which is not what was meant (reward hacking).",
        "Read the best rollouts below against their captions; raise --kl_coef, stop earlier (--max_steps), or train the "
        "reward model on such answers (--reward_model_name_or_path).",
    )


def _length(run: RunData) -> Check:
    name, lengths = "length", run.series("response/length_mean")[1]
    if len(lengths) < MIN_STEPS_FOR_TRENDS:
        return Check(
            name, UNKNOWN, f"Too few steps for a trend of the length: {MIN_STEPS_FOR_TRENDS} are needed."
        )
    before, after = fmean(first_quarter(lengths)), fmean(last_quarter(lengths))
    told = f"{before:.1f} → {after:.1f} tokens"
    if after >= MIN_LENGTH_RATIO * before:
        return Check(name, OK, f"Responses are {told} long (first to last quarter of the steps).")
    return Check(
        name,
        FLAG,
        f"Responses collapsed: {told} (below {MIN_LENGTH_RATIO:.0%} of the first quarter is flagged).",
        "A short answer makes few mistakes and says little: fewer hallucinations may be fewer statements. Look at recall.",
        "Bring --length_bonus_score nearer to 0 or above it, raise --kl_coef, and read the rollouts below.",
    )


def _engine(run: RunData) -> list[Check]:
    name, kl = "engine", _level(run, ENGINE_KL)
    if kl is None:
        return []
    if kl <= NOTABLE_ENGINE_KL:
        return [
            Check(
                name, OK, f"The engine that samples is {kl:.2g} nats a token (KL) from the model that trains."
            )
        ]
    off = _level(run, "engine/tokens_off") or 0.0
    return [
        Check(
            name,
            FLAG,
            f"The engine that samples answers otherwise than the model that trains: KL {kl:.2g} nats a token (above "
            f"{NOTABLE_ENGINE_KL} is flagged), {off:.0%} of the tokens more than 10 % likelier or unlikelier.",
            "The policy learns from answers that another policy gave: its gradient is biased, and may lead nowhere.",
            "See that the engine serves each step's adapter on the same base, quantised no other way, at the same --temperature; "
            "against what is left use --importance_correction truncated.",
        )
    ]
