"""The judge client against a real server on this machine: replies, retries, cache, images, what is no reply."""

from __future__ import annotations

import base64
import json
import resource
import threading
import time

import pytest
from PIL import Image

from llava_rlhf.engines.judge_client import Endpoint, JudgeClient, JudgeError, Question, ReplyCache
from llava_rlhf.runs.durable_lines import DurableLines
from llava_rlhf.runs.save_errors import SaveError
from tests.support.judge_server import JudgeServer, completion


@pytest.fixture
def server():
    with JudgeServer() as server:
        yield server


def client(server, cache=None, **settings) -> JudgeClient:
    return JudgeClient(Endpoint(server.url, "judge-1", **settings), ReplyCache(cache))


def test_what_is_sent_and_what_comes_back(server):
    judge = client(server, options={"temperature": 0, "max_tokens": 7})
    reply = judge.ask(Question("how good?", system="be strict"))
    assert reply.text == "echo: how good?"
    (request,) = server.requests
    assert request == {
        "model": "judge-1",
        "messages": [
            {"role": "system", "content": "be strict"},
            {"role": "user", "content": "how good?"},
        ],
        "temperature": 0,
        "max_tokens": 7,
    }
    # The server counts words: 2 + 2 in, 3 out.
    assert (judge.usage.requests, judge.usage.prompt_tokens, judge.usage.completion_tokens) == (1, 4, 3)


def test_the_key_comes_from_the_environment(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    client(server).ask(Question("a"))
    monkeypatch.delenv("OPENAI_API_KEY")
    client(server).ask(Question("b"))
    assert server.keys == ["Bearer sk-secret", "Bearer no-key"]
    with pytest.raises(ValueError, match="set the environment variable OPENAI_API_KEY"):
        JudgeClient(Endpoint("https://api.openai.com/v1", "m"), ReplyCache(None))


def test_images_travel_as_data_urls_before_the_text(server, tmp_path):
    image = tmp_path / "a.png"
    image.write_bytes(b"\x89PNG pixels")
    client(server).ask(Question("what?", images=(image,)))
    picture, text = server.requests[0]["messages"][0]["content"]
    head, data = picture["image_url"]["url"].split(",")
    assert (picture["type"], head, base64.b64decode(data)) == (
        "image_url",
        "data:image/png;base64",
        b"\x89PNG pixels",
    )
    assert text == {"type": "text", "text": "what?"}


def test_an_image_whose_name_says_nothing_is_known_by_its_content(server, tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "picture", format="webp")
    client(server).ask(Question("what?", images=(tmp_path / "picture",)))
    picture = server.requests[0]["messages"][0]["content"][0]
    assert picture["image_url"]["url"].startswith("data:image/webp;base64,")


def test_busy_and_broken_servers_are_asked_again(server):
    server.script = [429, 500, "drop", 503]
    judge = client(server, max_retries=4)
    assert judge.ask(Question("hello")).text == "echo: hello"
    assert len(server.requests) == 5 and judge.usage.requests == 1


def test_a_wait_the_server_asks_for_is_kept(server):
    server.script = [429]
    server.retry_after_ms = 300
    started = time.monotonic()
    client(server, max_retries=1).ask(Question("hello"))
    assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize(
    ("script", "says", "requests"),
    [
        ([500, 500], "gave no reply .1 retries allowed.*500", 2),
        ([401], "gave no reply.*401", 1),  # a wrong key does not get better
        (["html"], "sent no chat completion.*<html>", 1),
        (["no choices"], "sent no chat completion", 1),
        (["not json"], "gave no reply", 1),
        ([completion(7, 1, 1)], "sent no chat completion", 1),
        ([completion([{"type": "refusal"}], 1, 1)], "sent no chat completion", 1),
        ([completion("yes", 1, 1) | {"usage": {"prompt_tokens": "many"}}], "sent no chat completion", 1),
    ],
)
def test_what_is_no_reply_is_an_error_and_not_kept(script, says, requests, server, tmp_path):
    server.script = list(script)
    judge = client(server, tmp_path / "cache.jsonl", max_retries=1)
    with pytest.raises(JudgeError, match=says):
        judge.ask(Question("hello"))
    assert len(server.requests) == requests
    assert (tmp_path / "cache.jsonl").read_text() == ""
    assert judge.ask(Question("hello")).text == "echo: hello"


def test_a_reply_in_parts_is_their_text(server):
    parts = [{"type": "text", "text": "Rating"}, {"type": "text", "text": ": 3"}]
    server.script = [completion(parts, 1, 2)]
    assert client(server).ask(Question("hello")).text == "Rating: 3"


def test_an_empty_reply_is_a_reply(server):
    server.script = [completion(None, 1, 0, finish_reason="length")]
    reply = client(server).ask(Question("hello"))
    assert (reply.text, reply.finish_reason) == ("", "length")


def test_a_question_is_asked_once_and_its_repeats_once_each(server, tmp_path):
    path = tmp_path / "cache.jsonl"
    image = tmp_path / "a.png"
    image.write_bytes(b"one")
    questions = [
        Question("a"),
        Question("a", repeat=1),
        Question("a", system="s"),
        Question("a", images=(image,)),
    ]
    cache = ReplyCache(path)
    first = JudgeClient(Endpoint(server.url, "judge-1", workers=1), cache).ask_all(questions)
    cache.close()
    assert len(server.requests) == 4
    judge = client(server, path)
    assert judge.ask_all(questions) == first
    assert len(server.requests) == 4 and judge.usage.from_cache == 4
    image.write_bytes(b"two")  # another image, other pixels
    judge.ask(questions[-1])
    assert len(server.requests) == 5


@pytest.mark.parametrize("other", [{"model": "judge-2"}, {"options": {"temperature": 1}}])
def test_another_judge_has_its_own_replies(other, server, tmp_path):
    cache = ReplyCache(tmp_path / "cache.jsonl")
    JudgeClient(Endpoint(server.url, "judge-1"), cache).ask(Question("a"))
    JudgeClient(Endpoint(**{"url": server.url, "model": "judge-1"} | other), cache).ask(Question("a"))
    assert len(server.requests) == 2


def test_several_requests_are_under_way_and_replies_come_in_order(server):
    server.barrier = threading.Barrier(3, timeout=10)  # nobody is answered before three are there
    texts = [f"question {number}" for number in range(6)]
    replies = client(server, workers=3).ask_all([Question(text) for text in texts])
    assert [reply.text for reply in replies] == [f"echo: {text}" for text in texts]


def test_replies_before_a_failure_are_kept(server, tmp_path):
    path = tmp_path / "cache.jsonl"
    cache = ReplyCache(path)
    judge = JudgeClient(Endpoint(server.url, "judge-1", workers=1, max_retries=0), cache)
    server.script = ["ok", "ok", 500]
    questions = [Question(str(number)) for number in range(5)]
    with pytest.raises(JudgeError):
        judge.ask_all(questions)
    kept = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert kept[:2] == ["0", "1"] and "2" not in kept
    judge.ask_all(questions)
    assert judge.usage.requests == 5  # none was paid for twice


def test_a_cache_that_cannot_be_written_ends_the_asking(server, tmp_path, monkeypatch):
    cache = ReplyCache(tmp_path / "cache.jsonl")
    judge = JudgeClient(Endpoint(server.url, "judge-1", workers=1), cache)

    def full(*_):
        raise SaveError("no room")

    monkeypatch.setattr(cache, "add", full)
    with pytest.raises(SaveError):
        judge.ask_all([Question(str(number)) for number in range(20)])
    assert len(server.requests) < 5  # what nothing is kept of is not asked for any more


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"url": "localhost:8000"}, "must start with http"),
        ({"model": ""}, "no name"),
        ({"workers": 0}, "at least 1 worker"),
        ({"options": {"stream": True}}, r"\['stream'\]"),
    ],
)
def test_an_endpoint_that_cannot_be(settings, says):
    with pytest.raises(ValueError, match=says):
        Endpoint(**{"url": "http://localhost/v1", "model": "m"} | settings)


