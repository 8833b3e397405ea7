"""What the service refuses: too much at once, paths out of its folders, requests that are none, callers without a key."""

from __future__ import annotations

import base64
import io
import json
import os
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image
from starlette.testclient import TestClient

from llava_rlhf.reward_service.scoring import Scorer
from tests.support.reward_service import service_command, service_here

ROW = {"question": "what is in the picture?", "answer": "a cat.", "captions": ["a red cat"]}
LIMITS = {
    "max_request_bytes": 20_000,
    "max_queued_bytes": 25_000,
    "max_rows": 4,
    "max_queued_rows": 6,
    "max_pixels_a_picture": 3000,
}


@pytest.fixture(scope="module")
def limited(tiny_data, reward_run) -> TestClient:
    with service_here(service_command(tiny_data, reward_run, response_len=20, **LIMITS)) as client:
        yield client


def refusal(client, rows, status, **more):
    """What the service says; afterwards it works as before, with nothing left over."""
    reply = client.post("/v1/score", json={"rows": rows, **more})
    assert reply.status_code == status, reply.text
    assert client.get("/health").json()["rows_at_work"] == 0
    assert client.post("/v1/score", json={"rows": [ROW]}).status_code == 200
    return reply.json()["error"]["message"]


def png(width, height):
    file = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_too_many_rows_bytes_and_pixels(limited):
    assert "5 rows, at most 4 are accepted" in refusal(limited, [ROW] * 5, 413)
    assert "more than 20000 bytes" in refusal(limited, [{**ROW, "answer": "a" * 20_000}], 413)
    large = {**ROW, "image": "sent"}
    message = refusal(limited, [ROW, large], 413, pictures={"sent": png(60, 51)})
    assert "row 1, field 'image'" in message and "60 × 51 pixels, at most 3000" in message
    assert limited.post("/v1/score", json={"rows": [large], "pictures": {"sent": png(60, 50)}}).is_success


def test_a_row_of_several_pictures_counts_as_as_many(limited):
    rows = [{**ROW, "image": ["sent"] * 3}, {**ROW, "image": ["sent"] * 2}]
    message = refusal(limited, rows, 413, pictures={"sent": png(9, 9)})
    assert message.startswith("2 rows, 5 with one for each further picture, at most 4 are accepted")
    assert limited.post("/v1/score", json={"rows": rows[1:] * 2, "pictures": {"sent": png(9, 9)}}).is_success


def test_a_body_without_a_length_is_counted(limited):
    parts = (b" " * 1000 for _ in range(30))
    reply = limited.post("/v1/score", content=parts, headers={"Content-Type": "application/json"})
    assert reply.status_code == 413 and "more than 20000 bytes" in reply.text


def test_a_large_picture_is_not_decoded(limited):
    file = io.BytesIO()
    Image.new("RGB", (300, 300)).save(file, "BMP")  # of a format that is checked by decoding it
    header = base64.b64encode(file.getvalue()[:60]).decode()
    message = refusal(limited, [{**ROW, "image": "b"}], 413, pictures={"b": header})
    assert "300 × 300 pixels, at most 3000" in message


def test_a_picture_that_only_decoding_shows_to_be_broken(limited):
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 20, 20, 8, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(b"short")),
        (b"IEND", b""),
    ]
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
    text = base64.b64encode(b"\x89PNG\r\n\x1a\n" + body).decode()
    message = refusal(limited, [{**ROW, "image": "b"}], 422, pictures={"b": text})
    assert "row 0, field 'image'" in message and "cannot be decoded" in message and "/" not in message


def test_too_large_beside_another_mistake_is_a_mistake(limited):
    rows = [{"question": "a"}, {**ROW, "image": "sent"}]
    message = refusal(limited, rows, 422, pictures={"sent": png(60, 51)})
    assert "field 'answer'" in message and "at most 3000" in message


