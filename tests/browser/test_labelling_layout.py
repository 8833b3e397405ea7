"""The labelling page as people use it: what is where, what is in sight, zoom, marks, captions, goal and name."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image

from tests.browser.collecting import Annotator, collect_command, free_port, judgements, served, wait_for

pytest.importorskip("gradio")
pytestmark = pytest.mark.slow
SENTENCE = "The large red bus stands in the middle of the quiet street, and two brown dogs wait beside it. "
WORDS = (SENTENCE * 8).split()[:150]
CHANGED = {12: "empty", 80: "green", 81: "tram", 149: "windows"}
LONG = (" ".join(WORDS), " ".join(CHANGED.get(place, word) for place, word in enumerate(WORDS)))
HARD = (f"# one\n\n* **two** ${{x}} {{{{y}}}}\n{'w' * 400}", "&lt;b&gt; one")
TEXT_EDGES = """return [...document.querySelectorAll('article.pair :is(.words, img)')].map(element => {
    const range = document.createRange();
    range.selectNodeContents(element.tagName === "IMG" ? element.parentElement : element);
    return range.getBoundingClientRect().right;
})"""
CAPTIONS = ["a bus & two dogs", "<i>a street</i>"]


class Site:
    """A served collection of given answers that can be killed and started again."""

    def __init__(self, folder: Path):
        self.port, self.output = free_port(), folder / "out"
        (folder / "images").mkdir()
        Image.radial_gradient("L").resize((900, 600)).convert("RGB").save(folder / "images" / "bus.png")
        Image.linear_gradient("L").resize((40, 800)).convert("RGB").save(folder / "images" / "tall.png")
        prompts = [
            ("bus.png", LONG),
            ("bus.png", LONG[::-1]),
            (["tall.png", "bus.png"], HARD),
            ("tall.png", HARD),
        ]
        rows = [
            {"prompt_row": row, "question": "What is in the picture?", "image": image, "answer": answer}
            for row, (image, answers) in enumerate(prompts)
            for answer in answers
        ]
        (folder / "answers.json").write_text(json.dumps(rows))
        (folder / "captions.json").write_text(json.dumps({"bus.png": CAPTIONS}))
        self._command = collect_command(
            folder,
            self.output,
            self.port,
            base_model_name=None,
            dataset_path=folder / "answers.json",
            image_to_caption_file=folder / "captions.json",
            prompts_per_batch=1,  # everybody sees the pairs in the order of the file
            shared_share=1,
            goal=2,
        )
        self._log, self._running = folder / "log", ExitStack()
        self.start()

    def start(self) -> None:
        self._running.enter_context(served("llava_rlhf.collect_preferences", self._command, self._log))

    def kill(self) -> None:
        self._running.close()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    made = Site(tmp_path_factory.mktemp("site"))
    yield made
    made.kill()


@pytest.fixture
def person(site, browser, request):
    """Somebody with a name of their own, at the first pair."""
    width = getattr(request, "param", 1280)
    somebody = Annotator(browser(width, 800), site.port)
    somebody.sign_in(request.node.name[:60])
    return somebody


def box(person, selector: str) -> dict[str, float]:
    """Where an element is in the window."""
    script = "return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()"
    return person.driver.execute_script(script, selector)


def keys(person, *pressed: str) -> None:
    """Press keys wherever the focus is, and wait for nothing."""
    from selenium.webdriver import ActionChains

    ActionChains(person.driver).send_keys(*pressed).perform()


def shown(person, selector: str) -> bool:
    return any(one.is_displayed() for one in person.find(selector))


def zoomed(person) -> tuple[float, float, float]:
    """Scale of the enlarged picture, and how far it was moved."""
    script = (
        "const m = new DOMMatrix(getComputedStyle(document.querySelector('#zoom img')).transform);"
        "return [m.a, m.e, m.f]"
    )
    return tuple(person.driver.execute_script(script))


def made_by(name: str, site) -> list[dict]:
    """The judgements of one test's person."""
    return [line for line in judgements(site.output) if line["annotator"].startswith(name)]


