"""The page: what it says, what it must not hold, and the files beside it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re

import numpy as np
import pandas as pd
import pytest
from conftest import DRAWN, no_drawing
from fake_results import make_box_laboratory, make_localisation, make_results
from markupsafe import Markup

from featlab import embed, report
from featlab.arguments import confirmed_detectors
from featlab.errors import FeatlabError
from featlab.localise import METHODS
from featlab.neurons import softmax_top_k
from featlab.report import _localisation, _neurons
from featlab.report._answers import detectors_answer, maps_answer, maps_gaps
from featlab.report._elements import Options
from featlab.report._heads import classification
from featlab.report._neurons import detector_table, detectors
from featlab.results.analysis import SetOverview
from featlab.results.localisation import Context


def text_of(page: str) -> str:
    """The page without its images and its script, so that a search cannot hit base64 or code.

    Words are not marked for the glossary, either.
    """
    page = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.DOTALL)
    page = re.sub(r'<button type="button" class="term"[^>]*>([^<]*)</button>', r"\1", page)
    page = re.sub(r'<span class="whole">([^<]*)</span>', r"\1", page)
    return re.sub(r'src="data:[^"]*"', 'src=""', page)


@pytest.fixture
def two(drawn_report):
    return drawn_report("two")


@pytest.fixture
def many(drawn_report):
    return drawn_report("many")


@pytest.fixture
def bare(drawn_report):
    return drawn_report("bare")


def test_what_was_not_run_has_no_section(two):
    assert 'id="gradients"' not in two[2] and 'id="transfer"' not in two[2]


def test_four_answers_come_first(two):
    page = text_of(two[2])
    answers = page[page.index('id="answers"') : page.index('id="data"')]
    for words in (
        "200 images of 2 classes",
        "7\u00a0×\u00a07 cells",
        "a logistic regression gets 93\N{NO-BREAK SPACE}%",
        "confirmed as such on images that they were not chosen on",
        "Yes, better than the best baseline",
        "by the detectors combined in",
    ):
        assert words in answers


@pytest.mark.parametrize(("ahead", "clear"), [(0.01, True), (-0.01, False)])
def test_the_paired_difference_decides(two, ahead, clear):
    scores = make_localisation(two[0].store, two[0].split, best=0.6)
    boxes = make_box_laboratory(scores, ahead=ahead)
    said = maps_answer(dataclasses.replace(two[0], localisation=scores, box_details=boxes))
    assert said.clear is clear is said.verdict.startswith("Yes, better")
    low = "1" if clear else "−1"
    gaps = str(maps_gaps(dataclasses.replace(two[0], localisation=scores, box_details=boxes)))
    assert f"lies at +9 percentage points ({low} to {24 + 2 * clear}, adjusted p" in gaps


def test_without_pairs_nothing_is_said_of_the_baseline(two):
    said = maps_answer(dataclasses.replace(two[0], box_details=None))
    assert said.verdict == "Not compared with a baseline" and not said.clear


def test_sections_figures_and_methods_are_there(two):
    page = text_of(two[2])
    for anchor in re.findall(r'href="#([a-z]+)"', page):
        assert f'id="{anchor}"' in page
    assert page.count("<figure") == 19
    for words in (
        "frequency is not selectivity",
        "Mann-Whitney",
        "false discovery rate",
        "71\N{NO-BREAK SPACE}% of 80",
        ">86\N{NO-BREAK SPACE}%<",
        "Its map finds the object",
        "9 / 1",
        "* Oracle columns",
        "logistic − dummy",
        "+0.43 [0.30,\N{NO-BREAK SPACE}0.50]",
        "44 / 1",
        "drawn 5 times",
        "Boxes by regression",
        "Does this neuron’s map allow localisation of the object?",
        "no: beside the boxes",
        "Adjusted p of the two",
        ">0.037<",
        "Look for what the heat map follows",
        "cascade: ridge, then corrections",
        "minus that of the best baseline, “a blob at the picture&#39;s centre”",
        "truncated file",
        "featlab run pictures --out out",
        "keras 3.9.0",
    ):
        assert words in page


def test_the_page_asks_for_nothing_from_outside(two, many):
    for _, _, page in (two, many):
        data, script = re.findall(r"<script([^>]*)>(.*?)</script>", page, flags=re.DOTALL)
        assert data[0] == ' type="application/json" id="featlab-data"' and json.loads(data[1])
        assert script[0] == ""
        digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
        assert (
            f"default-src 'none'; script-src 'sha256-{digest}'; img-src data:; "
            "style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'\">" in page
        )
        asks = r"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b|Function\(|import\(|"
        assert not re.search(asks + r"fetch\(|XMLHttpRequest|WebSocket|https?:|<!--", script[1])
        # The literature is linked, which asks for nothing until somebody clicks.
        works = r'<a href="https://(doi\.org|arxiv\.org)/[^"<>]+" rel="noreferrer">'
        page = re.sub(works, "", text_of(page))
        assert not re.search(r"<script|https?://|@import|url\(|<link|<iframe", page)
        assert not re.search(r"\son[a-z]+=", page)


def test_hostile_names_are_text(many):
    page = text_of(many[2])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "&#34;quoted&#34; &amp; &#39;single&#39;" in page
    assert "שלום עולם" in page and "🦝" in page
    assert "n" * 300 not in re.sub(r'title="[^"]*"', "", page)


@pytest.mark.parametrize("which", ["two", "many", "bare"])
def test_no_number_is_printed_as_nan(which, request):
    page = text_of(request.getfixturevalue(which)[2])
    visible = re.sub(r"<style>.*?</style>|<[^>]*>", " ", page, flags=re.DOTALL)
    assert not re.search(r"\b(nan|NaN|None|inf|undefined|NaT)\b", visible)


def test_pictures_are_described_by_the_boxes_their_captions_speak_of(two, monkeypatch):
    examples = two[0].localisation_examples
    ious = np.linspace(0.03, 0.07, len(examples.pictures)).tolist()
    monkeypatch.setattr(_localisation, "regressed_boxes", lambda *_: ([None] * len(ious), ious))
    results = dataclasses.replace(two[0], regression_failures=examples)
    figure = _localisation._pictured(results, len(ious))[-1]
    assert "box regression; IoU 0.03" in figure.alt and figure.alt.endswith("0.07.")
    assert "box regression, IoU 0.03 to 0.07" in figure.caption


def test_the_neurons_most_often_among_the_largest_say_among_how_many(two):
    X, y = np.random.default_rng(0).random((30, 8)), np.repeat(two[0].store.classes, 15)
    results = dataclasses.replace(two[0], softmax_top_k=softmax_top_k(X, y, k=2))
    titles = [one.caption for one in detectors(results, Options()).tables.values() if one]
    assert any("2 largest (softmax, top 2)" in title for title in titles)


def test_every_image_has_an_alternative_and_every_header_a_scope(two):
    page = text_of(two[2])
    assert all(re.search(r'alt="[^"]{20,}"', tag) for tag in re.findall(r"<img[^>]*>", page))
    assert all("scope=" in tag for tag in re.findall(r"<th[ >][^>]*>?", page))
    assert page.count("<figcaption>") == page.count("<figure")
    assert page.count("<caption>") == len(re.findall(r"<table[ >]", page))


def test_what_is_missing_is_said(bare):
    page = text_of(bare[2])
    for words in (
        "Not measured:</strong> No test image has a box",
        "There are no ground-truth boxes",
        "No neuron is shown to",
    ):
        assert words in page
    assert 'class="strip"' not in page
    assert not (bare[1].parent / "localisation.csv").exists()


def test_pictures_that_are_gone_take_only_the_thumbnails_with_them(bare, tmp_path, blank_figures):
    results = bare[0]
    found = embed.overview(pd.DataFrame(results.store.activations), results.store.images["label"])
    set_overview = SetOverview(found, dict.fromkeys(found.embedding.thumbnails["row"].tolist()))
    path = report.write_report(
        dataclasses.replace(results, set_overview=set_overview), tmp_path / "report.html"
    )
    page = text_of(path.read_text("utf-8"))
    assert "The set at a glance" in page
    assert "t-SNE plane" in page
    assert "Thumbnails of images" not in page


def test_the_page_keeps_its_budget(two, many):
    assert two[1].stat().st_size < 5e6
    assert many[1].stat().st_size < 5e6
    bodies = re.findall(r"<tbody>.*?</tbody>", many[2], flags=re.DOTALL)
    assert max(body.count("<tr>") for body in bodies) <= 40


@pytest.mark.slow
def test_writing_twice_gives_the_same_page_and_no_litter(two, tmp_path):
    results, path, page = two
    with no_drawing(but=DRAWN):
        again = report.write_report(results, tmp_path / "report.html")
    assert again.read_text("utf-8") == page
    names = {file.name for file in tmp_path.iterdir()}
    # The parameters of a table, which CSV has no place for.
    assert {name for name in names if name.endswith(".json")} == {
        *("detectors.csv.json", "heads.csv.json", "neurons.csv.json", "units.csv.json")
    }
    assert sorted(name for name in names if not name.endswith(".json")) == sorted(
        ["report.html"]
        + [
            f"{name}.{kind}"
            for name in (
                *("heads", "neurons", "detectors", "localisation", "head_pairs", "calibration"),
                *(
                    "learning_curve",
                    "boxes",
                    "box_curve",
                    "box_heads",
                    "localisation_pairs",
                    "units",
                ),
                "skipped",
            )
            for kind in ("csv", "parquet")
        ]
    )
    for link in re.findall(r'href="(?!https:)([^#"]+)"', page):
        assert (path.parent / link).exists()


def test_a_failed_write_leaves_the_old_page(two, tmp_path, monkeypatch):
    path = tmp_path / "report.html"
    path.write_text("old", "utf-8")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("featlab.report.page._render", lambda *_: "new")
    monkeypatch.setattr("featlab.system.files.os.replace", fail)
    with pytest.raises(FeatlabError, match=r"\w+\.csv could not be written: disk full"):
        report.write_report(two[0], path)
    assert [file.read_text("utf-8") for file in tmp_path.iterdir()] == ["old"]


def test_wrong_arguments_are_refused(two, tmp_path):
    with pytest.raises(FeatlabError, match="path must be a file"):
        report.write_report(two[0], tmp_path)
    with pytest.raises(FeatlabError, match="most_examples must be at least 0, got -1"):
        report.write_report(two[0], tmp_path / "r.html", most_examples=-1)


def test_summary_is_json_with_null_for_what_is_missing(two, bare):
    kept = json.loads(json.dumps(report.summary(two[0]), allow_nan=False))
    assert list(kept) == [
        "n_images",
        "classes",
        "backbone",
        "map_shape",
        "heads",
        "detectors",
        "without_p",
        "localisation",
        "own_classes",
        "predicted_boxes",
        "refitted_on",
        "clusters",
        "left_out",
        "seconds",
    ]
    assert kept["predicted_boxes"]["scored"] and kept["predicted_boxes"]["elsewhere"] is None
    assert kept["map_shape"] == [7, 7, 1280]
    assert set(kept["heads"]["logistic"]) == {"accuracy", "low", "high", "n"}
    assert kept["localisation"]["cam"].keys() == {"box_accuracy", "mean_iou", "n"}
    best = kept["detectors"]["kangaroo"]
    row = two[0].neurons.query("`class` == 'kangaroo' and neuron == @best['best_neuron']").iloc[0]
    assert best["auroc_confirmed"] == pytest.approx(row["auroc_confirmed"])
    nothing = {"n": 0, "best_neuron": None, "auroc_selected": None, "auroc_confirmed": None}
    nothing |= {"auroc_confirmed_low": None, "auroc_confirmed_high": None}
    nothing |= {"n_selected": 0, "auroc_unseen_of_selected": None}
    assert report.summary(bare[0])["detectors"]["raccoon"] == nothing
    selected = two[0].neurons.query("`class` == 'kangaroo' and detector")
    assert best["n_selected"] == len(selected) > best["n"]
    assert best["auroc_unseen_of_selected"] == pytest.approx(selected["auroc_confirmed"].median())
    assert kept["without_p"] == {"constant": int(two[0].neurons["p"].isna().sum())}


def test_csv_runs_no_formula_and_parquet_is_exact(many):
    results, path, _ = many
    csv = pd.read_csv(path.with_name("neurons.csv"))
    assert "'=HYPERLINK(1)" in set(csv["class"])
    assert not csv["class"].str.startswith(("=", "+", "-", "@")).any()
    parquet = pd.read_parquet(path.with_name("neurons.parquet"))
    pd.testing.assert_frame_equal(parquet, results.neurons, check_dtype=False)


def test_cells_that_start_a_formula_are_quoted(tmp_path):
    cells = ["=1+1", "+1", "-1", "@x", "\tx"]
    results = make_results([*cells, "plain"], n=60, c=8, pictures=False)
    report.page.write_tables(results, tmp_path)
    quoted = {f"'{cell}" for cell in cells}
    assert set(pd.read_csv(tmp_path / "neurons.csv")["class"]) == {*quoted, "plain"}


def test_what_is_known_of_a_neuron_is_not_that_of_another_layers(tmp_path):
    results = make_results(n=60, c=8, pictures=False)
    twin = results.neurons.assign(layer="early")
    others = {
        "pointing": results.pointing.assign(layer="early", pointing=0.1),
        "units": results.units.assign(layer="early", verdict="not shown"),
    }
    both = {
        name: pd.concat([table, getattr(results, name)], ignore_index=True)
        for name, table in others.items()
    }
    neurons = pd.concat([twin, results.neurons], ignore_index=True)
    report.page.write_tables(dataclasses.replace(results, neurons=neurons, **both), tmp_path)
    table = pd.read_csv(tmp_path / "detectors.csv")
    assert not table.duplicated(["layer", "class", "neuron"]).any()
    assert set(table.loc[table["layer"] == "early", "pointing"]) == {0.1}
    assert set(table.loc[table["layer"] == "top", "pointing"]) == {0.71}
    assert set(table.loc[table["layer"] == "early", "fires"].dropna()) == {"not shown"}


def test_a_confused_class_is_shown_as_its_name():
    results = make_results(["cat", "dog", "owl"])
    table = pd.DataFrame({"class": ["cat", "dog", "owl"], "support": 9, "f1": 0.9, "confused": 2})
    for score in ("recall", "precision"):
        table[[score, f"{score}_low", f"{score}_high"]] = [0.9, 0.8, 1.0]
    results = dataclasses.replace(results, per_class=table.assign(confused_with="<dog>"))
    cell = classification(results, Options()).tables["per_class"].rows[0][-1]
    assert isinstance(cell, Markup)
    assert "&lt;dog&gt;" in cell and "(2)" in cell


def tied(results):
    """Two layers, in which the same neuron is a confirmed detector; ties at an AUROC of 1."""
    table = results.neurons.copy()
    table["layer"] = np.where(table.groupby("class").cumcount() % 2, "low", "top")
    rows = table.index[table["detector"] & table["confirmed"] & table["class"].eq("kangaroo")]
    table.loc[rows, "auroc"] = 1.0
    table.loc[rows, "rank"] = np.arange(len(rows), 0, -1)  # The last of equals comes first.
    again = table.loc[rows].assign(layer="low", auroc=0.9)
    return pd.concat([table[~table["layer"].eq("low")], again], ignore_index=True)


def test_the_lead_neuron_is_the_one_behind_the_best_detector(two):
    table = tied(two[0])
    results = dataclasses.replace(two[0], neurons=table)
    confirmed = confirmed_detectors(table, layer="top").query("`class` == 'kangaroo'")
    lead = confirmed.iloc[0]
    context = Context(["kangaroo"], np.zeros(1, int), np.ones(1280), neurons=confirmed)
    maps = np.random.default_rng(0).random((1, 3, 3, 1280), np.float32)
    heat = METHODS["best_detector"].heat(maps, context)
    np.testing.assert_allclose(heat, maps[..., lead["neuron"]])
    assert f"neuron {lead['neuron']} for" in str(detectors_answer(results))
    assert report.summary(results)["detectors"]["kangaroo"]["best_neuron"] == lead["neuron"]
    shown = detectors(results, Options()).tables["detectors"].rows
    assert shown[0][0].startswith(f"neuron\u00a0{lead['neuron']} (top")


def test_of_very_many_images_some_are_drawn_each_with_its_label(two, monkeypatch):
    results = two[0]
    n = int((results.split == "confirm").sum())
    monkeypatch.setattr(_neurons, "_MOST_DOTS", n // 2)
    given = []
    monkeypatch.setattr(
        _neurons.plots.neurons, "activation_distributions", lambda *a, **_: given.append(a)
    )
    figure = detectors(results, Options()).figures["distributions"]
    figure.draw()
    (X, labels, _) = given[0]
    rows = labels.index.to_numpy()
    assert len(set(rows)) == n // 2 and f"{n // 2} images" in figure.caption
    assert (results.split.iloc[rows] == "confirm").all()
    np.testing.assert_array_equal(X, results.store.pooled(rows))


def test_of_neurons_that_never_vary_nothing_is_drawn(two):
    unknown = two[0].neurons.assign(auroc=np.nan, detector=False, confirmed=False)
    figures = detectors(dataclasses.replace(two[0], neurons=unknown), Options()).figures
    assert [figures[name] for name in ("volcano", "confirmed", "distributions")] == [None] * 3


def test_a_neuron_of_another_layer_gets_no_scores_of_this_one(two):
    table = tied(two[0])
    units = two[0].units[two[0].units["layer"].eq("top")]
    results = dataclasses.replace(two[0], neurons=table, units=units)
    merged = detector_table(results)
    assert set(merged["layer"]) == {"low", "top"}
    assert len(merged) == len(confirmed_detectors(table))
    assert merged.loc[merged["layer"].eq("low"), ["pointing", "auroc_inside"]].isna().all(axis=None)
    assert merged.loc[merged["layer"].eq("top"), "pointing"].notna().any()
    frequent = results.softmax_top_k.assign(layer="low")
    found = dataclasses.replace(results, softmax_top_k=frequent)
    low = set(merged.loc[merged["layer"].eq("low"), "neuron"])
    for cells in detectors(found, Options()).tables["softmax_top_k"].rows:
        neuron = int(cells[0].split("\u00a0")[1])
        assert (cells[-1] == "yes") is (neuron in low and "kangaroo" in cells[1])
