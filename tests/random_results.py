"""Results at random, whose tables agree with each other: whatever a page may have to tell of.

Small sets, one image, sides without images, torn groups, ties, scores of 0 and 1, identical
methods, silent detectors only, empty tables, intervals that are not known.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from fake_results import PROVENANCE
from fake_store import FakeStore
from hypothesis import strategies as st

from featlab.heads import compare_heads
from featlab.pipeline.detectors import box_pairs
from featlab.results.analysis import (
    BoxDetails,
    DetectorDetails,
    HeadDetails,
    HeadResults,
    Results,
    Selection,
    SetOverview,
    SmallestSet,
)
from featlab.results.images import Clusters, OwnClasses, SetMaps
from featlab.results.localisation import BASELINES, BoxHeadResults, FittedMethods, Localisation
from featlab.results.networks import Transfer
from featlab.results.pictures import LIKENESS_COLUMNS, Comparison, Examples, Predictions, Samples

METHODS = {
    "detectors": "image labels",
    "best_detector": "image labels",
    "cam": "image labels",
    "sum": "none",
    "cell_boxes": "boxes",
    "random_neuron": "none",
    "centre_gaussian": "none",
    "mean_box": "none",
}
VERDICTS = [
    *("on the object", "not shown", "not judged", "beside the boxes"),
    "beside the head boxes, on the body boxes",
]
REASONS = ["constant", "too few images", "too few groups", "the test has no p"]
UNITS = ["images", "whole groups", "images within groups", "too few groups"]
SIDES = np.array(["train", "confirm", "test"])


class Maker:
    """Draws of one example, with ties and ends of the scale in plenty."""

    def __init__(self, draw: Any) -> None:
        self.rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        self.grid = draw(st.sampled_from([1, 2, 5, 1000]))

    def chance(self, p: float = 0.5) -> bool:
        return bool(self.rng.random() < p)

    def shares(self, n: int) -> np.ndarray:
        """Numbers of 0 to 1 on a grid, the ends among them."""
        return self.rng.integers(0, self.grid + 1, n) / self.grid

    def whole(self, low: int, high: int) -> int:
        return int(self.rng.integers(low, high + 1))

    def interval(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Around the values, or unknown."""
        low, high = (np.clip(values + sign * self.rng.random(len(values)) / 3, 0, 1)
                     for sign in (-1, 1))  # fmt: skip
        unknown = self.rng.random(len(values)) < (1 if self.chance(0.2) else 0.1)
        return np.where(unknown, np.nan, low), np.where(unknown, np.nan, high)

    def scored(self, name: str, values: np.ndarray) -> dict[str, np.ndarray]:
        low, high = self.interval(values)
        return {name: values, f"{name}_low": low, f"{name}_high": high}


@st.composite
def results(draw: Any) -> Results:
    """A whole analysis."""
    make = Maker(draw)
    store, split = _store(make)
    heads = _heads(make, store, split)
    neurons = _neurons(make, store)
    localisation = _localisation(make, store, split)
    groups = store.images["group"].to_numpy(str)
    pairs = None if localisation is None else box_pairs(localisation, groups, 0)
    box_heads = _box_heads(make) if make.chance() else None
    confirmed = neurons[neurons["confirmed"]]
    return Results(
        store=store,  # type: ignore[arg-type]
        copies="split" if make.chance(0.3) else "together",
        split=split,
        heads=heads,
        neurons=neurons,
        selection=Selection(
            n_tests=len(neurons),
            n_confirm_tests=int(neurons["detector"].sum()),
            unit=str(make.rng.choice(UNITS)),
        ),
        localisation=localisation,
        pointing=_pointing(make, confirmed) if localisation is not None and make.chance() else None,
        units=_units(make, confirmed) if make.chance() else None,
        boxed_test_images=make.whole(0, 50),
        box_kind=_box_kind(make, store.boxes),
        samples=_samples(make) if make.chance() else None,
        detector_details=_details(make, neurons) if make.chance(0.8) else None,
        audit=_audit(make) if make.chance() else None,  # type: ignore[arg-type]
        head_details=_head_details(make, heads, len(store.classes)) if make.chance(0.8) else None,
        box_details=None
        if pairs is None
        else BoxDetails(_statistics(make), box_heads, pairs, _box_curve(make, localisation)),
        box_regression=_regression(make) if make.chance() else None,
        set_overview=_glance(make, store, split) if make.chance() else None,
        gradients=_gradients(make) if make.chance(0.3) else None,  # type: ignore[arg-type]
        transfer=_transfer(make) if make.chance(0.3) else None,
        cards=_cards(make, len(store)),  # type: ignore[arg-type]
        own=_own(make, store) if make.chance() else None,
        predictions=_predictions(make, truth=True) if make.chance() else None,
        clusters=_clusters(make, store) if make.chance() else None,
        set_maps=_set_maps(make, store) if make.chance() else None,
        showcase=_showcase(make, store, split) if make.chance() else None,
    )


