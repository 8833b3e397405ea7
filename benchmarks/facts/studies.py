"""What each study measures of one seed: arm → measure → number. docs/facts.md says why it is asked."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.facts.stages import KINDS, Judge, Noise, Stages
from benchmarks.facts.word_judge import NAME as WORDS
from benchmarks.facts.word_judge import word_judge
from benchmarks.facts.world import NOISES, dialogue, labelled_pair
from data_utils.shapes_world import Scene
from llava_rlhf.runs.run_folder import read_json_lines
from llava_rlhf.tiny_world.best_of_n import GOLD, best_numbers, by_prompt, gold, scored_best
from llava_rlhf.tiny_world.score_answers import score_answers

KL_LEVELS = (2, 5, 10, 20, 30)  # nats, at which long_ppo is read off
WINDOW = 3  # PPO steps that are averaged there
MENTIONS = {"FACT_REWARD": "mentions"}
BEGINNING = "policy init"  # an arm of pareto
FACTS_ALONE = ("--reward_model_coef", "0")
Arms = Iterator[tuple[str, Mapping[str, float]]]


@dataclass(frozen=True)
class Study:
    """A study.

    Attributes:
        run: stages, seed → arms one after the other.
        shown: measures of its table.
        contrasts: pairs of arms whose difference (first − second) is told.
    """

    run: Callable[[Stages, int], Arms]
    shown: Sequence[str]
    contrasts: Sequence[tuple[str, str]]


def most(stages: Stages) -> int:
    """Pairs of the judges of most studies."""
    return max(stages.arguments.pairs)


def best_of_n(stages: Stages, seed: int) -> Arms:
    """Few answers or many, of which each judge and the oracle choose the best."""
    judges = {kind: Judge(kind, most(stages), seed) for kind in KINDS}
    yield from best_of_answers(stages, seed, "sighted", judges)


def best_of_answers(stages: Stages, seed: int, policy: str, judges: Mapping[str, Judge]) -> Arms:
    """Answers of the policy init on a base, of which each judge and the oracle choose the best of n."""
    arguments = stages.arguments
    images = [row["image"] for row in _rows(stages, "eval.json")]
    drawn = np.random.default_rng([seed, 7]).permutation(sorted(set(images)))[: arguments.pictures]
    prompts = stages.prompts(f"best-{seed}", "eval.json", True, frozenset(drawn.tolist()))
    name = f"best-{policy}-{seed}"
    answers = stages.answers(
        name, prompts, stages.init(policy), arguments.temperature, arguments.samples, seed, policy
    )
    scenes = stages.scenes()
    groups = by_prompt(read_json_lines(answers))
    worth = [[gold(one, scenes[one["image"][0]]) for one in group] for group in groups]
    for arm, judge in judges.items():
        yield arm, scored_best(stages.scores(judge, answers, name), scenes)
    yield "oracle", best_numbers([[one["gold"] for one in group] for group in worth], worth)


def pairs(stages: Stages, seed: int) -> Arms:
    """Judges of few and many pairs, on held-out pairs."""
    for count in sorted(stages.arguments.pairs):
        for kind in KINDS:
            yield f"{kind}-{count}", accuracy(stages, Judge(kind, count, seed))


def accuracy(stages: Stages, judge: Judge) -> dict[str, float]:
    """Share of held-out pairs that a judge orders as the oracle; a tie counts half. Of all, and of descriptions."""
    rows = stages.scores(judge, stages.held_out(), "held-out")
    right = [0.5 if row["agrees"] is None else float(row["agrees"]) for row in rows]
    of_descriptions = [one for one, row in zip(right, rows, strict=True) if row["answer_type"] == "GENERAL"]
    return {"accuracy": statistics.fmean(right), "descriptions": statistics.fmean(of_descriptions)}


def noisy_captions(stages: Stages, seed: int) -> Arms:
    """Judges that are trained and asked with captions of which objects are missing or wrong."""
    count = stages.arguments.noisy_pairs
    for kind in KINDS:
        yield kind, accuracy(stages, Judge(kind, count, seed))
    for percent in sorted(stages.arguments.noise_percent, reverse=True):
        for kind in NOISES:
            yield f"{kind}-{percent}", accuracy(stages, Judge("factual", count, seed, Noise(kind, percent)))


def unmentioned(stages: Stages, seed: int) -> Arms:
    """What `--unmentioned` makes of captions with gaps: PPO with facts alone."""
    judge = Judge("factual", most(stages), seed)
    percents = sorted(stages.arguments.noise_percent)
    cases = [(percents[len(percents) // 2], way) for way in ("neutral", "penalise", "ask_picture")]
    cases += [(percents[-1], way) for way in ("neutral", "penalise")]
    for percent, way in dict.fromkeys(cases):
        noise = Noise("missing", percent)
        name = f"{noise}-{way}"
        changes = {**MENTIONS, "UNMENTIONED": way}
        policy = stages.policy(name, judge, noise, changes, FACTS_ALONE)
        yield name, evaluated(stages, f"{name}-{seed}", policy, seed)


def pareto(stages: Stages, seed: int) -> Arms:
    """Where PPO ends with each reward, sampled and greedy."""
    yield BEGINNING, evaluated(stages, f"init-{seed}", stages.init(), seed)
    plain, factual = (Judge(kind, most(stages), seed) for kind in KINDS)
    weighed = ("--fact_wrong_score", "-2", "--fact_coverage_score", "3")
    with word_judge() as server:
        claims = {"FACT_REWARD": "claims", "CLAIM_JUDGE_NAME": WORDS, "CLAIM_JUDGE_URL": server.url}
        arms: dict[str, tuple[Judge, dict[str, str], Sequence[str]]] = {
            "plain": (plain, {}, ()),
            "factual": (factual, {}, ()),
            "mentions": (factual, MENTIONS, (*FACTS_ALONE, "--fact_coverage_score", "0")),
            "mentions + coverage": (factual, MENTIONS, FACTS_ALONE),
            "mentions + coverage, weighed": (factual, MENTIONS, (*FACTS_ALONE, *weighed)),
            "factual + mentions + coverage": (factual, MENTIONS, weighed),
            "claims, judged by words": (factual, claims, FACTS_ALONE),
        }
        for arm, (judge, changes, flags) in arms.items():
            name = f"pareto-{arm.replace(' + ', '-').replace(', ', '-').replace(' ', '-')}"
            policy = stages.policy(name, judge, None, changes, flags)
            yield arm, evaluated(stages, f"{name}-{seed}", policy, seed)


def evaluated(stages: Stages, name: str, policy: Any, seed: int, base: str = "sighted") -> dict[str, float]:
    """Means over the held-out questions, `NAME sampled` and `NAME greedy`."""
    prompts, scenes = stages.prompts("evaluation", "eval.json", False), stages.scenes()
    found = {}
    for way, temperature in (("sampled", 1.0), ("greedy", 0.0)):
        answers = stages.answers(f"{name}-{way}", prompts, policy, temperature, 1, seed, base)
        scores = score_answers(read_json_lines(answers), scenes)
        for measure in ("hallucination", "recall", "yes_no_accuracy", "choice_accuracy"):
            found[f"{measure} {way}"] = scores[measure]["mean"]
    return found


def selection(stages: Stages, seed: int) -> Arms:
    """Policies that learn what a judge chose: the best of several answers, or the better of two."""
    judges = {kind: Judge(kind, most(stages), seed) for kind in KINDS}
    _, groups, scores = selection_answers(stages, seed, judges)
    random = {"random": [[0.0] * len(group) for group in groups]}
    for arm, table in {**random, **scores}.items():
        best = [group[int(np.argmax(of))] for group, of in zip(groups, table, strict=True)]
        policy = stages.supervised(f"sft-{arm}", seed, [dialogue(one) for one in best], {"EPOCHS": "3"})
        yield f"SFT, {arm}", _described(stages, f"sft-{arm}-{seed}", policy, seed)
    for arm in (*KINDS, "oracle"):
        rows = [
            row
            for group, of in zip(groups, scores[arm], strict=True)
            for at in range(0, len(group) - 1, 2)
            if (row := labelled_pair(group[at], group[at + 1], (of[at], of[at + 1]))) is not None
        ]
        yield f"DPO, {arm}", _preferred(stages, arm, rows, seed)


def selection_answers(
    stages: Stages, seed: int, judges: Mapping[str, Judge]
) -> tuple[str, list[list[Mapping[str, Any]]], dict[str, list[list[float]]]]:
    """Answers of the policy init at temperature 1: their name, they by prompt, and what each judge and the oracle score them."""
    arguments = stages.arguments
    images = list(dict.fromkeys(row["image"] for row in _rows(stages, "prompts.json")))
    prompts = stages.prompts(
        "selection", "prompts.json", True, frozenset(images[: arguments.selected_pictures])
    )
    name = f"selection-{seed}"
    answers = stages.answers(name, prompts, stages.init(), 1.0, arguments.selected_of, seed)
    scenes = stages.scenes()
    groups = by_prompt(read_json_lines(answers))
    scores = {}
    for kind, judge in judges.items():
        scored = by_prompt(stages.scores(judge, answers, name))
        scores[kind] = [[one["score"] for one in group] for group in scored]
    scores["oracle"] = [[gold(one, scenes[one["image"][0]])["gold"] for one in group] for group in groups]
    return name, groups, scores


def long_ppo(stages: Stages, seed: int) -> Arms:
    """PPO that is hardly held back, against judges of few and of many pairs, and facts alone; read off at KLs on its own rollouts."""
    arms = {
        f"{kind}-{count}": (Judge(kind, count, seed), {}, ())
        for count in (stages.arguments.few_pairs, most(stages))
        for kind in KINDS
    }
    # The judge only begins the critic.
    arms["mentions + coverage"] = (Judge("factual", most(stages), seed), MENTIONS, FACTS_ALONE)
    steps = str(stages.arguments.long_steps)
    for arm, (judge, more, flags) in arms.items():
        changes = {
            "KL_COEF": str(stages.arguments.long_kl_coef),
            "LEARNING_RATE": str(stages.arguments.long_learning_rate),
            "MAX_STEPS": steps,
            "EPOCHS": "1000",
            "SAVE_STEPS": steps,
            **more,
        }
        folder = stages.policy(f"long-{arm.replace(' + ', '-')}", judge, None, changes, flags)
        lines = read_json_lines(folder / "metrics.jsonl")
        rollouts = [read_json_lines(file) for file in sorted((folder / "rollouts").glob("*.jsonl"))]
        yield arm, curve_numbers(rollout_curve(lines, rollouts, stages.scenes()))


def rollout_curve(
    lines: Sequence[Mapping[str, float]],
    rollouts: Sequence[Sequence[Mapping[str, Any]]],
    scenes: Mapping[str, Scene],
) -> dict[str, list[float]]:
    """KL, proxy and gold of every PPO step with a request to describe: means over those requests, KL over all rollouts."""
    curve: dict[str, list[float]] = {name: [] for name in ("kl", "proxy", *GOLD)}
    for line, rows in zip(lines, rollouts, strict=True):
        worth = [
            gold({**row, "answer": row["response"]}, scenes[row["image"][0]])
            for row in rows
            if row["answer_type"] == "GENERAL"
        ]
        if worth:
            curve["kl"].append(line["objective/kl_sum_seq"])
            curve["proxy"].append(line["objective/reward_model"])
            for name in GOLD:
                curve[name].append(statistics.fmean(one[name] for one in worth))
    return curve


def curve_numbers(curve: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """A curve read off where its KL first reaches each of `KL_LEVELS` (`NAME@KL`, mean of `WINDOW` steps), and at its end (`NAME@end`)."""
    places: dict[Any, int] = {"end": len(curve["kl"])}
    for level in KL_LEVELS:
        reached = next((at for at, kl in enumerate(curve["kl"], 1) if kl >= level), None)
        if reached is not None:
            places[level] = reached
    return {
        f"{name}@{level}": statistics.fmean(curve[name][max(0, at - WINDOW) : at])
        for level, at in places.items()
        for name in curve
    }


def _described(stages: Stages, name: str, policy: Any, seed: int) -> dict[str, float]:
    """As `evaluated`, of requests to describe alone."""
    prompts, scenes = stages.prompts("descriptions", "eval.json", True), stages.scenes()
    found = {}
    for way, temperature in (("sampled", 1.0), ("greedy", 0.0)):
        answers = read_json_lines(stages.answers(f"{name}-{way}", prompts, policy, temperature, 1, seed))
        worth = [gold(one, scenes[one["image"][0]]) for one in answers]
        found |= {f"{measure} {way}": statistics.fmean(one[measure] for one in worth) for measure in GOLD}
    return found


def _preferred(stages: Stages, arm: str, rows: list[Any], seed: int) -> dict[str, float]:
    policy = stages.supervised(f"dpo-{arm}", seed, rows, {"EPOCHS": "3"}, preferences=True)
    return _described(stages, f"dpo-{arm}-{seed}", policy, seed)


def _rows(stages: Stages, name: str) -> list[Any]:
    return json.loads((stages.world / name).read_text())
