"""Several stores side by side: same images or refused, chosen on confirm, compared on test."""

from __future__ import annotations

import dataclasses
import pickle
import re

import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone
from sklearn.metrics import log_loss
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from test_pipeline import write_pictures
from test_report import text_of
from test_reprs import read as shown_text
from typer.testing import CliRunner

from featlab import FeatlabError, features, heads, plots, report, splits
from featlab.arguments import feature_columns
from featlab.cli import app
from featlab.extract import extract_maps
from featlab.images import index_images
from featlab.pipeline import compare_stores
from featlab.pipeline.stores import entries_of
from featlab.report._comparison import SECTIONS
from featlab.report._interactive import PAGE_BYTES
from featlab.results.localisation import WITHOUT_BOXES
from featlab.store import MapStore


class NoisyBackbone(FakeBackbone):
    """Maps that know nothing of the picture but a little of its first pixel."""

    def _maps(self, pixels):
        maps = super()._maps(pixels)
        seeds = pixels.astype(np.int64).sum(axis=(1, 2, 3))
        noise = [np.random.default_rng(seed).random((7, 7, 10), np.float32) for seed in seeds]
        return dict.fromkeys(maps, np.stack(noise))


def make_store(folder, path, backbone, **options):
    images, boxes, _ = index_images(folder, **options)
    return extract_maps(images, backbone, path, boxes=boxes)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    write_pictures(folder / "pictures")
    return folder


@pytest.fixture(scope="module")
def stores(base):
    backbones = {
        "two": FakeBackbone(layers=("low", "high")),
        "large": FakeBackbone(size=112),
        "noise": NoisyBackbone(),
    }
    opened = [
        make_store(base / "pictures", base / f"{name}.h5", backbone)
        for name, backbone in backbones.items()
    ]
    yield opened
    for store in opened:
        store.close()


@pytest.fixture(scope="module")
def found(stores):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("featlab.localise.fitting._DRAWS", 2)
        return compare_stores(stores, names=["two", "large", "noise"], command="featlab compare")


def test_every_layer_is_an_entry_with_its_own_facts(found, stores):
    entries = found.entries.set_index("name")
    assert list(entries.index) == ["two, low", "two, high", "large", "noise"]
    assert entries["neurons"].tolist() == [10, 10, 10, 10]
    assert entries["dead"].tolist() == [1, 1, 1, 0]
    assert entries["input_size"].tolist() == ["56 x 56", "56 x 56", "112 x 112", "56 x 56"]
    assert entries["megabytes"].iloc[2] == stores[1].path.stat().st_size / 1e6
    top = stores[1].pooled(pooling="max")
    assert entries.loc["large", "active_share"] == np.mean(top > 0) == pytest.approx(0.9)


def test_likeness_and_boxes_from_boxes_stand_beside_the_rest(found):
    pairs = found.likeness.set_index(["a", "b"])["cka"]
    assert len(pairs) == 6
    assert pairs["two, low", "large"] > 0.5 > pairs["large", "noise"]
    learnt = found.localisation[found.localisation["method"] == "cell_boxes"]
    by_entry = learnt.set_index("entry")["box_accuracy"]
    entries = found.entries.set_index("name")
    assert (entries["trained_box_accuracy"] == by_entry).all()
    assert "cell_boxes" not in set(entries["method"]) | {found.shared_method}


def test_heads_are_those_that_each_store_gets_by_itself(found, stores):
    split = splits.make_split(stores[0].images, random_state=0)
    assert found.split.tolist() == split.tolist()
    labels, losses = stores[0].images["label"], {}
    for name, store, layer in [("two, low", stores[0], "low"), ("noise", stores[2], "last")]:
        X = features.feature_table(store, layer=layer)
        alone = heads.evaluate_heads(X, labels, split, heads=["logistic"])
        row = found.entries.set_index("name").loc[name]
        scored = alone.table.set_index("head").loc["logistic"]
        for column in ("n", "accuracy", "accuracy_low", "accuracy_high"):
            assert row[column] == scored[column]
        confirm = split == "confirm"
        probability = alone.models["logistic"].predict_proba(X[confirm].to_numpy())
        losses[name] = log_loss(labels[confirm], probability)
        assert row["log_loss_confirm"] == pytest.approx(losses[name], rel=1e-9)
        predicted = alone.models["logistic"].predict(X[confirm].to_numpy())
        assert row["accuracy_confirm"] == np.mean(predicted == labels[confirm])
    assert losses["two, low"] < losses["noise"]