def _regression(make: Maker) -> BoxHeadResults:
    """Box heads with boxes of images held out, if any."""
    heads = make.rng.permutation(["cascade", "ridge_pca", "pls"])
    held = pd.DataFrame({"head": heads.repeat(2), "iou": make.shares(6)})
    table = pd.DataFrame({"head": heads, "n": 1})
    return BoxHeadResults(table, table, {}, held=held if make.chance(0.7) else held.iloc[:0])


def _showcase(make: Maker, store: FakeStore, split: pd.Series) -> Examples | None:
    """A test picture of some classes, and perhaps one more that went wrong."""
    classes = sorted(set(store.images["label"][split == "test"]))[:6]
    if not classes:
        return None
    labels = classes + ([str(make.rng.choice(classes))] if make.chance() else [])
    called = [name if make.chance() else str(make.rng.choice(classes)) for name in labels]
    n, box = len(labels), np.array([[1.0, 2.0, 3.0, 4.0]])
    return Examples(
        rows=list(range(n)),
        pictures=[None if make.chance(0.1) else np.zeros((4, 4, 3), np.uint8) for _ in labels],
        neurons=[(name, 3) for name in classes if make.chance(0.8)],
        heats=[np.zeros((1, 4, 4))] * n,
        true_boxes=[box if make.chance() else box[:0] for _ in labels],
        labels=labels,
        predicted_boxes=[box[0] if make.chance() else None for _ in labels],
        predicted_labels=called,
        ious=[0.4 if make.chance() else np.nan for _ in labels],
    )


def _clusters(make: Maker, store: FakeStore) -> Clusters:
    """Clusters of the images, the largest first."""
    codes = np.sort(make.rng.integers(0, 4, len(store)))
    sizes = pd.Series(codes).value_counts()
    names = {code: f"cluster {k}" for k, code in enumerate(sizes.index, start=1)}
    images = pd.DataFrame({"row": range(len(store)), "path": store.images["path"]})
    images["cluster"] = [names[code] for code in codes]
    table = pd.DataFrame({"cluster": [*names.values()], "n": sizes.to_numpy(), "typical": "a|b"})
    choice = pd.DataFrame({"clusters": [2, 3, 4], "silhouette": 2 * make.shares(3) - 1})
    neurons = pd.DataFrame({"cluster": ["cluster 1"], "layer": "top", "neuron": 0, "auroc": 1.0})
    return Clusters(table, images, choice, neurons, SimpleNamespace(), {})  # type: ignore[arg-type]


