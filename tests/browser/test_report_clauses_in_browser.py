"""What a reader of a report is promised, a test each: first line, columns, health, values, zoom, dark mode, runs side by side,
a narrow window, and warnings after the results."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from data_utils.shapes_files import scenes_to_json
from data_utils.shapes_world import render
from llava_rlhf import run_report
from tests.browser.test_run_report_in_browser import Reader
from tests.llava_rlhf.tiny_world.test_tiny_world_tools import SCENE, write_page
from tests.support.run_folders import BAD, GOOD, write_learning_run, write_ppo_run, write_scores
from tests.support.tiers import tiered
from tests.support.tiny_data import command_line

pytestmark = pytest.mark.slow

CHECKS = ["critic", "kl", "stop", "reward", "length"]
FIRST_LINE = "hallucination .800 → .300 (−.500, 95 % interval [−.800, −.200])"


def write(run, **flags) -> Path:
    """The page on a run, or on several."""
    report = run_report.prepare(command_line(run=run, **flags))
    run_report.run(report)
    return report.arguments.target


@pytest.fixture(scope="module")
def scores(tmp_path_factory) -> dict[str, Path]:
    """Of ten descriptions eight are false before; three afterwards, five fewer; or still eight."""
    folder = tmp_path_factory.mktemp("scores")
    falls = {"before": [1] * 8 + [0] * 2, "better": [1] * 3 + [0] * 7, "flat": [0] * 2 + [1] * 8}
    return {name: write_scores(folder / f"{name}.json", false) for name, false in falls.items()}


@pytest.fixture(scope="module")
def pages(tmp_path_factory, scores) -> dict[str, Path]:
    """A good run, a bad one, both side by side, and one with rollouts and pictures."""
    folder = tmp_path_factory.mktemp("runs")
    good = write_learning_run(folder / "good", GOOD)
    bad = write_learning_run(folder / "bad", BAD, {"learning_rate": 1e-3})
    third = write_learning_run(folder / "a_run_with_a_long_name_and_no_hyphen", GOOD)
    whole, data = write_ppo_run(folder / "whole")
    return {
        "good": write(good, scores=[scores["before"], scores["better"]]),
        "bad": write(bad, scores=[scores["before"], scores["flat"]]),
        "both": write([good, bad]),
        "three": write([good, bad, third], output_file=folder / "three.html"),
        "rollouts": write(whole, image_folder=data.images),
    }


def emulate(driver, scheme: str) -> None:
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def test_the_first_line_says_what_changed_and_where_it_comes_from(browser, pages):
    page = Reader(browser(), pages["good"])
    first, *_ = page.find("body").text.splitlines()
    assert first == FIRST_LINE
    (facts,) = page.all(".facts")
    assert facts.startswith("good") and "seed 7" in facts and "Last step: 8." in facts
    assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", facts)
    page.find("summary").click()
    command = page.find("pre.command").text
    assert command.startswith("python -m llava_rlhf.train_rl_model \\\n  --seed 7 \\\n")
    links = page.driver.execute_script("return [...document.querySelectorAll('.links a')].map(a => a.href)")
    assert [Path(link.removeprefix("file://")).name for link in links] == ["arguments.json", "metrics.jsonl"]
    assert all(Path(link.removeprefix("file://")).exists() for link in links)


def test_without_held_out_scores_the_first_line_says_so(browser, pages):
    page = Reader(browser(), pages["rollouts"])
    first, second, *_ = page.find("body").text.splitlines()
    assert first.startswith("reward .100 → .200 (+.100, 95 % interval [")
    assert "no held-out scores were given: --scores" in second


def test_before_and_after_are_columns_with_their_difference(browser, pages):
    page = Reader(browser(), pages["good"])
    heads = page.all("#change table:first-of-type thead th")[:4]
    assert heads == ["measure", "before", "after", "difference"]
    cells = [cell.split("\n") for cell in page.all("[data-measure=hallucination] td")]
    assert [cell[0] for cell in cells] == [".800", ".300", "−.500"]
    assert cells[2][1] == "[−.800, −.200]" and all(cell[1].startswith("[") for cell in cells)


def test_every_flag_is_raised_by_the_bad_run_and_none_by_the_good_one(browser, pages):
    page = Reader(browser(), pages["good"])
    assert page.all("#health li .state") == ["FINE"] * len(CHECKS)
    assert "Nothing to worry about in what was checked." in page.find("#health").text
    page = Reader(page.driver, pages["bad"])
    text = page.find("#health").text
    assert page.all("#health li .state") == ["LOOK"] * len(CHECKS) and "Nothing to worry" not in text
    told = {check: page.find(f"[data-check={check}]").text for check in CHECKS}
    seen = {
        "critic": "−.275",
        "kl": "30.00",
        "stop": "35%",
        "reward": "held-out quality is flat",
        "length": "37.5 → 7.5",
    }
    assert {check: words in told[check] for check, words in seen.items()} == dict.fromkeys(CHECKS, True)
    assert all("What to do:" in words and re.search(r"--[a-z_]+", words) for words in told.values())


def test_the_values_of_a_step_are_shown_by_pointer_and_keys(browser, pages):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    page = Reader(browser(), pages["good"])
    chart = page.find('#metrics .chart[aria-label^="objective/kl_sum_seq"]')
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", chart)
    assert not chart.find_element("css selector", ".tip").is_displayed()
    ActionChains(page.driver).move_to_element(chart).perform()
    shown = chart.find_element("css selector", ".tip").text
    assert shown in ("PPO step 4\n1.75", "PPO step 5\n2")  # the middle lies between them
    ActionChains(page.driver).move_to_element(page.find("#metrics h2")).perform()
    assert not chart.find_element("css selector", ".tip").is_displayed()
    chart.send_keys(Keys.END)
    assert chart.find_element("css selector", ".tip").text == "PPO step 8\n2.75"
    chart.send_keys(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert chart.find_element("css selector", ".tip").text == "PPO step 6\n2.25"
    chart.send_keys(Keys.ESCAPE)
    assert not chart.find_element("css selector", ".tip").is_displayed()


def test_a_picture_opens_zooms_moves_and_closes(browser, pages):
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
    from selenium.webdriver.common.keys import Keys

    page = Reader(browser(), pages["rollouts"])
    viewer = page.find(".viewer")
    assert not viewer.is_displayed()
    page.find("#rows button.zoom").click()
    large = viewer.find_element("css selector", "img")
    place = "const m = new DOMMatrix(getComputedStyle(arguments[0]).transform); return [m.a, m.e, m.f]"
    assert large.size["width"] > 500 and page.driver.execute_script(place, large) == [1, 0, 0]
    assert page.driver.execute_script("return arguments[0].naturalWidth > 0", large)
    ActionChains(page.driver).scroll_from_origin(ScrollOrigin.from_element(large), 0, -100).perform()
    scale, *_ = page.driver.execute_script(place, large)
    assert scale == pytest.approx(1.2)
    ActionChains(page.driver).move_to_element(large).click_and_hold().move_by_offset(
        60, 30
    ).release().perform()
    scale, *moved = page.driver.execute_script(place, large)
    assert scale == pytest.approx(1.2)
    assert moved == pytest.approx([60, 30], abs=2)  # the mouse moves in whole pixels
    page.driver.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not viewer.is_displayed()
    page.driver.execute_script("arguments[0].focus()", page.find("#rows button.zoom"))
    page.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert viewer.is_displayed() and page.driver.execute_script(place, large) == [1, 0, 0]


CONTRASTS = """
const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
const light = (rgb) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, at) => {
  const part = rgb[at] / 255;
  return sum + weight * (part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
}, 0);
const ground = (node) => {
  for (let at = node; at; at = at.parentElement) {
    const found = numbers(getComputedStyle(at).backgroundColor);
    if (found.length < 4 || found[3] > 0) return found;
  }
  return [255, 255, 255];
};
const found = [];
for (const node of document.querySelectorAll("body *")) {
  const style = getComputedStyle(node), own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
  if (!own || !node.getClientRects().length || ["SCRIPT", "OPTION"].includes(node.tagName) || node.disabled) continue;
  const colours = [light(numbers(node.namespaceURI.includes("svg") ? style.fill : style.color)), light(ground(node))];
  found.push([(Math.max(...colours) + 0.05) / (Math.min(...colours) + 0.05), node.outerHTML.slice(0, 80)]);
}
return found;
"""

CUT = """
return [...document.querySelectorAll("body *:not(dialog *):not(pre *)")].filter((node) => {
  const box = node.getBoundingClientRect();
  const hidden = node.scrollWidth > node.clientWidth + 1 && getComputedStyle(node).overflowX !== "visible";
  return box.width > 1 && (box.right > 400 || box.left < 0 || (hidden && !["PRE", "THEAD"].includes(node.tagName)));
}).map((node) => node.outerHTML.slice(0, 80));
"""


@pytest.mark.parametrize(
    ("name", "scheme"),
    tiered(
        [(name, scheme) for name in ("bad", "both", "rollouts") for scheme in ("light", "dark")],
        daily=[("bad", "light"), ("both", "dark"), ("rollouts", "dark")],
    ),
)
def test_text_is_readable_in_both_schemes(browser, pages, scheme, name):
    driver = browser()
    emulate(driver, scheme)
    page = Reader(driver, pages[name])
    ground = page.find("body").value_of_css_property("background-color")
    brightness = sum(map(int, re.findall(r"\d+", ground)[:3])) / 3
    assert brightness > 240 if scheme == "light" else brightness < 40
    measured = driver.execute_script(CONTRASTS)
    assert len(measured) > 60
    assert [text for contrast, text in measured if contrast < 4.5] == []


def test_runs_stand_side_by_side(browser, pages):
    from selenium.webdriver.common.keys import Keys

    page = Reader(browser(), pages["both"])
    assert pages["both"].name == "comparison.html"
    assert page.find("h1").text.startswith("reward 4.50 → 4.50 (0)")
    assert [facts.split()[0] for facts in page.all(".facts")] == ["good", "bad"]
    assert page.all("#change thead th") == ["measure", "good", "bad", "difference"]
    assert [cell.split("\n")[0] for cell in page.all("[data-measure='objective/kl_sum_seq'] td")] == [
        "2.75",
        "32.00",
        "+29.25",
    ]
    settings = [
        [cell.text for cell in row.find_elements("css selector", "th, td")]
        for row in page.driver.find_elements("css selector", "#settings tbody tr")
    ]
    assert ["PPOArguments.learning_rate", "1e-05", "0.001"] in settings
    assert [row[0] for row in settings] == ["PPOArguments.learning_rate", "PPOArguments.output_dir"]
    chart = page.find('#metrics .chart[aria-label^="objective/kl_sum_seq"]')
    assert len(chart.find_elements("css selector", ".mark")) == 2
    assert page.find("#metrics figure .legend").text.split() == ["good", "bad"]
    chart.send_keys(Keys.HOME)
    assert chart.find_element("css selector", ".tip").text == "PPO step 1\ngood 1\nbad 4"


@pytest.mark.parametrize("name", ["bad", "three", "rollouts"])
def test_nothing_is_cut_in_a_narrow_window(browser, pages, name):
    page = Reader(browser(400, 800), pages[name])
    for summary in page.driver.find_elements("css selector", "summary"):
        summary.click()
    assert page.driver.execute_script("return document.scrollingElement.scrollWidth") <= 400
    assert page.driver.execute_script(CUT) == []


def test_warnings_about_files_come_after_the_results(browser, pages):
    page = Reader(browser(), pages["rollouts"])  # its last line of metrics is cut off, and says so
    above = "return [...document.querySelectorAll('h2')].map(head => head.textContent)"
    assert page.driver.execute_script(above)[-1] == "Warnings about files"
    assert "metrics.jsonl: its last line is cut off" in page.find("#notes").text
    assert page.find("#notes").location["y"] > page.find("#metrics").location["y"]


def test_the_report_on_a_tiny_world_keeps_the_same_promises(browser, tmp_path):
    page = Reader(browser(400, 800), write_world_page(tmp_path))
    emulate(page.driver, "dark")
    first, second, *_ = page.find("body").text.splitlines()
    assert (
        first == "hallucinating descriptions .333 → 0 (−.333)" and "SFT → PPO" in second
    )  # one picture: no interval
    assert page.all("#change td.difference small") == [""] * 6 and page.find("#health").is_displayed()
    assert [text for contrast, text in page.driver.execute_script(CONTRASTS) if contrast < 4.5] == []
    assert page.driver.execute_script("return document.scrollingElement.scrollWidth") <= 400
    assert page.driver.execute_script(CUT) == []
    page.find("button.zoom").click()
    assert page.find(".viewer img").is_displayed()


def write_world_page(folder: Path) -> Path:
    """The report of `tests/llava_rlhf/tiny_world` on one picture."""
    (folder / "images").mkdir()
    render(SCENE, 0.1).save(folder / "images/a.png")
    (folder / "scenes.json").write_text(json.dumps(scenes_to_json({"a.png": SCENE})))
    write_page(folder)
    return folder / "report.html"
