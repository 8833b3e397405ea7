"""MMHal-Bench: ratings read from awkward verdicts, numbers by hand, and judges over a socket and on this machine."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, set_seed

from llava_rlhf.engines.judge_client import Endpoint, JudgeClient, Question, ReplyCache
from llava_rlhf.evaluation.benchmarks.judge_prompts import JudgePrompt
from llava_rlhf.evaluation.benchmarks.mmhal import PROMPT_NAMES, MMHal, read_rating, repeat_spread
from llava_rlhf.evaluation.local_judge import JudgeModel, LocalJudge
from llava_rlhf.evaluation.registry import PROMPTS
from llava_rlhf.evaluation.score_files import judge_of, summarise
from tests.support.judge_server import JudgeServer

TYPES = ("attribute", "counting")
JUDGE_PROMPT = PROMPTS / "mmhal_judge_prompt.txt"


@pytest.mark.parametrize(
    ("verdict", "rating"),
    [
        ("Rating: 4", 4),
        ("Good.\nrating: 0, invention", 0),
        ("**Rating:** 6/6", 6),
        ("Rating (0-6): 5", 5),
        ("Rating: [3]", 3),
        ("Rating 2", 2),
        ("Rating: 2. So the rating: 2", 2),
        ("Rating: 2\nRating: 5", None),  # it contradicts itself
        ("Rating: 7", None),
        ("Rating: 45", None),
        ("Rating: 4.5", None),
        ("Rating: 3-4", None),
        ("Rating: 3 or 4", None),
        ("Rating: 3 - 2 objects are invented", 3),
        ("Rating: -1", None),
        ("Rating: four", None),
        ("The answer is right: 4", None),
        ("", None),
    ],
)
def test_ratings_are_read_or_are_none(verdict, rating):
    assert read_rating(verdict) == rating


def write_questions(path: Path, count: int = 4, **changes) -> str:
    rows = [
        {
            "question_type": TYPES[number % 2],
            "question_topic": "vehicle",
            "image_id": f"{number}",
            "image_src": f"https://example.org/a/picture{number}.jpg?size=big",
            "image_content": ["Cat", f"Thing {number}"],
            "question": f"What is number {number}?",
            "gt_answer": f"It is {number}.",
            "model_answer": "",
        }
        | changes
        for number in range(count)
    ]
    path.write_text(json.dumps(rows))
    return str(path)


def answers_to(questions: MMHal, texts: list[str]) -> list[dict]:
    return [
        {"id": item.id, "image": [item.image], "question": item.question, "answer": text}
        for item, text in zip(questions.items(), texts, strict=True)
    ]


@pytest.fixture
def server():
    """A judge who says what the answer to grade says."""

    def verdict(text: str) -> str:
        answer = next(line for line in text.splitlines() if line.startswith("Answer to grade: "))
        return answer.removeprefix("Answer to grade: ")

    with JudgeServer(verdict) as server:
        yield server


def benchmark(server: JudgeServer, folder: Path, repeats: int = 1, **settings) -> MMHal:
    judge = JudgeClient(Endpoint(server.url, "judge-1", **settings), ReplyCache(folder / "cache.jsonl"))
    return MMHal(
        write_questions(folder / "questions.json"), judge, JudgePrompt(JUDGE_PROMPT, PROMPT_NAMES), repeats
    )


def test_images_are_called_by_the_end_of_their_address(tmp_path):
    items = MMHal(write_questions(tmp_path / "q.json"), None, None, 0).items()
    assert [item.image for item in items] == [f"picture{number}.jpg" for number in range(4)]
    assert [item.category for item in items] == ["attribute", "counting"] * 2


def test_the_judge_reads_content_question_reference_and_answer(server, tmp_path):
    mmhal = benchmark(server, tmp_path)
    mmhal.score(answers_to(mmhal, ["{Rating}: 1"] * 4), False)
    texts = sorted(request["messages"][0]["content"] for request in server.requests)
    for number, text in enumerate(texts):
        for part in (
            f"Cat, Thing {number}",
            f"What is number {number}?",
            f"It is {number}.",
            "grade: {Rating}: 1",
        ):
            assert part in text


def test_numbers_by_hand_while_the_judge_is_busy_and_talks_nonsense(server, tmp_path):
    server.script = [429, 500]
    mmhal = benchmark(server, tmp_path, workers=1)
    scores = mmhal.score(answers_to(mmhal, ["Rating: 5", "Rating: 2", "no idea", "Rating: 3"]), False)
    table = summarise(scores.items, list(mmhal.metrics), 100, 0)
    values = {
        part: [entry["value"] for entry in metrics.values()] + [metrics["rating"]["items"]]
        for part, metrics in table.items()
    }
    # attribute: 5 and none; counting: 2 (hallucination) and 3 (none, by the published limit)
    assert values == {"all": [10 / 3, 1 / 3, 3], "attribute": [5, 0, 1], "counting": [2.5, 0.5, 2]}
    assert scores.counts["parse_failures"] == 1 and scores.counts["verdicts"] == 4
    assert scores.counts["items_without_rating"] == 1
    assert len(server.requests) == 6
    again = benchmark_again(mmhal, server, tmp_path)
    assert again.score(answers_to(again, ["Rating: 5", "Rating: 2", "no idea", "Rating: 3"]), False) == scores
    assert len(server.requests) == 6  # everything was in the cache


def benchmark_again(mmhal: MMHal, server: JudgeServer, folder: Path) -> MMHal:
    mmhal.judge._cache.close()
    return benchmark(server, folder, workers=1)


def test_repeats_are_asked_for_and_averaged(server, tmp_path):
    replies = iter(["Rating: 4", "Rating: 2", "Rating: 0", "?", "Rating: 6", "Rating: 3", "Rating: 1", "?"])
    server.answer = lambda text: next(replies)
    mmhal = benchmark(server, tmp_path, repeats=2, workers=1)
    scores = mmhal.score(answers_to(mmhal, ["a", "b", "c", "d"]), False)
    assert [score.values["rating"] for score in scores.items] == [(5, 1), (2.5, 1), (0.5, 1), (0, 0)]
    assert [score.values["hallucination"][0] for score in scores.items] == [0, 0.5, 1, 0]
    assert scores.counts["repeat_means"] == pytest.approx([2, 10 / 3])
    assert scores.counts["parse_failures"] == 2


def test_the_interval_over_repeats_by_hand():
    ratings = np.array([[4.0, 2.0], [5.0, 3.0], [6.0, np.nan]])
    found = repeat_spread(ratings)
    # means 3, 4, 6: mean 13/3, s = sqrt(7/3), s/sqrt(3) = 0.8819; t(0.975, 2 degrees) = 4.30265
    assert found["repeat_means"] == [3, 4, 6]
    assert found["repeat_interval"] == pytest.approx(
        [13 / 3 - 4.30265 * 0.881917, 13 / 3 + 4.30265 * 0.881917], 1e-4
    )
    assert "repeat_interval" not in repeat_spread(ratings[:1])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{image_content} {question} {reference}", "does not show the judge the <answer>"),
        ("{image_content} {question} {reference} {answer} {score}", "KeyError"),
        ("{} {} {} {} {}", "IndexError"),
        ('{} {} {} {} {"rating": 1}', "braces are for"),
    ],
)
def test_prompts_that_do_not_fit_are_refused(text, says, tmp_path):
    (tmp_path / "p.txt").write_text(text)
    with pytest.raises(ValueError, match=says):
        JudgePrompt(tmp_path / "p.txt", PROMPT_NAMES)


def test_a_prompt_of_the_published_form_is_filled_in(tmp_path):
    (tmp_path / "p.txt").write_text("content {} question {} reference {} answer {} end")
    filled = dict(zip(PROMPT_NAMES, ("Cat, Thing 0", "What?", "It is 0.", "a {} b"), strict=True))
    assert JudgePrompt(tmp_path / "p.txt", PROMPT_NAMES).render(**filled) == (
        "content Cat, Thing 0 question What? reference It is 0. answer a {} b end"
    )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"question": ""}, "row 0, field 'question': '' must be a text"),
        ({"image_content": "cat"}, "row 0, field 'image_content'"),
        ({"image_src": ""}, "row 0, field 'image_src': names no image"),
    ],
)
def test_other_question_files_are_refused(change, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        MMHal(write_questions(tmp_path / "q.json", **change), None, None, 0).items()


@pytest.fixture(scope="module")
def local_model(tmp_path_factory) -> Path:
    """A random language model of 12 words, which knows what a rating looks like but not when to give one."""
    folder = tmp_path_factory.mktemp("judges") / "random-judge"
    words = ["<unk>", "</s>", "rating", ":", *map(str, range(7)), "good"]
    tokenizer = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>").save_pretrained(
        folder
    )
    set_seed(0)
    config = GPT2Config(
        vocab_size=len(words), n_embd=16, n_layer=1, n_head=2, n_positions=512, eos_token_id=1
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_a_local_model_judges_and_what_it_mumbles_is_counted(local_model, tmp_path):
    judge = LocalJudge(
        JudgeModel(local_model, "cpu"), {"temperature": 1.0, "max_tokens": 12}, ReplyCache(None)
    )
    mmhal = MMHal(write_questions(tmp_path / "q.json"), judge, JudgePrompt(JUDGE_PROMPT, PROMPT_NAMES), 5)
    scores = mmhal.score(answers_to(mmhal, ["a", "b", "c", "d"]), False)
    replies = judge.ask_all(
        [
            Question(mmhal.judge_text(item, text), repeat=repeat)
            for repeat in range(5)
            for item, text in zip(mmhal.items(), "abcd", strict=True)
        ]
    )
    assert scores.counts["verdicts"] == 20 and all(0 < reply.completion_tokens <= 12 for reply in replies)
    assert scores.counts["parse_failures"] == sum(read_rating(reply.text) is None for reply in replies) > 0
    assert len({reply.text for reply in replies}) > 10  # repeats have dice of their own


def test_a_local_judge_is_greedy_at_temperature_0_and_cached(local_model, tmp_path):
    cache = ReplyCache(tmp_path / "cache.jsonl")
    judge = LocalJudge(JudgeModel(local_model, "cpu"), {"max_tokens": 5}, cache)
    first = judge.ask_all([Question("rating : 3", repeat=number) for number in range(2)])
    assert first[0] == first[1]
    cache.close()
    other = LocalJudge(
        JudgeModel(local_model, "cpu"), {"max_tokens": 5}, ReplyCache(tmp_path / "cache.jsonl")
    )
    assert other.ask_all([Question("rating : 3")]) == first[:1] and not other._model.is_loaded


def test_a_folder_that_is_no_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"it has no config\.json"):
        LocalJudge(JudgeModel(tmp_path, "cpu"), {}, ReplyCache(None))
    with pytest.raises(ValueError, match=r"not \['top_p'\]"):
        (tmp_path / "config.json").write_text("{}")
        LocalJudge(JudgeModel(tmp_path, "cpu"), {"top_p": 1}, ReplyCache(None))


def test_a_name_behind_the_judges_name_is_kept(server, tmp_path):
    """The server says that it is judge-1, whoever is asked for."""
    for asked, reported in (("judge-1", None), ("judge", ["judge-1"])):
        judge = JudgeClient(Endpoint(server.url, asked), ReplyCache(None))
        file = write_questions(tmp_path / "q.json")
        mmhal = MMHal(file, judge, JudgePrompt(JUDGE_PROMPT, PROMPT_NAMES), 1)
        conditions = mmhal.score(answers_to(mmhal, ["Rating: 4"] * 4), False).conditions
        assert conditions.get("judge_reported") == reported
        assert judge_of(conditions) == ("judge-1" if reported is None else "judge (judge-1)")