def test_the_best_is_chosen_on_confirm_and_its_lead_tested_on_test(found):
    entries = found.entries
    order = entries.sort_values(["accuracy_confirm", "log_loss_confirm"], ascending=[False, True])
    assert found.best_head == order["name"].iloc[0] != "noise"
    assert found.best_boxes == entries.loc[entries["box_accuracy_confirm"].idxmax(), "name"]
    for pairs, leader in ((found.head_pairs, found.best_head), (found.box_pairs, found.best_boxes)):
        assert set(pairs["a"]) == {leader}
        assert set(pairs["b"]) == set(entries["name"]) - {leader}
        table = [[[0, row["only_a"]], [row["only_b"], 0]] for _, row in pairs.iterrows()]
        p = [min(mcnemar(t, exact=t[0][1] + t[1][0] < 25).pvalue, 1) for t in table]
        assert pairs["p"].tolist() == pytest.approx(p)
        assert pairs["p_adjusted"].tolist() == pytest.approx(multipletests(p, method="holm")[1])
        assert (pairs["difference_low"] <= pairs["difference"]).all()
        assert (pairs["difference"] <= pairs["difference_high"]).all()


def test_noise_is_clearly_behind(found):
    pairs = found.head_pairs.set_index("b")
    assert pairs.loc["noise", "difference"] > 0.2
    assert pairs.loc["noise", "p_adjusted"] < 0.01
    assert (pairs.drop("noise")["p_adjusted"] > 0.2).all()
    entries = found.entries.set_index("name")
    assert entries.loc["noise", "confirmed"] == 0
    assert np.isnan(entries.loc["noise", "auroc_confirmed"])
    assert (entries.drop("noise")["confirmed"] > 0).all()


def test_the_lead_in_boxes_is_the_mean_over_the_same_images(found):
    entries = found.entries.set_index("name")
    best = entries.loc[found.best_boxes]
    for _, row in found.box_pairs.iterrows():
        other = entries.loc[row["b"]]
        gap = best["box_accuracy"] - other["box_accuracy"]
        assert row["difference"] == pytest.approx(gap)
        assert row["iou_difference"] == pytest.approx(best["mean_iou"] - other["mean_iou"])
        assert row["iou_difference_low"] <= row["iou_difference"] <= row["iou_difference_high"]
    methods = found.localisation.set_index(["entry", "method"])
    for name, row in entries.iterrows():
        ours = methods.loc[name]
        ours = ours[ours["supervision"].isin(WITHOUT_BOXES) & ~ours["baseline"]]
        assert row["method"] == ours["box_accuracy_confirm"].idxmax()


def test_detectors_are_one_family_over_all_entries(found, stores):
    from featlab import neurons

    labels = stores[0].images["label"]
    train = (found.split == "train").to_numpy()
    tables = []
    for name, store, layer in zip(
        found.entries["name"],
        [stores[0], *stores],
        ["low", "high", "last", "last"],
        strict=True,
    ):
        X = features.feature_table(store, layer=layer)[train]
        tables.append(X.set_axis(feature_columns(name, "mean", X.shape[1]), axis=1))
    ranked = neurons.rank_neurons(tables, labels[train])
    both = found.detectors.merge(ranked, on=["layer", "class", "neuron"], suffixes=("", "_again"))
    assert len(both) == len(found.detectors) == found.entries["selected"].sum() > 0
    assert both["p_adjusted"].tolist() == pytest.approx(both["p_adjusted_again"].tolist())


