"""What a notebook shows of a store and of results: plain facts, everything escaped."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone
from fake_results import HOSTILE, make_results
from PIL import Image
from test_pipeline import write_pictures

from featlab import FeatlabError, audit, boxheads, features, heads, localise, report, splits
from featlab.extract import extract_maps
from featlab.images import index_images
from featlab.results.localisation import Localisation
from featlab.system.files import html_table

VOID = {"br", "img", "meta", "input"}


class Checked(HTMLParser):
    """Collects text and tags, and fails where tags do not nest."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.texts: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def read(shown):
    """The text of what a notebook gets."""
    page = Checked()
    page.feed(shown)
    page.close()
    assert page.open == []
    harmless = {"div", "p", "strong", "bdi", "table", "thead", "tbody", "tr", "th", "td"}
    assert page.tags <= harmless | {"details", "summary", "ol", "li", "code"}
    assert "http" not in shown
    return " ".join(page.texts)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    base = tmp_path_factory.mktemp("reprs")
    images, boxes, _ = index_images(write_pictures(base / "pictures"))
    with extract_maps(images, FakeBackbone(), base / "maps.h5", boxes=boxes) as opened:
        yield opened


@pytest.fixture(scope="module")
def split(store):
    return splits.make_split(store.images, random_state=0)


def test_a_store_says_what_it_holds(store):
    told = read(store._repr_html_())
    for words in ("80 images", "7 × 7 cells, 10 neurons", "green 40, red 40", "object 80", "fake"):
        assert words in told, words
    assert "Provenance" in told and "probe_" not in told
    assert repr(store) == f"<MapStore {store.path}: 80 images, last 7 x 7 x 10>"


def test_a_closed_store_has_a_repr_too(store):
    from featlab.store import MapStore

    with MapStore(store.path) as again:
        pass
    assert "(closed)" in read(again._repr_html_())


def test_a_store_of_hostile_names_stays_text(tmp_path):
    folder = tmp_path / "pictures"
    for name in ("<b>bold<", "x&amp;y"):
        (folder / name).mkdir(parents=True)
        grey = np.linspace(0, 255, 40 * 40).astype(np.uint8).reshape(40, 40)
        Image.fromarray(grey).convert("RGB").save(folder / name / "0.png")
    images, boxes, _ = index_images(folder)
    with extract_maps(images, FakeBackbone(), tmp_path / "maps.h5", boxes=boxes) as store:
        told = read(store._repr_html_())
    assert "<b>bold< 1, x&amp;y 1" in told and "boxes none" in " ".join(told.split())


def test_results_show_their_tables(store, split):
    X = features.feature_table(store)
    scores = heads.evaluate_heads(X, store.images["label"], split, heads=["logistic"])
    told = read(scores._repr_html_())
    assert "dummy" in told and "logistic" in told and "accuracy_low" in told
    n = int((split == "test").sum())
    assert repr(scores) == f"<HeadResults of dummy, logistic on {n} test images>"

    where = localise.evaluate_localisation(store, split, methods=["sum"])
    told = read(where._repr_html_())
    assert "centre_gaussian" in told and f"{n} test images" in told
    assert repr(where).startswith("<Localisation by sum, ")

    regressed = boxheads.evaluate_box_heads(store, split, heads=["ridge_pca"])
    told = read(regressed._repr_html_())
    assert "ridge_pca" in told and "mean_iou_high" in told
    assert repr(regressed).startswith("<BoxHeadResults of ridge_pca, ")

    found = audit.audit_set(store, split, head_table=scores.table)
    told = read(found._repr_html_())
    assert f"Audit: {found.verdict}" in told and "class balance" in told
    assert repr(found).startswith(f"<Audit: {found.verdict}; ")


def test_localisation_without_boxes_says_so():
    empty = Localisation(pd.DataFrame(), pd.DataFrame(), None)
    assert "no test image has a box" in read(empty._repr_html_())
    assert repr(empty) == "<Localisation without a scored image>"


@pytest.mark.parametrize("classes", [["kangaroo", "raccoon"], HOSTILE])
def test_the_results_give_the_four_answers(classes):
    results = make_results(classes, n=240, c=24, pictures=False)
    told = read(results._repr_html_())
    for words in ("240 images", "numbers each, one per neuron", "AUROC", "best baseline"):
        assert words in told, words
    assert len(repr(results)) < 200


def test_tables_are_cut_and_numbers_short():
    table = pd.DataFrame({"a": np.arange(40), "b": [np.nan] + [0.123456] * 39, "c": "<i>"})
    told = read(html_table(table))
    assert "28 more rows" in told and "0.123 " in told and "–" in told and "<i>" in told
    assert "12 more" not in read(html_table(table.head(12)))
    cells = html_table(table.head(1)).split("<tbody>")[1].split("<td")[1:]
    assert ["left" in cell.split(">")[0] for cell in cells] == [False, False, True]
    assert "no rows" in read(html_table(table.head(0)))


def test_a_page_is_shown_in_a_sandbox(tmp_path):
    page = tmp_path / "a'b\".html"
    page.write_text('<p title="x">&amp;</p>', "utf-8")
    shown = report.show(page, height=300)._repr_html_()
    assert 'sandbox="allow-scripts"' in shown and "height:300px" in shown

    class Frame(HTMLParser):
        def handle_starttag(self, tag, attrs):
            self.frame = dict(attrs)

    frame = Frame()
    frame.feed(shown)
    assert frame.frame["srcdoc"] == page.read_text("utf-8")
    assert set(frame.frame) == {"title", "sandbox", "srcdoc", "style"}
    with pytest.raises(FeatlabError, match="there is none"):
        report.show(Path(tmp_path / "missing.html"))
