"""The page in a real browser: it asks for nothing, and every control does what it says."""

from __future__ import annotations

import base64
import dataclasses
import importlib.util
import io
import json
import re
import shutil
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import no_drawing
from fake_results import HOSTILE, make_picture, make_results
from matplotlib import colormaps
from PIL import Image

from featlab import embed, report
from featlab.arguments import confirmed_detectors
from featlab.localise import heat_boxes
from featlab.localise.heat import normalise, upsample
from featlab.report import _words as words
from featlab.results.analysis import SetOverview
from featlab.results.pictures import Examples, Gallery, NeuronCard

webdriver = pytest.importorskip(
    "selenium.webdriver", reason="selenium is not installed: pip install -e '.[test]'"
)
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

slow = pytest.mark.slow
TEMPLATES = Path(report.__file__).parents[1] / "templates"
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--force-device-scale-factor=1",
)
GRID = 224
SCREENS = [
    pytest.param(width, dark, marks=[] if (width, dark) == (1280, False) else slow)
    for width in (1366, 1280, 390)
    for dark in (False, True)
]
"""Laptop, desktop and phone, on light and dark paper; one of them in the quick suite."""
on_every_screen = pytest.mark.parametrize(("width", "dark"), SCREENS)


@pytest.fixture(scope="module")
def browser():
    binary = next((path for path in map(shutil.which, BROWSERS) if path), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        pytest.skip("no Chromium with chromedriver here: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    opened.set_script_timeout(60)
    yield opened
    opened.quit()


def make_gallery(store, n=6):
    """Smooth maps of three methods and two detectors; the second picture is not readable."""
    rng = np.random.default_rng(4)
    frames = np.tile([0.0, 0.0, 1.0, 1.0], (n, 1))
    frames[2] = [0, 0.125, 1, 0.875]
    y, x = np.mgrid[0:7, 0:7]

    def hill(low, high, width):
        centre = rng.uniform(low, high, (n, 2))[..., None, None]
        return np.exp(-((x - centre[:, 0]) ** 2 + (y - centre[:, 1]) ** 2) / width)

    def heats():
        # A wide and a narrow hill: at high thresholds two regions, of which the wide one counts.
        return hill(0, 2, 3) + 0.95 * hill(4, 6, 1) + 0.05 * rng.random((n, 7, 7))

    names = ["sum", "cam_positive", "detectors"]
    return Gallery(
        rows=list(range(n)),
        pictures=[None if i == 1 else make_picture(i) for i in range(n)],
        labels=[store.classes[i % len(store.classes)] for i in range(n)],
        true_boxes=[
            np.array([[40.0, 30.0, 80.0, 60.0], [10.0, 10.0, 60.0, 80.0]])[: 1 + i % 2]
            if i != 5
            else np.zeros((0, 4))
            for i in range(n)
        ],
        frames=frames,
        heats={name: heats() for name in names},
        thresholds=dict(zip(names, [0.2, 0.35, 0.5], strict=True)),
        neurons=[(store.classes[0], 3), (store.classes[1], 7)],
        neuron_heats=np.stack([heats(), heats()], axis=1),
        neuron_threshold=0.4,
    )


def make_set_overview(store):
    X = pd.DataFrame(store.activations)
    labels = store.images["label"]
    told = pd.DataFrame({"row": [2, 8], "label": labels.iloc[[2, 8]].to_numpy()})
    found = embed.overview(X, labels, told.assign(predicted=store.classes[1]))
    rows = {*range(4), *found.embedding.thumbnails["row"]}
    return SetOverview(found, {row: make_picture(row) for row in sorted(rows)})


def make_card(store, neuron, label):
    labels, activations = store.images["label"].to_numpy(str), store.activations[:, neuron]
    four = pd.DataFrame({"row": range(4), "path": "a.jpg", "label": labels[:4], "activation": 1.0})
    return NeuronCard(
        layer="top",
        neuron=neuron,
        label=label,
        title=f"Neuron {neuron}",
        facts=["a fact"],
        best=four,
        worst=four,
        pictures=[make_picture(i) for i in range(8)],
        heats=[np.ones((7, 7))] * 8,
        activations=activations,
        labels=labels,
        unit="mean activation",
    )


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    results = make_results(c=200)
    table = results.neurons
    # Silent detectors, and a p-value that no number can hold.
    table.loc[table["auroc"] < 0.2, "detector"] = True
    table.loc[table["auroc"].idxmax(), "p_adjusted"] = 0.0
    leader = confirmed_detectors(table).iloc[0]
    results = dataclasses.replace(
        results,
        cards=[make_card(results.store, int(leader["neuron"]), str(leader["class"]))],
        gallery=make_gallery(results.store),
        set_overview=make_set_overview(results.store),
    )
    return results, written(results, tmp_path_factory.mktemp("two"))


def make_showcase(store, rows):
    """Upright test pictures of the first classes, and one more that went wrong."""
    n, box = len(rows), np.array([[40.0, 60.0, 80.0, 120.0]])
    labels = [*store.classes[: n - 1], store.classes[0]]
    return Examples(
        rows=rows,
        pictures=[make_picture(i, 120, 180) for i in range(n)],
        neurons=[(name, 3) for name in labels[:-1]],
        heats=[np.ones((n - 1, 180, 120))] * n,
        true_boxes=[box] * n,
        labels=labels,
        predicted_boxes=[box[0]] * n,
        predicted_labels=[*labels[:-1], store.classes[1]],
        ious=[0.7] * n,
    )


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    results = make_results([*HOSTILE, "</script><!--\u2028"], n=240, c=24, pictures=False)
    results = dataclasses.replace(results, gallery=make_gallery(results.store))
    return results, written(results, tmp_path_factory.mktemp("odd"))


def written(results, folder):
    """The page; its figures are pictures of the widest size, which nothing here looks into."""
    with no_drawing("^network_output$"):
        return report.write_report(results, folder / "report.html")


def show(browser, path, *, width=1280, height=1000, dark=False, media="", remembered=False):
    """Opens the page, and all that is folded on it."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600},
    )
    features = [
        {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
        # No smooth scrolling, under which a click misses.
        {"name": "prefers-reduced-motion", "value": "reduce"},
    ]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    if not remembered:
        where = {"origin": "file://", "storageTypes": "local_storage"}
        browser.execute_cdp_cmd("Storage.clearDataForOrigin", where)
    browser.get(path.as_uri())
    WebDriverWait(browser, 30).until(
        lambda b: b.execute_script("return document.documentElement.dataset.ready")
    )
    browser.execute_script("for (const d of document.querySelectorAll('details')) d.open = true")


def by_id(browser, name):
    return browser.find_element(By.ID, name)


def slide(browser, name, value):
    browser.execute_script(
        "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input', {bubbles: true}))",
        name,
        str(value),
    )


def severe(browser):
    # That pixels are read often is of the tests that read them, on a page before.
    return [
        entry
        for entry in browser.get_log("browser")
        if entry["level"] != "DEBUG" and "getImageData" not in entry["message"]
    ]


def requested(browser):
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    return [
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
    ]


@on_every_screen
def test_the_page_starts_without_error_and_asks_for_nothing(browser, two, hostile, width, dark):
    for _, path in (two, hostile):
        show(browser, path, width=width, dark=dark)
        browser.get_log("performance"), browser.get_log("browser")
        browser.refresh()
        WebDriverWait(browser, 30).until(
            lambda b: b.execute_script("return document.documentElement.dataset.ready")
        )
        slide(browser, "gallery-threshold", 0.3)
        by_id(browser, "theme").click()
        urls = requested(browser)
        assert path.as_uri() in urls
        assert {url.split(":")[0] for url in urls if url != path.as_uri()} <= {"data", "blob"}
        assert severe(browser) == []
        assert by_id(browser, "explorer").is_displayed()
        assert by_id(browser, "gallery").is_displayed()


def test_the_policy_stops_every_other_script(browser, two):
    show(browser, two[1])
    browser.get_log("browser")
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.intruder = 1';"
        "document.body.append(s);"
        "const i = document.createElement('img'); i.setAttribute('onerror', 'window.intruder = 2');"
        "i.src = 'data:,'; document.body.append(i)"
    )
    time.sleep(0.2)
    assert browser.execute_script("return window.intruder") is None
    assert "Content Security Policy" in str(severe(browser))


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("0.93 [0.88,\u00a00.97]", 0.93),
        ("4 × 10⁻¹¹", 4e-11),
        ("< 10⁻³⁰⁰", 1e-300),
        ("97\u00a0%", 97),
        ("−0.02", -0.02),
        ("+0.43 [0.30, 0.50]", 0.43),
        ("1,234", 1234),
        ("neuron\u00a012 (top, mean)", 12),
        ("44 / 1", 44),
        ("–", None),
        ("kangaroo", None),
        ("", None),
    ],
)
def test_cells_sort_by_what_they_mean(browser, cell, value):
    code = (TEMPLATES / "tables.js").read_text("utf-8")
    found = browser.execute_script(f"{code}\nreturn cellNumber(arguments[0])", cell)
    assert found == (value if value is None else pytest.approx(value, rel=1e-12))


@pytest.mark.parametrize(
    ("words", "numeric", "way"),
    [
        ("Accuracy", True, "descending"),
        ("AUROC on unseen", True, "descending"),
        ("Difference in accuracy", True, "descending"),
        ("Rank correlation of all neurons", True, "descending"),
        ("Adjusted p of the two", True, "ascending"),
        ("p", True, "ascending"),
        ("Log loss", True, "ascending"),
        ("Rank", True, "ascending"),
        ("Neuron", True, "ascending"),
        ("Class", True, "ascending"),  # classes may be called 1, 2, 3
        ("Head", False, "ascending"),
    ],
)
def test_a_first_click_brings_the_best_up(browser, words, numeric, way):
    code = (TEMPLATES / "tables.js").read_text("utf-8")
    script = f"{code}\nreturn bestFirst(...arguments)"
    assert browser.execute_script(script, words, numeric) == way


def column(table, place):
    return [row.find_elements(By.CSS_SELECTOR, "th, td")[place].text for row in rows_of(table)]


def rows_of(table):
    return table.find_elements(By.CSS_SELECTOR, "tbody tr")


def test_tables_sort_by_their_headers_and_back(browser, two):
    results, path = two
    show(browser, path)
    table = browser.find_element(By.XPATH, "//table[caption[starts-with(., 'Heads on unseen')]]")
    head = table.find_elements(By.CSS_SELECTOR, "thead th")[4]
    assert head.text.startswith("Log loss") and head.get_attribute("aria-sort") is None
    printed = column(table, 0)
    seen = {}
    for way in ("ascending", "descending", None):  # of a loss the smallest is the best
        head.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
        assert head.get_attribute("aria-sort") == way
        seen[way] = column(table, 4)
    known = sorted(results.heads.table["log_loss"].dropna())
    assert [float(text[:4]) for text in seen["ascending"][:-1]] == pytest.approx(known)
    assert [float(text[:4]) for text in seen["descending"][:-1]] == pytest.approx(known[::-1])
    # What is missing comes last whichever way.
    assert seen["ascending"][-1] == seen["descending"][-1] == "–"
    assert column(table, 0) == printed
    first = table.find_element(By.CSS_SELECTOR, "thead button")
    for way in (1, -1):
        first.click()
        assert column(table, 0) == sorted(printed, key=str.casefold)[::way]
    everywhere = browser.find_elements(By.CSS_SELECTOR, "main .scroll table")
    for other in (table for table in everywhere if len(rows_of(table)) > 1):
        heads = other.find_elements(By.CSS_SELECTOR, "thead th")
        assert len(other.find_elements(By.CSS_SELECTOR, "thead button.sort")) == len(heads)


def filtered(results, **wanted):
    table = results.neurons[results.neurons["auroc"].notna()]
    return (
        table.query(" and ".join(f"`{k}` == @wanted['{k}']" for k in wanted)) if wanted else table
    )


def place_of(browser):
    return by_id(browser, "explorer-place").text


def test_the_explorer_filters_sorts_and_pages(browser, two):
    results, path = two
    show(browser, path)
    live = results.neurons[results.neurons["auroc"].notna()]
    assert f"all {len(live):,} pairs" in by_id(browser, "explorer-held").text
    # Two classes: the other half says the same of the other class.
    assert place_of(browser) == f"1 to 10 of {(live['direction'] == 'active').sum():,}"
    Select(by_id(browser, "explorer-direction")).select_by_visible_text("both")
    assert place_of(browser) == f"1 to 10 of {len(live):,}"
    by_id(browser, "explorer-after").click()
    assert place_of(browser) == f"11 to 20 of {len(live):,}"
    Select(by_id(browser, "explorer-class")).select_by_visible_text("raccoon")
    assert place_of(browser) == f"1 to 10 of {(live['class'] == 'raccoon').sum():,}"
    slide(browser, "explorer-effect", 0.4)
    strong = live[(live["class"] == "raccoon") & (live["effect"].abs() >= 0.4)]
    assert place_of(browser).endswith(f" of {len(strong)}")
    Select(by_id(browser, "explorer-direction")).select_by_visible_text("silent")
    silent = strong[strong["direction"] == "silent"]
    assert place_of(browser).endswith(f" of {len(silent)}") and len(silent) < len(strong)
    clear_filters(browser)
    Select(by_id(browser, "explorer-direction")).select_by_visible_text("both")
    for state, mask in (
        ("2", live["detector"] & live["confirmed"]),
        ("1", live["detector"] & ~live["confirmed"]),
        ("0", ~live["detector"]),
    ):
        Select(by_id(browser, "explorer-state")).select_by_value(state)
        assert mask.sum() > 0 and place_of(browser).endswith(f" of {mask.sum():,}")
    clear_filters(browser)
    Select(by_id(browser, "explorer-direction")).select_by_visible_text("both")
    by_id(browser, "explorer-search").send_keys("17")
    assert place_of(browser) == "1 to 2 of 2"
    assert {row.text.split()[1] for row in rows_of(by_id(browser, "explorer"))} == {"17"}
    by_id(browser, "explorer-search").clear()
    slide(browser, "explorer-search", "")
    head = browser.find_element(
        By.CSS_SELECTOR, '#explorer-head [data-key="auroc_confirmed"] button'
    )
    head.click()
    best = results.neurons["auroc_confirmed"].max()
    assert 0.995 < best < 1  # which is not to be read as 1
    assert column(by_id(browser, "explorer"), 6)[0].startswith(f"{words.score(best)} [")
    slide(browser, "explorer-search", "4711")
    assert place_of(browser) == "No pair fits these filters."
    assert not by_id(browser, "explorer-download").is_enabled()


def controls_of(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('#explorer input, #explorer select')]"
        ".map(e => e.value)"
    )


def clear_filters(browser):
    by_id(browser, "explorer-reset").click()


def sort_by(browser, key):
    """Clicks a header of the explorer; returns how it says that the rows are sorted now."""
    head = browser.find_element(By.CSS_SELECTOR, f'#explorer-head [data-key="{key}"]')
    head.find_element(By.TAG_NAME, "button").click()
    return head.get_attribute("aria-sort")


def test_every_column_of_the_explorer_sorts_as_it_says(browser, hostile, tmp_path):
    """Text by the alphabet, numbers by size, what is missing last."""
    show(browser, hostile[1])
    downwards = ("state", "auroc")  # the best of a score is the largest, of a p the smallest
    for key in ("neuron", "class", "direction", "state", "auroc", "p_confirmed"):
        rows = {None: downloaded(browser, tmp_path, key)}
        ways = ("ascending", "descending")
        for way in reversed(ways) if key in downwards else ways:
            assert sort_by(browser, key) == way, key
            rows[way] = downloaded(browser, tmp_path, key)
            known = rows[way].dropna()
            assert rows[way].iloc[len(known) :].isna().all(), key
            if pd.api.types.is_numeric_dtype(known):
                assert (np.diff(known) * (1 if way == "ascending" else -1) >= 0).all(), key
            else:
                # Equal ones stand together; how the browser orders odd letters is its own matter.
                assert (known != known.shift()).sum() == known.nunique(), key
        first = [rows[way].iloc[0] for way in ("ascending", "descending")]
        assert first[0] != first[1], key
        if key == "direction":
            assert first == ["active", "silent"]
        assert sort_by(browser, key) is None, key
        pd.testing.assert_series_equal(downloaded(browser, tmp_path, key), rows[None])


def downloaded(browser, folder, key):
    """A column of the explorer in the order of its rows."""
    table = pd.read_csv(io.StringIO(download(browser, folder)))
    table["state"] = table["selected"].astype(int) + table["confirmed"]
    return table[key]


def test_clearing_the_filters_gives_the_first_state_again(browser, two, hostile):
    for _, path in (two, hostile):
        show(browser, path)
        first = controls_of(browser), place_of(browser), column(by_id(browser, "explorer"), 0)
        Select(by_id(browser, "explorer-direction")).select_by_visible_text("silent")
        Select(by_id(browser, "explorer-class")).select_by_index(1)
        slide(browser, "explorer-effect", 0.2)
        slide(browser, "explorer-search", "17")
        assert place_of(browser) != first[1]
        clear_filters(browser)
        again = controls_of(browser), place_of(browser), column(by_id(browser, "explorer"), 0)
        assert again == first


def test_a_neuron_that_a_filter_hides_loses_its_ring(browser, two):
    show(browser, two[1])
    drawn = "return document.getElementById('explorer-plot').toDataURL()"
    details = by_id(browser, "explorer-details")

    def hide():
        Select(by_id(browser, "explorer-class")).select_by_visible_text("raccoon")
        return browser.execute_script(drawn)

    Select(by_id(browser, "explorer-class")).select_by_visible_text("kangaroo")
    plain, without = browser.execute_script(drawn), hide()
    Select(by_id(browser, "explorer-class")).select_by_visible_text("kangaroo")
    browser.execute_script("document.querySelector('#explorer-rows button').click()")
    assert browser.execute_script(drawn) != plain and details.text.startswith("Neuron")
    # A filter that it passes leaves it chosen.
    Select(by_id(browser, "explorer-class")).select_by_visible_text("all")
    assert details.text.startswith("Neuron")
    assert browser.find_elements(By.CSS_SELECTOR, "#explorer-rows .pinned")
    assert hide() == without and details.text.startswith("Choose a point")
    # And the arrow keys, too, begin anew.
    Select(by_id(browser, "explorer-class")).select_by_visible_text("kangaroo")
    assert browser.execute_script(drawn) == plain
    by_id(browser, "explorer-plot").send_keys(Keys.ARROW_RIGHT)
    assert hide() == without and details.text.startswith("Choose a point")


def download(browser, folder):
    # Into a folder of its own: of a name that was there a moment ago the browser makes another.
    folder = Path(tempfile.mkdtemp(dir=folder))
    browser.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)}
    )
    file = folder / "neurons_shown.csv"
    for _ in range(3):  # on a busy machine the browser now and then drops a download
        by_id(browser, "explorer-download").click()
        for _ in range(400):
            if file.exists() and file.stat().st_size:
                return file.read_text("utf-8")
            time.sleep(0.05)
    raise AssertionError("nothing was downloaded")


def test_the_download_holds_the_filtered_rows(browser, two, tmp_path):
    results, path = two
    show(browser, path)
    Select(by_id(browser, "explorer-class")).select_by_visible_text("kangaroo")
    Select(by_id(browser, "explorer-direction")).select_by_visible_text("both")
    slide(browser, "explorer-effect", 0.3)
    found = pd.read_csv(io.StringIO(download(browser, tmp_path))).set_index("neuron")
    live = results.neurons[results.neurons["auroc"].notna()]
    wanted = live[(live["class"] == "kangaroo") & (live["effect"].abs() >= 0.3)]
    wanted = wanted.set_index("neuron")
    assert set(found.index) == set(wanted.index) and len(found) == len(wanted)
    wanted = wanted.loc[found.index]
    for name in ("auroc", "auroc_low", "auroc_high", "auroc_confirmed", "pts"):
        np.testing.assert_allclose(found[name], wanted[name], atol=5.1e-5)
    np.testing.assert_allclose(found["p_adjusted"], wanted["p_adjusted"], rtol=0.012)
    assert (found["p_adjusted"] == 0).sum() == (wanted["p_adjusted"] == 0).sum()
    np.testing.assert_array_equal(found["selected"], wanted["detector"])
    np.testing.assert_array_equal(found["direction"], wanted["direction"])


def test_the_download_runs_no_formula(browser, hostile, tmp_path):
    results, path = hostile
    show(browser, path)
    text = download(browser, tmp_path)
    classes = set(pd.read_csv(io.StringIO(text))["class"])
    assert "'=HYPERLINK(1)" in classes and "\"quoted\" & 'single'" in classes
    assert len(classes) == len(results.store.classes)


def test_points_open_their_details_and_the_card(browser, two):
    results, path = two
    show(browser, path)
    canvas = by_id(browser, "explorer-plot")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    canvas.send_keys(Keys.ARROW_RIGHT)
    order = results.neurons.assign(size=(results.neurons["auroc"] - 0.5).abs())
    order = order[order["detector"] & order["confirmed"]]
    first = order.sort_values("size", ascending=False, kind="stable").iloc[0]
    details = by_id(browser, "explorer-details")
    assert details.text.startswith(f"Neuron {first['neuron']} and {first['class']}")
    assert "is a confirmed detector" in details.text and f"{first['auroc']:.2f} [" in details.text
    canvas.send_keys(Keys.ARROW_RIGHT, Keys.ENTER)
    assert not details.text.startswith(f"Neuron {first['neuron']} and {first['class']}")
    pinned = details.text
    # Hovering shows another point; leaving goes back to the one that was kept.
    width, height = canvas.size["width"], canvas.size["height"]
    for down in range(height // 3, -height // 2, -7):
        ActionChains(browser, duration=0).move_to_element_with_offset(
            canvas, width // 2 - 40, down
        ).perform()
        if details.text != pinned:
            break
    assert details.text != pinned
    ActionChains(browser).move_to_element(by_id(browser, "explorer-reset")).perform()
    assert details.text == pinned
    canvas.send_keys(Keys.ESCAPE)
    assert not details.find_elements(By.TAG_NAME, "img")
    name, neuron = results.cards[0].label, results.cards[0].neuron
    clear_filters(browser)
    slide(browser, "explorer-search", neuron)
    Select(by_id(browser, "explorer-class")).select_by_visible_text(name)
    browser.find_element(By.CSS_SELECTOR, "#explorer-rows button").click()
    shown = details.find_element(By.TAG_NAME, "img").get_attribute("src")
    assert shown == browser.find_element(By.CSS_SELECTOR, "#card-0 img").get_attribute("src")
    row = browser.find_element(By.CSS_SELECTOR, "#explorer-rows tr")
    row.find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert "pinned" in row.get_attribute("class")
    assert browser.switch_to.active_element.text == f"neuron {neuron}"
    canvas.send_keys(Keys.ESCAPE)
    assert details.text.startswith("Choose a point")


def expected(results, image, heat, threshold):
    """Box in units of the picture and IoU, from the unrounded map."""
    gallery = results.gallery
    maps = [*gallery.heats.values(), *np.moveaxis(gallery.neuron_heats, 1, 0)][heat]
    box = heat_boxes(
        maps[image][None], [threshold], frames=gallery.frames[image][None], sizes=[[1, 1]]
    )[0, 0]
    height, width = gallery.pictures[image].shape[:2]
    truth = gallery.true_boxes[image] / [width, height, width, height]
    low, high = np.maximum(box[:2], truth[:, :2]), np.minimum(box[2:], truth[:, 2:])
    inside = np.clip(high - low, 0, None).prod(axis=1)
    areas = (truth[:, 2:] - truth[:, :2]).prod(axis=1) + (box[2:] - box[:2]).prod() - inside
    return box, (inside / areas).max() if len(truth) else None


def test_the_sliders_move_the_box_as_python_does(browser, two):
    results, path = two
    show(browser, path)
    readable = [i for i, picture in enumerate(results.gallery.pictures) if picture is not None]
    buttons = browser.find_elements(By.CSS_SELECTOR, "#gallery-images button")
    assert len(buttons) == len(readable)
    heats = Select(by_id(browser, "gallery-heat"))
    assert [option.text for option in heats.options][:2] == [
        "sum of all maps",
        "CAM, positive weights",
    ]
    canvas, ious = by_id(browser, "gallery-canvas"), set()
    for k, (button, image) in enumerate(zip(buttons, readable, strict=True), start=1):
        button.click()
        WebDriverWait(browser, 5).until(
            lambda b, k=k: f"({k} of {len(readable)})" in by_id(b, "gallery-name").text
        )
        for heat in (0, 4):
            heats.select_by_value(str(heat))
            own = [0.2, 0.35, 0.5, 0.4, 0.4][heat]
            for threshold in (own, 0.05, 0.75):
                if threshold != own:
                    slide(browser, "gallery-threshold", threshold)
                box, iou = expected(results, image, heat, threshold)
                found = [float(v) for v in canvas.get_attribute("data-box").split()]
                np.testing.assert_allclose(found, box, atol=1.01 / GRID)
                said = by_id(browser, "gallery-verdict").text
                if iou is None:
                    assert "no true box" in said
                    continue
                assert float(canvas.get_attribute("data-iou")) == pytest.approx(iou, abs=0.02)
                assert f"{float(canvas.get_attribute('data-iou')):.2f}" in said
                assert ("not found" in said) == (float(canvas.get_attribute("data-iou")) < 0.5)
                ious.add(round(iou, 2))
    assert len(ious) > 10
    by_id(browser, "gallery-own").click()
    assert by_id(browser, "gallery-threshold").get_attribute("value") == "0.4"
    assert not by_id(browser, "gallery-own").is_enabled()


def test_the_heat_map_covers_the_picture_as_far_as_the_opacity_says(browser, two):
    results, path = two
    show(browser, path)
    heat = normalise(upsample(next(iter(results.gallery.heats.values()))[0], GRID))
    picture = results.gallery.pictures[0]
    seen = {}
    for opacity in (0, 50, 100):
        slide(browser, "gallery-opacity", opacity)
        # The canvas is 800 pixels wide; places away from the boxes' outlines.
        seen[opacity] = browser.execute_script(
            "const c = document.getElementById('gallery-canvas').getContext('2d');"
            "return arguments[0].map(([x, y]) => [...c.getImageData(x, y, 1, 1).data].slice(0, 3))",
            [[30, 30], [720, 60], [760, 560]],
        )
    for k, (left, top) in enumerate([[30, 30], [720, 60], [760, 560]]):
        value = heat[round(top / 600 * GRID), round(left / 800 * GRID)]
        glow = np.array(colormaps["inferno"](value)[:3]) * 255
        plain = picture[round(top / 600 * 90), round(left / 800 * 120)].astype(float)
        for opacity, colours in seen.items():
            wanted = plain + opacity / 100 * (glow - plain)
            np.testing.assert_allclose(colours[k], wanted, atol=16)


def test_the_plane_lists_what_is_near(browser, two):
    results, path = two
    show(browser, path)
    canvas = by_id(browser, "embedding-plot")
    # Before anybody points: what is nearest to the middle, which is the middle of both ranges.
    at_first = by_id(browser, "embedding-near").find_element(By.CSS_SELECTOR, ".file").text
    plane = results.set_overview.overview.embedding.coordinates[["tsne_1", "tsne_2"]].to_numpy()
    middle = (plane.min(axis=0) + plane.max(axis=0)) / 2
    nearest = np.linalg.norm(plane - middle, axis=1).argmin()
    assert at_first == results.store.images["path"].iloc[nearest]
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    browser.execute_script("arguments[0].focus()", canvas)
    near = by_id(browser, "embedding-near").find_elements(By.TAG_NAME, "li")
    assert len(near) == 8
    before = by_id(browser, "embedding-near").text
    canvas.send_keys(*[Keys.SHIFT + Keys.ARROW_LEFT] * 3)
    assert by_id(browser, "embedding-near").text != before
    # Walk from image to image until a misclassified one is named.
    listed = browser.execute_script(
        "return JSON.parse(document.getElementById('featlab-data').textContent).embedding"
    )
    assert listed["misclassified"] == [2, 8]
    points = results.set_overview.overview.embedding.coordinates[["tsne_1", "tsne_2"]].to_numpy()
    scaled = (points - points.min(axis=0)) / np.ptp(points, axis=0).max() * 10_000
    np.testing.assert_allclose(np.c_[listed["x"], listed["y"]], scaled, atol=0.51)
    first = by_id(browser, "embedding-near").find_element(By.TAG_NAME, "button")
    name = first.find_element(By.CSS_SELECTOR, ".file").text
    first.send_keys(Keys.ENTER)
    near = by_id(browser, "embedding-near").find_elements(By.CSS_SELECTOR, ".file")
    assert near[0].text == name
    assert browser.find_elements(By.CSS_SELECTOR, "#embedding-near img")
    # The picture of the marked point stands beside it; its blue is 90 all over.
    blue = (
        "const c = document.getElementById('embedding-plot'), n = [c.width, c.height];"
        "const p = c.getContext('2d', {willReadFrequently: true}).getImageData(0, 0, ...n).data;"
        "let k = 0; for (let i = 2; i < p.length; i += 4) k += Math.abs(p[i] - 90) < 12;"
        "return k"
    )
    browser.find_element(By.CSS_SELECTOR, "#embedding-near button:has(img)").send_keys(Keys.ENTER)
    WebDriverWait(browser, 5).until(lambda b: b.execute_script(blue) > 3000)


def test_pictures_are_embedded_once(two):
    page = two[1].read_text("utf-8")
    data = json.loads(page.split('id="featlab-data">')[1].split("</script>")[0])
    assert len(set(data["pictures"])) == len(data["pictures"])
    shown = {image["picture"] for image in data["gallery"]["images"]}
    shared = shown & set(data["embedding"]["thumbnail"])
    readable = {row for row in two[0].set_overview.pictures if row in (0, 2, 3, 4, 5)}
    assert len(shared) == len(readable) >= 3


@on_every_screen
def test_the_keyboard_reaches_every_control(browser, two, width, dark):
    show(browser, two[1], width=width, dark=dark)
    # The plane fills its list anew when it gets the focus.
    browser.execute_script("document.getElementById('embedding-plot').focus()")
    wanted = browser.execute_script(
        "let k = 0; return [...document.querySelectorAll("
        "'a[href], button, select, input, summary, [tabindex=\"0\"]')]"
        ".filter(e => e.checkVisibility() &&"
        "!e.disabled).map(e => (e.dataset.place = k++))"
    )
    browser.execute_script(
        "document.activeElement.blur(); window.reached = [];"
        "addEventListener('focusin', (e) => reached.push(e.target.dataset.place))"
    )
    ActionChains(browser, duration=0).send_keys(Keys.TAB * (len(wanted) + 10)).perform()
    assert len(wanted) > 40
    missing = {str(place) for place in wanted} - set(browser.execute_script("return reached"))
    assert not missing, browser.execute_script(
        "return [...document.querySelectorAll('[data-place]')].filter(e =>"
        "arguments[0].includes(e.dataset.place)).map(e => e.outerHTML.slice(0, 90))",
        sorted(missing),
    )


@pytest.mark.parametrize("width", [390, *(pytest.param(w, marks=slow) for w in (768, 1366)), 1280])
@pytest.mark.parametrize("which", ["two", "hostile"])
def test_nothing_sticks_out(browser, which, width, request):
    show(browser, request.getfixturevalue(which)[1], width=width)
    browser.execute_script("document.querySelector('#explorer-rows button').click()")
    assert browser.execute_script(
        "return document.documentElement.scrollWidth <= innerWidth && "
        "document.body.scrollWidth <= innerWidth"
    )


def make_full(n_classes):
    """Results that fill the first screen: upright pictures, and an audit with much to say."""
    results = make_results([f"class number {k:02}" for k in range(n_classes)], n=400, c=16)
    finding = "Without any network, picture statistics tell classes apart: " + 40 * "file size; "
    table = pd.DataFrame(
        {"check": list("abcd"), "verdict": [*["fail"] * 2, *["warn"] * 2], "finding": finding}
    )
    none = pd.DataFrame(
        columns=["path", "label", "suggested", "kind", "path_a", "path_b", "across", "distance"]
    )
    few = dict.fromkeys(("confounds", "label_errors", "outliers", "duplicates"), none)
    audit = SimpleNamespace(summary=table.assign(n=10), **few)
    unseen = np.flatnonzero(results.split == "test")[: min(n_classes, 6) + 1].tolist()
    return dataclasses.replace(results, audit=audit, showcase=make_showcase(results.store, unseen))


@pytest.mark.parametrize("n_classes", [2, 4, 40])
def test_the_first_screen_of_a_laptop_holds_answers_and_pictures(browser, n_classes, tmp_path):
    results = make_full(n_classes)
    path = written(results, tmp_path)
    for width, height, screens in ((1366, 768, 1), (390, 844, 3)):
        show(browser, path, width=width, height=height)
        ends = browser.execute_script(
            "return [...document.querySelectorAll('.answers li, .sights li')]"
            ".map(e => e.getBoundingClientRect().bottom + scrollY)"
        )
        assert len(ends) == 4 + len(results.showcase.rows) and max(ends) <= screens * height, (
            width,
            ends,
        )


@pytest.mark.parametrize("n_classes", [2, 40])
def test_the_report_in_brief_is_one_sheet(browser, n_classes, tmp_path):
    results = make_full(n_classes)
    path = report.write_brief(results, tmp_path / "brief.html")
    show(browser, path)
    page = path.read_text("utf-8")
    assert page.count("<table>") == 1 and page.count('<ol class="answers">') == 1
    assert page.count("<img") == 2 * len(results.showcase.rows) and "popover" not in page
    assert 'href="#checks"' not in page  # which lies on the other page
    assert severe(browser) == []
    made = browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})
    pdf = base64.b64decode(made["data"])
    assert len(re.findall(rb"/Type\s*/Page\b", pdf)) == 1
    assert b"/MediaBox [0 0 594" in pdf or b"/MediaBox [0 0 595" in pdf  # A4
    # The numbers are those of the report: of the head, of detectors, of boxes.
    rows = browser.find_elements(By.CSS_SELECTOR, "tbody tr")
    cells = [row.get_attribute("textContent") for row in rows]
    heads = results.heads.table.set_index("head")
    assert words.share(heads.loc["logistic"], "accuracy") in cells[0] and "dummy" in cells[0]
    assert 3 <= len(cells) <= 12 and sum("Where?" in cell for cell in cells) >= 1


def test_the_theme_follows_the_system_and_the_button(browser, two):
    paper = "return getComputedStyle(document.body).backgroundColor"
    show(browser, two[1], dark=True)
    assert browser.execute_script(paper) == "rgb(20, 24, 29)"
    by_id(browser, "theme").click()
    assert browser.execute_script(paper) == "rgb(255, 255, 255)"
    show(browser, two[1])
    assert browser.execute_script(paper) == "rgb(255, 255, 255)"
    by_id(browser, "theme").click()
    assert browser.execute_script(paper) == "rgb(20, 24, 29)"
    assert by_id(browser, "theme").text == "Light page"
    show(browser, two[1], remembered=True)
    assert browser.execute_script(paper) == "rgb(20, 24, 29)"
    # On paper it is light whatever was chosen, and without controls.
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print", "features": []})
    assert browser.execute_script(paper) == "rgb(255, 255, 255)"
    for name in ("explorer", "gallery", "embedding", "theme"):
        assert not by_id(browser, name).is_displayed()


def test_figures_are_dark_on_dark_pages_and_slide_on_phones(browser, two):
    def brightness():
        figure = browser.find_element(By.CSS_SELECTOR, "#network figure img")
        with Image.open(io.BytesIO(figure.screenshot_as_png)) as pixels:
            return float(np.median(np.asarray(pixels.convert("L"))))

    show(browser, two[1])
    assert brightness() > 240
    by_id(browser, "theme").click()
    assert brightness() < 50
    cues = "return [...document.querySelectorAll('.cue')].some((cue) => cue.offsetHeight > 0)"
    assert not browser.execute_script(cues)
    show(browser, two[1], dark=True, media="print")
    assert brightness() > 240
    show(browser, two[1], width=390, height=844, dark=True)
    assert brightness() < 50
    # Letters keep their size; what does not fit slides, and says so.
    for figure in browser.find_elements(By.CSS_SELECTOR, "figure"):
        image = figure.find_element(By.CSS_SELECTOR, ".sheet img")
        own, drawn, room, cue = browser.execute_script(
            "const [figure, image] = arguments; const cue = figure.querySelector('.cue');"
            "return [parseFloat(image.style.width), image.getBoundingClientRect().width,"
            " image.parentElement.clientWidth, Boolean(cue) && cue.offsetHeight > 0]",
            figure, image,
        )  # fmt: skip
        if not drawn:  # a twin of what the script draws
            continue
        assert drawn == pytest.approx(own, abs=1)
        assert cue or own <= room


def test_without_script_the_page_is_whole(browser, two):
    show(browser, two[1])
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(two[1].as_uri())
        for name in ("explorer", "gallery", "embedding", "theme"):
            assert not by_id(browser, name).is_displayed()
        assert not browser.find_elements(By.CSS_SELECTOR, "button.sort")
        assert browser.find_element(By.ID, "answers").is_displayed()
        assert len(browser.find_elements(By.CSS_SELECTOR, "figure img")) > 10
        assert len(browser.find_elements(By.CSS_SELECTOR, "main table")) > 8
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_words_are_explained_by_keyboard_and_without_script(browser, two):
    for script in (True, False):
        show(browser, two[1])
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": not script})
        try:
            browser.get(two[1].as_uri())
            mark = browser.find_element(By.CSS_SELECTOR, "#answers .term")
            name = mark.get_attribute("popovertarget")
            assert not by_id(browser, name).is_displayed()
            mark.send_keys(Keys.ENTER)
            shown = by_id(browser, name)
            assert shown.is_displayed() and len(shown.text) > 40
            # Beside the word, and inside the window.
            box, near = shown.rect, mark.rect
            assert 0 <= box["x"] <= 1280 - box["width"]
            assert abs(box["y"] - near["y"]) < box["height"] + 60
            browser.switch_to.active_element.send_keys(Keys.ESCAPE)
            assert not shown.is_displayed()
        finally:
            browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    # Each is also in the list at the end of the page, which can be printed.
    listed = {
        term.get_attribute("textContent")
        for term in browser.find_elements(By.CSS_SELECTOR, "#glossary dt")
    }
    assert len(listed) == len(browser.find_elements(By.CSS_SELECTOR, ".meaning")) >= 8


def test_hostile_names_stay_text(browser, hostile):
    results, path = hostile
    page = path.read_text("utf-8")
    assert page.count("<script") == page.count("</script>") == 2 and "<!--" not in page
    show(browser, path)
    names = [option.text for option in Select(by_id(browser, "explorer-class")).options][1:]
    short = [name for name in sorted(results.store.classes) if len(name) <= 60]
    assert set(map(str.strip, short)) - {"</script><!--\u2028"} <= set(names)
    assert max(map(len, names)) <= 60
    Select(by_id(browser, "explorer-class")).select_by_value(
        str(results.store.classes.index("n" * 300))
    )
    cell = rows_of(by_id(browser, "explorer"))[0].find_elements(By.TAG_NAME, "td")[0]
    assert (
        len(cell.text) == 60
        and cell.find_element(By.TAG_NAME, "bdi").get_attribute("title") == "n" * 300
    )
    for name in ("<script>alert(1)</script>", "</script><!--\u2028"):
        place = results.store.classes.index(name)
        Select(by_id(browser, "explorer-class")).select_by_value(str(place))
        cell = rows_of(by_id(browser, "explorer"))[0].find_elements(By.TAG_NAME, "td")[0]
        assert cell.get_attribute("textContent") == name
        browser.execute_script("document.querySelector('#explorer-rows button').click()")
        assert name.strip() in by_id(browser, "explorer-details").get_attribute("textContent")
    assert browser.execute_script("return document.querySelectorAll('script').length") == 2


@on_every_screen
def test_axe_finds_nothing_serious(browser, two, width, dark):
    found = importlib.util.find_spec("axe_core_python")
    if found is None or found.origin is None:
        pytest.skip("axe-core-python is not installed: pip install -e '.[test]'")
    show(browser, two[1], width=width, dark=dark)
    browser.execute_script("document.querySelector('#explorer-rows button').click()")
    browser.execute_script(Path(found.origin).with_name("axe.min.js").read_text("utf-8"))
    result = browser.execute_async_script(
        "axe.run(document, {resultTypes: ['violations']}).then(arguments[0])"
    )
    assert len(result["violations"]) < 20
    bad = [v for v in result["violations"] if v["impact"] in ("serious", "critical")]
    assert not bad, [(v["id"], [n["html"][:120] for n in v["nodes"][:3]]) for v in bad]


def shown_cards(browser):
    cards = browser.find_elements(By.CSS_SELECTOR, "#predictions .cards > li")
    return [k for k, card in enumerate(cards) if card.is_displayed()]


@pytest.mark.slow
@pytest.mark.parametrize("which", ["report", "page"])
def test_predictions_are_filtered_by_class_and_by_marks(browser, two, tmp_path, which):
    known, path = two[0].predictions, two[1]
    if which == "page":
        path = report.write_predictions(known, tmp_path / "predictions.html")
    browser.get_log("browser")
    show(browser, path)
    table = known.table.iloc[: len(known.pictures)]
    marks = {
        "wrong": (table["class"] != table["label"]) | (table["iou"] < 0.5),
        "unsure": table["set"].str.contains("|", regex=False),
        "unusual": table["typicality"] <= 0.05,
    }
    if which == "page":
        assert not browser.find_elements(By.ID, "predictions-wrong")
        del marks["wrong"]
    everything = [*range(len(table))]
    assert shown_cards(browser) == everything
    for mark, holds in marks.items():
        by_id(browser, f"predictions-{mark}").click()
        assert shown_cards(browser) == np.flatnonzero(holds).tolist() != everything
        assert f"{holds.sum()} of {len(table)}" in by_id(browser, "predictions-count").text
        by_id(browser, f"predictions-{mark}").click()
    second = known.classes[1]
    Select(by_id(browser, "predictions-class")).select_by_visible_text(second)
    by_id(browser, "predictions-unsure").click()
    both = (table["class"] == second) & marks["unsure"]
    assert shown_cards(browser) == np.flatnonzero(both).tolist()
    assert not severe(browser)
    assert all(url.startswith(("file:", "data:")) for url in requested(browser))


@pytest.fixture(scope="module")
def huge(tmp_path_factory):
    """10,000 images, 2,048 neurons, 37 classes, pictures that hardly compress."""
    names = [f"breed_{i:02}" for i in range(37)]
    results = make_results(names, n=10_000, c=8, pictures=False)
    rng = np.random.default_rng(0)
    n = 37 * 2048
    auroc = rng.normal(0.5, 0.12, n).clip(0, 1)
    table = pd.DataFrame(
        {
            "layer": "top", "pooling": "mean", "class": np.repeat(names, 2048),
            "neuron": np.tile(np.arange(2048), 37), "auroc": auroc, "effect": 2 * auroc - 1,
            "auroc_low": auroc - 0.02, "auroc_high": auroc + 0.02, "n": 100, "n_ref": 3600,
            "mean": rng.random(n), "mean_ref": rng.random(n), "statistic": 0.0,
            "p_adjusted": 10 ** -(400 * (auroc - 0.5) ** 2), "pts": rng.random(n),
            "pts_ref": rng.random(n), "direction": np.where(auroc < 0.5, "silent", "active"),
            "unit": "images", "reason": "",
        }
    )  # fmt: skip
    table["p"] = table["p_adjusted"] / 10
    table["detector"] = table["reject"] = (auroc - 0.5).__abs__() > 0.2
    table["confirmed"] = table["detector"] & (rng.random(n) < 0.9)
    for end in ("", "_low", "_high"):
        table[f"auroc_confirmed{end}"] = np.where(table["detector"], table[f"auroc{end}"], np.nan)
        table[f"auroc_adjusted{end}"] = table[f"auroc_confirmed{end}"]
    table["p_confirmed"] = np.where(table["detector"], table["p"], np.nan)
    table["rank"] = table.groupby("class")["auroc"].rank(ascending=False, method="first")
    table.attrs = results.neurons.attrs
    results.store.activations = np.broadcast_to(results.store.activations[:, :1], (10_000, 2048))
    gallery = make_gallery(results.store, 24)
    noisy = [rng.integers(0, 256, (600, 800, 3), dtype=np.uint8) for _ in range(24)]
    gallery = dataclasses.replace(gallery, pictures=noisy)
    # The plane of a few images, with the points of all.
    few = make_set_overview(make_results(names, n=74, c=16, pictures=False).store).overview
    points = pd.DataFrame(rng.normal(size=(10_000, 2)), columns=["tsne_1", "tsne_2"])
    few = dataclasses.replace(few, embedding=dataclasses.replace(few.embedding, coordinates=points))
    pictures = {i: noisy[i % 24][: 128 + i // 24, :160] for i in range(600)}
    results = dataclasses.replace(
        results, neurons=table, gallery=gallery, set_overview=SetOverview(few, pictures)
    )
    return results, report.write_report(results, tmp_path_factory.mktemp("huge") / "report.html")


@pytest.mark.slow
def test_a_huge_set_keeps_the_budget_and_opens_at_once(browser, huge):
    results, path = huge
    assert path.stat().st_size <= 10e6
    browser.get_log("browser")
    show(browser, path)
    held = by_id(browser, "explorer-held").text
    assert f"{len(results.neurons):,} pairs of class and neuron" in held
    assert severe(browser) == []
    painted = browser.execute_script(
        "return performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
    )
    assert painted is not None and painted < 2000
    start = time.perf_counter()
    Select(by_id(browser, "explorer-class")).select_by_value("5")
    assert place_of(browser) == "1 to 10 of 2,048"
    assert time.perf_counter() - start < 2