def _set_maps(make: Maker, store: FakeStore) -> SetMaps:
    """Boxes of every image, scored or not."""
    boxes = pd.DataFrame({"row": range(len(store)), "method": "sum", "xmin": 0.0})
    boxes["xmax"] = make.rng.choice([0.0, 9.0], len(store)) if make.chance() else 9.0
    table = pd.DataFrame()
    if make.chance():
        table = pd.DataFrame({"method": ["sum", "ddt", "mean_box"], "n": make.whole(1, 90)})
        table["baseline"] = table["method"] == "mean_box"
        table["box_accuracy_confirm"] = make.shares(3)
        for name, values in make.scored("box_accuracy", make.shares(3)).items():
            table[name] = values
    return SetMaps(boxes, table, SimpleNamespace())  # type: ignore[arg-type]


def _own(make: Maker, store: FakeStore) -> OwnClasses:
    """What a network calls the pictures; its sets have ties."""
    called = make.rng.choice(["a <b>c", "banana", "wallaby"], len(store))
    first = pd.DataFrame(
        {"row": range(len(store)), "path": store.images["path"], "label": store.images["label"],
         "rank": 1, "own_class": called, "own_probability": make.shares(len(store))}
    )  # fmt: skip
    parts = [("", first), *first.groupby("label")]
    counts = []
    for label, some in parts:
        sizes = some["own_class"].value_counts()
        table = pd.DataFrame({"label": label, "n": len(some), "own_class": sizes.index,
                              "images": sizes.to_numpy()})  # fmt: skip
        table["share"] = table["images"] / len(some)
        for name, values in make.scored("share", table["share"].to_numpy()).items():
            table[name] = values
        counts.append(table.assign(own_probability=0.5))
    return OwnClasses(1000, first, pd.concat(counts, ignore_index=True), None)


@st.composite
def predictions(draw: Any) -> Predictions:
    """What was asked, of which nobody knows the truth."""
    return _predictions(Maker(draw), truth=False)


def _predictions(make: Maker, *, truth: bool) -> Predictions:
    n, classes = make.whole(0 if truth else 1, 30), ["a", "b", "<b>"]
    table = pd.DataFrame({"path": [f"{k}.jpg" for k in range(n)], "width": 9, "height": 9})
    table["class"] = make.rng.choice(classes, n)
    table["set"] = [table["class"][k] + ("|a" if make.chance(0.3) else "") for k in range(n)]
    table["probability"], table["typicality"] = make.shares(n), make.shares(n) / make.whole(1, 30)
    table[["xmin", "ymin", "xmax", "ymax"]] = [1.0, 2.0, 8.0, 7.0]
    if truth:
        table["label"], table["iou"] = make.rng.choice(classes, n), make.shares(n)
        table.loc[make.rng.random(n) < make.shares(1)[0], "iou"] = np.nan
    shown = np.flatnonzero(make.rng.random(n) < make.whole(0, 2) / 2)
    return Predictions(table, classes, "sum", 0.9, {int(row): b"" for row in shown}, {},
                       make.whole(0, 40), refitted=make.whole(0, 2), untuned=make.chance(),
                       informative=make.chance())  # fmt: skip


def _store(make: Maker) -> tuple[FakeStore, pd.Series]:
    n, k = make.whole(1, 40), make.whole(1, 9)
    labels = np.array([f"class {i % k}" for i in range(n)])
    side = make.whole(1, 3)
    groups = {
        1: np.full(n, ""),
        2: np.array([f"g{i}" for i in range(n)]),
        3: np.array([f"g{i % make.whole(1, 4)}" for i in range(n)]),
    }[side]
    images = pd.DataFrame(
        {
            "path": [f"{i}.jpg" for i in range(n)], "label": labels, "group": groups,
            "width": make.rng.integers(9, 9 + make.grid, n),
            "height": make.rng.integers(9, 9 + make.grid, n),
        }
    )  # fmt: skip
    images["folder"] = "/pictures"
    boxed = np.flatnonzero(make.rng.random(n) < make.shares(1)[0])
    kinds = make.rng.choice(["head", "a <b>"], len(boxed)) if make.chance() else "whole"
    boxes = pd.DataFrame({"image": boxed, "kind": kinds, "label": labels[boxed]})
    boxes = boxes.assign(xmin=0.0, ymin=0.0, xmax=5.0, ymax=5.0)
    known = PROVENANCE | ({"weights": "random"} if make.chance(0.2) else {})
    known |= {"indexed": '{"copies": 7}'} if make.chance(0.2) else {}
    maps = np.zeros((n, 3, 4, 5), np.float32)
    store = FakeStore(images, boxes, maps, provenance=known)
    sides = SIDES[make.rng.choice(3, n, p=make.rng.dirichlet(np.ones(3)))]
    if side == 3 and make.chance():  # whole groups on one side
        of_group = dict(zip(np.unique(groups), make.rng.choice(SIDES, n), strict=False))
        sides = np.array([of_group[group] for group in groups])
    return store, pd.Series(sides, name="split")


