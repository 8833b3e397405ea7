"""What a page's server gives out: itself, and no file of the machine; asked over HTTP, without a browser."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.browser.collecting import collect_command, free_port, served, write_world

pytest.importorskip("gradio")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A served collection: its port and folders. The answers are given, so no model is loaded."""
    folder = tmp_path_factory.mktemp("site")
    world = write_world(folder / "world", images=2)
    (folder / "secret.txt").write_text("the secret")
    rows = [
        {"question": "what?", "answer": answer, "image": path.name}
        for path in sorted((world / "images").glob("*.png"))[:2]
        for answer in ("<img src=http://example.com/x.png onerror=alert(1)>", "b")
    ]
    (folder / "answers.json").write_text(json.dumps(rows))
    port = free_port()
    argv = collect_command(
        world, folder / "out", port, dataset_path=folder / "answers.json", base_model_name=None
    )
    with served("llava_rlhf.collect_preferences", argv, folder / "log"):
        yield port, folder


def get(
    port: int, path: str, method: str = "GET", body: str | None = None, **headers
) -> tuple[int, bytes, dict]:
    """Status, body and headers; the path goes out as it is, dots and all."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {"Content-Type": "application/json", **headers})
    response = connection.getresponse()
    answer = response.status, response.read(), {k.lower(): v for k, v in response.getheaders()}
    connection.close()
    return answer


def test_no_file_can_be_fetched(site):
    port, folder = site
    image = next((folder / "world" / "images").iterdir())
    wanted = [
        folder / "secret.txt",
        folder / "answers.json",
        folder / "out" / "judgements.jsonl",
        image,
        "/etc/passwd",
    ]
    contents = [Path(path).read_bytes() for path in wanted]
    tried = 0
    for path in wanted:
        up = "../" * 12 + str(path).lstrip("/")
        for prefix in (
            "/gradio_api/file=",
            "/file=",
            "/gradio_api/file/",
            "/gradio_api/proxy=",
            "/static/",
            "/assets/",
        ):
            for name in (
                str(path),
                up,
                quote(up, safe=""),
                up.replace("../", "..%2f"),
                f"file://{path}",
                f"/{path}",
            ):
                status, body, _ = get(port, prefix + name)
                tried += 1
                assert all(content not in body for content in contents if content), (prefix, name)
                assert status >= 400 or b"<!doctype html" in body[:200].lower(), (prefix, name, status)
    assert tried == 180


def test_an_upload_can_be_fetched_but_not_put_elsewhere(site):
    port, folder = site
    name = "../../../escaped.txt"
    body = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\nmine\r\n--x--\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    status, answer, _ = get(port, "/gradio_api/upload", "POST", body, **headers)
    assert status == 200, answer
    (path,) = json.loads(answer)
    assert (
        "llava-rlhf-page-" in path and ".." not in path
    )  # the server's own folder, not one that users share
    assert get(port, f"/gradio_api/file={path}")[1] == b"mine"
    assert get(port, f"/gradio_api/file={path}/../../../{folder}/secret.txt")[0] >= 400


def test_the_page_forbids_the_browser_to_go_elsewhere(site):
    port, _ = site
    status, body, headers = get(port, "/")
    assert status == 200
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert b"fonts.googleapis" not in body


def test_another_name_of_this_machine_is_not_served(site):
    """A page elsewhere can let its own name point here; the browser then says that name."""
    port, _ = site
    assert get(port, "/", Host="evil.example")[0] == 400
    assert get(port, "/", Host=f"localhost:{port}")[0] == 200


def test_only_this_machine_can_connect(site):
    port, _ = site
    listening = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    addresses = {
        row[1].split(":")[0] for row in listening if row[3] == "0A" and int(row[1].split(":")[1], 16) == port
    }
    assert addresses == {"0100007F"}  # 127.0.0.1, the bytes in reverse


def test_answers_are_text_and_pictures_are_copies(site, browser):
    from tests.browser.collecting import Annotator
    from tests.browser.conftest import outside, requested

    port, _ = site
    person = Annotator(browser(), port)
    person.sign_in("<b>ann</b>")
    assert sorted(person.answers())[0].startswith("<img src=http://example.com")
    (picture,) = person.find("article.pair img")
    assert picture.get_attribute("src").startswith("data:image/png;base64,")
    assert outside(requested(person.driver)) == []
    assert person.status().startswith("<b>ann</b>: 0 judged")
