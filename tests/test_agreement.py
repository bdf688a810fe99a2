"""A thing that is printed in several places has one number, or the place names its family.

One set is analysed; its page, `summary.json`, what the command line tells and a comparison of its
layers are read as a person reads them, and every number of the same thing is held against all
others of it.
"""

from __future__ import annotations

import json
import re
from html import unescape

import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone, no_drawing
from PIL import Image
from test_claims import percentages, plain, same

from featlab import report
from featlab.cli._options import tell
from featlab.extract import extract_maps
from featlab.images import index_images
from featlab.pipeline import analyse, compare_stores, write_results
from featlab.predict import load_predictor
from featlab.report import _words as words

pytestmark = pytest.mark.slow

CLASSES = ("red", "green", "blue")


def write_pictures(folder, n=48):
    """Squares of the class's colour; some are dim, and some of another class's colour."""
    rng = np.random.default_rng(0)
    rows = []
    for k, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(60, 140, (56, 56, 3), dtype=np.uint8)
            x, y = rng.integers(0, 28, 2)
            side = int(rng.integers(12, 29))
            colour = (k + 1) % 3 if i % 12 == 11 else k
            bright = rng.integers(100, 160) if i % 5 == 4 else rng.integers(150, 255)
            pixels[y : y + side, x : x + side, colour] = bright
            Image.fromarray(pixels).save(folder / name / f"{i:02d}.png")
            rows.append([f"{name}/{i:02d}.png", name, "object", 56, 56, x, y, x + side, y + side])
    columns = ["image", "label", "kind", "width", "height", "xmin", "ymin", "xmax", "ymax"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "boxes.csv", index=False)
    return folder


class Printed:
    """A page as a person reads it: its text, its tables by caption, what stands for figures."""

    def __init__(self, page):
        page = re.sub(r"<(script|style|nav)\b.*?</\1>", "", page, flags=re.DOTALL)
        self.figures = [plain(unescape(alt)) for alt in re.findall(r'<img[^>]*alt="([^"]*)"', page)]
        self.tables = {}
        for body in re.findall(r"<table\b.*?</table>", page, flags=re.DOTALL):
            caption = re.search(r"<caption>(.*?)</caption>", body, flags=re.DOTALL)[1]
            lines = re.findall(r"<tr\b.*?</tr>", body, flags=re.DOTALL)
            cells = [re.findall(r"<t[dh]\b.*?</t[dh]>", line, flags=re.DOTALL) for line in lines]
            self.tables[read(caption)] = [[read(cell) for cell in line] for line in cells]
        self.text = read(page)

    def table(self, start, key=1):
        """Rows of the one table whose caption starts so, by their first cells."""
        (name,) = [name for name in self.tables if name.startswith(start)]
        head, *rows = self.tables[name]
        return {
            (row[0] if key == 1 else tuple(row[:key])): dict(zip(head, row, strict=True))
            for row in rows
        }

    def figure(self, start):
        (alt,) = [alt for alt in self.figures if alt.startswith(start)]
        return alt

    def find(self, pattern):
        hits = re.findall(pattern, self.text)
        assert hits, pattern
        return hits[0]


def read(html):
    html = re.sub(r"</?(bdi|strong|a|span|abbr|button)\b[^>]*>", "", html)
    return re.sub(r"\s+", " ", plain(unescape(re.sub(r"<[^>]*>", " ", html)))).strip()


def score(cell):
    """The score of a cell, without its interval."""
    return re.sub(r" \[.*", "", cell)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    base = tmp_path_factory.mktemp("agreement")
    images, boxes, _ = index_images(write_pictures(base / "pictures"))
    backbone = FakeBackbone(layers=("low", "high"))
    with extract_maps(images, backbone, base / "maps.h5", boxes=boxes) as store, no_drawing():
        results = analyse(store, random_state=0)
        write_results(results, base / "out")
        comparison = compare_stores([store], names=["it"], random_state=0)
        report.write_comparison(comparison, base / "compare.html")
        yield base, results, comparison


@pytest.fixture(scope="module")
def page(run):
    return Printed((run[0] / "out" / "report.html").read_text("utf-8"))


@pytest.fixture(scope="module")
def summary(run):
    return json.loads((run[0] / "out" / "summary.json").read_text("utf-8"))


@pytest.fixture
def told(run, summary, capsys):
    tell(summary, run[0])
    return capsys.readouterr().out


@pytest.fixture(scope="module")
def compared(run):
    return Printed((run[0] / "compare.html").read_text("utf-8"))