def _box_kind(make: Maker, boxes: pd.DataFrame) -> str | None:
    """One of those that there are; of several it is always asked for."""
    kinds = boxes["kind"].unique()
    return str(make.rng.choice(kinds)) if len(kinds) > make.chance() else None


def _heads(make: Maker, store: FakeStore, split: pd.Series) -> HeadResults:
    test = np.flatnonzero(split == "test")
    labels = store.images["label"].to_numpy(str)[test]
    names = ["dummy", "colour_histogram", "logistic", "mlp"]
    names = [name for name in names if make.chance(0.85)] or ["logistic"]
    predictions = []
    for name in names:
        right = make.rng.random(len(test)) < make.shares(1)[0]
        predicted = np.where(right, labels, "another")
        predictions.append(
            pd.DataFrame(
                {
                    "head": name, "row": test, "label": labels, "predicted": predicted,
                    "correct": predicted == labels,
                }
            )
        )  # fmt: skip
    every = pd.concat(predictions, ignore_index=True)
    accuracy = np.array([rows["correct"].mean() if len(rows) else np.nan for rows in predictions])
    table = pd.DataFrame({"head": names, "n": len(test), **make.scored("accuracy", accuracy)})
    folds = ["C=1 (5 folds)", ""][make.whole(0, 1)]
    table = table.assign(
        n_train=int((split == "train").sum()),
        parameters=folds,
        interval=str(
            make.rng.choice(["over images", "over 3 groups", "none: all of one group", ""])
        ),
    )
    codes = store.images["group"].to_numpy(str)[test]
    _, clusters = np.unique(codes, return_inverse=True)
    shared = len(set(codes) - {""}) and len(set(codes)) < len(codes)
    return HeadResults(
        table, every, dict.fromkeys(names), store.classes,  # type: ignore[arg-type]
        clusters if shared else None,
    )  # fmt: skip


def _head_details(make: Maker, heads: HeadResults, n_classes: int) -> HeadDetails:
    scored = len(heads.predictions) and len(heads.models) > 1
    pairs = compare_heads(heads, n_boot=50) if scored else pd.DataFrame()
    sizes = np.unique(make.rng.integers(1, 50, make.whole(1, 4)))
    learning = pd.DataFrame({"size": sizes, "n_repeats": make.rng.integers(1, 3, len(sizes))})
    learning["n_train"] = learning["size"] * n_classes - make.whole(0, 1)
    return HeadDetails("logistic", pairs, None, learning)  # type: ignore[arg-type]