@pytest.mark.slow
def test_a_store_beside_itself_differs_in_nothing(base, stores, blank_figures):
    copy = base / "copy.h5"
    copy.write_bytes(stores[1].path.read_bytes())
    with MapStore(copy) as again:
        same = compare_stores([stores[1], again])
    files = [f"fake, {base.name}/{name}.h5" for name in ("large", "copy")]
    assert same.entries["name"].tolist() == files
    for pairs in (same.head_pairs, same.box_pairs):
        assert pairs["difference"].tolist() == [0]
        assert pairs["p_adjusted"].tolist() == [1]
    ends = same.box_pairs[["iou_difference_low", "iou_difference_high"]]
    # No image tells them apart; how an unseen one would is not known.
    assert ends["iou_difference_low"].item() == pytest.approx(-ends["iou_difference_high"].item())
    assert 0 < ends["iou_difference_high"].item() < 0.2
    page = report.write_comparison(same, base / "same" / "compare.html").read_text("utf-8")
    assert page.count("No difference is shown:") == 2
    assert "it is clearly ahead" not in page


def test_names_tell_the_fewest_things_that_differ(stores):
    def names(some, layers=None):
        return [entry.name for entry in entries_of(some, None, layers)]

    assert names(stores[:2], ["high", "last"]) == ["fake, 56 px", "fake, 112 px"]
    assert names(stores[:1]) == ["fake, low", "fake, high"]
    assert names(stores[:2]) == ["fake, low", "fake, high", "fake, last"]


def test_entries_are_layers_and_names_must_fit(stores):
    with pytest.raises(FeatlabError, match="at least two stores, or one with two layers"):
        compare_stores(stores[:1], layers=["low"], copies="split")
    with pytest.raises(FeatlabError, match="from those stored, low, high; got 'deep'"):
        compare_stores(stores[:1], layers=["deep"], copies="split")
    with pytest.raises(FeatlabError, match="one for each of the 2 stores, got 1: a"):
        compare_stores(stores[:2], names=["a"], copies="split")
    with pytest.raises(FeatlabError, match="must be distinct, got 'a' twice"):
        compare_stores(stores[1:], names=["a", "a"], copies="split")
    with pytest.raises(FeatlabError, match="must be distinct, got 'fake, .*large.h5' twice"):
        compare_stores([stores[1]] * 2, copies="split")
    with pytest.raises(FeatlabError, match="at least two stores, .*got none"):
        compare_stores([])


def without(pictures, *paths):
    """The folder without some pictures and their boxes."""
    boxes = pd.read_csv(pictures / "boxes.csv")
    boxes[~boxes["image"].isin(paths)].to_csv(pictures / "boxes.csv", index=False)
    for path in paths:
        (pictures / path).unlink()
    return pictures


def test_stores_of_other_images_are_refused_and_the_difference_named(base, stores, tmp_path):
    pictures = without(write_pictures(tmp_path / "pictures"), "red/00.png", "red/07.png")
    with (
        make_store(pictures, tmp_path / "fewer.h5", FakeBackbone()) as other,
        pytest.raises(
            FeatlabError, match="2 only in .*large.h5 \\(such as 'red/00.png'\\)"
        ) as told,
    ):
        compare_stores([stores[1], other], copies="split")
    assert "fewer.h5" not in str(told.value)
    (pictures / "green/99.png").write_bytes((base / "pictures/red/00.png").read_bytes())
    with (
        make_store(pictures, tmp_path / "both.h5", FakeBackbone()) as other,
        pytest.raises(FeatlabError, match="2 only in .*large.h5.* and 1 only in .*both.h5"),
    ):
        compare_stores([stores[1], other], copies="split")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("images", "the images of .*other.h5 differ .* in row"),
        ("box", "the boxes of .*other.h5 differ .*: xmax .* in row"),
        ("fewer", "the boxes of .*other.h5 differ .*: (\\d+) rows against (?!\\1)"),
    ],
)
def test_the_same_names_with_other_content_are_refused(base, stores, tmp_path, what, words):
    pictures = write_pictures(tmp_path / "pictures")
    if what == "images":
        (pictures / "red/00.png").write_bytes((pictures / "red/01.png").read_bytes())
    else:
        boxes = pd.read_csv(pictures / "boxes.csv")
        boxes.loc[3, "xmax"] -= 1
        boxes = boxes.iloc[1:] if what == "fewer" else boxes
        boxes.to_csv(pictures / "boxes.csv", index=False)
    with (
        make_store(pictures, tmp_path / "other.h5", FakeBackbone()) as other,
        pytest.raises(FeatlabError, match=words),
    ):
        compare_stores([stores[1], other], copies="split")


