"""Fine-tuning beside the frozen network: heads, detectors, small pictures, the set at a glance."""

from __future__ import annotations

import hashlib
import io
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from featlab import extract, features, heads, images, neurons
from featlab.arguments import Progress
from featlab.backbones import Backbone, load_backbone
from featlab.finetune.fitting import FineTuned
from featlab.finetune.network import map_network
from featlab.finetune.transfer import compare_transfer, detector_changes
from featlab.images.pixels import resize_image
from featlab.pipeline.detectors import find_detectors
from featlab.results.analysis import HeadResults
from featlab.results.networks import Transfer
from featlab.store import MapStore

TRANSFER_HEADS = ("logistic", "mlp")


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
    featlab.Transfer
    """
    scores, seconds = _timed_heads(store, split, random_state)
    comparison, predictions = compare_transfer(
        fits, store.images, split, scores, seconds, random_state=random_state
    )
    changed, per_neuron = None, None
    if tuned is not None:
        changed, per_neuron = detector_changes(
            *(_detectors(maps, split, random_state) for maps in (store, tuned)),
            *(_measured(maps, split) for maps in (store, tuned)),
        )
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
    both = HeadResults(
        table=_joined([one.table for one in scores]),
        predictions=_joined([one.predictions for one in scores]),
        models={name: model for one in scores for name, model in one.models.items()},
        classes=scores[0].classes,
        clusters=scores[0].clusters,
    )
    return both, seconds


def _joined(tables: list[pd.DataFrame]) -> pd.DataFrame:
    keys = ["head", "row"] if "row" in tables[0] else ["head"]
    return pd.concat(tables).drop_duplicates(keys).reset_index(drop=True)  # one dummy will do


def _inputs(store: MapStore) -> tuple[pd.DataFrame, pd.Series, pd.Series]:
    return features.feature_table(store), store.images["label"], store.images["group"]


def _detectors(store: MapStore, split: pd.Series, random_state: int) -> pd.DataFrame:
    X, labels, groups = _inputs(store)
    return find_detectors(X, labels, split, groups, random_state=random_state)


def _measured(store: MapStore, split: pd.Series) -> pd.DataFrame:
    """AUROC of every neuron on the confirm rows, where nothing was chosen."""
    X, labels, _ = _inputs(store)
    confirm = split == "confirm"
    return neurons.rank_neurons(X[confirm], labels[confirm])


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
    joined = HeadResults(
        table=pd.DataFrame(),
        predictions=pd.concat(
            [one.of("logistic").assign(head=name) for name, one in scores.items()]
        ),
        models={name: one.models["logistic"] for name, one in scores.items()},
        classes=scores[last].classes,
        clusters=scores[last].clusters,
    )
    columns = ["difference", "difference_low", "difference_high", "p"]
    return heads.compare_heads(joined, b=last)[columns].reindex(range(len(scores)))


def _small_copies(table: pd.DataFrame, folder: Path, side: int) -> pd.DataFrame:
    """Copies of the pictures at `side` × `side` px, as PNG, and their image table."""
    root, digests, paths = Path(table["folder"].iloc[0]), [], []
    for path in table["path"]:
        pixels = images.decode_image((root / path).read_bytes())
        buffer = io.BytesIO()
        Image.fromarray(resize_image(pixels, (side, side))).save(buffer, "png")
        target = folder / f"{path}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(buffer.getvalue())
        digests.append(hashlib.sha256(buffer.getvalue()).hexdigest())
        paths.append(f"{path}.png")
    return table.assign(path=paths, sha256=digests, width=side, height=side, folder=str(folder))