def _neurons(make: Maker, store: FakeStore) -> pd.DataFrame:
    layers, c = [["top"], ["low", "top"]][make.whole(0, 1)], make.whole(1, 6)
    names = store.classes
    table = pd.DataFrame(
        [(layer, "mean", name, j) for layer in layers for name in names for j in range(c)],
        columns=["layer", "pooling", "class", "neuron"],
    )
    n = len(table)
    table["auroc"] = np.where(make.rng.random(n) < 0.1, np.nan, make.shares(n))
    table["p"] = make.rng.random(n)
    _leave_without_p(make, table)
    table["rank"] = np.arange(n)
    table["direction"] = np.where(table["auroc"] < 0.5, "silent", "active")
    if make.chance(0.2):
        table["direction"] = "silent"
    known = table["auroc"].notna()
    table["detector"] = known & (make.rng.random(n) < make.shares(1)[0])
    table["confirmed"] = table["detector"] & (make.rng.random(n) < make.shares(1)[0])
    table["p_confirmed"] = np.where(table["confirmed"], 0.01, 0.5)
    if not table["confirmed"].any() and make.chance():  # nothing could be tested
        table["p_confirmed"] = np.nan
    table["unit"] = str(make.rng.choice(UNITS[:3]))
    few = table["detector"] & ~table["confirmed"] & (make.rng.random(n) < make.whole(0, 1) / 2)
    table["p_confirmed"] = table["p_confirmed"].mask(few)
    table["unit"] = table["unit"].mask(table["p_confirmed"].isna(), "too few groups")
    for name, values in make.scored("auroc_confirmed", make.shares(n)).items():
        table[name] = np.where(table["detector"], values, np.nan)
    if make.chance():
        table["votes_for"] = make.rng.choice(["", "a <b>c|c|d", "wallaby|b|c"], n)
        table["vote_agreement"] = 2 * make.shares(n) - 1
        table["vote_agreement_low"] = table["vote_agreement"] - make.rng.random(n)
        table["vote_agreement_high"] = table["vote_agreement"] + make.rng.random(n)
    for end, wider in (("low", 0.5), ("high", 1.5)):
        table[f"auroc_adjusted_{end}"] = np.where(
            table["confirmed"], wider * table[f"auroc_confirmed_{end}"], np.nan
        ).clip(0, 1)
    return table


def _leave_without_p(make: Maker, table: pd.DataFrame) -> None:
    """No p for dead neurons, nor for some classes and rows, and why."""
    classes = table["class"].unique()
    bare = table["class"].isin(classes[make.rng.random(len(classes)) < make.whole(0, 2) / 4])
    bare |= make.rng.random(len(table)) < make.whole(0, 1) / 5
    table["reason"] = np.where(bare, make.rng.choice(REASONS, len(table)), "")
    table.loc[table["auroc"].isna(), "reason"] = REASONS[0]
    table.loc[table["auroc"].notna() & table["reason"].eq(REASONS[0]), "reason"] = REASONS[1]
    table["p"] = table["p"].mask(table["reason"].ne(""))


def _details(make: Maker, neurons: pd.DataFrame) -> DetectorDetails:
    poolings = pd.DataFrame({"layer": ["top", "top", "low"], "pooling": ["mean", "max", "mean"]})
    poolings = poolings.head(make.whole(1, 3)).assign(median_confirmed=0.8)
    poolings["confirmed"] = make.rng.integers(0, 3, len(poolings))
    confirmed = neurons[neurons["confirmed"] & neurons["direction"].eq("active")]
    clusters = confirmed[["class"]].assign(cluster=make.rng.integers(1, 4, len(confirmed)))
    ablation = None
    if make.chance():
        k = make.whole(1, 9)
        ablation = pd.DataFrame({"mode": "ablate", "kind": ["detectors", "random"], "k": k})
        ablation["accuracy"] = make.shares(2)
    p = make.rng.random(7)
    omnibus = pd.DataFrame({"p": p, "reject": p < 0.3})
    if make.chance():
        omnibus["p"] = np.nan
    return DetectorDetails(
        poolings=poolings,
        confirmation=pd.DataFrame(),
        clusters=clusters if make.chance() else None,
        nulls=pd.DataFrame({"confirmed": make.rng.integers(0, 4, make.whole(0, 4))}),
        ablation=ablation,
        smallest=_smallest(make) if make.chance() else None,
        omnibus=omnibus if make.chance() else None,
    )