@pytest.mark.parametrize("person", [1280, 400], indirect=True)
def test_the_bar_stays_in_sight_and_covers_nothing(person):
    run = person.driver.execute_script
    for share in (0, 0.5, 1):
        run(
            "scrollTo({top: arguments[0] * document.documentElement.scrollHeight, behavior: 'instant'})",
            share,
        )
        bar = box(person, "#bar")
        assert bar["top"] >= 400 and bar["bottom"] <= 800
        for button in ("a-better", "b-better", "tie", "both-bad", "comment", "undo"):
            at = box(person, f"#{button}")
            middle = (at["left"] + at["right"]) / 2, (at["top"] + at["bottom"]) / 2
            hit = "return !!document.elementFromPoint(...arguments[0])?.closest('#' + arguments[1])"
            assert run(hit, middle, button), (share, button)
    # At the end of the page the last answer is above the bar.
    assert box(person, ".answers")["bottom"] <= box(person, "#bar")["top"]


@pytest.mark.parametrize("person", [400], indirect=True)
def test_a_narrow_window_has_everything_in_one_column(person):
    picture, answers = box(person, ".pictures"), box(person, ".answers")
    assert picture["bottom"] <= answers["top"] and picture["left"] == answers["left"]
    first, second = (box(person, f".answers section:nth-child({number})") for number in (1, 2))
    assert first["bottom"] <= second["top"]
    run = person.driver.execute_script
    for row in range(4):  # long words and two pictures, too
        assert person.row() == str(row)
        assert run("return document.documentElement.scrollWidth") <= 400
        assert max(run(TEXT_EDGES)) <= 400  # what is wider than the page would be cut off
        if row < 3:
            run("scrollTo({top: 1e6, behavior: 'instant'})")
            assert run("return scrollY") > 0
            person.press("3")
            wait_for(lambda: run("return scrollY") == 0, "the next pair from its start")


def test_a_wide_window_has_the_picture_left_and_both_answers_in_sight(person):
    picture, answers = box(person, ".pictures img"), box(person, ".answers")
    assert picture["right"] < answers["left"] and picture["width"] >= 350
    first, second = (box(person, f".answers section:nth-child({number})") for number in (1, 2))
    assert first["right"] < second["left"] and first["top"] == second["top"]
    assert first["width"] == pytest.approx(second["width"], abs=1)  # columns end at whole pixels
    # 150 words each, and nothing to scroll.
    assert max(first["bottom"], second["bottom"]) <= box(person, "#bar")["top"]


def test_a_picture_is_enlarged_zoomed_and_moved(person, site):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
    from selenium.webdriver.common.keys import Keys

    row, act = person.row(), ActionChains(person.driver)
    person.find(".pictures button")[0].click()
    wait_for(lambda: shown(person, "#zoom img"), "the enlarged picture")
    assert zoomed(person) == (1, 0, 0) and box(person, "#zoom img")["height"] == 800
    act.scroll_from_origin(ScrollOrigin.from_viewport(640, 400), 0, -300).perform()
    scale, left, top = wait_for(lambda: zoomed(person)[0] > 1.2 and zoomed(person), "a larger picture")
    assert (left, top) == (0, 0)  # what was under the pointer is there still
    act.move_by_offset(640, 400).click_and_hold().move_by_offset(70, 30).release().perform()
    assert zoomed(person) == pytest.approx((scale, 70, 30), abs=0.01)
    keys(person, "+")
    assert zoomed(person)[0] > scale
    keys(person, "0", "1", "3", "u")
    assert zoomed(person) == (1, 0, 0)
    keys(person, Keys.ESCAPE)
    assert not shown(person, "#zoom")
    person.press("2")
    # Nobody judged what was behind the picture.
    assert [one["row"] for one in made_by("test_a_picture", site)] == [int(row)]


