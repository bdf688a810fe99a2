"""Plausible results without a network: planted detectors, made-up scores, small pictures."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from fake_store import FakeStore

from featlab import report
from featlab.report._interactive import small_jpeg
from featlab.results.analysis import (
    BoxDetails,
    Calibration,
    HeadDetails,
    HeadResults,
    Results,
    Selection,
)
from featlab.results.localisation import FittedMethods, Localisation
from featlab.results.pictures import Examples, Predictions, Samples

HOSTILE = [
    "<script>alert(1)</script>",
    "\"quoted\" & 'single'",
    "=HYPERLINK(1)",
    "שלום עולם",
    "🦝",
    "_hidden $a$ $b$",
    "n" * 300,
]


PROVENANCE: dict[str, Any] = {
    "backbone": "efficientnet_lite0",
    "weights": "imagenet",
    "weights_sha256": "ab" * 32,
    "input_size": "224 x 224",
    "preprocessing": "(x - 127) / 128",
    "resize": "stretch",
    "layers": '["top"]',
    "dtype": "float16",
    "description": "efficientnet_lite0 (imagenet weights, 3,413,024 parameters). Input: "
    "224 × 224 px RGB. Output: layer top: 7 × 7 cells of 32 px, 1280 neurons.",
    "version_keras": "3.9.0",
    "version_python": "3.11.2",
    "featlab_version": "0.1.0",
    "probe_top": np.zeros(4),
}


def make_store(classes: list[str], n: int, c: int, *, boxes: bool, seed: int = 0) -> FakeStore:
    """What a report reads of a store: no maps that differ from cell to cell."""
    rng = np.random.default_rng(seed)
    labels = [classes[i % len(classes)] for i in range(n)]
    images = pd.DataFrame(
        {
            "path": [f"{label}/{i:04}.jpg" for i, label in enumerate(labels)],
            "label": labels,
            "split": "",
            "group": "",
            "width": rng.integers(200, 640, n),
            "height": rng.integers(200, 480, n),
            "sha256": "0" * 64,
        }
    )
    images["folder"] = "/data/my pictures"
    skipped = pd.DataFrame({"path": ["a/<b>.jpg"], "reason": ["truncated file"]})
    rows = np.arange(n) if boxes else np.arange(0)
    table = pd.DataFrame(
        {"image": rows, "kind": "whole", "label": images["label"].to_numpy()[rows]}
    )
    table = table.assign(xmin=10.0, ymin=20.0, xmax=90.0, ymax=80.0)
    activations = rng.gamma(1.2, 0.4, (n, c)).astype(np.float32)
    codes = np.array([classes.index(label) for label in labels])
    # Neuron j leans towards class j mod k, less and less; neuron c - 1 is dead.
    lean = 1.6 * np.exp(-np.arange(c) / (0.2 * c))
    match = codes[:, None] == (np.arange(c) % len(classes))[None, :]
    activations += (match * lean * rng.gamma(4, 0.25, (n, c))).astype(np.float32)
    activations[:, -1] = 0
    maps = np.broadcast_to(activations[:, None, None], (n, 7, 7, c))
    return FakeStore(
        images, table, maps, activations=activations, provenance=dict(PROVENANCE), skipped=skipped
    )


def make_curves(methods: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Box accuracy by threshold, and by the IoU that is asked for."""
    deltas, thresholds = np.linspace(0, 1, 21), np.arange(100) / 100
    curves = [
        pd.DataFrame({"method": name, "delta": delta, "threshold": thresholds, "accuracy": 0.5})
        for name in methods
        for delta in (0.3, 0.5, 0.7)
    ]
    success = [
        pd.DataFrame({"method": name, "delta": deltas, "accuracy": 1 - deltas}) for name in methods
    ]
    return pd.concat(curves, ignore_index=True), pd.concat(success, ignore_index=True)