def _smallest(make: Maker) -> SmallestSet:
    most = make.whole(1, 39)
    accuracy, every = make.shares(2)
    low, high = make.interval(np.array([accuracy]))
    return SmallestSet(
        list(range(make.whole(1, most))), pd.DataFrame({"k": np.arange(1, most + 1)}),
        float(accuracy), float(low[0]), float(high[0]), float(every), make.whole(1, 30),
    )  # fmt: skip


def _localisation(make: Maker, store: FakeStore, split: pd.Series) -> Localisation | None:
    boxed = np.isin(np.arange(len(store)), store.boxes["image"])
    rows = np.flatnonzero(boxed & (split == "test").to_numpy())
    if not len(rows):
        return None
    methods = {name: kind for name, kind in METHODS.items() if make.chance(0.8)}
    methods = methods or {"cam": "image labels"}
    table, per_image = [], []
    same = make.rng.random(len(rows)) < 0.5
    for name, supervision in methods.items():
        hits = same if make.chance(0.2) else make.rng.random(len(rows)) < make.shares(1)[0]
        hits = hits.astype(float) if name != "random_neuron" else make.rng.random(len(rows))
        row = {"method": name, "supervision": supervision, "baseline": name in BASELINES}
        row |= {"n": len(rows), "threshold": make.shares(1)[0], "box_accuracy": hits.mean()}
        low, high = make.interval(hits[:1] * 0 + hits.mean())
        row |= {"box_accuracy_low": low[0], "box_accuracy_high": high[0], "mean_iou": 0.5}
        row |= {"mean_iou_low": low[0], "mean_iou_high": high[0], "centre_in_box": 0.7}
        row |= {"centre_in_box_low": low[0], "centre_in_box_high": high[0]}
        row |= {"box_accuracy_confirm": make.shares(1)[0], "max_box_acc_v2": make.shares(1)[0]}
        table.append(row)
        per_image.append(pd.DataFrame({"method": name, "row": rows, "hit": hits}))
    scores = pd.DataFrame(table)
    if make.chance(0.2):
        scores["box_accuracy_confirm"] = np.nan
    if make.chance(0.1):
        scores["threshold"] = np.nan
    draws = {(name, "box_accuracy"): make.rng.random(20) for name in methods}
    parameters = {
        "n_groups": make.whole(1, len(rows)),
        "n_effective": float(len(rows)),
        "n_threshold_images": make.whole(0, 9),
        "threshold_from": "train + confirm",
        "threshold_step": [0.01, 0.001][make.whole(0, 1)],
        "classes_without_detectors": ["class 0"] * make.whole(0, 2),
        "left_out": {"mlp_cam": "it is not fitted"} if make.whole(0, 1) else {},
    }
    return Localisation(
        scores, pd.concat(per_image, ignore_index=True), FittedMethods({}, {}),
        draws=pd.DataFrame(draws), parameters=parameters,
    )  # fmt: skip


def _box_heads(make: Maker) -> pd.DataFrame:
    heads = pd.DataFrame({"head": ["cascade", "mean_box"], "baseline": [False, True]})
    scores = make.scored("mean_iou", make.shares(2)) | make.scored("box_accuracy", make.shares(2))
    return heads.assign(**scores, centre_in_box=0.5, n_fit=make.whole(30, 99), n=make.whole(1, 9))


def _box_curve(make: Maker, localisation: Localisation) -> pd.DataFrame | None:
    if make.chance(0.3):
        return None
    k = make.whole(0, 4)
    curve = pd.DataFrame({"method": "cell_boxes", "boxed": 5 * 4 ** np.arange(k)})
    # Of the images that the maps were scored on, or of a sample of them.
    n = localisation.table["n"].max() if make.chance(0.7) else make.whole(1, 100)
    curve = curve.assign(n=n, n_repeats=[3] * (k - 1) + [1] * (k > 0))
    return curve.assign(
        **make.scored("max_box_acc_v2", make.rng.random(k)), max_box_acc_v2_sd=np.nan
    )


