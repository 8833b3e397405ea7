"""The page on a judge's quality in a real browser: wide and narrow, pictures, figures, and nothing that leaves it."""

from __future__ import annotations

import pytest

from llava_rlhf import run_report
from tests.browser.conftest import requested
from tests.browser.test_run_report_in_browser import Reader
from tests.support.judged import PAIRS, judged_pair, write_pairs
from tests.support.run_folders import HOSTILE
from tests.support.tiny_data import command_line, write_tiny_data

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Twenty pairs with a picture each; the worst one's texts are hostile."""
    folder = tmp_path_factory.mktemp("judge")
    data = write_tiny_data(folder / "data", 1)
    image = min(path.name for path in data.images.iterdir())
    more = [judged_pair(n, "word " * n, "word " * 12, n - 10.5) for n in range(7, 20)]
    more[0] |= {
        "margin": -99.0,
        "scores": [0.0, -99.0],
        "question": HOSTILE,
        "responses": [HOSTILE, f"{HOSTILE} 2"],
    }
    pairs = write_pairs(folder / "pairs.jsonl", [pair | {"image": [image]} for pair in [*PAIRS, *more]])
    run_report.run(run_report.prepare(command_line(pairs=pairs, image_folder=data.images)))
    return folder / "pairs.jsonl.html"


@pytest.mark.parametrize("width", [1280, 400])
def test_nothing_is_cut_and_the_worst_pair_comes_first(browser, report, width):
    page = Reader(browser(width, 900), report)
    assert page.driver.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.all(".pair h3")[0].startswith("margin −99.000") and len(page.all(".pair")) == 20
    assert page.all(".pair .words")[:3] == [HOSTILE, f"{HOSTILE} 2", HOSTILE]
    sides = page.driver.execute_script(
        "return [...document.querySelector('.sides').children].map(side => side.getBoundingClientRect().top)"
    )
    assert (sides[0] == sides[1]) is (width == 1280)  # side by side, or one below the other
    shown = page.driver.execute_script("return [...document.images].map(image => image.naturalWidth > 0)")
    assert shown == [True] * 20
    drawn = page.driver.execute_script(
        "return [...document.querySelectorAll('.chart')].map(box => [box.querySelectorAll('.mark').length,"
        " ...[...box.querySelectorAll('text')].map(text => text.getBoundingClientRect().right)])"
    )
    assert [marks for marks, *_ in drawn] == [1, 2, 2]
    assert all(right <= width for _, *ends in drawn for right in ends)
    assert {address for address in requested(page.driver) if not address.startswith("data:")} == {
        page.address
    }
    assert page.driver.get_log("browser") == []