@pytest.mark.slow
def test_without_boxes_the_rest_is_told(base, tmp_path, blank_figures):
    pictures = write_pictures(tmp_path / "pictures")
    (pictures / "boxes.csv").unlink()
    with make_store(pictures, tmp_path / "a.h5", FakeBackbone(layers=("low", "high"))) as store:
        found = compare_stores([store])
    assert found.best_boxes == "" and found.method_examples is None and found.box_pairs.empty
    page = text_of(report.write_comparison(found, tmp_path / "compare.html").read_text("utf-8"))
    assert "Not measured:" in page and "not measured" not in page
    assert "There are no ground-truth boxes on the test images" in page


@pytest.mark.slow
def test_groups_are_the_unit_of_the_comparison(base, tmp_path):
    options = {"group_from": r"\d\.png"}
    backbone = FakeBackbone(layers=("low", "high"))
    with make_store(base / "pictures", tmp_path / "a.h5", backbone, **options) as store:
        assert len(set(store.images["group"])) == 10
        found = compare_stores([store])
    for pairs in (found.head_pairs, found.box_pairs):
        assert pairs["test"].str.fullmatch(r"sign flips of \d+ groups").all()


HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "=1+1",
    "שלום 🦝" + "n" * 300,
]


@pytest.fixture(scope="module")
def hostile(found):
    """The same comparison under names that mean harm."""
    names = dict(zip(found.entries["name"], HOSTILE, strict=True))

    def renamed(table, *columns):
        return table.assign(**{column: table[column].replace(names) for column in columns})

    method_examples = dataclasses.replace(
        found.method_examples,
        heats={names[k]: v for k, v in found.method_examples.heats.items()},
        predicted_boxes={names[k]: v for k, v in found.method_examples.predicted_boxes.items()},
    )
    return dataclasses.replace(
        found,
        entries=renamed(found.entries, "name").assign(layer=HOSTILE[1], best_class=HOSTILE[0]),
        heads=renamed(found.heads, "backbone"),
        head_pairs=renamed(found.head_pairs, "a", "b"),
        detectors=renamed(found.detectors, "layer"),
        localisation=renamed(found.localisation, "entry"),
        box_pairs=renamed(found.box_pairs, "a", "b"),
        success=renamed(found.success, "method"),
        best_head=names[found.best_head],
        best_boxes=names[found.best_boxes],
        method_examples=method_examples,
        command=HOSTILE[0],
        box_kind=HOSTILE[1],
    )


