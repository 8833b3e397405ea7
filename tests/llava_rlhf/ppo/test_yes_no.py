"""Yes or no of a judge behind an endpoint: by the probabilities of its first token, or by its text where it says none."""

from __future__ import annotations

import math

import pytest
from PIL import Image

from llava_rlhf.engines.judge_client import Endpoint, Reply
from llava_rlhf.fact_rewards.arguments import FactRewardArguments
from llava_rlhf.ppo import yes_no
from llava_rlhf.ppo.yes_no import FIRST_TOKEN, ServerAsker, YesNo, chance_of_yes, check_judge, judge_of
from llava_rlhf.runs.stopping import EngineError
from tests.support.judge_server import JudgeServer, with_tokens


@pytest.mark.parametrize(
    ("reply", "chance"),
    [
        # .5 and .1 say yes, .2 no, .2 something else.
        (Reply("Yes", first_token={"Yes": math.log(0.5), " yes": math.log(0.1), "No": math.log(0.2)}), 0.75),
        (Reply("Maybe", first_token={"Maybe": -0.1, "▁NO": math.log(0.3)}), 0.0),
        (Reply("Yes, it does."), 1.0),
        (Reply(" **no**"), 0.0),
        (Reply("\nYes\n\nThe picture shows it."), 1.0),
        (Reply("Yes", first_token={"The": -0.01}), 1.0),
        (Reply("Nobody knows."), None),
        (Reply(""), None),
    ],
)
def test_the_chance_of_yes_by_hand(reply, chance):
    found = chance_of_yes(reply)
    assert found == (chance if chance is None else pytest.approx(chance, rel=1e-6))


def test_a_server_is_asked_for_one_token_and_shown_the_picture(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "a.png")
    with JudgeServer(answer=lambda text: "Yes" if "cat" in text else "No") as server:
        asker = ServerAsker(judge_of(asking(server.url)), tmp_path)
        server.script = [with_tokens("Yes", Yes=0.6, No=0.2)]
        assert asker.probabilities([YesNo("a dog?", ("a.png",), 0)], None) == [pytest.approx(0.75)]
        assert asker.probabilities([YesNo("a dog?", (), 0), YesNo("a cat?", (), 1)], None) == [0.0, 1.0]
        body = server.requests[0]
    assert {name: body[name] for name in FIRST_TOKEN} == FIRST_TOKEN and body["model"] == "judge-1"
    image, text = body["messages"][0]["content"]
    assert image["image_url"]["url"].startswith("data:image/") and text["text"] == "a dog?"
    assert asker.identity == f"judge-1 at {server.url}; {tmp_path}"


def asking(url):
    return FactRewardArguments(fact_reward="claims", claim_judge_url=url, claim_judge_model="judge-1")


def questions(text):
    """One a letter, asked in a batch."""
    return [YesNo(letter, (), 0) for letter in text]


LETTERS = {"y": "Yes", "n": "No", "?": "perhaps" * 100}


def test_a_reply_that_is_neither_is_none_and_warned_of_once(tmp_path, caplog):
    with JudgeServer(answer=LETTERS.get) as server:
        asker = ServerAsker(judge_of(asking(server.url)), tmp_path)
        assert asker.probabilities(questions("yyn"), None) == [1.0, 1.0, 0.0]
        assert not caplog.records
        assert asker.probabilities(questions("?n?"), None) == [None, 0.0, None]
        assert asker.probabilities(questions("?"), None) == [None]
    (warning,) = caplog.messages
    assert "the judge judge-1 was asked for Yes or No and said 'perhapsperhaps" in warning
    assert len(warning) < 350, "a judge that talks on is cut short"


@pytest.mark.parametrize(
    ("batches", "refused"),
    [
        (["?????nnnnn", "????"], None),  # half of the first ten, and then whatever it likes
        (["????", "??????"], 1),
        (["?????", "n", "nnn?????"], 2),
        (["nnnnnn????????????"], None),
        (["?????????"], None),  # nine are too few to judge a judge by
    ],
)
def test_a_judge_is_refused_that_is_undecided_for_most_of_its_first_questions(
    tmp_path, monkeypatch, batches, refused
):
    monkeypatch.setattr(yes_no, "FIRST_QUESTIONS", 10)
    with JudgeServer(answer=LETTERS.get) as server:
        asker = ServerAsker(judge_of(asking(server.url)), tmp_path)
        for number, batch in enumerate(batches):
            if number == refused:
                undecided = "".join(batches)[:10].count("?")
                says = rf"said neither to {undecided} of its first 10 questions, but 'perhaps.*; take a model"
                with pytest.raises(EngineError, match=says):
                    asker.probabilities(questions(batch), None)
            else:
                assert asker.probabilities(questions(batch), None).count(None) == batch.count("?")


def test_a_judge_that_stops_answering_ends_the_run_with_one_message(tmp_path):
    with JudgeServer() as server:
        pass
    endpoint = Endpoint(server.url, "judge-1", FIRST_TOKEN, max_retries=0)
    with pytest.raises(EngineError, match=r"gave no reply .*it goes on from its newest checkpoint"):
        ServerAsker(endpoint, tmp_path).probabilities([YesNo("a dog?", (), 0)], None)


def test_a_judge_is_tried_before_the_run():
    with JudgeServer(answer=lambda text: "Yes") as server:
        check_judge(judge_of(asking(server.url)))
        assert len(server.requests) == 1


def test_the_base_judges_where_no_endpoint_is_named():
    assert judge_of(FactRewardArguments(fact_reward="claims")) is None
    assert judge_of(FactRewardArguments()) is None