def test_the_set_is_hard_enough_for_numbers_to_differ(run, summary):
    accuracies = {head["accuracy"] for head in summary["heads"].values()}
    scores = {round(one["mean_iou"], 3) for one in summary["localisation"].values()}
    assert len(accuracies) >= 3 and max(accuracies) < 1 and len(scores) >= 10
    confirmed = [one["n"] for one in summary["detectors"].values()]
    assert 0 < sum(confirmed) < sum(one["n_selected"] for one in summary["detectors"].values())


def test_an_accuracy_is_one_number(run, page, summary, told, compared):
    results = run[1]
    heads = page.table("Heads on unseen test images")
    main, n = results.heads.main, summary["heads"]["logistic"]["n"]
    assert main == "logistic"
    for head, kept in summary["heads"].items():
        name, value = words.readable(head), kept["accuracy"]
        assert same(score(heads[name]["Accuracy"]), value, 1)
        drawn = page.figure("Accuracy of each head").partition(f"{name} ")[2].split()[0]
        assert same(drawn, value, 1)
        line = next(line for line in told.splitlines() if line.startswith(f"  head {head}:"))
        assert same(re.search(r"accuracy ([\d.]+)", line)[1], value, 1)
        assert f"on {n} unseen" in line and heads[name]["n test"] == str(n)
    value = summary["heads"][main]["accuracy"]
    dummy, colours = (summary["heads"][name]["accuracy"] for name in ("dummy", "colour_histogram"))
    answer = page.find(r"a logistic regression gets (.*?) of \d+ unseen images right; (.*?)\. ")
    assert same(percentages(answer[0])[0], value)
    assert [same(a, b) for a, b in zip(percentages(answer[1]), (dummy, colours), strict=True)]
    for shown, one in zip(percentages(answer[1]), (dummy, colours), strict=True):
        assert same(shown, one)
    # The same head as counts: confusions, what is misplaced, classes, what `predict` answers.
    right = round(value * n)
    assert f"{right} of {n} test images" in page.figure("Confusion matrix")
    assert page.find(r"(\d+) of (\d+) test images get their own class") == (str(right), str(n))
    assert page.find(r"of (\d+) test images that the logistic head gets wrong") == str(n - right)
    assert len(results.set_overview.overview.misclassified) == n - right
    classes = page.table("The logistic head on each class").values()
    recalled = [round(float(score(c["Recall"])) * int(c["n test"])) for c in classes]
    assert sum(recalled) == right and sum(int(c["n test"]) for c in classes) == n
    # The same head, layer and pooling in other tables.
    own = page.table("Which layer and pooling tell the classes best")["high, mean"]
    assert score(own["Accuracy of the logistic head"]) == score(heads[main]["Accuracy"])
    colour = page.find(r"A colour histogram alone reaches an accuracy of ([\d.]+)")
    assert same(colour, colours, 1)
    assert same(page.find(r"the network's features ([\d.]+) \("), value, 1)
    assert same(page.find(r"\(.*?\); the commonest class ([\d.]+), the network"), dummy, 1)
    pairs = page.table("Heads against each other")
    for pair, cells in pairs.items():
        a, b = (one.replace(" ", "_") for one in pair.split(" − "))
        gap = summary["heads"][a]["accuracy"] - summary["heads"][b]["accuracy"]
        assert same(cells["Difference in accuracy"].split()[0], gap, 1)
    for shown, name in re.findall(
        r"([+−]\d+) percentage points \([^)]*\) against (dummy|colour histogram)", page.text
    ):
        gap = value - summary["heads"][name.replace(" ", "_")]["accuracy"]
        assert same(shown, gap)
    ablation = results.detector_details.ablation
    assert (ablation.loc[(ablation["mode"] == "ablate") & (ablation["k"] == 0), "accuracy"]
            == value).all()  # fmt: skip
    entry = compared.table("The logistic head on each")["it, high"]
    assert score(entry["Accuracy on test, 95 % interval"]) == score(heads[main]["Accuracy"])


