"""A headless Chromium that can reach this machine only, and writes down what it asks for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import pytest

INSIDE = {"", "127.0.0.1"}  # hosts; data: and blob: addresses have none


def missing_for_browser() -> str | None:
    """Why no browser can be started here, or None."""
    if shutil.which("chromium") is None:
        return "Chromium is not installed (Debian: apt-get install chromium)"
    if shutil.which("chromedriver") is None:
        return "chromedriver is not installed (Debian: apt-get install chromium-driver)"
    try:
        import selenium  # noqa: F401
    except ImportError:
        return "selenium is not installed (requirements-dev.txt)"
    return None


@pytest.fixture
def browser() -> Iterator[Callable]:
    """`browser(width, height)` opens a Chromium window; skips with a reason where there is none."""
    reason = missing_for_browser()
    if reason:
        pytest.skip(reason)
    from selenium import webdriver

    opened = []

    def open_window(width: int = 1280, height: int = 900) -> webdriver.Chrome:
        options = webdriver.ChromeOptions()
        options.binary_location = shutil.which("chromium")
        for argument in (
            "--headless=new",
            "--no-sandbox",
            "--disable-dev-shm-usage",
            "--disable-gpu",
            "--disable-background-networking",
            "--disable-component-update",
            "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
        ):
            options.add_argument(argument)
        options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
        driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
        opened.append(driver)
        driver.set_window_size(width, height)
        # A headless window is never narrower than 500 pixels; its page can be.
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
        )
        return driver

    yield open_window
    for driver in opened:
        driver.quit()


def requested(driver) -> list[str]:
    """Every address that a window has asked for since the last call, from its performance log."""
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


def outside(addresses: list[str]) -> list[str]:
    """Those that lie on another machine, or in a file."""
    return [
        address
        for address in addresses
        if urlsplit(address).scheme == "file" or (urlsplit(address).hostname or "") not in INSIDE
    ]
