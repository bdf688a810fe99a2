"""Fine-tuning beside the frozen network: heads, detectors, small pictures."""

from __future__ import annotations

import hashlib
import io
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from PIL import Image
from scipy import stats
from sklearn.pipeline import Pipeline

from featlab import extract, features, heads, images, neurons
from featlab.arguments import Progress, check_same_rows, class_codes, split_sides
from featlab.backbones import Backbone, load_backbone
from featlab.errors import FeatlabError
from featlab.finetune.fitting import FineTuned
from featlab.finetune.network import map_network
from featlab.heads.models import prediction_rows
from featlab.heads.scores import scores_of
from featlab.images.pixels import levels_of, resize_picture
from featlab.intervals import interval_name
from featlab.pipeline.detectors import find_detectors
from featlab.results.analysis import HeadResults
from featlab.results.networks import Transfer
from featlab.store import MapStore

TRANSFER_HEADS = ("logistic", "mlp")
REFERENCE = "logistic"  # the head that all are compared with
_SCORES = ["n", "accuracy", "accuracy_low", "accuracy_high", "interval", "balanced_accuracy"]
_SCORES += ["roc_auc", "log_loss"]
_DIFFERENCES = ["difference", "difference_low", "difference_high", "p", "test"]
_KEY = ["class", "neuron"]
_COUNTED = ["selected_before", "selected_after", "confirmed_before", "confirmed_after"]


def transfer_study(
    store: MapStore,
    split: pd.Series,
    fits: Mapping[str, FineTuned],
    tuned: MapStore | None = None,
    *,
    small_images: pd.DataFrame | None = None,
    random_state: int = 0,
) -> Transfer:
    """Trained networks beside the heads on stored maps, and what became of the detectors.

    Parameters
    ----------
    store : MapStore
        Maps of the frozen network.
    split : Series of shape (n,)
    fits : mapping of str to FineTuned
        Trained on the store's images with `split`.
    tuned : MapStore, optional
        Maps of the same images from a fine-tuned network; then detectors are compared.
    small_images : DataFrame, optional
        Of :func:`small_images_table`, to be kept with the rest.
    random_state : int
        Seed of heads and bootstrap.

    Returns
    -------
    Transfer
    """
    scores, seconds = _timed_heads(store, split, random_state)
    comparison, predictions = compare_transfer(
        fits, store.images, split, scores, seconds, random_state=random_state
    )
    changed, per_neuron = None, None
    if tuned is not None:
        (before, unseen), (after, unseen_after) = (
            _detectors(maps, split, random_state) for maps in (store, tuned)
        )
        changed, per_neuron = detector_changes(before, after, unseen, unseen_after)
    named = [fitted.curves.assign(name=name) for name, fitted in fits.items()]
    curves = pd.concat(named, ignore_index=True)
    return Transfer(
        comparison=comparison,
        curves=curves[["name", *curves.columns.drop("name")]],
        predictions=predictions,
        detectors=changed,
        neurons=per_neuron,
        small_images=small_images,
        about={
            "backbone": str(store.provenance.get("description", "")),
            "layer": store.layers[-1],
            "n_images": len(store),
            "fits": {name: _about(fitted) for name, fitted in fits.items()},
        },
    )


def _about(fitted: FineTuned) -> dict[str, Any]:
    return {
        **fitted.parameters,
        "thawed": fitted.thawed,
        "fit_images": len(fitted.fit_rows),
        "validation_images": len(fitted.validation_rows),
        "epochs_run": len(fitted.curves),
    }


def _timed_heads(
    store: MapStore, split: pd.Series, random_state: int
) -> tuple[HeadResults, dict[str, float]]:
    """The heads on the mean-pooled maps, and the seconds that fitting and scoring each took."""
    X, labels, groups = _inputs(store)
    scores, seconds = [], {}
    for name in TRANSFER_HEADS:
        start = time.perf_counter()
        scores.append(
            heads.evaluate_heads(
                X, labels, split, groups=groups, heads=[name], random_state=random_state
            )
        )
        seconds[name] = round(time.perf_counter() - start, 3)
    both = replace(
        scores[0],
        table=_joined([one.table for one in scores]),
        predictions=_joined([one.predictions for one in scores]),
        models={name: model for one in scores for name, model in one.models.items()},
    )
    return both, seconds


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    keys = ["head", "row"] if "row" in tables[0] else ["head"]
    return pd.concat(tables).drop_duplicates(keys).reset_index(drop=True)  # one dummy will do