def test_a_number_of_detectors_is_one_number_or_names_its_family(
    run, page, summary, told, compared
):
    results = run[1]
    held = sum(one["n"] for one in summary["detectors"].values())
    selected = sum(one["n_selected"] for one in summary["detectors"].values())
    assert page.find(r"([\d,]+) pairs of class and active neuron selected, ([\d,]+) confirmed") == (
        str(selected), str(held),
    )  # fmt: skip
    neurons = results.neurons.query("confirmed == True and direction == 'active'")
    assert page.find(r"(\d+) of 10 neurons? (?:is|are) active for a class,? and confirmed") == str(
        neurons["neuron"].nunique()
    )
    files = pd.read_csv(run[0] / "out" / "neurons.csv").query("layer == 'high'")
    files = files.query("pooling == 'mean' and direction == 'active'")
    assert (
        files["confirmed"].eq(True).sum()
        == held
        == len(pd.read_csv(run[0] / "out" / "detectors.csv"))
    )
    assert files["detector"].sum() == selected
    assert f"{selected} are selected as active" in page.figure("Volcano plot")
    assert f"for {selected} selected pairs" in page.figure("AUROC at selection")
    own = page.table("Which layer and pooling tell the classes best")["high, mean"]
    assert (own["Detectors selected"], own["confirmed"]) == (str(selected), str(held))
    rows = page.table("Do the detectors hold on other images?", key=2)
    leaders = page.table("Confirmed detectors", key=2)
    for label, kept in summary["detectors"].items():
        row = rows.get((label, "active"), {"Selected": "0", "Confirmed": "0"})
        assert (row["Selected"], row["Confirmed"]) == (str(kept["n_selected"]), str(kept["n"]))
        line = next(line for line in told.splitlines() if f"detectors of {label}:" in line)
        assert f"{kept['n']} confirmed of {kept['n_selected']} selected" in line
        if not kept["n"]:
            continue
        assert same(row["Median AUROC of all selected, when chosen → on unseen"].split(" → ")[1],
                    kept["auroc_unseen_of_selected"], 1)  # fmt: skip
        # The leading detector, and its AUROC on unseen images.
        best, value = kept["best_neuron"], kept["auroc_confirmed"]
        cells = next(cells for (_, name), cells in leaders.items() if name == label)
        assert cells["Neuron"] == f"neuron {best}"
        assert same(score(cells["AUROC on unseen"]), value, 1)
        assert same(re.search(r"when chosen, (\d\.\d+)", line)[1], value, 1)
        told_neuron, told_value = page.find(rf"neuron (\d+) for {label} \((\d\.\d+) \[")
        assert told_neuron == str(best) and same(told_value, value, 1)
        assert f"neuron {best}:" in line
    median = page.find(r"the median of all (\d+) selected is (\d\.\d+)")
    assert median[0] == str(selected)
    assert median[1] == own["Median AUROC of all selected, on unseen"]
    assert page.find(r"; of all selected it is (\d\.\d+)") == median[1]
    # Judged alone, and as clusters: the same confirmed ones.
    every = re.findall(r"(\d+) (?:leading of (\d+) )?confirmed detectors? judged", page.text)
    judged = {of or n for n, of in every}
    assert judged == {str(held)} or int(next(iter(judged))) <= held
    assert str(held) == page.find(r"the (\d+) confirmed detectors")
    # A comparison corrects over its entries; where that gives other numbers it says so.
    entry = compared.table("Detectors: pairs of neuron and class")["it, high"]
    assert "Detectors of all entries stand in one corrected family" in compared.text
    assert compared.find(r"“it, high” (\d+) \(of 10 neurons\)") == entry["Confirmed"]