def test_a_file_that_is_no_cache_is_refused(tmp_path):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"question": "what?"}\n')
    with pytest.raises(ValueError, match="line 1: no reply of a judge"):
        ReplyCache(path)


def test_durable_lines_drop_what_a_kill_cut_off(tmp_path):
    path = tmp_path / "lines.jsonl"
    path.write_bytes('{"a": 1}\n{"a": "ö"}\n{"a": "cut ö'.encode()[:-1])
    with DurableLines(path) as lines:
        assert lines.records == [{"a": 1}, {"a": "ö"}]
        lines.append([{"a": 3}, {"a": "\ud800"}])
    assert [json.loads(line)["a"] for line in path.read_text().splitlines()] == [1, "ö", 3, "\ud800"]


def test_durable_lines_have_one_writer(tmp_path):
    with DurableLines(tmp_path / "a.jsonl"), pytest.raises(ValueError, match="another process"):
        DurableLines(tmp_path / "a.jsonl")
    DurableLines(tmp_path / "a.jsonl").close()


def test_durable_lines_refuse_a_line_that_is_no_object(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": 1}\n[2]\n{"a": 3}\n')
    with pytest.raises(ValueError, match="line 2: no JSON object"):
        DurableLines(tmp_path / "a.jsonl")


def test_durable_lines_take_a_batch_whole_or_not_at_all(tmp_path):
    """A limit on the size of files stands for a full disk: the write begins, and breaks off."""
    path = tmp_path / "lines.jsonl"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with DurableLines(path) as lines:
        lines.append([{"n": 1}])
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
        try:
            with pytest.raises(SaveError, match=r"lines\.jsonl could not be written"):
                lines.append([{"n": 2}, {"text": "x" * (2 << 20)}])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert path.read_text() == '{"n": 1}\n'
        lines.append([{"n": 3}])
    assert path.read_text() == '{"n": 1}\n{"n": 3}\n'
