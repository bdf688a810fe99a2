"""A set without labels: what is made of it, what is left out, and what is said of both."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone, no_drawing
from PIL import Image
from sklearn.metrics import adjusted_rand_score
from typer.testing import CliRunner

from featlab import FeatlabError
from featlab.boxes.geometry import CORNERS
from featlab.cli import app
from featlab.cli._pass import write_page
from featlab.embed.planes import cluster_images
from featlab.extract import extract_maps
from featlab.images import index_images
from featlab.pipeline import analyse
from featlab.pipeline.scheduler import Stage, run_stages
from featlab.predict import load_predictor
from featlab.report import summary
from featlab.report._elements import Options
from featlab.report._predictions import set_maps
from featlab.splits import make_split


def write_pictures(root: Path, n: int = 48) -> Path:
    """Pictures of three colours, a bright square in each, whose box is known."""
    root.mkdir()
    rng = np.random.default_rng(0)
    lines = ["image,label,xmin,ymin,xmax,ymax"]
    for i in range(n):
        pixels = rng.integers(0, 60, (56, 56, 3)).astype(np.uint8)
        pixels[..., i % 3] += 90
        x, y = rng.integers(0, 28, 2)
        pixels[y : y + 24, x : x + 24] = 250
        Image.fromarray(pixels).save(root / f"{i:02}.png")
        lines.append(f"{i:02}.png,,{x},{y},{x + 24},{y + 24}")
    (root / "boxes.csv").write_text("\n".join(lines), "utf-8")
    return root


@pytest.fixture(scope="module")
def analysed(tmp_path_factory):
    """Results, and the folder that a run leaves."""
    folder = tmp_path_factory.mktemp("unlabelled")
    images, boxes, _ = index_images(write_pictures(folder / "pictures"))
    with extract_maps(images, FakeBackbone(), folder / "maps.h5", boxes=boxes) as store:
        with no_drawing():
            results = write_page(store, folder, None, "together", 0, {}, refit=False, brief=True)
        yield results, folder


def test_what_needs_labels_is_left_out_for_one_reason(analysed):
    results, folder = analysed
    assert results.unlabelled and results.heads.table.empty and results.neurons.empty
    assert set(results.left_out.values()) == {"the pictures have no labels"}
    assert {"heads", "all_neurons", "localisation", "gallery"} <= set(results.left_out)
    assert not {"audit", "own", "clusters", "set_maps", "X"} & set(results.left_out)
    summary = json.loads((folder / "summary.json").read_text("utf-8"))
    assert summary["classes"] == [] and summary["heads"] == {} and summary["detectors"] == {}
    assert sum(summary["clusters"].values()) == summary["n_images"] == 48
    assert summary["left_out"]["heads"] == "the pictures have no labels"


def test_a_notebook_shows_results_without_labels(analysed):
    results, _ = analysed
    assert repr(results.heads) == "<HeadResults of no head on 0 test images>"
    assert "no rows" in results.heads._repr_html_()
    shown = results._repr_html_()
    assert "48 images without labels" in shown and "Heads" not in shown
    assert "(no label) 48" in results.store._repr_html_()


def test_the_report_in_brief_has_the_clusters(analysed):
    page = (analysed[1] / "brief.html").read_text("utf-8")
    assert page.count("<table>") == 1 and "Clusters, the largest first" in page


@pytest.mark.parametrize("command", [["heads"], ["neurons"], ["localise"], ["audit"],
                                     ["embed", "-o", "x"], ["compare", "-o", "x"]])  # fmt: skip
def test_a_command_that_needs_labels_says_that_there_are_none(analysed, command, monkeypatch):
    _, folder = analysed
    monkeypatch.chdir(folder.parent)
    stores = [str(folder)] * (2 if "compare" in command else 1)
    asked = [command[0], *stores, *command[1:]]
    done = CliRunner().invoke(app, asked)
    assert isinstance(done.exception, FeatlabError)
    assert f"the pictures of {folder / 'maps.h5'} have no labels, so" in str(done.exception)


def test_the_run_of_a_set_without_labels_has_no_predictor(analysed):
    with pytest.raises(FeatlabError, match="a set without labels has none, as there are no cla"):
        load_predictor(analysed[1])


def test_few_pictures_are_told_to_have_no_clusters(tmp_path, capsys):
    images, boxes, _ = index_images(write_pictures(tmp_path / "pictures", n=12))
    store = extract_maps(images, FakeBackbone(), tmp_path / "maps.h5", boxes=boxes)
    with store, no_drawing():
        write_page(store, tmp_path, None, "together", 0, {}, refit=False)
    why = "fewer than 20 images are not clustered, got 12"
    assert f"no labels, and no clusters: {why}" in capsys.readouterr().out
    assert json.loads((tmp_path / "summary.json").read_text())["left_out"]["clusters"] == why
    assert f"No clusters: {why}." in (tmp_path / "report.html").read_text("utf-8")


def test_clusters_are_told_with_their_pictures_and_neurons_and_never_as_classes(analysed):
    results, folder = analysed
    made = results.clusters
    colours = np.arange(48) % 3
    assert adjusted_rand_score(colours, made.images["cluster"]) > 0.9
    assert made.table["n"].sum() == 48 and made.table["n"].is_monotonic_decreasing
    best = made.choice.loc[made.choice["silhouette"].idxmax(), "clusters"]
    assert best == len(made.table) == made.images["cluster"].nunique()
    for _, row in made.table.iterrows():
        own = made.images[made.images["cluster"] == row["cluster"]]
        nearest = own.nsmallest(5, "distance", keep="all")["path"]
        assert set(row["typical"].split("|")) <= set(nearest)
    assert list(made.neurons) == ["cluster", "layer", "neuron", "auroc", "mean", "mean_ref"]
    X = results.store.pooled()
    for _, row in made.neurons.iterrows():
        inside = (made.images["cluster"] == row["cluster"]).to_numpy()
        a, b = X[inside, row["neuron"]], X[~inside, row["neuron"]]
        above = (a[:, None] > b).mean() + 0.5 * (a[:, None] == b).mean()
        assert row["auroc"] == pytest.approx(above, abs=1e-9)
    page = (folder / "report.html").read_text("utf-8")
    assert "pictures of the data set" in page and "their labels" not in page
    assert "A cluster is not a class" in page and "no test of it would be one" in page
    for absent in ("Classification", "Confirmed detectors", "classes in turn"):
        assert absent not in page
    for name in ("clusters", "cluster_images", "cluster_neurons", "cluster_numbers", "set_boxes"):
        assert (folder / f"{name}.csv").is_file() and (folder / f"{name}.parquet").is_file()


def test_boxes_come_without_labels_and_are_scored_where_there_are_true_ones(analysed):
    results, _ = analysed
    maps, n_test = results.set_maps, int((results.split == "test").sum())
    assert maps.boxes.groupby("method").size().eq(48).all()
    own = maps.table[~maps.table["baseline"].astype(bool)].set_index("method")
    told = summary(results)["localisation"]
    assert set(told) == set(maps.table["method"]) > set(own.index)
    assert told["sum"]["box_accuracy"] == pytest.approx(own.loc["sum", "box_accuracy"], abs=1e-6)
    assert own["n"].eq(n_test).all() and own["supervision"].eq("none").all()
    assert own["box_accuracy"].max() > 0.5
    for name, of_method in maps.boxes.groupby("method"):
        assert of_method["threshold"].eq(own.loc[name, "threshold"]).all()
    assert results.audit.summary["check"].tolist() == [
        "pictures",
        "duplicates",
        "captions",
        "outliers",
    ]
    told = " ".join(results.audit.summary["finding"])
    assert "class" not in told and "label" not in told and "split" not in told


def test_each_heat_map_is_shown_with_the_box_of_its_own_method(analysed):
    results, _ = analysed
    made = results.set_maps
    corners = made.boxes.set_index(["row", "method"]).sort_index()[CORNERS]
    figure = set_maps(results, Options()).figures["examples"].draw()
    shape = (len(made.examples.rows), 1 + len(made.examples.neurons))
    panels = np.reshape(figure.axes[: shape[0] * shape[1]], shape)  # without the colour bar
    titles = [panel.get_title().replace("\n", " ") for panel in panels[0][1:]]
    assert titles == [
        "sum of all maps",
        "first component per picture",
        "first component of the set",
    ]
    for row, line in zip(made.examples.rows, panels, strict=True):
        for (method, _), panel in zip(made.examples.neurons, line[1:], strict=True):
            drawn = panel.patches[-1].get_bbox().extents
            np.testing.assert_allclose(drawn, corners.loc[(row, method)])
    assert corners.groupby("row").nunique().max(axis=None) > 1  # methods differ


def test_without_boxes_nothing_is_scored_and_thresholds_are_fixed(tmp_path):
    folder = write_pictures(tmp_path / "pictures", 12)
    (folder / "boxes.csv").unlink()
    images, boxes, _ = index_images(folder)
    with extract_maps(images, FakeBackbone(), tmp_path / "maps.h5", boxes=boxes) as store:
        results = analyse(store)
    assert results.set_maps.table.empty and results.set_maps.boxes["threshold"].eq(0.2).all()
    assert results.clusters is None  # too few


@pytest.mark.parametrize("k", [2, 4])
def test_the_number_of_clusters_is_the_one_of_the_largest_silhouette(k):
    rng = np.random.default_rng(1)
    truth = np.repeat(np.arange(k), [30 + 5 * j for j in range(k)][::-1])
    centres = np.eye(8)[:k] * 5 + 1
    codes, distance, choice = cluster_images(centres[truth] + rng.normal(0, 0.2, (len(truth), 8)))
    assert choice.loc[choice["silhouette"].idxmax(), "clusters"] == k
    np.testing.assert_array_equal(codes, truth)  # the largest cluster is 0
    assert (distance >= 0).all() and len(distance) == len(truth)


def test_too_few_or_equal_images_are_not_clustered():
    with pytest.raises(FeatlabError, match="at least 20 images to cluster, got 19"):
        cluster_images(np.random.default_rng(0).random((19, 3)))
    with pytest.raises(FeatlabError, match="all alike"):
        cluster_images(np.ones((30, 3)))


def test_a_split_of_a_set_without_labels_keeps_groups_whole():
    images = pd.DataFrame({"path": [f"{i}.png" for i in range(40)], "label": ""})
    images["group"] = [f"g{i // 2}" for i in range(40)]
    split = make_split(images)
    assert set(split) == {"train", "confirm", "test"}
    assert split.groupby(images["group"]).nunique().eq(1).all()
    with pytest.raises(FeatlabError, match="missing labels"):
        make_split(images.assign(label=["cat"] * 20 + [""] * 20))


def test_a_stage_that_lacks_something_is_left_out_with_what_rests_on_it():
    def first(x: int) -> int:
        return x + 1

    def needs(labels: str) -> str:
        return labels

    def rests(needed: str, x: int) -> str:
        return needed * x

    stages = [
        Stage("first", first, "a"),
        Stage("needed", needs, "b"),
        Stage("on_it", rests, "b"),
        Stage("first_again", first, "a"),
        Stage("needed", first, "c"),
    ]
    left_out = {"labels": "there are none"}
    made, seconds = run_stages(stages, {"x": 1}, left_out)
    assert made == {"first": 2, "first_again": 2, "needed": 2} and set(seconds) == {"a", "c"}
    assert left_out == {"labels": "there are none", "on_it": "there are none"}