def _statistics(make: Maker) -> pd.DataFrame:
    return pd.DataFrame({"area": make.shares(make.whole(1, 6))})


def _units(make: Maker, confirmed: pd.DataFrame) -> pd.DataFrame:
    judged = confirmed.head(make.whole(0, len(confirmed)))  # the leading of each class
    units = judged[["layer", "class", "neuron"]].reset_index(drop=True)
    verdicts = make.rng.choice(VERDICTS, len(units))
    n = make.rng.integers(1, 60, len(units))
    return units.assign(verdict=verdicts, n=n, auroc_inside=make.shares(len(units)))


def _pointing(make: Maker, confirmed: pd.DataFrame) -> pd.DataFrame:
    n = len(confirmed)
    shares = np.where(make.rng.random(n) < 0.2, np.nan, make.shares(n))
    rows = confirmed[["layer", "class", "neuron"]].reset_index(drop=True)
    return rows.assign(n=5, pointing=shares, picture_centre=make.shares(n))


def _samples(make: Maker) -> Samples:
    n = make.whole(0, 3)
    boxes = [np.zeros((make.whole(0, 1), 4)) for _ in range(n)]
    return Samples([None] * n, ["class 0"] * n, boxes)


def _audit(make: Maker) -> SimpleNamespace:
    verdicts = make.rng.choice(["pass", "warn", "fail", "not done"], make.whole(0, 6))
    rows = pd.DataFrame({"check": "a_check", "verdict": verdicts, "finding": "x", "n": 1})
    across = make.rng.random(make.whole(0, 4)) < make.shares(1)[0]
    return SimpleNamespace(summary=rows, duplicates=pd.DataFrame({"across": across}))


def _glance(make: Maker, store: FakeStore, split: pd.Series) -> SetOverview:
    n = len(store)
    table = pd.DataFrame({"chance": make.shares(2), "n": [1, n]})
    separation = SimpleNamespace(
        table=table, k=10, n=n + 1, neighbour_agreement=make.shares(1)[0], silhouette=0.3
    )
    m = make.whole(1, n)
    coordinates = pd.DataFrame({"tsne_1": np.zeros(m)})
    plane: Any = _Plane(coordinates)
    wrong = pd.DataFrame({"row": np.arange(make.whole(0, 3))})
    wrong = wrong.assign(
        share_true=make.shares(len(wrong)), share_predicted=make.shares(len(wrong))
    )
    overview: Any = SimpleNamespace(
        separation=separation, embedding=plane, misclassified=wrong if make.chance(0.8) else None
    )
    plane.parameters = {"n": n}
    return SetOverview(overview, {})


class _Plane:
    perplexity, trustworthiness = 30.0, {"tsne": 0.9}
    parameters: dict[str, int]

    def __init__(self, coordinates: pd.DataFrame) -> None:
        self.coordinates = coordinates

    def __len__(self) -> int:
        return len(self.coordinates)


def _gradients(make: Maker) -> SimpleNamespace:
    names = ["dam_original", "grad_cam", "cam", "centre_gaussian"]
    table = pd.DataFrame({"method": names, "n": 60, "seconds_per_image": 0.1})
    table["supervision"] = ["network", "network", "image labels", "none"]
    table["baseline"] = table["supervision"].eq("none")
    table["class_asked"] = "label"
    for column in ("box_accuracy", "centre_in_box", "picture_centre_in_box"):
        table[column] = make.shares(4)
    table["box_accuracy_confirm"] = np.where(make.chance(), make.shares(4), np.nan)
    kept = table[make.rng.random(4) < 0.8]
    stages = make.whole(1, 4)
    sanity = pd.DataFrame(
        [(rule, stage, *make.rng.normal(size=2)) for rule in ("guided", "plain")
         for stage in range(stages) for _ in range(2)],
        columns=["rule", "stage", "spearman", "spearman_absolute"],
    )  # fmt: skip
    counts = sorted((make.whole(1, 9) for _ in range(make.whole(1, 5))), reverse=True)
    facts = {
        "guided_refused": "" if make.chance() else "there is none.", "n_patched": 7,
        "target": str(make.rng.choice(["own", "label", "model"])), "n_pictures": 7,
        "asked": {f"class {k}": n for k, n in enumerate(counts)},
        "n_scored": 60 if make.chance() else 0,
    }  # fmt: skip
    return SimpleNamespace(localisation=kept, sanity=sanity, facts=facts)


