"""A published recipe, scored as it was published and as it should be."""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from featlab import boxes as bx
from featlab.boxheads._evaluation import HEADS, fit_head
from featlab.boxheads._inputs import checked_heads, folds_of
from featlab.boxheads._joint import JointHeadResults, train_joint_head
from featlab.boxheads._linear import Components, FitData, ridge_head
from featlab.boxheads._maps import reduced_maps
from featlab.boxheads._targets import BoxedImages, boxed_images
from featlab.errors import FeatlabError
from featlab.intervals import bootstrap_interval
from featlab.splits import make_split

if TYPE_CHECKING:
    from featlab.store import MapStore

COLUMNS = [
    "protocol",
    "head",
    "leak",
    "n_fit",
    "n",
    "accuracy",
    "accuracy_low",
    "accuracy_high",
    "mean_iou",
    "mean_iou_low",
    "mean_iou_high",
    "legacy_iou",
    "seconds_per_epoch",
]
PUBLISHED, HONEST = "as published", "honest"

_PIXELS = 224.0  # side of the network's input in the published recipe's units
_BATCH = 32
_FRACTIONS = (0.5, 0.2, 0.3)


def breed_names(paths: Sequence[str] | pd.Series) -> list[str]:
    """Class from the name of a file: ``cat/Maine_Coon_12.jpg`` → ``Maine_Coon``.

    Parameters
    ----------
    paths : sequence of str

    Returns
    -------
    list of str
    """
    return [re.sub(r"_\d+$", "", PurePosixPath(str(path)).stem) for path in paths]


def honest_split(
    images: pd.DataFrame,
    classes: ArrayLike,
    duplicates: pd.DataFrame | None = None,
    *,
    random_state: int = 0,
) -> np.ndarray:
    """A split by image within each class, duplicates and groups on one side.

    Parameters
    ----------
    images : DataFrame of shape (n, ...)
        Image table.
    classes : array_like of shape (n,)
        What is split evenly, e.g. breeds.
    duplicates : DataFrame, optional
        Pairs ``row_a, row_b`` of rows of `images`, from :func:`featlab.audit.duplicates`; byte by
        byte copies (sha256) stay together in any case.
    random_state : int
        Seed.

    Returns
    -------
    ndarray of shape (n,)
        ``train`` (half), ``confirm`` (0.2) or ``test`` (0.3).
    """
    n = len(images)
    pairs = np.zeros((0, 2), dtype=np.intp)
    if duplicates is not None and len(duplicates):
        pairs = duplicates[["row_a", "row_b"]].to_numpy(np.intp)
        if pairs.min() < 0 or pairs.max() >= n:
            raise FeatlabError(f"duplicates must name rows 0 … {n - 1} of the image table.")
    groups = images["group"].fillna("").to_numpy(str)
    named = np.flatnonzero(groups != "")
    first = {name: row for row, name in reversed(list(zip(named, groups[named], strict=True)))}
    links = np.array([[row, first[groups[row]]] for row in named], dtype=np.intp).reshape(-1, 2)
    links = np.concatenate([pairs, links])
    graph = csr_matrix((np.ones(len(links)), (links[:, 0], links[:, 1])), shape=(n, n))
    units = connected_components(graph, directed=False)[1]
    table = images.assign(label=np.asarray(classes).astype(str), split="", group=units.astype(str))
    return make_split(table, fractions=_FRACTIONS, random_state=random_state).to_numpy(str)


def published_protocol(
    store: MapStore,
    *,
    box_kind: str | None = None,
    classes: ArrayLike | None = None,
    duplicates: pd.DataFrame | None = None,
    joint_heads: Sequence[str] = ("flatten", "spatial"),
    heads: Sequence[str] = ("ridge_pca", "pls", "cascade"),
    epochs: int | None = None,
    layer: str | None = None,
    random_state: int = 0,
) -> pd.DataFrame:
    """The joint class + box recipe for pet heads, under its own protocol and an honest one.

    *As published*: the test rows are all training rows (both tensors were filled from the first row
    of the whole table on), the box is learned in pixels, and the overlap is ``legacy_iou``, which
    takes corners for widths, sums over a batch and leaves out what does not overlap. These rows
    reproduce a claim; they are no estimate of anything, and ``leak`` says so.
    *Honest*: split by image within each class, duplicates together; the mean of the true IoU.
    Both scores are given in both rows.

    Parameters
    ----------
    store : MapStore
    box_kind : str, optional
        Which boxes, where the store has several kinds; of several in an image, the largest.
    classes : array_like of shape (n,), optional
        Class of every image; the labels by default. :func:`breed_names` reads breeds from paths.
    duplicates : DataFrame, optional
        Near duplicates that must not be torn apart (:func:`featlab.audit.duplicates`).
    joint_heads : sequence of str
        Joint heads under the honest protocol, see :func:`train_joint_head`; ``flatten`` is the
        published one.
    heads : sequence of str
        Classical heads under the honest protocol (no class), see :func:`evaluate_box_heads`.
    epochs : int, optional
        Of the joint heads, instead of their own numbers.
    layer : str, optional
        The last stored layer by default.
    random_state : int
        Seed of split, training and bootstrap.

    Returns
    -------
    DataFrame, one row per protocol and head
        ``protocol``, ``head``, ``leak`` (test images among those trained on), ``n_fit``, ``n``;
        ``accuracy`` and ``mean_iou`` with ``_low`` and ``_high`` (95 %; where there is a leak they
        say how well it was memorised); ``legacy_iou``; ``seconds_per_epoch``. The IoU is measured
        in the frame of the network's input.

    Raises
    ------
    FeatlabError
        No boxes, a class of fewer than three boxed images, an unknown head.
    """
    names = checked_heads(heads, HEADS)
    layer = store.layer_name(layer)
    images = boxed_images(store, box_kind)
    every = store.images["label"].to_numpy() if classes is None else np.asarray(classes)
    if every.shape != (len(store),):
        raise FeatlabError(f"classes must have one entry per image ({len(store)}).")
    own = every[images.rows]
    sides = honest_split(
        store.images.iloc[images.rows].reset_index(drop=True),
        own,
        _among(duplicates, images.rows),
        random_state=random_state,
    )
    maps, truth = store.maps(images.rows, layer=layer), images.targets
    rows = [_leaked(maps, own, truth, sides, epochs, random_state)]
    options: dict[str, Any] = {"epochs": epochs, "random_state": random_state}
    for head in dict.fromkeys(joint_heads):
        result = train_joint_head(maps, own, truth, sides, head=head, **options)
        rows.append(_joint_row(HONEST, head, result, truth, leak=False))
    rows += _classical(store, images, sides, names, layer, random_state)
    table = pd.DataFrame(rows).reindex(columns=COLUMNS)
    table.attrs.update(box_kind=box_kind, layer=layer, random_state=random_state)
    table.attrs["n_classes"] = len(np.unique(own))
    return table