def test_the_page_answers_in_short_and_holds_its_tables(found, tmp_path):
    path = report.write_comparison(found, tmp_path / "new" / "compare.html")
    page = path.read_text("utf-8")
    assert path.stat().st_size < PAGE_BYTES
    for words in (
        "Which tells the classes apart best?",
        "though not shown to be better than",
        "Which has the most confirmed detectors?",
        "Which localises best?",
        "What does each cost?",
        "Holm over 3 comparisons",
        "the test images were only scored",
        "featlab compare</code>",
    ):
        assert words in page, words
    assert page.count("<figure") == 5
    # Other processes draw them, where there are any.
    figures = [figure for section in SECTIONS for figure in section(found).every_figure()]
    assert len(pickle.loads(pickle.dumps(figures))) == 5
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", page)
    for name in ("compare", "compare_heads", "compare_detectors", "compare_pairs"):
        assert path.with_name(f"{name}.csv").is_file()
        assert path.with_name(f"{name}.parquet").is_file()
    entries = pd.read_parquet(path.with_name("compare.parquet"))
    pd.testing.assert_frame_equal(entries, found.entries)
    with pytest.raises(FeatlabError, match="add compare.html to it"):
        report.write_comparison(found, tmp_path)


def test_names_that_mean_harm_stay_text(hostile, tmp_path):
    page = report.write_comparison(hostile, tmp_path / "compare.html").read_text("utf-8")
    assert page.count("<script") == 2  # the data block and the page's own
    assert "<img src=x" not in page
    assert "n" * 100 in page and f">{'n' * 100}" not in page


def test_a_notebook_shows_the_entries_and_what_is_best(hostile):
    told = shown_text(hostile._repr_html_())
    above, heads, boxes = re.split("(?:Heads|Boxes) against the best", told)
    assert f"Comparison on {len(hostile.images)} images" in above
    for name in hostile.entries["name"]:
        assert name[:20] in above and name in repr(hostile)  # long ones are cut in tables
    for what, best in (("head", hostile.best_head), ("boxes", hostile.best_boxes)):
        assert f"best {what}, chosen on confirm {best[:20]}" in above
    for shown, pairs in ((heads, hostile.head_pairs), (boxes, hostile.box_pairs)):
        assert all(name[:20] in shown for name in (*pairs["a"], *pairs["b"]))
        assert f"{pairs['difference'].iloc[0]:.3g} " in shown
    without = dataclasses.replace(hostile, best_boxes="", box_pairs=pd.DataFrame())
    assert "best boxes" not in shown_text(without._repr_html_())


def test_the_figures_draw_what_the_tables_say(found):
    ax = plots.detector_aurocs(found.detectors, found.entries["name"].tolist())
    counts = [text.get_text() for text in ax.texts]
    assert counts == [str(n) for n in found.entries["confirmed"]]
    drawn = sum(len(dots.get_offsets()) for dots in ax.collections)
    assert drawn == len(found.detectors)
    # Of all selected: the median of those alone that the value confirmed is flattered by that.
    medians = found.detectors.groupby("layer")["auroc_confirmed"].median()
    bars = [line.get_xdata()[0] for line in ax.lines if line.get_linewidth() == 2]
    assert bars == [medians[name] for name in found.entries["name"] if name in medians]
    table = found.detectors.assign(auroc_confirmed=np.linspace(0.6, 0.9, len(found.detectors)))
    table = table.assign(layer="a", confirmed=table.index == table.index[-1])
    (bar,) = (line for line in plots.detector_aurocs(table, ["a"]).lines)
    assert bar.get_xdata()[0] == pytest.approx(0.75)
    table = found.entries.assign(baseline=False)
    ax = plots.score_intervals(table, "accuracy")
    told = [text.get_text() for text in ax.texts]
    assert told == [f"{value:.2f}" for value in sorted(found.entries["accuracy"])[::-1]]


@pytest.mark.slow
def test_the_command_writes_the_page(stores, tmp_path, blank_figures):
    paths = [str(store.path) for store in stores[:2]]
    options = ["-o", str(tmp_path / "out"), "--names", "small, large", "--layers", "high,last"]
    done = CliRunner().invoke(app, ["compare", *paths, *options])
    assert done.exit_code == 0, done.output
    assert "best head, chosen on the confirm images:" in done.output
    assert (tmp_path / "out" / "compare.html").is_file()
    entries = pd.read_csv(tmp_path / "out" / "compare.csv")
    assert entries["name"].tolist() == ["small", "large"]