def _inputs(store: MapStore) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    return features.feature_table(store), store.images["label"], store.images["group"]


def _detectors(
    store: MapStore, split: pd.Series, random_state: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The neuron table; AUROC of every neuron on the confirm rows, where nothing was chosen."""
    X, labels, groups = _inputs(store)
    confirm = split == "confirm"
    table = find_detectors(X, labels, split, groups, random_state=random_state)
    return table, neurons.rank_neurons(X[confirm], labels[confirm])


def compare_transfer(
    fits: Mapping[str, FineTuned],
    images: pd.DataFrame,
    split: ArrayLike,
    scores: HeadResults,
    seconds: Mapping[str, float],
    *,
    random_state: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Score trained networks on the test rows, beside the heads on stored maps.

    Parameters
    ----------
    fits, images, split
        By the name that the table gives them, all trained with `split`; the image table.
    scores : HeadResults
        The heads on stored maps, evaluated with the same images, split and groups.
    seconds : mapping of str to float
        Head → seconds that fitting it took.
    random_state : int
        Seed of the bootstrap: of whole groups where the heads' is.

    Returns
    -------
    table : DataFrame
        ``name``, ``trained_on``, ``n``, ``accuracy`` with ``_low`` and ``_high`` (95 %) and
        ``interval`` (its kind), ``balanced_accuracy``, ``roc_auc``, ``log_loss``; ``difference``
        in accuracy from the logistic head with ``_low``, ``_high``, ``p`` and ``test``, paired (NaN
        for itself); ``seconds`` and ``trainable_parameters``. Metrics and tests are those of
        :func:`featlab.heads.evaluate_heads` and :func:`featlab.heads.compare_heads`.
    predictions : DataFrame
        Of all of them, as ``HeadResults.predictions``.

    Raises
    ------
    FeatlabError
        Heads that were scored on other rows or classes, or not the logistic one.
    """
    codes, classes = class_codes(images["label"], name="label")
    check_same_rows(images=images, split=split)
    test = np.flatnonzero(split_sides(split, len(images)) == "test")
    known = scores.of(REFERENCE)["row"].to_numpy()
    if scores.classes != classes.tolist() or not np.array_equal(known, test):
        raise FeatlabError("scores must be of the same images, classes and split as the fits.")
    rows, predictions = [scores.table], [scores.predictions]
    for name, fitted in fits.items():
        probability = fitted.predict_proba(images, test)
        row = {
            "head": name,
            **scores_of(codes[test], probability, scores.clusters, random_state=random_state),
            "n": len(test),
            "interval": interval_name(scores.clusters),
        }
        rows.append(pd.DataFrame([row]))
        predictions.append(prediction_rows(name, test, codes[test], probability, classes))
    joined = replace(
        scores,
        table=pd.concat(rows, ignore_index=True),
        predictions=pd.concat(predictions, ignore_index=True),
        models={**scores.models, **fits},
    )
    names = [*(head for head in scores.models if head in seconds), *fits]
    table = pd.DataFrame([_row(joined, name, seconds, random_state) for name in names])
    return table, joined.predictions[joined.predictions["head"].isin(names)].reset_index(drop=True)


def _row(
    joined: HeadResults, name: str, seconds: Mapping[str, float], random_state: int
) -> dict[str, Any]:
    model: Any = joined.models[name]
    scored = dict(zip(_SCORES, joined.table.set_index("head").loc[name, _SCORES], strict=True))
    compared: dict[str, Any] = dict.fromkeys(_DIFFERENCES[:-1], float("nan")) | {"test": ""}
    if name != REFERENCE:
        pair = heads.compare_heads(joined, name, REFERENCE, n_boot=1000, random_state=random_state)
        compared = dict(zip(_DIFFERENCES, pair.iloc[0][_DIFFERENCES], strict=True))
    is_network = isinstance(model, FineTuned)
    return {
        "name": name,
        "trained_on": _trained_on(model) if is_network else "stored maps, mean-pooled",
        **scored,
        **compared,
        "seconds": float(model.seconds if is_network else seconds[name]),
        "trainable_parameters": model.trainable_parameters if is_network else _parameters(model),
    }


def _trained_on(fitted: FineTuned) -> str:
    if fitted.parameters["augment"]:
        return "pictures, augmented"
    return "pictures" if fitted.blocks else "features computed once"


def _parameters(model: Pipeline) -> int:
    """Fitted weights of a classical head."""
    last = model[-1]
    arrays: list[Any] = []
    for name in ("coef_", "intercept_", "coefs_", "intercepts_"):
        value = getattr(last, name, [])
        arrays += value if isinstance(value, list) else [value]
    return int(sum(np.size(array) for array in arrays))


def detector_changes(
    before: pd.DataFrame,
    after: pd.DataFrame,
    unseen_before: pd.DataFrame,
    unseen_after: pd.DataFrame,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Detectors of a layer before and after fine-tuning, by class and by neuron.

    Neuron k after is neuron k before with other weights, so they are compared one by one.

    Parameters
    ----------
    before, after : DataFrame
        Neuron tables of one layer and pooling, chosen on train rows and confirmed on confirm rows.
    unseen_before, unseen_after : DataFrame
        ``class, neuron, auroc`` of all neurons, measured on the confirm rows.

    Returns
    -------
    classes : DataFrame, one row per class
        ``class``; ``selected_before, selected_after, confirmed_before, confirmed_after,
        confirmed_both``: numbers of detectors active for the class; ``neurons``: those alive both
        times; ``median_before, median_after``: of the AUROC of all that were selected then;
        ``spread_before, spread_after``: mean of abs(AUROC - 0.5) over all neurons alive both times;
        ``spearman``: rank correlation of their AUROC before and after.
    neurons : DataFrame, one row per class and neuron
        ``class, neuron, auroc_before, auroc_after`` (on confirm rows; NaN for a dead neuron),
        ``selected_before, selected_after, confirmed_before, confirmed_after``.

    Raises
    ------
    FeatlabError
        Tables of other classes or other numbers of neurons.

    Notes
    -----
    The fine-tuned network has learned from the train rows' labels, so what is selected there is
    selected with a bias that the frozen network has not; the confirm rows are new to both, and only
    what was measured on them is compared.
    """
    tables = []
    for table, unseen, when in [
        (before, unseen_before, "before"), (after, unseen_after, "after"),
    ]:  # fmt: skip
        if table.duplicated(_KEY).any() or unseen.duplicated(_KEY).any():
            raise FeatlabError(
                f"the neuron tables {when} must be of one layer and one pooling, but a class and "
                "neuron are there twice; choose the rows of one layer."
            )
        active = table["direction"] == "active"
        marked = table[_KEY].assign(
            **{
                f"selected_{when}": table["detector"] & active,
                f"confirmed_{when}": table["confirmed"] & active,
            }
        )
        measured = unseen[[*_KEY, "auroc"]].rename(columns={"auroc": f"auroc_{when}"})
        tables.append(marked.merge(measured, on=_KEY, validate="one_to_one"))
    neurons = tables[0].merge(tables[1], on=_KEY, validate="one_to_one")
    if not len(tables[0]) == len(tables[1]) == len(neurons) == len(before) == len(after):
        raise FeatlabError(
            "the neuron tables before and after must be of one layer each, with the same classes "
            f"and neurons, got {len(before)} and {len(after)} rows of which {len(neurons)} match."
        )
    neurons = neurons[[*_KEY, "auroc_before", "auroc_after", *_COUNTED]]
    parts = neurons.groupby("class", sort=True)
    return pd.DataFrame([_counts(str(name), part) for name, part in parts]), neurons


def _counts(name: str, part: pd.DataFrame) -> dict[str, object]:
    alive = part.dropna(subset=["auroc_before", "auroc_after"])
    measured = alive[["auroc_before", "auroc_after"]]
    before, after = (measured[name].to_numpy(float) for name in measured)
    varies = len(alive) > 1 and np.ptp(before) > 0 and np.ptp(after) > 0
    return {
        "class": name,
        **{column: int(part[column].sum()) for column in _COUNTED},
        "confirmed_both": int((part["confirmed_before"] & part["confirmed_after"]).sum()),
        "neurons": len(alive),
        "median_before": part.loc[part["selected_before"], "auroc_before"].median(),
        "median_after": part.loc[part["selected_after"], "auroc_after"].median(),
        "spread_before": float(np.abs(before - 0.5).mean()) if len(alive) else np.nan,
        "spread_after": float(np.abs(after - 0.5).mean()) if len(alive) else np.nan,
        "spearman": float(stats.spearmanr(before, after).statistic) if varies else np.nan,
    }


def small_images_table(
    table: pd.DataFrame,
    split: pd.Series,
    backbone: str = "efficientnet_lite0",
    *,
    weights: str | None = "imagenet",
    side: int = 32,
    folder: str | Path | None = None,
    random_state: int = 0,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """What is lost with small pictures, and how much of it up-sampling brings back.

    The pictures are copied at `side` × `side` px. A logistic head is evaluated, with one split, on
    the mean-pooled maps of: the copies with the network at that size (of its last layer whose map
    has more than one cell); the copies up-sampled to the network's own size, bilinearly, while they
    are read; the same by a layer of the network; and the original pictures.

    Parameters
    ----------
    table : DataFrame
        Image table.
    split : Series of shape (n,)
    backbone : str
        A name that ``load_backbone`` knows, of a network that can be built at `side` px.
    weights : str or None
        As for ``load_backbone``.
    side : int
        Of the copies in pixels, at least 32.
    folder : path-like, optional
        Where copies and stores are kept; by default they are removed at the end.
    random_state : int
        Seed of heads and bootstrap.
    progress : callable, optional
        Wraps the batches of each pass.

    Returns
    -------
    DataFrame, one row per way
        ``pictures``, ``network`` (both in words), ``picture_size``, ``input_size`` (px), ``layer``,
        ``cells``, ``neurons``, ``n``, ``accuracy`` with ``_low`` and ``_high`` (95 %), and
        ``difference`` from the original pictures with ``_low``, ``_high`` and ``p`` (paired; NaN
        for themselves).
    """
    with ExitStack() as stack:
        place = Path(folder or stack.enter_context(tempfile.TemporaryDirectory()))
        place.mkdir(parents=True, exist_ok=True)
        full = load_backbone(backbone, weights=weights)
        height, _ = full.input_size
        copies = _small_copies(table, place / f"copies_{side}", side)
        by_layer = place / f"{full.name}_takes_{side}.keras"
        if not by_layer.exists():
            map_network(full, (side, side)).save(by_layer)
        ways: list[tuple[str, str, pd.DataFrame, Backbone, int]] = [
            (f"{side} px copies", f"at {side} px", copies,
             load_backbone(backbone, weights=weights, input_size=side), side),
            (f"{side} px copies", f"at {height} px, up-sampled on reading", copies, full, height),
            (f"{side} px copies", f"at {height} px, up-sampled by a layer", copies,
             load_backbone(by_layer), height),
            ("original", f"at {height} px", table, full, height),
        ]  # fmt: skip
        rows, scores = [], {}
        for number, (pictures, network, rows_of, loaded, size) in enumerate(ways):
            path = place / f"small_{number}.h5"
            with extract.extract_maps(rows_of, loaded, path, progress=progress) as store:
                X, labels, groups = _inputs(store)
                h, w, c = store.map_shape()
            name = f"{pictures}, {network}"
            scores[name] = heads.evaluate_heads(
                X, labels, split, groups=groups, heads=["logistic"], random_state=random_state
            )
            scored = scores[name].table.set_index("head").loc["logistic"]
            rows.append(
                {
                    "pictures": pictures, "network": network,
                    "picture_size": side if rows_of is copies else np.nan,
                    "input_size": size, "layer": store.layers[-1], "cells": f"{h} × {w}",
                    "neurons": c,
                    **scored[["n", "accuracy", "accuracy_low", "accuracy_high"]],
                }
            )  # fmt: skip
    return pd.DataFrame(rows).assign(**_differences(scores))


def _differences(scores: Mapping[str, HeadResults]) -> pd.DataFrame:
    """Each way's logistic head against the last one's, on the same test images."""
    *_, last = scores
    named = pd.concat([one.of("logistic").assign(head=name) for name, one in scores.items()])
    models = {name: one.models["logistic"] for name, one in scores.items()}
    joined = replace(scores[last], predictions=named, models=models)
    columns = ["difference", "difference_low", "difference_high", "p"]
    return heads.compare_heads(joined, b=last)[columns].reindex(range(len(scores)))


def _small_copies(table: pd.DataFrame, folder: Path, side: int) -> pd.DataFrame:
    """Copies of the pictures at `side` × `side` px, as PNG, and their image table."""
    root, digests, paths = Path(table["folder"].iloc[0]), [], []
    for path, levels in zip(table["path"], levels_of(table), strict=True):
        pixels = images.decode_picture((root / path).read_bytes(), levels)
        Image.fromarray(resize_picture(pixels, (side, side))).save(buffer := io.BytesIO(), "png")
        target = folder / f"{path}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(buffer.getvalue())
        digests.append(hashlib.sha256(buffer.getvalue()).hexdigest())
        paths.append(f"{path}.png")
    table = table.drop(columns="levels", errors="ignore")  # in 8 bits by now
    return table.assign(path=paths, sha256=digests, width=side, height=side, folder=str(folder))
