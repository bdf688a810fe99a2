"""Photograph a report for the docs: ``python docs/make_screenshots.py reports/demo/report.html``.

Needs the test extra (Selenium, axe) and Chromium with its driver. Every picture is a part of the
page as a browser shows it, after the step that its entry names; ``docs/images`` gets them.
"""

from __future__ import annotations

import argparse
import base64
import io
import shutil
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

IMAGES = Path(__file__).parent / "images"
_COLOURS = 128  # of a palette, so that a picture keeps below some 150 kB


@dataclass(frozen=True)
class Shot:
    """A part of the page: from the top of one element to the bottom of another."""

    first: str
    last: str
    step: str = ""
    width: int = 1180
    dark: bool = False
    most: int = 1400  # pixels of height


_EXPLORE = "document.querySelector('#explorer-rows tr:nth-child(2) button').click()"
_SLIDE = """
const slider = document.getElementById('gallery-threshold');
slider.value = 0.4;
slider.dispatchEvent(new Event('input', {bubbles: true}));
"""
_DRAW = """
const cards = document.querySelectorAll('.cards > li');
for (const card of cards) card.style.contentVisibility = 'visible';
const pictures = [...document.querySelectorAll('#predictions img')];
for (const picture of pictures) picture.loading = 'eager';
return Promise.all(pictures.map((picture) => picture.decode()));
"""
SHOTS = {
    "overview": Shot("main header", "#answers"),
    "network": Shot("#network", "#network"),
    "detectors": Shot("#explorer", "#explorer-portrait", _EXPLORE),
    "gallery": Shot("#gallery", "#gallery", _SLIDE),
    "localisation": Shot("#gallery + figure", "#gallery + figure"),
    "predictions": Shot("#predictions .cards", "#predictions .cards > li:nth-child(6)", _DRAW),
    "embedding": Shot("#embedding", "#embedding"),
    "dark": Shot("main header", "#answers", dark=True),
    "phone": Shot("nav", "#answers", width=420),
}


def photograph(page: Path, name: str, shot: Shot, browser: webdriver.Chrome) -> None:
    """Take one picture of a page."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": shot.width, "height": 1000, "deviceScaleFactor": 1, "mobile": shot.width < 600},
    )
    scheme = {"name": "prefers-color-scheme", "value": "dark" if shot.dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "", "features": [scheme]})
    browser.get(page.resolve().as_uri())
    WebDriverWait(browser, 60).until(
        lambda b: b.execute_script("return document.documentElement.dataset.ready")
    )
    browser.execute_script(shot.step)
    place = browser.execute_script(
        "const [a, b] = [...arguments].map((name) => document.querySelector(name)"
        ".getBoundingClientRect());"
        "return {x: Math.min(a.left, b.left), y: a.top + scrollY,"
        " width: Math.max(a.right, b.right) - Math.min(a.left, b.left), height: b.bottom - a.top}",
        shot.first,
        shot.last,
    )
    margin = min(16, place["x"])
    clip = {
        "x": place["x"] - margin,
        "y": max(place["y"] - margin, 0),
        "width": place["width"] + 2 * margin,
        "height": min(place["height"] + 2 * margin, shot.most),
        "scale": 1,
    }
    taken = browser.execute_cdp_cmd(
        "Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True}
    )
    picture = Image.open(io.BytesIO(base64.b64decode(taken["data"]))).convert("RGB")
    picture.quantize(_COLOURS).save(IMAGES / f"report_{name}.png", optimize=True)


def main() -> None:
    """Photograph the page that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("page", type=Path, help="a report.html, for example of `make demo`")
    page = parser.parse_args().page
    IMAGES.mkdir(exist_ok=True)
    options, driver = webdriver.ChromeOptions(), shutil.which("chromedriver")
    options.binary_location = shutil.which("chromium") or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        for name, shot in SHOTS.items():
            photograph(page, name, shot, browser)
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
