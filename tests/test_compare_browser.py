"""The comparison and the page in a notebook's frame, in a real browser."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from conftest import FakeBackbone, no_drawing
from test_compare import NoisyBackbone, make_store
from test_pipeline import write_pictures
from test_report_browser import browser, column, requested, severe, show  # noqa: F401

from featlab import report
from featlab.pipeline import compare_stores

By = pytest.importorskip("selenium.webdriver.common.by").By
WebDriverWait = pytest.importorskip("selenium.webdriver.support.ui").WebDriverWait


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    base = tmp_path_factory.mktemp("compare")
    pictures = write_pictures(base / "pictures")
    with (
        pytest.MonkeyPatch.context() as patch,
        make_store(pictures, base / "a.h5", FakeBackbone()) as one,
        make_store(pictures, base / "b.h5", NoisyBackbone()) as other,
    ):
        patch.setattr("featlab.localise.fitting._DRAWS", 2)
        found = compare_stores([one, other], names=["<i>& “fake”", "noise"])
    with no_drawing():
        return report.write_comparison(found, base / "compare.html")


def test_it_starts_without_error_and_asks_for_nothing(browser, page):  # noqa: F811
    browser.get_log("performance"), browser.get_log("browser")
    show(browser, page)
    theme = browser.find_element(By.ID, "theme")
    assert theme.is_displayed() and theme.text == "Dark page"
    theme.click()
    assert browser.execute_script("return document.documentElement.dataset.theme") == "dark"
    urls = requested(browser)
    assert page.as_uri() in urls
    assert {url.split(":")[0] for url in urls if url != page.as_uri()} <= {"data"}
    assert severe(browser) == []
    theme.click()


def test_tables_sort_by_number(browser, page):  # noqa: F811
    show(browser, page)
    tables = browser.find_elements(By.CSS_SELECTOR, "main .scroll table")
    assert len(tables) == 9
    sorted_ones = [t for t in tables if len(t.find_elements(By.CSS_SELECTOR, "tbody tr")) > 1]
    assert len(sorted_ones) == 6  # a single pair has nothing to sort
    boxes = browser.find_element(By.XPATH, "//table[caption[starts-with(., 'Boxes of')]]")
    head = boxes.find_elements(By.CSS_SELECTOR, "thead th")[4]
    assert head.text.startswith("Mean IoU")
    for way in (-1, 1):  # best first
        head.find_element(By.TAG_NAME, "button").click()
        values = [float(text.split()[0]) for text in column(boxes, 4)]
        assert values == sorted(values)[::way] and len(set(values)) == 2


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(browser, page, width):  # noqa: F811
    show(browser, page, width=width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("dark", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_axe_finds_nothing_serious(browser, page, dark):  # noqa: F811
    found = importlib.util.find_spec("axe_core_python")
    if found is None or found.origin is None:
        pytest.skip("axe-core-python is not installed: pip install -e '.[test]'")
    show(browser, page, dark=dark)
    browser.execute_script(Path(found.origin).with_name("axe.min.js").read_text("utf-8"))
    result = browser.execute_async_script(
        "axe.run(document, {resultTypes: ['violations']}).then(arguments[0])"
    )
    bad = [v for v in result["violations"] if v["impact"] in ("serious", "critical")]
    assert not bad, [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in bad]


@pytest.mark.slow
def test_a_notebook_shows_it_in_a_frame_that_cannot_reach_out(browser, page):  # noqa: F811
    notebook = page.with_name("notebook.html")
    shown = report.show(page, height=500)._repr_html_()
    # The intruder stands in the frame's own page, after its policy.
    intruder = "&lt;script&gt;parent.intruder = 1&lt;/script&gt;&lt;/body&gt;"
    shown = shown.replace("&lt;/body&gt;", intruder)
    notebook.write_text(f"<!DOCTYPE html><title>a notebook</title>{shown}", "utf-8")
    browser.get_log("performance"), browser.get_log("browser")
    browser.get(notebook.as_uri())
    frame = browser.find_element(By.TAG_NAME, "iframe")
    browser.switch_to.frame(frame)
    try:
        header = browser.find_element(By.CSS_SELECTOR, "thead th")
        browser.execute_script("arguments[0].firstChild.click()", header)
        assert header.get_attribute("aria-sort") == "ascending"
        browser.find_element(By.CSS_SELECTOR, "nav a[href='#methods']").click()
        top = "return document.getElementById('methods').getBoundingClientRect().top"
        # It scrolls smoothly.
        WebDriverWait(browser, 5).until(lambda b: 0 <= b.execute_script(top) < 500)
    finally:
        browser.switch_to.default_content()
    assert browser.execute_script("return window.intruder") is None
    assert {url.split(":")[0] for url in requested(browser)} <= {"file", "data", "about"}