def make_split(n: int, n_classes: int = 2) -> pd.Series:
    """Labels take turns, so every round of ten images of a class has the same sides."""
    sides = ["train", "confirm", "test", *["train"] * 3, "confirm", "test", "train", "test"]
    return pd.Series([sides[i // n_classes % 10] for i in range(n)], name="split")


def make_heads(store: FakeStore, split: pd.Series, seed: int = 0) -> HeadResults:
    rng = np.random.default_rng(seed)
    test = np.flatnonzero(split == "test")
    labels = store.images["label"].to_numpy(str)[test]
    accuracies = {"dummy": 1 / len(store.classes), "colour_histogram": 0.66}
    accuracies |= {"logistic": 0.93, "mlp": 0.91}
    rows, predictions = [], []
    for head, accuracy in accuracies.items():
        row = {"head": head, "n_train": int((split == "train").sum()), "n": len(test)}
        for score in ("accuracy", "balanced_accuracy", "roc_auc"):
            row |= {
                score: accuracy,
                f"{score}_low": accuracy - 0.05,
                f"{score}_high": accuracy + 0.04,
            }
        row["log_loss"] = np.nan if head == "dummy" else accuracy
        rows.append(row | {"parameters": "C = 0.01" if head == "logistic" else ""})
        hit = rng.random(len(test)) < accuracy
        predicted = np.where(hit, labels, rng.permutation(labels))
        predictions.append(
            pd.DataFrame(
                {
                    "head": head,
                    "row": test,
                    "label": labels,
                    "predicted": predicted,
                    "correct": predicted == labels,
                    "probability": 0.9,
                }
            )
        )
    table = pd.DataFrame(rows)
    table.attrs["n_boot"] = 1000
    models: Any = dict.fromkeys(accuracies)
    return HeadResults(table, pd.concat(predictions, ignore_index=True), models, store.classes)


def make_neurons(store: FakeStore, split: pd.Series, *, detectors: bool = True) -> pd.DataFrame:
    from scipy.stats import norm

    labels = store.images["label"].to_numpy(str)
    tables = []
    for name in store.classes:
        columns: dict[str, Any] = {}
        for side, suffix in (("train", ""), ("confirm", "_confirmed")):
            rows = (split == side).to_numpy()
            target = labels[rows] == name
            ranks = pd.DataFrame(store.activations[rows]).rank().to_numpy()
            n, m = int(target.sum()), int((~target).sum())
            area = (ranks[target].sum(axis=0) - n * (n + 1) / 2) / (n * m)
            error = np.sqrt((n + m + 1) / (12 * n * m))
            columns[f"p{suffix}"] = 2 * norm.sf(np.abs(area - 0.5) / error)
            columns[f"auroc{suffix}"] = area
            columns[f"auroc{suffix}_low"] = np.clip(area - 1.5 * error, 0, 1)
            columns[f"auroc{suffix}_high"] = np.clip(area + 1.5 * error, 0, 1)
            columns |= {"n": n, "n_ref": m} if side == "train" else {}
        table = pd.DataFrame(columns)
        table.insert(0, "neuron", np.arange(len(table)))
        table.insert(0, "class", name)
        table.loc[len(table) - 1, ["p", "auroc", "auroc_low", "auroc_high"]] = np.nan
        table["rank"] = table["auroc"].rank(ascending=False, method="first")
        tables.append(table)
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "layer", "top")
    table.insert(1, "pooling", "mean")
    for column in ("mean", "mean_ref", "pts", "pts_ref", "statistic"):
        table[column] = 0.5
    table["reason"] = np.where(table["p"].isna(), "constant", "")
    table["unit"] = "images"
    table["p_adjusted"] = np.clip(table["p"] * len(table) / 10, 0, 1)
    table["effect"] = 2 * table["auroc"] - 1
    table["reject"] = table["p_adjusted"] <= 0.05
    table["detector"] = table["reject"] & (table["auroc"] >= 0.7) & detectors
    table["direction"] = np.where(table["auroc"] < 0.5, "silent", "active")
    confirmed = [column for column in table if column.endswith(("_confirmed", "_low", "_high"))]
    confirmed = [column for column in confirmed if "confirmed" in column]
    table.loc[~table["detector"], confirmed] = np.nan
    table["confirmed"] = table["p_confirmed"] <= 0.05
    for end in ("low", "high"):
        limit = table[f"auroc_confirmed_{end}"]
        table[f"auroc_adjusted_{end}"] = limit.where(table["confirmed"])
    table.attrs = {
        "test": "mannwhitneyu",
        "correction": "fdr_bh",
        "alpha": 0.05,
        "min_auroc": 0.7,
        "n_tests": int(table["p"].notna().sum()),
        "confirm_correction": "fdr_bh",
        "confirm_alpha": 0.05,
        "n_confirm_tests": int(table["detector"].sum()),
    }
    return table


def make_localisation(
    store: FakeStore, split: pd.Series, *, best: float = 0.648, rival: float = 0.51
) -> Localisation:
    rows = np.flatnonzero(split == "test")
    scores = {
        "cam": (best - 0.08, False),
        "detectors": (best, False),
        "sum": (best - 0.02, False),
        "centre_gaussian": (rival, True),
        "whole_image": (rival - 0.2, True),
        "mean_box": (rival - 0.08, True),
    }
    table, per_image = [], []
    for method, (value, baseline) in scores.items():
        row = {"method": method, "baseline": baseline, "n": len(rows)}
        row["supervision"] = "none" if baseline else "image labels"
        row["threshold"] = np.nan if method in ("whole_image", "mean_box") else 0.32
        for score in ("box_accuracy", "mean_iou", "centre_in_box"):
            row |= {score: value, f"{score}_low": value - 0.05, f"{score}_high": value + 0.05}
        row |= {"box_accuracy_oracle": value + 0.01, "threshold_oracle": row["threshold"]}
        row["max_box_acc_v2"] = value
        table.append(row)
        ious = np.random.default_rng(2).beta(4, 3, len(rows))
        labels = store.images["label"].to_numpy(str)[rows]
        per_image.append(
            pd.DataFrame({"method": method, "row": rows, "label": labels, "iou": ious})
        )
    curves, success = make_curves(scores)
    return Localisation(
        pd.DataFrame(table), pd.concat(per_image, ignore_index=True), FittedMethods({}, {}),
        curves, success,
    )  # fmt: skip


def make_head_details(heads: HeadResults) -> HeadDetails:
    scored = heads.table.set_index("head")
    n = int(scored["n"].iloc[0])
    pairs = pd.DataFrame(
        [
            {
                "a": "dummy", "b": "logistic", "n": n, "difference": -0.43,
                "difference_low": -0.5, "difference_high": -0.3, "only_a": 1, "only_b": 44,
                "p": 1e-9, "test": "McNemar, exact", "p_adjusted": 2e-9,
            }
        ]
    )  # fmt: skip
    calibration = pd.DataFrame({"confidence": [0.7, 0.97], "accuracy": [0.6, 0.98], "n": [9, 51]})
    for end, off in (("low", -0.1), ("high", 0.02)):
        calibration[f"accuracy_{end}"] = calibration["accuracy"] + off
    learning = pd.DataFrame({"size": [1, 5, 40], "accuracy": [0.6, 0.8, 0.93]})
    learning = learning.assign(
        head="logistic", n=n, n_train=[2, 10, 80], n_repeats=5,
        accuracy_low=learning["accuracy"] - 0.1,
        accuracy_high=learning["accuracy"] + 0.05,
    )  # fmt: skip
    measured = Calibration(
        calibration, "logistic", n, ece=0.03, ece_chance=0.02, ece_chance_high=0.042,
        brier=0.1, brier_low=0.06, brier_high=0.15,
    )  # fmt: skip
    return HeadDetails("logistic", pairs, measured, learning)


def make_box_laboratory(found: Localisation, *, ahead: float = 0.02) -> BoxDetails:
    """`ahead`: lower limit of the paired difference to the best baseline; sure above 0."""
    rng = np.random.default_rng(5)
    corners = np.sort(rng.random((80, 2, 2)), axis=1)
    sides = corners[:, 1] - corners[:, 0]
    statistics = pd.DataFrame(
        {
            "image": np.arange(80), "label": "x", "kind": "whole",
            "x": corners[:, :, 0].mean(axis=1), "y": corners[:, :, 1].mean(axis=1),
            "width": sides[:, 0], "height": sides[:, 1], "area": sides.prod(axis=1),
            "aspect": sides[:, 0] / sides[:, 1], "on_border": False, "boxes_in_image": 1,
            "largest": True,
        }
    )  # fmt: skip
    heads = pd.DataFrame({"head": ["cascade", "mean_box"], "baseline": [False, True]})
    for score in ("mean_iou", "box_accuracy", "box_accuracy_70", "centre_in_box"):
        heads = heads.assign(
            **{score: [0.7, 0.4], f"{score}_low": [0.6, 0.3], f"{score}_high": [0.8, 0.5]}
        )
    heads = heads.assign(n_fit=120, n=60, seconds=[3.0, 0.0])
    scored = found.table.set_index("method")["box_accuracy"]
    rival = scored["centre_gaussian"]
    methods = [name for name in scored.index if name != "centre_gaussian"]
    pairs = pd.DataFrame({"method": methods, "value": scored[methods].to_numpy()}).assign(
        score="box_accuracy", against="centre_gaussian", value_against=rival
    )
    pairs["difference"] = pairs["value"] - rival
    pairs["difference_low"], pairs["difference_high"] = ahead, ahead + 0.25
    pairs = pairs.assign(only_method=9, only_against=1, test="McNemar, exact")
    pairs["p_adjusted"] = 0.004 if ahead > 0 else 0.2
    return BoxDetails(statistics, heads, pairs, make_box_curve())


def make_box_curve() -> pd.DataFrame:
    """V2 of 5, 20 and 60 boxed train images."""
    curve = pd.DataFrame({"boxed": [5, 20, 60], "max_box_acc_v2": [0.3, 0.55, 0.7]})
    return curve.assign(
        method="cell_boxes", n=60, n_repeats=[3, 3, 1],
        max_box_acc_v2_low=curve["max_box_acc_v2"] - 0.1,
        max_box_acc_v2_high=curve["max_box_acc_v2"] + 0.1,
        max_box_acc_v2_sd=[0.05, 0.02, np.nan],
    )  # fmt: skip


def make_units(detectors: pd.DataFrame) -> pd.DataFrame:
    verdicts = np.resize(["on the object", "not shown", "beside the boxes"], len(detectors))
    return detectors[["layer", "class", "neuron"]].assign(
        n=60, auroc_inside=0.8, auroc_inside_low=0.75, auroc_inside_high=0.85, p_inside=0.037,
        iou=0.3, iou_chance=0.2, p=0.001, p_adjusted=0.01, verdict=verdicts,
    )  # fmt: skip


def make_picture(seed: int = 0, width: int = 120, height: int = 90) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    picture = np.stack([x * 255 / width, y * 255 / height, np.full(x.shape, 90)], axis=-1)
    picture[30:60, 40:80] = rng.integers(0, 255, 3)
    return picture.astype(np.uint8)


def make_examples(labels: list[str], neurons: list[tuple[str, int]], n: int = 6) -> Examples:
    rng = np.random.default_rng(3)
    shown = [labels[i % len(labels)] for i in range(n)]
    return Examples(
        rows=list(range(n)),
        pictures=[make_picture(i) if i != 1 else None for i in range(n)],
        neurons=neurons,
        heats=[rng.random((len(neurons), 7, 7)) for _ in range(n)],
        true_boxes=[np.array([[40.0, 30.0, 80.0, 60.0]]) for _ in range(n)],
        labels=shown,
        predicted_boxes=[np.array([35.0, 25.0, 85.0, 66.0])] * (n - 1) + [None],
        predicted_labels=[shown[0], *shown[1:]][::-1],
        ious=list(np.linspace(0.9, 0.1, n)),
    )


def make_predictions(store: FakeStore, split: pd.Series) -> Predictions:
    """Of the test images; every fifth is taken for another class, every fourth box is off."""
    table = store.images[split.to_numpy() == "test"].reset_index(drop=True)
    n, classes = len(table), store.classes
    code = [classes.index(label) for label in table["label"]]
    own = [classes[(k + (i % 5 == 4)) % len(classes)] for i, k in enumerate(code)]
    table = table.assign(**{"class": own}, width=120, height=90, probability=0.9, typicality=0.5)
    table["set"] = [f"{name}|{classes[0]}" if i % 3 == 2 else name for i, name in enumerate(own)]
    table.loc[::7, "typicality"] = 0.01
    table[["xmin", "ymin", "xmax", "ymax"]] = [30.0, 20.0, 90.0, 70.0]
    table["iou"] = np.where(np.arange(n) % 4 == 3, 0.3, 0.8)
    shown = range(min(n, 12))
    truth = {row: np.array([[40.0, 30.0, 80.0, 60.0]]) for row in shown}
    pictures = {row: small_jpeg(make_picture(row), 256, 80) for row in shown}
    return Predictions(table, classes, "cascade", 0.9, pictures, truth, 99)


def make_results(
    classes: list[str] | None = None,
    *,
    n: int = 200,
    c: int = 64,
    boxes: bool = True,
    detectors: bool = True,
    pictures: bool = True,
) -> Results:
    store = make_store(classes or ["kangaroo", "raccoon"], n, c, boxes=boxes)
    split = make_split(n, len(store.classes))
    neurons = make_neurons(store, split, detectors=detectors)
    chosen = neurons[neurons["detector"]].groupby("class").head(2)
    pairs = [(str(row["class"]), int(row["neuron"])) for _, row in chosen.head(4).iterrows()]
    pointing = neurons.loc[neurons["detector"], ["layer", "class", "neuron"]].assign(
        n=80, pointing=0.71, pointing_low=0.6, pointing_high=0.8, picture_centre=0.86
    )
    share = neurons[["layer", "class", "neuron"]].assign(
        share=0.95, share_rest=0.94, difference=0.01
    )
    examples = make_examples(store.classes, pairs or [(store.classes[0], 0)])
    heads, found = make_heads(store, split), make_localisation(store, split)
    spots = make_examples(store.classes, [("detectors", -1)])
    samples = Samples(
        [make_picture(i) for i in range(8)],
        [store.classes[i % len(store.classes)] for i in range(8)],
        [np.array([[40.0, 30.0, 80.0, 60.0]])] * 8,
    )
    results = Results(
        store=store,
        split=split,
        heads=heads,
        head_details=make_head_details(heads),
        box_details=make_box_laboratory(found) if boxes else None,
        neurons=neurons,
        selection=Selection(
            n_tests=neurons.attrs["n_tests"],
            confirm_correction=neurons.attrs["confirm_correction"],
            n_confirm_tests=neurons.attrs["n_confirm_tests"],
        ),
        softmax_top_k=share.groupby("class").head(4),
        localisation=found if boxes else None,
        pointing=pointing if boxes else None,
        seconds={"extract": 8.3, "heads": 2.25, "neurons": 0.4},
        box_kind="whole" if boxes else None,
        command="featlab run pictures --out out",
        backbone_description=store.provenance["description"],
        samples=samples if pictures else None,
        predictions=make_predictions(store, split) if pictures else None,
        detector_examples=examples if pictures else None,
        localisation_examples=spots if pictures and boxes else None,
        failures=spots if pictures and boxes else None,
        units=make_units(chosen) if boxes else None,
    )
    return replace(results, answers=report.overview.answers(results))