def _transfer(make: Maker) -> Transfer:
    rows = pd.DataFrame({"name": ["frozen", "thawed", "logistic"], "seconds": [9.0, 90.0, 0.5]})
    rows["accuracy"] = make.shares(3)
    rows["difference"] = rows["accuracy"] - rows["accuracy"].iloc[2]
    rows["difference_low"], rows["difference_high"] = -0.2, 0.3
    rows["p"] = np.where(make.chance(0.2), np.nan, make.rng.random(3) ** 4)
    rows.loc[rows["difference"] == 0, "p"] = 1.0
    return Transfer(rows.head(make.whole(1, 3)), pd.DataFrame(), pd.DataFrame())


def _cards(make: Maker, n: int) -> list[SimpleNamespace]:
    def images() -> pd.DataFrame:
        return pd.DataFrame({"row": make.rng.integers(0, n, 2)})

    return [SimpleNamespace(best=images(), worst=images()) for _ in range(make.whole(0, 2))]


@st.composite
def comparisons(draw: Any) -> Comparison:
    """Several stores of the same images."""
    make = Maker(draw)
    store, split = _store(make)
    names = [f"entry {i}" for i in range(make.whole(2, 7))]
    k = len(names)
    entries = pd.DataFrame({"name": names, "store": names, "n": 30, "n_boxes": 20})
    for score in ("accuracy", "box_accuracy"):
        entries = entries.assign(**make.scored(score, make.shares(k)))
        entries[f"{score}_confirm"] = make.shares(k)
    entries["log_loss_confirm"] = make.shares(k)
    entries["confirmed"] = make.rng.integers(0, 3, k)
    entries = entries.assign(neurons=9, method="cam", baseline="mean_box")
    entries["baseline_box_accuracy"], entries["megabytes"] = make.shares(k), make.shares(k) + 1
    entries["seconds_per_1000"] = np.where(make.chance(0.3), np.nan, make.shares(k))
    order = entries.sort_values(
        ["accuracy_confirm", "log_loss_confirm"], ascending=[False, True], kind="stable"
    )
    best_boxes = str(entries.loc[entries["box_accuracy_confirm"].idxmax(), "name"])
    boxes = make.chance()

    def pairs(leader: str) -> pd.DataFrame:
        rows = pd.DataFrame({"a": leader, "b": [name for name in names if name != leader]})
        gaps = 2 * make.shares(k - 1) - 1
        p = np.where(make.rng.random(k - 1) < 0.1, np.nan, make.rng.random(k - 1) ** 4)
        return rows.assign(
            difference=gaps, difference_low=gaps - 0.1, difference_high=gaps + 0.1, p_adjusted=p
        )

    two = make.rng.permutation(names)[:2]
    values = np.where(make.chance(0.8), 1.0, np.nan) * (2 * make.shares(6) - 1)
    alike = pd.DataFrame([[*two, int(make.rng.integers(0, 99)), *values]], columns=LIKENESS_COLUMNS)
    best_head = str(order["name"].iloc[0])
    return Comparison(
        entries=entries, heads=pd.DataFrame(), head_pairs=pairs(best_head),
        detectors=pd.DataFrame(), localisation=pd.DataFrame(), box_pairs=pairs(best_boxes),
        success=pd.DataFrame(), best_head=best_head, best_boxes=best_boxes if boxes else "",
        shared_method="cam", method_examples=None, images=store.images, split=split,
        likeness=alike,
    )  # fmt: skip
