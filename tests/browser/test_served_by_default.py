"""What a page's server lets in when nobody said anything else: this machine, and pictures of a bearable size."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from llava_rlhf.pages.arguments import PageArguments
from tests.browser.collecting import free_port, served

pytest.importorskip("gradio")

LOOPBACK = "127.0.0.1"
MEGABYTE = 1024**2


@pytest.fixture(scope="module")
def port(tmp_path_factory) -> Iterator[int]:
    """Where a small page is served with the defaults, by a process of its own."""
    number = free_port()
    with served("tests.support.small_page", [str(number)], tmp_path_factory.mktemp("page") / "log"):
        yield number


def other_addresses() -> list[str]:
    """Of this machine: 127.0.0.2 reaches what listens everywhere, and whatever its network cards have."""
    found = {"127.0.0.2", "::1"}
    for name in (socket.gethostname(), "localhost"):
        try:
            found |= {entry[4][0] for entry in socket.getaddrinfo(name, None)}
        except OSError:  # a machine without a name
            continue
    return sorted(found - {LOOPBACK})


def test_the_default_is_this_machine():
    page = PageArguments()
    assert page.host == LOOPBACK and page.local
    assert not PageArguments(host="0.0.0.0").local and not PageArguments(host="::").local


def test_no_other_address_of_the_machine_reaches_the_page(port):
    socket.create_connection((LOOPBACK, port), timeout=30).close()
    for address in other_addresses():
        with pytest.raises(OSError), socket.create_connection((address, port), timeout=5):
            pass


def test_it_listens_at_one_address_only(port):
    listening = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for row in map(str.split, table.read_text().splitlines()[1:] if table.exists() else []):
            address, _, number = row[1].partition(":")
            if row[3] == "0A" and int(number, 16) == port:  # 0A: listening
                listening.add(address)
    assert listening == {"0100007F"}  # 127.0.0.1, the bytes in reverse


def upload(port: int, size: int) -> tuple[int, bytes]:
    """Status and answer to a file of so many bytes."""
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="picture.png"\r\n\r\n'
    body = part + bytes(size) + b"\r\n--x--\r\n"
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=60)
    headers = {"Content-Type": "multipart/form-data; boundary=x", "Content-Length": str(len(body))}
    connection.putrequest("POST", "/gradio_api/upload")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    with contextlib.suppress(OSError):  # it may answer and close before it has read all of what it refuses
        connection.send(body)
    response = connection.getresponse()
    answer = response.status, response.read()
    connection.close()
    return answer


def test_a_picture_that_is_too_large_is_refused_and_others_are_not(port):
    status, answer = upload(port, 33 * MEGABYTE)
    assert status == 413 and b"maximum allowed size" in answer
    status, answer = upload(port, 30 * 10**6)
    assert status == 200
    (path,) = json.loads(answer)
    assert Path(path).stat().st_size == 30 * 10**6 and "llava-rlhf-page-" in path
