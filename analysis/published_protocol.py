"""A published class + box recipe for pet heads, scored as it was published and as it should be.

    python analysis/published_protocol.py [IMAGES] [--classes A,B] [--box-kind KIND] [-o FOLDER]
        [--by label|group|breed]

*As published*: the test rows are all training rows (both tensors were filled from the first row of
the whole table on), the box is learned in pixels, and the overlap takes corners for widths, sums
over a batch and leaves out what does not overlap. These rows reproduce a claim; they are no
estimate of anything, and the column ``leak`` says so. *Honest*: split by image within each class,
duplicates together; the mean of the true IoU. Both scores are given in both rows.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath
from typing import Any

import arguments
import numpy as np
import pandas as pd
from legacy_boxes import legacy_batch_iou
from numpy.typing import ArrayLike
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import connected_components

from featlab import audit, boxheads
from featlab.boxes import geometry as bx
from featlab.errors import FeatlabError
from featlab.intervals import mean_interval
from featlab.results.localisation import JointHeadResults
from featlab.splits import make_split
from featlab.store import MapStore

COLUMNS = [
    *("protocol", "head", "leak", "n_fit", "n", "accuracy", "accuracy_low", "accuracy_high"),
    *("mean_iou", "mean_iou_low", "mean_iou_high", "legacy_iou", "seconds_per_epoch"),
]
PUBLISHED, HONEST = "as published", "honest"

_PIXELS = 224.0  # side of the network's input in the published recipe's units
_BATCH = 32
_FRACTIONS = (0.5, 0.2, 0.3)


def breed_names(paths: Iterable[str]) -> list[str]:
    """Class from the name of a file: ``cat/Maine_Coon_12.jpg`` → ``Maine_Coon``."""
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
    random_state: int = 0,
) -> pd.DataFrame:
    """The recipe under its own protocol and an honest one.

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
        Under the honest protocol (``fit_joint_head``); ``flatten`` is the published one.
    heads : sequence of str
        Classical heads under the honest protocol, which know no class (``evaluate_box_heads``).
    epochs : int, optional
        Of the joint heads, instead of their own numbers.
    random_state : int
        Seed of split, training and bootstrap.

    Returns
    -------
    DataFrame, one row per protocol and head
        ``protocol``, ``head``, ``leak`` (test images among those trained on), ``n_fit``, ``n``;
        ``accuracy`` and ``mean_iou`` with ``_low`` and ``_high`` (95 %; where there is a leak they
        say how well it was memorised); ``legacy_iou``; ``seconds_per_epoch``. The IoU is that with
        the largest box.

    Raises
    ------
    FeatlabError
        No boxes, a class of fewer than three boxed images, an unknown head.
    """
    labels = store.images["label"].to_numpy() if classes is None else np.asarray(classes)
    if labels.shape != (len(store),):
        raise FeatlabError(f"classes must have one entry per image ({len(store)}).")
    truth = largest_boxes(store, box_kind)
    rows = np.flatnonzero(np.isfinite(truth).all(axis=1))
    sides = honest_split(
        store.images.iloc[rows].reset_index(drop=True),
        labels[rows],
        _among(duplicates, rows),
        random_state=random_state,
    )
    maps, options = store.maps(rows), {"epochs": epochs, "random_state": random_state}
    table = [_leaked(maps, labels[rows], truth[rows], sides, options)]
    for head in dict.fromkeys(joint_heads):
        result = boxheads.fit_joint_head(
            maps, labels[rows], truth[rows], sides, head=head, **options
        )
        table.append(_joint_row(HONEST, head, result, truth[rows], leak=False))
    split = np.full(len(store), "train", dtype="<U7")  # images without a box are not looked at
    split[rows] = sides
    results = boxheads.evaluate_box_heads(
        store, split, box_kind=box_kind, heads=heads, random_state=random_state
    )
    n_fit = int((sides != "test").sum())
    for name in (*heads, "mean_box"):
        own = results.per_image[results.per_image["head"] == name]
        boxes = in_frame(store, own["row"].to_numpy(), own[bx.CORNERS].to_numpy(float))
        iou = bx.iou(boxes, truth[own["row"]])
        low, high = mean_interval(iou, random_state=random_state)
        row = {"protocol": HONEST, "head": name, "leak": False, "n_fit": n_fit, "n": len(iou)}
        row |= {"mean_iou": float(iou.mean()), "mean_iou_low": low, "mean_iou_high": high}
        table.append(row | {"legacy_iou": _legacy(boxes, truth[own["row"]])})
    return pd.DataFrame(table).reindex(columns=COLUMNS)


def largest_boxes(store: MapStore, box_kind: str | None) -> np.ndarray:
    """The largest true box of every image, unit coordinates of the input; NaN without one."""
    statistics = boxheads.box_statistics(store, box_kind)
    largest = statistics[statistics["largest"]]
    rows = largest["image"].to_numpy()
    x, y, width, height = largest[["x", "y", "width", "height"]].to_numpy(float).T / [
        [1], [1], [2], [2],
    ]  # fmt: skip
    sizes = store.images[["width", "height"]].to_numpy(float)[rows]
    unit = np.column_stack([x - width, y - height, x + width, y + height])
    boxes = np.full((len(store), 4), np.nan)
    boxes[rows] = in_frame(store, rows, bx.pixel_boxes(unit, sizes))
    return boxes


def in_frame(store: MapStore, rows: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Boxes in pixels of the originals → unit coordinates of the network's input."""
    sizes = store.images[["width", "height"]].to_numpy(float)[rows]
    return bx.picture_to_frame(boxes, np.asarray(store.frames, dtype=float)[rows], sizes)


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
    options: dict[str, Any],
) -> dict[str, Any]:
    """Train on the first rows of the table and "test" on the first of them again."""
    n_fit, n_test = int((sides != "test").sum()), int((sides == "test").sum())
    # Shuffled, because a table sorted by class would leave the last classes out.
    order = np.random.default_rng(options["random_state"]).permutation(len(sides))[:n_fit]
    twice = np.concatenate([order, order[:n_test]])
    split = np.repeat(["train", "test"], [n_fit, n_test])
    result = boxheads.fit_joint_head(maps[twice], classes[twice], truth[twice], split, **options)
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


def _legacy(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Mean over batches of the published overlap score."""
    a, b = predicted * _PIXELS, truth * _PIXELS
    values = [
        legacy_batch_iou(
            a[start : start + _BATCH], b[start : start + _BATCH], corners_as_width=True
        )
        for start in range(0, len(a), _BATCH)
    ]
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def main() -> None:
    """Print the table and write it beside the store."""
    parser = arguments.parser(__doc__)
    parser.add_argument(
        "--by",
        choices=["label", "group", "breed"],
        default="label",
        help="what the heads tell apart; breed is read from the names of the files",
    )
    given = arguments.read(parser, network=True)
    with MapStore(given.store) as store:
        breeds = given.by == "breed"
        classes = breed_names(store.images["path"]) if breeds else store.images[given.by].to_numpy()
        table = published_protocol(
            store,
            box_kind=given.box_kind,
            classes=classes,
            duplicates=audit.duplicates(store),
        )
    table.to_csv(given.folder / "published_protocol.csv", index=False)
    print(table.round(3).to_string(index=False))


if __name__ == "__main__":
    main()
