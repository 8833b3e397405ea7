"""The client: from nothing but the standard library, patient where that helps, and nowhere else."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from PIL import Image

from llava_rlhf.reward_service.client import RewardClient, compute_score, encoded, trl_reward
from tests.house.rooms import ROOT


class Server(HTTPServer):
    """Answers with the next of `replies`, then with the number of each row's place; keeps what it was sent."""

    def __init__(self, replies=()):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies, self.sent = list(replies), []

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.sent.append((self.path, body, self.headers.get("Authorization")))
        status, told = self.server.replies.pop(0) if self.server.replies else (200, None)
        scores = [{"score": float(len(row["answer"]))} for row in body["rows"]]
        self.send_response(status)
        self.end_headers()
        self.wfile.write(json.dumps(told or {"rows": scores}).encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_needs_the_standard_library_alone():
    code = "import runpy; runpy.run_path('client.py', run_name='copied')"
    folder = ROOT / "llava_rlhf" / "reward_service"
    done = subprocess.run(
        [sys.executable, "-S", "-I", "-c", code], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_many_rows_are_sent_in_parts_each_with_its_pictures(server):
    rows = [{"question": "q", "answer": "a" * n, "image": f"p{n % 3}"} for n in range(5)]
    pictures = {f"p{n}": encoded(bytes([n])) for n in range(3)}
    assert RewardClient(server.url, rows_a_request=2).score(rows, pictures) == [0, 1, 2, 3, 4]
    assert [sorted(body["pictures"]) for _, body, _ in server.sent] == [["p0", "p1"], ["p0", "p2"], ["p1"]]


def test_pictures_count_where_rows_are_sent_in_parts(server):
    images = [["a", "b"], "a", ["a", "b", "c"], None, None]
    rows = [{"question": "q", "answer": "a" * n, "image": image} for n, image in enumerate(images)]
    assert RewardClient(server.url, rows_a_request=2).score(rows) == [0, 1, 2, 3, 4]
    assert [[row["image"] for row in body["rows"]] for _, body, _ in server.sent] == [
        [["a", "b"]],
        ["a"],
        [["a", "b", "c"]],
        [None, None],
    ]


def test_no_proxy_sees_rows_and_key(server, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)  # an earlier one may have been made without
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    assert RewardClient(server.url, patience=0).score([{"question": "q", "answer": "ab"}]) == [2.0]


def test_busy_is_asked_again_and_a_refusal_is_told(server, monkeypatch):
    monkeypatch.setenv("REWARD_API_KEY", "secret")
    server.replies += [(429, {}), (503, {}), (200, None), (422, {"error": {"message": "row 0: no"}})]
    client = RewardClient(server.url, patience=20)
    assert client.score([{"question": "q", "answer": "ab"}]) == [2.0]
    assert [key for *_, key in server.sent] == ["Bearer secret"] * 3
    with pytest.raises(RuntimeError, match="/v1/score: HTTP 422, row 0: no"):
        client.score([{"question": "q", "answer": "ab"}])


def test_patience_ends():
    with pytest.raises(RuntimeError, match="refused"):
        RewardClient("http://127.0.0.1:9", patience=0.3).score([{"question": "q", "answer": "a"}])


def test_trl_columns_become_rows(server):
    picture = Image.new("RGB", (4, 4), "red")
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "what?"}]}]
    reward = trl_reward(RewardClient(server.url), stop_ids=[2])
    got = reward(
        prompts=[prompt, prompt, "plain"],
        completions=[
            [{"role": "assistant", "content": "a cat"}],
            [{"role": "assistant", "content": "cat"}],
            "x",
        ],
        completion_ids=[[5, 2], [5], [2]],
        image=[picture, picture, None],
        captions=[["a red cat"], [], None],
        trainer_state=object(),
    )
    assert got == [5.0, 3.0, 1.0]
    ((_, body, _),) = server.sent
    first, second, third = body["rows"]
    assert list(body["pictures"]) == [first["image"]] == [second["image"]] and "image" not in third
    assert body["pictures"][first["image"]] == encoded(picture)
    assert [row["stopped"] for row in body["rows"]] == [True, False, True]
    assert [row["question"] for row in body["rows"]] == ["what?", "what?", "plain"]
    assert first["captions"] == ["a red cat"] and second["captions"] == [] and "captions" not in third


def test_verl_calls_a_function_of_the_file(server, monkeypatch, tmp_path):
    (tmp_path / "p.bin").write_bytes(b"picture")
    extra = {"question": "q", "image": "p", "pictures": {"p": encoded(tmp_path / "p.bin")}, "index": 3}
    named = {"data_source": "world", "solution_str": " four", "ground_truth": None}
    address = server.url.removeprefix("http://")
    score = compute_score(
        **named, extra_info=extra, reward_router_address=address, reward_model_tokenizer=None
    )
    assert score == 4.0
    monkeypatch.setenv("REWARD_URL", server.url)
    assert (
        compute_score(**named, extra_info={"question": "q", "image_name": "x.png", "caption_type": 2}) == 4.0
    )
    (_, first, _), (_, second, _) = server.sent
    assert first == {
        "rows": [{"image": "p", "question": "q", "answer": "four"}],
        "pictures": {"p": "cGljdHVyZQ=="},
    }
    assert second["rows"] == [{"image": "x.png", "question": "q", "answer": "four", "caption_type": 2}]