@pytest.mark.parametrize("person", [400], indirect=True)
def test_two_fingers_zoom(person):
    person.find(".pictures button")[0].click()
    wait_for(lambda: shown(person, "#zoom img"), "the enlarged picture")
    for kind, apart in (("touchStart", 40), ("touchMove", 80), ("touchMove", 120), ("touchEnd", None)):
        places = (
            [] if apart is None else [{"x": 200 + side * apart, "y": 400, "id": side + 1} for side in (-1, 1)]
        )
        person.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})
    assert zoomed(person)[0] == pytest.approx(3, rel=0.05)


def test_differing_words_are_marked_and_no_others(person):
    script = (
        "return [...document.querySelectorAll('.answers section:nth-child(%d) mark')].map(e => e.textContent)"
    )
    marks = [person.driver.execute_script(script % number) for number in (1, 2)]
    ours, theirs = (
        [words[12], f"{words[80]} {words[81]}", words[149]]
        for words in (WORDS, {**dict(enumerate(WORDS)), **CHANGED})
    )
    assert sorted(marks) == sorted([ours, theirs]) and ours != theirs
    assert sorted(person.answers()) == sorted(LONG)  # to the letter
    style = "return getComputedStyle(document.querySelector('.answers mark')).textDecorationLine"
    assert person.driver.execute_script(style) == "underline"  # not by colour alone


def test_captions_are_shown_on_demand_for_one_pair(person, site):
    assert shown(person, "#captions") and not shown(person, ".captions li")
    # The key is named where the captions are, and only there: without captions it opens nothing.
    assert person.find("#captions")[0].text == "Captions (c)"
    assert "captions" not in person.find("#introduction")[0].text
    person.press("1")
    assert not shown(person, ".captions li")
    keys(person, "c")
    wait_for(lambda: shown(person, ".captions li"), "the captions")
    assert [one.text for one in person.find(".captions li")] == CAPTIONS
    keys(person, "c")  # closed again, but read
    wait_for(lambda: not shown(person, ".captions li"), "closed captions")
    person.press("1")
    assert shown(person, "#captions") and not shown(person, ".captions li")  # of the second picture
    assert len(person.find(".pictures img")) == 2
    person.press("3")
    assert not person.find(".captions")  # there are none for this picture
    assert [one["details"] for one in made_by("test_captions", site)] == [{}, {"captions_opened": True}, {}]


def test_progress_towards_the_goal(person):
    def progress() -> tuple[str, float]:
        script = "return document.querySelector('#progress p').textContent.replace(/\\s+/g, ' ')"
        share = person.driver.execute_script("return document.querySelector('#progress progress').position")
        return person.driver.execute_script(script), share

    assert progress() == ("0 of 2 judged, 0 with a winner", 0)
    person.click("a-better")
    assert progress() == ("1 of 2 judged, 1 with a winner", 0.5)
    assert not shown(person, "#reached p")
    person.click("tie")
    assert progress() == ("2 of 2 judged, 1 with a winner", 1)
    (reached,) = person.find("#reached p")
    assert "Goal reached" in reached.text and "Ctrl-C" in reached.text
    assert "train_reward_model.sh with PREFERENCES=" in reached.text and "preferences.json" in reached.text
    assert "docs/walkthrough.md" in reached.text
    person.click("b-better")  # going on is allowed
    assert progress() == ("3 judged of a goal of 2, 2 with a winner", 1)


@pytest.mark.nightly
def test_the_name_is_known_after_a_restart_until_it_is_changed(person, site):
    person.press("2")
    row, status = person.row(), person.status()
    site.kill()
    site.start()
    person.driver.refresh()
    person.come_back()
    assert (person.row(), person.status()) == (row, status) and not shown(person, "#name")
    kept = "return JSON.stringify({...localStorage})"
    before = person.driver.execute_script(kept)
    person.find("#leave")[0].click()
    wait_for(lambda: shown(person, "#name") and not person.find("article.pair"), "the box for another name")
    wait_for(lambda: person.driver.execute_script(kept) != before, "the name to be forgotten")
    person.driver.refresh()
    person.sign_in("somebody else")
    assert person.status().startswith("somebody else: 0 judged")
