"""Preferences collected in a real browser: ten pairs with a kill in between, then a reward model on the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_utils.schema import read_preferences
from tests.browser.collecting import (
    Annotator,
    collect_command,
    free_port,
    judgements,
    served,
    train_on,
    write_world,
)
from tests.browser.conftest import outside, requested

pytest.importorskip("gradio")
pytestmark = pytest.mark.slow
PROGRAM = "llava_rlhf.collect_preferences"


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    return write_world(tmp_path_factory.mktemp("collect") / "world")


def test_ten_pairs_with_a_kill_in_between_then_a_reward_model(browser, world, tmp_path):
    output, port = tmp_path / "collection", free_port()
    command = collect_command(world, output, port)
    keys = "1232141"  # then three with the mouse
    seen: dict[str, list[str]] = {}
    driver = browser(1280, 900)
    with served(PROGRAM, command, tmp_path / "first.log"):
        person = Annotator(driver, port)
        person.sign_in("ann")
        for number, key in enumerate(keys[:5], 1):
            seen[person.row()] = person.answers()
            person.press(key)
            # On disk before the next pair is shown.
            assert [line["row"] for line in judgements(output)] == [int(row) for row in seen]
            assert f"{number} judged" in person.status()
        on_screen, shown = person.row(), person.answers()
        assert outside(requested(driver)) == []
    # SIGKILL: nobody could tidy up.
    with served(PROGRAM, command, tmp_path / "second.log"):
        person = Annotator(driver, port)
        person.come_back()
        assert (person.row(), person.answers()) == (on_screen, shown)  # the pair that was on the screen
        for act in (*keys[5:], "b-better", "a-better", "both-bad"):
            seen[person.row()] = person.answers()
            (person.press if len(act) == 1 else person.click)(act)
        addresses = requested(driver)
        assert any("127.0.0.1" in address for address in addresses) and outside(addresses) == []
    lines = judgements(output)
    assert len(lines) == len(seen) == 10
    check_preferences(output, lines, seen, "12321412" + "14")
    train_on(world, output / "preferences.json", tmp_path / "reward")


def check_preferences(output: Path, lines: list[dict], seen: dict[str, list[str]], keys: str) -> None:
    """The file holds what was clicked: the words that were on the screen, ties and both bad nowhere."""
    records, problems = read_preferences(output / "preferences.json")
    assert not problems
    expected = {row: seen[row][int(key) - 1] for row, key in zip(seen, keys, strict=True) if key in "12"}
    rows = {str(row["prompt_row"]): row for row in json.loads((output / "preferences.json").read_text())}
    assert rows.keys() == expected.keys() and len(records) == 7
    for row, better in expected.items():
        outputs = [rows[row]["output_1"]["value"], rows[row]["output_2"]["value"]]
        assert outputs[rows[row]["preference"] - 1] == better
        assert sorted(outputs) == sorted(seen[row])
    verdicts = [line["verdict"] for line in lines]
    assert [verdicts[keys.index("3")], verdicts[keys.index("4")]] == ["tie", "both_bad"]
    assert {line["left"] for line in lines} == {1, 2}


@pytest.mark.nightly
def test_two_people_take_back_and_use_the_keyboard_only(browser, world, tmp_path):
    from selenium.webdriver.common.keys import Keys

    output, port = tmp_path / "collection", free_port()
    with served(PROGRAM, collect_command(world, output, port, shared_share=0), tmp_path / "page.log"):
        ann, bob = Annotator(browser(1280, 900), port), Annotator(browser(400, 800), port)
        ann.sign_in("ann")
        bob.sign_in("bob")
        first, answers = ann.row(), ann.answers()
        assert first != bob.row()  # nobody gets a pair that is on another screen
        ann.press("1")
        ann.press("u")
        assert (ann.row(), ann.answers()) == (first, answers)
        # What is typed into the comment is no verdict; Tab leads back to the buttons.
        box = ann.find("#comment input, #comment textarea")[0]
        box.send_keys("A names <b>4</b> things, 1 of them is there")
        assert ann.row() == first and len(judgements(output)) == 2
        box.send_keys(Keys.SHIFT, Keys.TAB)
        assert ann.driver.switch_to.active_element.get_attribute("id") == "both-bad"
        ann.press(Keys.ENTER)
        (line,) = (line for line in judgements(output) if line["comment"])
        assert (line["verdict"], line["row"]) == ("both_bad", int(first))
        assert line["comment"] == "A names <b>4</b> things, 1 of them is there"
        bob.press("2")
        assert {line["annotator"] for line in judgements(output)} == {"ann", "bob"}
        width = bob.driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= 400  # nothing to scroll sideways
