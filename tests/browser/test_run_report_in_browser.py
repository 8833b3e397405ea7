"""The report on a run in a real browser: filter, sort, worst and best, pages, and nothing that leaves it."""

from __future__ import annotations

import pytest

from llava_rlhf import run_report
from tests.browser.conftest import requested
from tests.support.run_folders import HOSTILE, rollout, write_lines, write_ppo_run
from tests.support.tiny_data import command_line

pytestmark = pytest.mark.slow


class Reader:
    """Somebody who reads the page."""

    def __init__(self, driver, path):
        self.driver, self.address = driver, path.as_uri()
        driver.get(self.address)

    def find(self, selector: str):
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[str]:
        return [element.text for element in self.driver.find_elements("css selector", selector)]

    def choose(self, name: str, text: str) -> None:
        from selenium.webdriver.support.ui import Select

        Select(self.find(f"#{name}")).select_by_visible_text(text)

    def scores(self) -> list[float]:
        return [float(text.replace("−", "-")) for text in self.all("#rows td.number")]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A page on two steps of 24 rollouts: row r of step s has score 100 s + r."""
    run, data = write_ppo_run(tmp_path_factory.mktemp("report"))
    run_report.run(run_report.prepare(command_line(run=run, image_folder=data.images)))
    return run / "report.html"


def test_worst_best_filter_sort_search_and_pages(browser, report):
    page = Reader(browser(1280, 900), report)
    assert (
        page.scores() == [100.0 + row for row in range(20)]
        and page.find("#count").text == "1 to 20 of 48 rollouts"
    )
    page.find("#next").click()
    assert (
        page.scores() == [120.0, 121, 122, 123, *range(200, 216)] and page.find("#page").text == "page 2 of 3"
    )
    page.find("#best").click()
    assert page.scores() == [223.0 - row for row in range(20)]
    assert page.find("#best").get_attribute("aria-pressed") == "true"
    page.choose("answer-type", "NO_IN_YESNO")
    page.choose("step", "1")
    assert page.scores() == [121.0 - 3 * row for row in range(8)] and set(page.all("#rows .type")) == {
        "NO_IN_YESNO"
    }
    page.choose("sort", "length bonus")  # −row: lowest first is the last row
    page.choose("order", "lowest first")
    assert page.scores() == [121.0 - 3 * row for row in range(8)]
    page.choose("sort", "correct bonus")  # 2 + row
    assert page.scores() == [100.0 + 3 * row for row in range(8)]
    page.find("#search").send_keys("CAPTION 12.")
    assert page.scores() == [112.0]
    assert page.all("#rows dd") == ["111.000", "−1.000", "−12.000", "14.000", "2.000", "−1.000", "111.000"]
    page.find("#search").send_keys("nowhere")
    assert page.scores() == [] and page.find("#count").text == "No rollout matches."


def test_hostile_text_is_text_pictures_are_shown_and_nothing_is_asked_for(browser, report):
    page = Reader(browser(1280, 900), report)
    page.find("#best").click()
    assert [page.all(f"#rows tr:first-child .{kind}") for kind in ("question", "captions", "response")] == [
        [HOSTILE]
    ] * 3
    assert page.driver.title == "run – run report"
    pictures = "return [...document.images].map(image => image.complete && image.naturalWidth > 0)"
    shown = page.driver.execute_script(pictures)
    assert len(shown) == 20 and all(shown)  # of the rows; figures are drawn
    drawn = page.driver.execute_script(
        "return [...document.querySelectorAll('.chart')].map(box => box.querySelectorAll('.mark').length)"
    )
    assert len(drawn) > 40 and all(drawn)
    assert {address for address in requested(page.driver) if not address.startswith("data:")} == {
        page.address
    }
    assert page.driver.get_log("browser") == []  # no error, nothing that the policy refused
    page.driver.execute_script(
        "const s = document.createElement('script'); s.textContent = \"document.title = 'ran'\";"
        " document.body.append(s)"
    )
    assert page.driver.title == "run – run report"  # the policy is at work


def test_a_narrow_window_and_the_keyboard(browser, report):
    from selenium.webdriver.common.keys import Keys

    page = Reader(browser(400, 800), report)
    assert page.driver.execute_script("return document.documentElement.scrollWidth") <= 400
    worst = page.find("#worst")
    page.driver.execute_script("arguments[0].focus()", worst)
    worst.send_keys(Keys.TAB)
    active = page.driver.switch_to.active_element
    assert active.get_attribute("id") == "best"
    active.send_keys(Keys.ENTER)
    assert page.scores()[0] == 223.0
    reached = []
    for _ in range(5):
        page.driver.switch_to.active_element.send_keys(Keys.TAB)
        reached.append(page.driver.switch_to.active_element.get_attribute("id"))
    assert reached == ["answer-type", "step", "sort", "order", "search"]


def test_what_the_critic_expected_is_drawn_beside_the_diagonal(browser, tmp_path):
    """Values of a fraction: the axis has numbers all the same."""
    run, _ = write_ppo_run(tmp_path)
    for step in (1, 2):
        lines = [rollout(row, 1.0, value=row / 100, **{"return": row / 50}) for row in range(20)]
        write_lines(run / f"rollouts/{step:06d}.jsonl", lines)
    run_report.run(run_report.prepare(command_line(run=run)))
    page = Reader(browser(1280, 900), run / "report.html")
    assert page.find("nav a[href='#critic']").text == "Critic"
    classes = "return [...document.querySelectorAll('#critic .mark')].map(mark => mark.getAttribute('class'))"
    drawn = page.driver.execute_script(classes)
    assert len(drawn) == 2 and ["dashed" in kind for kind in drawn] == [False, True]
    assert page.all("#critic .legend span") == ["mean return", "if every value were right"]
    texts = "return [...document.querySelectorAll('#critic text[text-anchor=middle]')].map(text => text.textContent)"
    assert "0.1" in [text.rstrip("0") for text in page.driver.execute_script(texts)]
    chart = page.find("#critic .chart")
    chart.send_keys("\ue010")  # End
    assert page.all("#critic .tip b") == ["mean value of a tenth of the rollouts 0.185"]
    assert page.all("#critic .tip strong") == ["0.37", "0.185"]
    assert page.driver.get_log("browser") == []