def test_an_answer_that_is_too_long(limited):
    assert "response longer than response_len 20" in refusal(limited, [{**ROW, "answer": "cat " * 30}], 422)


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../fact_prompt.txt",
        "a/../../fact_prompt.txt",
        "out.png",
        "through/fact_prompt.txt",
        "a\0b",
    ],
)
def test_no_file_outside_the_image_folders(limited, tiny_data, name):
    for link, target in (("out.png", tiny_data.fact_prompt), ("through", tiny_data.images.parent)):
        if not (tiny_data.images / link).is_symlink():
            os.symlink(target, tiny_data.images / link)
    try:
        message = refusal(limited, [{**ROW, "image": name}], 422)
    finally:
        for link in ("out.png", "through"):
            (tiny_data.images / link).unlink()
    ours = ("relative to an image folder of the service", "out of the image folder; send its bytes")
    assert any(words in message for words in ours)  # refused here, before an image reader looks at it
    assert str(tiny_data.images.parent) not in message


@pytest.mark.parametrize("name", ["nothing.png", "../nothing.png", "/nothing.png", "a" * 5000])
def test_nobody_learns_what_files_there_are(limited, tiny_data, name):
    message = refusal(limited, [{**ROW, "image": name}], 422)
    assert "no such file in the image folders" in message or "relative to an image folder" in message
    assert str(tiny_data.images) not in message and not any(
        path.name in message for path in tiny_data.images.iterdir()
    )


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{", 400, "is no JSON"),
        (b"[" * 100_0, 400, "is no JSON"),
        (b"[]", 422, "must be a JSON object"),
        (b"{}", 422, "rows: must be a list"),
        (b'{"rows": []}', 422, "one row or more"),
        (b'{"rows": [1]}', 422, "row 0"),
        (b'{"rows": [{"question": "a"}]}', 422, "row 0, field 'answer'"),
        (
            b'{"rows": [{"question": "a", "answer": "b", "image": "c"}], "pictures": {"c": "?"}}',
            422,
            "no base64",
        ),
        (
            b'{"rows": [{"question": "a", "answer": "b", "image": "c"}], "pictures": {"c": "aGFsbG8="}}',
            422,
            "unreadable",
        ),
        (b'{"rows": [{"question": "a", "answer": "b"}], "pictures": []}', 422, "pictures: must be an object"),
        (b'{"row": []}', 422, "unknown fields row"),
    ],
)
def test_requests_that_are_none(limited, body, status, words):
    reply = limited.post("/v1/score", content=body, headers={"Content-Type": "application/json"})
    assert reply.status_code == status and words in reply.json()["error"]["message"]


def test_a_page_elsewhere_gets_nothing(limited):
    body = json.dumps({"rows": [ROW]})
    assert limited.post("/v1/score", content=body, headers={"Content-Type": "text/plain"}).status_code == 415
    assert limited.get("/v1/model", headers={"Host": "evil.example"}).status_code == 400
    assert limited.get("/v1/score").status_code == 405
    assert limited.get("/v1/nowhere").json()["error"]["message"] == "Not Found"


def test_the_key_is_asked_for(tiny_data, reward_run, monkeypatch):
    monkeypatch.setenv("REWARD_API_KEY", "secret")
    with service_here(service_command(tiny_data, reward_run)) as client:
        assert client.get("/health").status_code == 200
        assert client.get("/v1/model").status_code == 401
        wrong = client.post("/v1/score", json={"rows": [ROW]}, headers={"Authorization": "Bearer wrong"})
        assert wrong.status_code == 401
        right = client.post("/v1/score", json={"rows": [ROW]}, headers={"Authorization": "Bearer secret"})
        assert right.status_code == 200


def test_others_take_all_room(tiny_data, reward_run, monkeypatch):
    """Rows wait while a forward is held; the next request is told to come later, and finds room after it."""
    begun, go_on, score = threading.Event(), threading.Event(), Scorer.__call__

    def held(self, items):
        begun.set()
        assert go_on.wait(60)
        return score(self, items)

    monkeypatch.setattr(Scorer, "__call__", held)
    command = service_command(tiny_data, reward_run, response_len=20, **LIMITS)
    with service_here(command) as client, ThreadPoolExecutor(1) as pool:
        first = pool.submit(client.post, "/v1/score", json={"rows": [ROW] * 4})
        assert begun.wait(60)
        late = client.post("/v1/score", json={"rows": [ROW] * 3})
        go_on.set()
        assert first.result().status_code == 200
        assert late.status_code == 429 and "4 of 6 rows are at work" in late.text
        assert "ask again later" in late.text and late.headers["Retry-After"] == "1"
        assert client.post("/v1/score", json={"rows": [ROW] * 3}).status_code == 200
