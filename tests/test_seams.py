"""What users' functions do with arguments that do not fit: one sentence, never a guess.

`CALLS` has a call that works for every function of a room's `__all__` that takes something per
image, a number of things, a share, or a name; a function that takes one of these and has no line
there fails here. Then each of its arguments is spoilt in turn.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fake_store import FakeStore

from featlab import FeatlabError, features, heads, localise, neurons
from featlab.arguments import check_same_rows, feature_columns
from featlab.localise.detectors import neuron_pointing
from featlab.pipeline import neuron_card
from featlab.plots.neurons import activation_distributions

N, C = 60, 12
CLASSES = ("cat", "dog")
ROOMS = ("heads", "neurons", "embed", "features", "audit", "boxheads", "localise", "plots")

PER_IMAGE = {"X", "y", "split", "groups", "weights", "colour", "statistics"}
"""Arguments with one entry for each image: what pandas indexes otherwise is refused."""
COUNTS = {
    *(
        "k",
        "most",
        "n_boot",
        "n_repeats",
        "n_outer",
        "n_bins",
        "n_random",
        "n_permutations",
        "n_shuffles",
    ),
    *("threshold", "sizes", "epochs", "columns", "most_classes"),
}
SHARES = {"alpha", "min_auroc", "correlation", "quantile", "perplexity", "learning_rate"}
NAMES = {
    *("head", "heads", "metric", "mode", "class_weight", "test", "correction", "reference"),
    *("direction", "pooling", "layer", "methods", "box_kind", "target", "policy", "loss"),
    *("against", "scores", "a", "b", "score"),
}
BAD = (
    dict.fromkeys(COUNTS, (-1, 1.5, True, "a", [1.5]))
    | dict.fromkeys(SHARES, (-1.0, float("nan"), True, "a", [0.1]))
    | dict.fromkeys(NAMES, (5, "nothing", ["nothing"], {"a": 1}))
    | {"neuron": (-1, C, 1.5, True, "a"), "order": (99, [], ["a"]), "codes": ([0], ["a"], 5)}
)
# What needs pictures, a network or several stores, and is tested in its room.
NOT_HERE = {
    *("audit.duplicates", "boxheads.fit_joint_head", "boxheads.predict_boxes"),
    "boxheads.save_box_head",
    "boxheads.save_joint_model",
    *("heads.compare_backbones", "heads.save_head", "localise.register"),
    *("neurons.to_anndata", "localise.heat_boxes"),
}


@cache
def data() -> dict[str, Any]:
    """Sixty images of two classes in a fake store, and what the rooms make of them."""
    rng = np.random.default_rng(0)
    y = pd.Series(np.tile(CLASSES, N // 2), name="label")
    split = pd.Series(np.repeat(["train", "confirm", "test"], N // 3), name="split")
    maps = rng.random((N, 4, 4, C)).astype(np.float32)
    maps[:, 1:3, 1:3, 0] += 3 * (y == "cat").to_numpy()[:, None, None]
    maps[:, 1:3, 1:3, 1] += 3 * (y == "dog").to_numpy()[:, None, None]
    images = pd.DataFrame({"path": [f"{i}.png" for i in range(N)], "label": y, "split": "",
                           "group": "", "width": 64, "height": 64, "sha256": ""})  # fmt: skip
    boxes = pd.DataFrame({"image": range(N), "kind": "body", "label": y,
                          "xmin": 16.0, "ymin": 16.0, "xmax": 48.0, "ymax": 48.0})  # fmt: skip
    store = FakeStore(images, boxes, maps)
    X = pd.DataFrame(store.pooled(), columns=feature_columns("top", "mean", C))
    train, confirm = split == "train", split == "confirm"
    ranked = neurons.rank_neurons(X[train], y[train])
    table = neurons.confirm_neurons(ranked, X[confirm], y[confirm])
    assert neurons.select_neurons(table)["class"].tolist() == list(CLASSES)
    results = heads.evaluate_heads(X, y, split, heads=["nearest_centroid", "knn"], n_boot=10)
    located = localise.evaluate_localisation(store, split, methods=["sum", "detectors"],
                                             neurons=table)  # fmt: skip
    statistics = pd.DataFrame({"brightness": rng.random(N), "contrast": rng.random(N)})
    return {
        "X": X, "y": y, "split": split, "store": store, "ranked": ranked, "table": table,
        "results": results, "located": located, "statistics": statistics,
        "groups": pd.Series([f"g{i // 2}" for i in range(N)]),
        "weights": pd.Series(np.ones(N)), "colour": pd.DataFrame(rng.random((N, 4))),
        "mask": split == "test", "predictions": results.of("knn"), "boxes": boxes,
        "components": features.principal_components(X, 2), "fitted": located.fitted,
        "detectors": neurons.select_neurons(table), "scores": results.table,
        "tables": {"one": X, "other": 2 * X},
    }  # fmt: skip


def given(*names: str, **others: Any) -> Callable[[], dict[str, Any]]:
    """Keywords of a call that works, from `data` by the names of the arguments, and others."""

    def make() -> dict[str, Any]:
        known = {name: data()[name] for name in names}
        return known | {k: data()[v[1:]] if _is_name(v) else v for k, v in others.items()}

    return make


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("@")


FAST = {"heads": ["nearest_centroid"], "class_weight": None}
CALLS: dict[str, Callable[[], dict[str, Any]]] = {
    "heads.evaluate_heads": given("X", "y", "split", "groups", "colour", n_boot=5, **FAST),
    "heads.cross_validate_heads": given(
        "X", "y", "groups", "colour", n_outer=2, n_repeats=1, **FAST
    ),
    "heads.learning_curve": given(
        "X", "y", "split", "groups", sizes=[3], n_repeats=1, head="nearest_centroid", n_boot=5
    ),
    "heads.ablation_curve": given(
        "X", "y", "split", "groups", order=[0, 1], mode="ablate", n_random=2, n_boot=5
    ),
    "heads.smallest_set": given("X", "y", "split", "groups", order=[0, 1], sizes=[1], n_boot=5),
    "heads.calibration": given("results", head="knn", n_bins=3, n_boot=5),
    "heads.per_class": given("results", head="knn"),
    "heads.compare_heads": given(
        "results", a="knn", b="dummy", metric="accuracy", n_boot=5, random_state=0
    ),
    "neurons.rank_neurons": given(
        "X", "y", "weights", test="welch", correction="holm", alpha=0.05, min_auroc=0.6
    ),
    "neurons.confirm_neurons": given("X", "y", "groups", neurons="@ranked", alpha=0.05,
                                     correction="holm"),
    "neurons.null_selection": given("X", "y", "split", "groups", n_repeats=1),
    "neurons.compare_classes": given("X", "y", "groups", correction="holm", alpha=0.05),
    "neurons.cluster_detectors": given("X", "y", neurons="@table", correlation=0.5),
    "neurons.select_neurons": given(neurons="@table", direction="active", most=2),
    "neurons.softmax_top_k": given("X", "y", k=2),
    "neurons.ranked_images": given(
        "store", neuron=1, rows="@mask", most=2, layer="top", pooling="mean"
    ),
    "embed.nearest_neighbours": given("X", "y", rows="@mask", k=2),
    "embed.representatives": given("X", most=2, rows="@mask"),
    "embed._neighbours.misclassified": given("X", "y", predictions="@predictions", k=2),
    "embed._neighbours.class_separation": given("X", "y", k=2),
    "embed.planes.embed_images": given("X", perplexity=5.0),
    "embed.likeness": given("groups", tables="@tables", most=20, n_shuffles=2),
    "embed.overview": given("X", "y", predictions="@predictions"),
    "features.feature_table": given("store", layer="top", pooling="mean"),
    "features.take_rows": given("X", rows="@mask"),
    "features.principal_components": given("X", k=2),
    "features.component_scores": given("X", rows="@mask", components="@components"),
    "audit._confounds.adjusted_effects": given("X", "y", "statistics", "groups",
                                                detectors="@detectors"),
    "audit._confounds.confounds": given("statistics", "y", "groups", rows="@mask"),
    "audit.label_errors": given("X", "y", "groups"),
    "audit.sets.audit_unlabelled": given("store", box_kind="body"),
    "audit.audit_set": given("store", "split", box_kind="body"),
    "boxheads.evaluate_box_heads": given(
        "store", "split", box_kind="body", heads=["ridge_pca"], target="corners",
        policy="largest", layer="top", n_boot=5,
    ),
    "boxheads.box_statistics": given("store", box_kind="body"),
    "localise.evaluate_localisation": given(
        "store", "split", methods=["sum"], layer="top", box_kind="body"
    ),
    "localise.fitting.fit_methods": given(
        "store", rows="@mask", methods=["sum"], boxes="@boxes", layer="top"
    ),
    "localise.heat_maps": given("store", rows="@mask", fitted="@fitted", methods=["sum"]),
    "localise.compare_methods": given(
        localisation="@located", against="whole_image", scores=["mean_iou"]
    ),
    "localise.unit_localisation": given(
        "store", rows="@mask", neurons="@table", box_kind="body", layer="top", most=2,
        quantile=0.9, n_permutations=3, alpha=0.05,
    ),
    "plots.volcano": given(neurons="@table", alpha=0.05, min_auroc=0.6),
    "plots.score_intervals": given(table="@scores", score="accuracy"),
    "plots.sample_pictures": given(pictures=[np.zeros((8, 8, 3), np.uint8)], captions=["one"]),
    "plots.localisation_examples": given(
        pictures=[np.zeros((8, 8, 3), np.uint8)], heats=[np.eye(2)], true_boxes=[np.zeros((0, 4))],
        predicted_boxes=[None], ious=[0.1],
    ),
    "plots.neurons.selected_vs_confirmed": given(neurons="@table", most=5),
    "plots.neurons.activation_distributions": given("X", "y", neurons="@detectors", most=1),
    "localise.detectors.neuron_pointing": given(
        "store", rows="@mask", neurons="@table", box_kind="body", layer="top", most=2
    ),
}  # fmt: skip


def call(name: str, **changed: Any) -> Any:
    return function(name)(**CALLS[name]() | changed)


def function(name: str) -> Callable[..., Any]:
    module, own = name.rsplit(".", 1)
    return getattr(importlib.import_module(f"featlab.{module}"), own)


def parameters(name: str) -> set[str]:
    return set(inspect.signature(function(name)).parameters)


def test_every_function_with_such_an_argument_has_its_line():
    for room in ROOMS:
        module = importlib.import_module(f"featlab.{room}")
        for own in module.__all__:
            name = f"{room}.{own}"
            if name in NOT_HERE or not inspect.isfunction(getattr(module, own)):
                continue
            asks = parameters(name) & (PER_IMAGE | BAD.keys() | {"rows"})
            assert not asks or name in CALLS, f"{name} takes {sorted(asks)}"


@pytest.mark.parametrize("name", CALLS)
def test_a_count_a_share_or_a_name_that_does_not_fit_is_refused(name):
    for argument in sorted(parameters(name) & BAD.keys()):
        for bad in BAD[argument]:
            with pytest.raises(FeatlabError) as refused:
                call(name, **{argument: bad})
            assert "np." not in str(refused.value), refused.value
            assert argument in str(refused.value), refused.value


@pytest.mark.parametrize("name", [name for name in CALLS if name != "embed.planes.embed_images"])
def test_what_is_indexed_otherwise_is_refused(name):
    """Shuffled, a series goes by position to other images; only its index tells."""
    values = CALLS[name]()
    for argument in sorted(parameters(name) & (PER_IMAGE | {"rows"}) & values.keys()):
        one = values[argument]
        if argument == "X" and not (values.keys() & (PER_IMAGE | {"rows"}) - {"X"}):
            continue  # nothing goes with X
        with pytest.raises(FeatlabError, match="indexed differently"):
            call(name, **{argument: one.sample(frac=1, random_state=1)})


def test_the_order_of_an_array_is_its_own_affair():
    X, y, split = (data()[name] for name in ("X", "y", "split"))
    table = heads.evaluate_heads(X, y.to_numpy(), split.tolist(), n_boot=5, **FAST).table
    order = np.random.default_rng(0).permutation(N)
    moved = heads.evaluate_heads(X.iloc[order], y.iloc[order], split.iloc[order], n_boot=5, **FAST)
    assert moved.table["accuracy"].tolist() == table["accuracy"].tolist()
    check_same_rows(X=X.to_numpy(), y=y[::-1])  # one that has names, and nothing to hold it to
    with pytest.raises(FeatlabError, match="y and split are indexed differently"):
        check_same_rows(X=X.to_numpy(), y=y[::-1], split=split)
    with pytest.raises(FeatlabError, match="y must have one row per image, got 5"):
        check_same_rows(X=X, y=5)
    with pytest.raises(FeatlabError, match="split must have one row per image, got 'split'"):
        check_same_rows(X=X, split="split")
    with pytest.raises(FeatlabError, match="confirmed must be one of None, True, False"):
        neurons.select_neurons(data()["table"], confirmed="yes")


def test_a_mask_of_other_images_is_refused_and_row_numbers_have_no_index():
    store, mask = data()["store"], data()["mask"]
    shuffled = mask.sample(frac=1, random_state=0)
    for read in (store.maps, store.pooled, lambda rows: features.take_rows(data()["X"], rows)):
        with pytest.raises(FeatlabError, match="the table and rows are indexed differently"):
            read(shuffled)
    numbers = pd.Series([5, 3], index=[40, 2])
    np.testing.assert_array_equal(store.pooled(numbers), store.pooled([5, 3]))


def test_classes_asked_for_are_places_among_the_classes():
    store, fitted = data()["store"], data()["located"].fitted
    for codes, words in [
        ([0, 1, 0], "a whole number for each of the 2 rows"),
        ([0.0, 1.0], "a whole number for each of the 2 rows, got float64"),
        ([0, 2], "codes must be from 0 to 1, .* got 2"),
        ([-1, 0], "codes must be from 0 to 1, .* got -1"),
    ]:
        with pytest.raises(FeatlabError, match=words):
            localise.heat_maps(store, [0, 1], fitted, codes=codes)
    own = localise.heat_maps(store, [0, 1], fitted, codes=[0, 1])
    without = localise.heat_maps(store, [0, 1], fitted)
    np.testing.assert_array_equal(own["detectors"], without["detectors"])


# ------------------------------------------------------- methods that have nothing to say


def without_detectors() -> pd.DataFrame:
    return data()["table"].assign(confirmed=False)


def test_methods_without_a_detector_are_left_out_and_it_is_said(caplog):
    store, split = data()["store"], data()["split"]
    bare = localise.evaluate_localisation(
        store, split, methods=["detectors", "best_detector", "sum"], neurons=without_detectors()
    )
    assert bare.table.loc[~bare.table["baseline"], "method"].tolist() == ["sum"]
    reason = "no active detector was confirmed"
    assert bare.parameters["left_out"] == {"detectors": reason, "best_detector": reason}
    assert bare.parameters["classes_without_detectors"] == []
    assert f"Heat maps of detectors are left out: {reason}." in caplog.text
    with pytest.raises(FeatlabError, match=f"'detectors' has no heat maps: {reason}"):
        localise.heat_maps(store, [0], bare.fitted, methods="detectors")
    with pytest.raises(FeatlabError, match=rf"no method has anything to say \(detectors: {reason}"):
        localise.evaluate_localisation(
            store, split, methods="detectors", neurons=without_detectors()
        )


def test_a_neuron_table_of_another_layer_is_refused():
    """Its detectors are other neurons: taken for none, the methods scored 0."""
    store, split, mask = (data()[name] for name in ("store", "split", "mask"))
    for other in ("early", ""):
        table = data()["table"].assign(layer=other)
        for judge in (
            lambda table=table: localise.evaluate_localisation(store, split, neurons=table),
            lambda table=table: localise.unit_localisation(store, mask, table),
            lambda table=table: neuron_pointing(store, mask, table),
        ):
            with pytest.raises(FeatlabError, match=f"the neuron table is of layer '{other}', not"):
                judge()
    for judge in (localise.unit_localisation, neuron_pointing):
        assert judge(store, mask, without_detectors()).empty
        with pytest.raises(FeatlabError, match="layer must be one of top, got 'early'"):
            judge(store, mask, data()["table"], layer="early")


def test_a_figure_of_activations_finds_neurons_by_their_names():
    """A table of some neurons has them at other places."""
    some = data()["X"].iloc[:, [5, 1, 0]]
    rows, detectors = data()["split"] == "confirm", data()["detectors"]
    drawn = activation_distributions(some[rows], data()["y"][rows], detectors)
    whole = activation_distributions(data()["X"][rows], data()["y"][rows], detectors)
    for one, other in zip(drawn.axes, whole.axes, strict=True):
        assert one.get_xlim() == other.get_xlim()
    with pytest.raises(FeatlabError, match="X has no neuron 0"):
        activation_distributions(some[rows].iloc[:, :2], data()["y"][rows], detectors)
    with pytest.raises(FeatlabError, match="the neuron table has layer and pooling"):
        activation_distributions(data()["X"], data()["y"], detectors.assign(pooling="max"))


# --------------------------------------------------------------- one sentence everywhere


def test_a_class_without_train_images_has_one_sentence():
    X, y, split, store = (data()[name] for name in ("X", "y", "split", "store"))
    split = split.mask((split == "train") & (y == "dog"), "confirm")
    sentence = "Class 'dog' has no image in train, so nothing can learn it"
    for refuse in (
        lambda: heads.evaluate_heads(X, y, split, **FAST),
        lambda: heads.learning_curve(X, y, split),
        lambda: neurons.null_selection(X, y, split),
        lambda: localise.evaluate_localisation(store, split, methods="sum"),
    ):
        with pytest.raises(FeatlabError, match=sentence):
            refuse()


def test_a_class_without_a_name_is_refused_everywhere():
    y = data()["y"].replace("dog", "")
    for name in CALLS:
        if "y" in parameters(name):
            with pytest.raises(FeatlabError, match="y holds 30 missing labels"):
                call(name, y=y)


def test_components_are_those_of_finite_values():
    X = data()["X"].to_numpy(copy=True)
    for k in (0, C + 1):
        with pytest.raises(FeatlabError, match=f"k must be from 1 to {C}, got {k}"):
            features.principal_components(X, k)
    X[3, 2] = np.nan
    with pytest.raises(FeatlabError, match="X holds 1 NaN or infinite"):
        features.principal_components(X, 2)
    with pytest.raises(FeatlabError, match="X holds 1 NaN or infinite"):
        features.component_scores(data()["components"], X)
    with pytest.raises(FeatlabError, match=f"the {C} columns that the components were made from"):
        features.component_scores(data()["components"], data()["X"].iloc[:, :5])


def test_a_table_without_rows_confirms_nothing_and_says_so():
    with pytest.raises(FeatlabError, match="the neuron table has no rows; give all that rank"):
        call("neurons.confirm_neurons", neurons=data()["ranked"].iloc[:0])


def test_a_card_of_another_layer_is_refused():
    with pytest.raises(FeatlabError, match="layer must be one of top, got 'early'"):
        neuron_card(data()["store"], 0, data()["table"], layer="early")
    for most in (0, 1.5, True):
        with pytest.raises(FeatlabError, match="most must be"):
            neuron_card(data()["store"], 0, data()["table"], most=most)
    with pytest.raises(FeatlabError, match="no living neuron 839 of layer 'top'"):
        neuron_card(data()["store"], np.int64(839), data()["table"])