def test_a_box_score_is_one_number(run, page, summary, told, compared):
    results = run[1]
    rows = page.table("Localisation on test images")
    pairs = page.table("Box accuracy minus that of the best baseline")
    rival = page.find(r"by the best baseline, “(.*?)”, in")
    name_of = {words.method(name): name for name in summary["localisation"]}
    base = summary["localisation"][name_of[rival]]["box_accuracy"]
    answer = page.find(r"the box \(IoU ≥ 0\.5\) is found (.*?)\. Image by image")
    for method, kept in summary["localisation"].items():
        cells, value = rows[words.method(method)], kept["box_accuracy"]
        assert same(score(cells["Box accuracy"]), value, 1)
        assert same(score(cells["Mean IoU"]), kept["mean_iou"], 1)
        alt = page.figure("Box accuracy of each method")
        assert same(alt.partition(f"{words.method(method)} ")[2].split()[0], value, 1)
        line = next(line for line in told.splitlines() if f"boxes by {method}:" in line)
        assert same(re.search(r": ([\d.]+) with IoU", line)[1], value, 1)
        assert same(re.search(r"mean IoU ([\d.]+)", line)[1], kept["mean_iou"], 1)
        if words.method(method) in pairs:
            pair = pairs[words.method(method)]
            assert same(pair["Box accuracy"], value, 1)
            assert same(pair["Difference"].split()[0], value - base, 1)
    shown = dict(
        re.findall(
            r"by (the detectors|the best) (?:combined|of each)[^%]*? in ([<>\d. ]+%)", answer
        )
    )
    for who, method in (("the detectors", "detectors"), ("the best", "best_detector")):
        assert same(shown[who], summary["localisation"][method]["box_accuracy"])
    for method, gap in re.findall(r"“([^”]*)” lies at ([+−]?\d+) percentage", page.text):
        assert same(gap, summary["localisation"][name_of[method]]["box_accuracy"] - base)
    for method, share in re.findall(
        r"“([^”]*)”, [^,]*boxes[^,]*, finds it in ([\d.<> ]+%)", page.text
    ):
        assert same(share, summary["localisation"][name_of[method]]["box_accuracy"])
    # With all boxes of train the curve of boxes ends at the score of the table.
    ends = page.find(r"V2 on (\d+) test images from \d\.\d+(?: \[[^]]*\])? to (\d\.\d+)")
    if int(ends[0]) == summary["localisation"]["cell_boxes"]["n"]:
        assert ends[1] == rows["cells learnt from boxes"]["V2*"]
    # Baselines of the boxes by regression are those of the heat maps; their best is `predict`'s.
    regressed = page.table("Boxes by regression on test images")
    for name in ("the mean training box", "the whole picture"):
        for ours, theirs in (("Mean IoU", "Mean IoU"), ("IoU ≥ 0.5", "Box accuracy"),
                             ("Centre in box", "Centre in box")):  # fmt: skip
            assert regressed[name][ours] == rows[name][theirs], (name, ours)
    kept = summary["predicted_boxes"]
    line = next(line for line in told.splitlines() if "`featlab predict`" in line)
    if kept["method"] in summary["localisation"]:  # there of the class that is right
        assert f"by {kept['method']} for the class predicted: " in line
    else:
        cells = regressed[words.box_source(kept["method"])]
        assert same(score(cells["Mean IoU"]), kept["mean_iou"]["value"], 1)
        assert same(score(cells["IoU ≥ 0.5"]), kept["box_accuracy"]["value"], 1)
    right, of = page.find(r"with a true one for ([\d,]+) of the ([\d,]+) with a true box")
    assert int(right) == round(kept["box_accuracy"]["value"] * int(of))
    assert int(of) == kept["mean_iou"]["n"]
    assert same(re.search(r": ([\d.]+) \[", line)[1], kept["box_accuracy"]["value"], 1)
    own = load_predictor(run[0] / "out").predict(results.store)
    rows_of = results.predictions.table.index
    assert len(own) == len(results.store) and len(rows_of) == int(of)
    # The comparison has detectors of a family of its own, and says so; all else is the same.
    entry = compared.table("Boxes of maps that learn from no boxes")["it, high"]
    method = name_of[entry["Its best map method"]]
    if method in ("detectors", "best_detector", "fusion"):
        assert "their numbers, and the boxes of their maps, may differ from" in compared.text
    else:
        own = summary["localisation"][method]
        assert same(score(entry["Box accuracy on test"]), own["box_accuracy"], 1)
        assert same(score(entry["Mean IoU"]), own["mean_iou"], 1)
    # It leaves the random neuron out, which a page of one store has among its baselines.
    blind = ("centre_gaussian", "whole_image", "mean_box")
    bar = max(summary["localisation"][name]["box_accuracy"] for name in blind)
    assert same(entry["Best baseline without a network"], bar, 1)
    named = compared.find(r"the best baseline without a network, “(.*?)”, in")
    assert summary["localisation"][name_of[named]]["box_accuracy"] == bar


def test_detectors_that_are_alike_are_so_on_the_images_that_the_page_names(run, page):
    results = run[1]
    clusters = results.detector_details.clusters
    sides, labels = results.split.to_numpy(str), results.store.images["label"].to_numpy(str)
    confirm = sides == "confirm"
    assert "over the confirm images of all classes" in page.text
    ranks = pd.DataFrame(results.store.pooled(layer="high")[confirm]).rank()
    within = ranks - ranks.groupby(labels[confirm]).transform("mean")
    for _, rows in clusters[clusters["relative"] >= 0].iterrows():
        value = np.corrcoef(within[rows["neuron"]], within[rows["relative"]])[0, 1]
        assert value == pytest.approx(rows["relative_correlation"], abs=1e-6)
