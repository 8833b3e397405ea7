"""Claims in PPO: judged as a plain model judges, paid on the tokens that end them, and asked once, whatever becomes of the run."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from data_utils.fact_lists import captions_as_facts
from data_utils.schema import AnswerType
from llava_rlhf.assembly.token_text import token_text
from llava_rlhf.fact_rewards.arguments import FactRewardArguments
from llava_rlhf.fact_rewards.claims import (
    CONTRADICTED,
    SUPPORTED,
    TOLD,
    ClaimReward,
    about_facts,
    about_picture,
    notes,
)
from llava_rlhf.ppo.claim_scores import ClaimScorer
from llava_rlhf.ppo.known_answers import CACHE, KnownAnswers
from llava_rlhf.ppo.targets import TargetMaker
from llava_rlhf.ppo.yes_no import TRIAL, ServerAsker, YesNo, judge_of
from llava_rlhf.runs.run_folder import read_json_lines
from models.vlm import load_tokenizer
from tests.support.judge_server import JudgeServer
from tests.support.literal_claims import plain_chance_of_yes
from tests.support.plain_models import PlainRole
from tests.support.ppo_world import assemble, metrics_of, run_ppo, trained
from tests.support.tiny_families import TINY_FAMILIES

ANSWERED = CACHE.format("claims", 0)
CLAIMS = {"fact_reward": "claims", "unmentioned": "ask_picture"}
WARM = {"response_len": 24, "temperature": 5.0}
ROWS = list(range(16))
LLAMA = "sentencepiece of Llama"
FAMILIES = [family.model_type for family in TINY_FAMILIES if family.model_type != "llava"]
FACTS = captions_as_facts(("a hot dog", "a cat"))
# Answer, its claims.
ANSWERS = {
    "A hot dog. Two cars!": ["A hot dog.", "Two cars!"],
    "Ça va 🐕. Un café, 犬がいる。no cat": ["Ça va 🐕.", "Un café, 犬がいる。", "no cat"],
    "cars\n\n  a hot dog… “ok.” ": ["cars", "a hot dog…", "“ok.”"],
    "👩‍👩‍👧 a hot dog🐈!\ncars": ["👩‍👩‍👧 a hot dog🐈!", "cars"],
}


class Counting:
    """Answers by a hash of the question; counts what it was asked."""

    identity = "counting"

    def __init__(self):
        self.asked: list[YesNo] = []

    def probabilities(self, questions, images):
        self.asked += questions
        return [len(one.text) % 7 / 6 for one in questions]


def item(answer_type=AnswerType.GENERAL, names=(), facts=FACTS):
    return SimpleNamespace(facts=facts, answer_type=answer_type, image_names=names, question="What?")


def scorer(asker, file=None, **changes):
    arguments = FactRewardArguments(**{"fact_reward": "claims", **changes})
    return ClaimScorer(ClaimReward(arguments), KnownAnswers(asker, file), arguments.asks_picture)


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bases")
    return {family.model_type: family.save(folder / family.model_type) for family in TINY_FAMILIES}


@pytest.fixture(params=[*FAMILIES, LLAMA])
def tokenizer(request, bases):
    if request.param == LLAMA:
        return request.getfixturevalue("llama_tokenizer")
    return load_tokenizer(str(bases[request.param]))


@pytest.mark.parametrize("answer", ANSWERS)
def test_rewards_stand_on_the_tokens_that_end_a_claim(tokenizer, answer):
    ids = [*tokenizer.encode(answer, add_special_tokens=False), tokenizer.eos_token_id]
    text = token_text(tokenizer, ids)
    scores = scorer(Counting(), unmentioned="penalise").scores([item()], [text], None)
    (found,) = scores.rewards
    assert [one.mention.name for one in found.mentions] == ANSWERS[answer]
    row = scores.on_mentions(len(ids) + 2)[0].tolist()
    expected = [0.0] * len(row)
    for one in found.mentions:
        said = (
            tokenizer.decode(ids[: count + 1], skip_special_tokens=True).strip() for count in range(len(ids))
        )
        expected[next(at for at, part in enumerate(said) if one.mention.name in part)] += one.reward
    assert any(expected) and row == pytest.approx(expected)
    assert sum(row) == pytest.approx(found.by_mentions)


def test_who_is_asked_what(tmp_path):
    asker = Counting()
    texts = [SimpleNamespace(text=text) for text in ("A cat. A dog?", "A cat.", "A car.", "A car.")]
    items = [
        item(),
        item(names=("a.png",)),
        item(AnswerType.NO_IN_YESNO, ("a.png",), captions_as_facts(())),
        item(AnswerType.NO_IN_YESNO, (), captions_as_facts(())),
    ]
    scorer(asker, unmentioned="ask_picture").scores(items, texts, None)
    known = notes(FACTS)
    of_facts = [about_facts(one, known, "What?", "A cat.") for one in (SUPPORTED, CONTRADICTED)]
    told = [about_facts(TOLD, ["A cat."], "", fact) for fact in known]
    asked = {(one.text, one.pictures): one.row for one in asker.asked}
    assert len(asked) == len(asker.asked), "each once, though two answers say it"
    assert {(text, ()) for text in (*of_facts, *told)} <= asked.keys()
    shown = {key: row for key, row in asked.items() if key[1]}
    assert shown.pop((about_picture("What?", "A car."), ("a.png",))) == 2, "no facts: the picture alone says"
    assert set(shown) <= {(about_picture("What?", "A cat."), ("a.png",))}
    assert not any("A dog?" in text for text, _ in asked), "what an answer asks is no claim"


def test_an_undecided_judge_is_counted_and_its_answers_kept(tmp_path):
    """A judge behind a real endpoint, that does not know whether anything is true of cats, nor what a picture shows."""

    def said(text):
        undecided = "image show" in text or ("a cat." in text.partition("Answer: ")[2] and "is true" in text)
        return "Hm." if undecided else "No" if "is false" in text else "Yes"

    texts = [SimpleNamespace(text=text) for text in ("a cat.", "a hot dog. a cat.", "A car.")]
    items = [
        item(),
        item(AnswerType.NO_IN_YESNO),
        item(AnswerType.NO_IN_YESNO, ("a.png",), captions_as_facts(())),
    ]
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    flags = {"fact_reward": "claims", "unmentioned": "ask_picture", "claim_judge_model": "judge-1"}
    with JudgeServer(said) as server:
        arguments = FactRewardArguments(**flags, claim_judge_url=server.url)
        asker = ServerAsker(judge_of(arguments), tmp_path)
        asked = [
            ClaimScorer(ClaimReward(arguments), KnownAnswers(asker, tmp_path / "answers.jsonl"), True).scores(
                items, texts, None
            )
            for _ in range(2)
        ]
        assert len(server.requests) == len({str(body["messages"]) for body in server.requests}) == 7
    for scores in asked:
        # "a cat.": undecided whether the facts say that it is true; the two facts are told. The car: no facts, and no picture.
        assert scores.metrics()["facts/undecided"].tolist() == [1.0, 1.0, 1.0]
        assert scores.by_mentions().tolist() == [0.0, 1.0, 0.0] and scores.coverage().tolist() == [
            1.0,
            0.0,
            0.0,
        ]
        verdicts = [[one.verdict for one in reward.mentions] for reward in scores.rewards]
        assert verdicts == [["unmentioned"], ["right", "unmentioned"], ["unmentioned"]]


@pytest.fixture(scope="module")
def parts(ppo_on_one_base, tmp_path_factory):
    return assemble(
        ppo_on_one_base(tmp_path_factory.mktemp("judging") / "run", **CLAIMS, **WARM), spread=0.05
    )


def test_judgements_are_those_of_the_base_alone(parts, policy_run):
    found = parts.collect(ROWS)
    plain = PlainRole(parts.roles.reward.bank.vlm.model.config._name_or_path, policy_run / "lora_policy")
    checked = {"facts": 0, "picture": 0}
    for item, reward in zip(parts.batch(ROWS).items, found.facts.rewards, strict=True):
        for one in reward.mentions:
            if one.supported is None or not notes(item.facts):
                continue
            support, contradiction = (
                plain_chance_of_yes(
                    parts.prepared.text,
                    plain,
                    about_facts(template, notes(item.facts), item.question, one.mention.name),
                )
                for template in (SUPPORTED, CONTRADICTED)
            )
            total = max(1.0, support + contradiction)
            assert (one.supported, one.contradicted) == pytest.approx(
                (support / total, contradiction / total), abs=1e-5
            )
            checked["facts"] += 1
            if one.probability is not None:
                shown = plain_chance_of_yes(
                    parts.prepared.text, plain, about_picture(item.question, one.mention.name), item
                )
                assert one.probability == pytest.approx(shown, abs=1e-5)
                checked["picture"] += 1
    assert min(checked.values()) > 2, checked


@pytest.fixture(scope="module")
def command(ppo_on_one_base):
    settings = {**CLAIMS, "response_len": 12, "temperature": 3.0, "max_steps": 3, "reward_model_coef": 0.5}
    return lambda folder, **changes: ppo_on_one_base(folder, **{**settings, **changes})


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("claims") / "whole"
    run_ppo(command(folder))
    return folder


def rollouts(folder):
    return [row for file in sorted((folder / "rollouts").iterdir()) for row in read_json_lines(file)]


def test_a_rollout_says_what_became_of_each_claim(whole):
    rows = rollouts(whole)
    claims = [(row, one) for row in rows for one in row["mentions"]]
    assert len(claims) > len(rows) / 2
    for row, one in claims:
        assert row["response"][one["start"] : one["end"]] == one["name"]
    for row in rows:
        terms = ("stop_penalty", "length_bonus", "correct_bonus", "fact_mentions", "fact_coverage")
        expected = 0.5 * row["reward_model"] + sum(row[name] for name in terms)
        assert row["score"] == pytest.approx(expected, abs=1e-5)
        assert row["fact_mentions"] == pytest.approx(sum(one["reward"] for one in row["mentions"]))
    (first, *_) = metrics_of(whole)
    assert first["objective/fact_mentions"] != 0 != first["objective/fact_coverage"]


def test_killed_and_continued_equals_uninterrupted(command, whole, tmp_path, monkeypatch):
    """Bit for bit; what the killed step was told is read, not asked again."""
    make, steps = TargetMaker.make, []

    def dying(self, *args):
        steps.append(None)
        if len(steps) == 2:
            raise KeyboardInterrupt
        return make(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(TargetMaker, "make", dying)
        with pytest.raises(KeyboardInterrupt):
            run_ppo(command(tmp_path))
    told = (tmp_path / ANSWERED).read_bytes()
    run_ppo(command(tmp_path))
    assert (tmp_path / ANSWERED).read_bytes() == (whole / ANSWERED).read_bytes()
    assert (whole / ANSWERED).read_bytes().startswith(told) and told
    first, second = trained(tmp_path), trained(whole)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert metrics_of(tmp_path) == metrics_of(whole)
    assert json.dumps(rollouts(tmp_path)) == json.dumps(rollouts(whole))


@pytest.mark.slow
def test_a_run_goes_on_though_its_judge_is_undecided_now_and_then(command, tmp_path):
    with JudgeServer(lambda text: "Hm." if text != TRIAL and len(text) % 3 == 0 else "Yes") as server:
        judge = {"claim_judge_url": server.url, "claim_judge_model": "judge-1"}
        run_ppo(command(tmp_path, max_steps=1, **judge))
    rows, (metrics,) = rollouts(tmp_path), metrics_of(tmp_path)
    undecided = [row.get("undecided", 0) for row in rows]
    assert metrics["facts/undecided"] == pytest.approx(sum(undecided) / len(rows)) and 0 in undecided
    assert sum(undecided) > 0 and all(row["undecided"] for row in rows if "undecided" in row)
    (kept,) = read_json_lines(tmp_path / ANSWERED)[:1]
    assert None in kept["answers"].values()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"advantage_estimator": "rloo", "samples_per_prompt": 2},
        {"advantage_estimator": "grpo", "samples_per_prompt": 4, "reward_model_coef": 0},
        {"advantage_estimator": "reinforce", "fact_coverage_score": 0},
        {"reward_placement": "sentence", "unmentioned": "penalise"},
    ],
)
def test_beside_every_estimator_and_alone(command, tmp_path, changes):
    run_ppo(command(tmp_path, max_steps=1, **changes))
    rows = rollouts(tmp_path)
    assert any(row["fact_mentions"] for row in rows)
    assert all(row["fact_coverage"] == 0 for row in rows) == (changes.get("fact_coverage_score") == 0)