def _among(duplicates: pd.DataFrame | None, rows: np.ndarray) -> pd.DataFrame | None:
    """The pairs of which both have a box, by their place in `rows`."""
    if duplicates is None or duplicates.empty:
        return None
    kept = duplicates[duplicates["row_a"].isin(rows) & duplicates["row_b"].isin(rows)]
    return pd.DataFrame(
        {name: np.searchsorted(rows, kept[name].to_numpy(np.int64)) for name in ("row_a", "row_b")}
    )


def _leaked(
    maps: np.ndarray,
    classes: np.ndarray,
    truth: np.ndarray,
    sides: np.ndarray,
    epochs: int | None,
    random_state: int,
) -> dict[str, Any]:
    """Train on the first rows of the table and "test" on the first of them again."""
    n_fit, n_test = int((sides != "test").sum()), int((sides == "test").sum())
    # Shuffled, because a table sorted by class would leave the last classes out.
    order = np.random.default_rng(random_state).permutation(len(sides))[:n_fit]
    twice = np.concatenate([order, order[:n_test]])
    split = np.repeat(["train", "test"], [n_fit, n_test])
    result = train_joint_head(
        maps[twice], classes[twice], truth[twice], split,
        epochs=epochs, random_state=random_state,
    )  # fmt: skip
    return _joint_row(PUBLISHED, "flatten", result, truth[twice], leak=True)


def _joint_row(
    protocol: str, head: str, result: JointHeadResults, truth: np.ndarray, *, leak: bool
) -> dict[str, Any]:
    predictions = result.predictions
    predicted = predictions[bx.CORNERS].to_numpy(float)
    return {
        "protocol": protocol,
        "head": head,
        "leak": leak,
        "n_fit": result.n_train,
        "n": result.n,
        "accuracy": result.accuracy,
        "accuracy_low": result.accuracy_low,
        "accuracy_high": result.accuracy_high,
        "mean_iou": result.mean_iou,
        "mean_iou_low": result.mean_iou_low,
        "mean_iou_high": result.mean_iou_high,
        "legacy_iou": _legacy(predicted, truth[predictions["row"].to_numpy()]),
        "seconds_per_epoch": result.seconds_per_epoch,
    }


def _classical(
    store: MapStore,
    images: BoxedImages,
    sides: np.ndarray,
    heads: Sequence[str],
    layer: str,
    random_state: int,
) -> list[dict[str, Any]]:
    fit, test = np.flatnonzero(sides != "test"), np.flatnonzero(sides == "test")
    truth = images.targets
    boxes = {"mean_box": np.tile(truth[fit].mean(axis=0), (len(test), 1))}
    if heads:
        maps, total = reduced_maps(store, images.rows, sides != "test", layer=layer)
        groups = store.images["group"].to_numpy(str)[images.rows[fit]]
        data = FitData(
            maps[fit], total[fit], truth[fit], folds_of(groups, random_state), "centre_size",
            random_state,
        )  # fmt: skip
        components = Components(data.maps, random_state)
        ridge = functools.cache(lambda: ridge_head(data, components))
        for name in heads:
            head = fit_head(name, data, components, ridge)
            boxes[name] = head.predict(maps[test], total[test])
    rows = []
    for name in (*heads, "mean_box"):
        iou = bx.iou(boxes[name], truth[test])
        low, high = bootstrap_interval(iou, random_state=random_state)
        row = {"protocol": HONEST, "head": name, "leak": False, "n_fit": len(fit), "n": len(test)}
        row |= {"mean_iou": float(iou.mean()), "mean_iou_low": low, "mean_iou_high": high}
        rows.append(row | {"legacy_iou": _legacy(boxes[name], truth[test])})
    return rows


def _legacy(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean over batches of the published overlap score."""
    a, b = predicted * _PIXELS, truth * _PIXELS
    values = [
        bx.legacy_batch_iou(
            a[start : start + _BATCH], b[start : start + _BATCH], corners_as_width=True
        )
        for start in range(0, len(a), _BATCH)
    ]
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
