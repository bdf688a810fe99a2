"""The images with boxes: maps and boxes that a head learns from, and what the boxes look like."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments import boxes_of_kind, group_codes, stratified_rows, true_boxes
from featlab.boxes import geometry as bx
from featlab.errors import FeatlabError
from featlab.features import principal_components
from featlab.store import MapStore

Maps = NDArray[np.float32]
Floats = NDArray[np.float64]

TARGETS = ("centre_size", "corners")
"""What a head regresses: centre with log size, or corners; shares of the input."""
KEPT_SCORES = ("mean_iou", "box_accuracy")
"""Scores of a fitted head that its file keeps."""
POLICIES = ("largest", "best_match")
"""Which box is learned where an image has several."""

_FEWEST_FIT_ROWS = 10
_MOST_IMAGES = 10_000  # reduced maps of 7 x 7 cells take 25 kB an image
_FOLDS, _FOLDS_OF_MANY, _MANY = 5, 3, 1500
LEAST_SIDE = 0.01  # of the picture's side: no predicted box is thinner
_PULL = 10.0
_BEND = 0.05  # where smooth L1 turns from a parabola into a line, shares of the input's side
SMALLEST_LOG = -6.0
_CHANNELS = 128
_CELLS, _SEEN = 10_000, 500  # of so many images fitted on, evenly spaced, for the components
BATCH = 64
FEW_COLUMNS = 4  # what a box has
_BORDER = 0.01  # of the picture's side


@dataclass(frozen=True)
class BoxedImages:
    """The images of a store that have a box of the kind asked for.

    Attributes
    ----------
    rows : ndarray of shape (n,)
        Row numbers of the image table, rising.
    boxes : DataFrame
        All true boxes of these images.
    sizes : ndarray of shape (n, 2)
        Width and height of the pictures, pixels.
    frames : ndarray of shape (n, 4)
        Where the pictures lie in the network's input.
    largest : ndarray of shape (n, 4)
        The largest box of each image, pixels of the original.
    """

    rows: np.ndarray
    boxes: pd.DataFrame
    sizes: np.ndarray
    frames: np.ndarray
    largest: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """The largest boxes in unit coordinates of the network's input."""
        return bx.picture_to_frame(self.largest, self.frames, self.sizes)

    def some(self, places: np.ndarray) -> BoxedImages:
        """These images alone."""
        rows = self.rows[places]
        return BoxedImages(
            rows,
            self.boxes[self.boxes["image"].isin(rows)].reset_index(drop=True),
            self.sizes[places],
            self.frames[places],
            self.largest[places],
        )

    def to_pixels(self, boxes: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Boxes of the images at `places`, unit coordinates of the input → pixels, never empty."""
        return bx.frame_to_picture(
            tidy(boxes, self.frames[places]), self.frames[places], self.sizes[places]
        )

    def best_matching(self, boxes: np.ndarray, places: np.ndarray) -> np.ndarray:
        """Of each image its box that overlaps `boxes` best, else its largest; in the frame."""
        predicted, matching = self.to_pixels(boxes, places), self.largest[places].copy()
        best = np.zeros(len(places))
        order = {int(self.rows[i]): k for k, i in enumerate(places)}
        table = self.boxes[self.boxes["image"].isin(list(order))]
        owner = np.array([order[int(image)] for image in table["image"]], dtype=np.intp)
        truth = table[bx.CORNERS].to_numpy(float)
        for k, box, value in zip(owner, truth, bx.iou(predicted[owner], truth), strict=True):
            if value > best[k]:
                best[k], matching[k] = value, box
        return bx.picture_to_frame(matching, self.frames[places], self.sizes[places])


def boxed_images(store: MapStore, box_kind: str | None) -> BoxedImages:
    """The images with true boxes (:func:`featlab.arguments.true_boxes`), and the largest of each.

    Raises
    ------
    FeatlabError
        No box at all, several kinds and none chosen, or an unknown kind.
    """
    table = true_boxes(store.images, store.boxes, box_kind)
    if table.empty:
        raise FeatlabError("the store has no boxes to learn from; extract with an annotated set.")
    largest = table[is_largest(table)].sort_values("image")
    rows = largest["image"].to_numpy(np.int64)
    return BoxedImages(
        rows=rows,
        boxes=table,
        sizes=store.images[["width", "height"]].to_numpy(float)[rows],
        frames=np.asarray(store.frames, dtype=float)[rows],
        largest=largest[bx.CORNERS].to_numpy(float),
    )


def is_largest(table: pd.DataFrame) -> np.ndarray:
    """Which rows of a box table are the largest of their image; of equal ones the first."""
    area = (table["xmax"] - table["xmin"]) * (table["ymax"] - table["ymin"])
    order = area.sort_values(ascending=False, kind="stable").index
    return table.index.isin(table.loc[order].drop_duplicates("image").index)


def sampled(
    images: BoxedImages, sides: np.ndarray, labels: np.ndarray, random_state: int
) -> BoxedImages:
    """The images; of very many to fit on, or to score on, a random sample by class."""
    own = sides[images.rows] == "test"
    kept = [
        places[stratified_rows(labels[images.rows[places]], _MOST_IMAGES, random_state)]
        for places in (np.flatnonzero(~own), np.flatnonzero(own))
    ]
    return images.some(np.sort(np.concatenate(kept)))


def fit_and_test(sides: np.ndarray, images: BoxedImages) -> tuple[np.ndarray, np.ndarray]:
    """Places in `images` of what is fitted on and of what is scored."""
    own = sides[images.rows]
    fit, test = np.flatnonzero(own != "test"), np.flatnonzero(own == "test")
    if len(fit) < _FEWEST_FIT_ROWS:
        raise FeatlabError(
            f"box heads need at least {_FEWEST_FIT_ROWS} train and confirm images with a box, "
            f"got {len(fit)}."
        )
    if not len(test):
        raise FeatlabError("no 'test' image has a box; there is nothing to score on.")
    return fit, test


def folds_of(groups: ArrayLike, random_state: int) -> np.ndarray:
    """Fold of every image; whole groups in one, all in one where there is a single group."""
    codes = group_codes(groups, len(np.asarray(groups)))
    counts = np.bincount(codes)
    most = _FOLDS if len(codes) <= _MANY else _FOLDS_OF_MANY
    order = np.random.default_rng(random_state).permutation(len(counts))
    order = order[np.argsort(-counts[order], kind="stable")]
    fold, load = np.empty(len(counts), dtype=np.intp), np.zeros(min(most, len(counts)))
    for unit in order:
        fold[unit] = load.argmin()
        load[fold[unit]] += counts[unit]
    return fold[codes]


@dataclass(frozen=True)
class Reduction:
    """Principal components of the channels of a layer's maps.

    Attributes
    ----------
    mean : ndarray of shape (c,), float32
    axes : ndarray of shape (c, k), float32
        ``k`` is 128, or the number of neurons where that is smaller.
    """

    mean: Maps
    axes: Maps

    def reduced(self, maps: Maps) -> tuple[Maps, Maps]:
        """Maps ``(n, h, w, c)`` on the components, ``(n, h, w, k)``, and their sum ``(n, h, w)``.

        The sum is over all neurons, an unsupervised heat map.
        """
        flat = maps.reshape(-1, maps.shape[-1])
        fewer = ((flat - self.mean) @ self.axes).astype(np.float32, copy=False)
        return fewer.reshape(*maps.shape[:3], -1), maps.sum(axis=-1)


def each_row(X: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """``X @ weights``; where there are few columns each row by itself.

    A product of matrices is added up in another order for another number of rows or of threads,
    so that an image's box would depend, in its last digits, on the images beside it and on the
    machine. Of many columns a row by itself is slow, and no head with many is ever asked again.

    Parameters
    ----------
    X : ndarray of shape (n, p)
    weights : ndarray of shape (p, r)
    """
    if weights.shape[1] > FEW_COLUMNS:
        return X @ weights
    columns, blocks = np.ascontiguousarray(weights.T), range(0, max(len(X), 1), BATCH)
    return np.concatenate(
        [(X[start : start + BATCH, None] * columns).sum(axis=-1) for start in blocks]
    )


def fit_reduction(store: MapStore, rows: np.ndarray, *, layer: str | None = None) -> Reduction:
    """The leading principal components of the channels, of cells of some images.

    Parameters
    ----------
    store : MapStore
    rows : ndarray of shape (n,)
        Row numbers of the images fitted on.
    layer : str, optional
        The last stored layer by default.
    """
    h, w, c = store.map_shape(layer)
    rows = rows[:: max(1, len(rows) // _SEEN)]
    step = max(1, len(rows) * h * w // _CELLS)
    # A step that shares a factor with the grid would always hit the same cells.
    while step > 1 and np.gcd(step, h * w) > 1:
        step += 1
    batches = store.iter_maps(rows, layer=layer, batch=BATCH)
    sample = np.concatenate([maps.reshape(-1, c)[::step] for _, maps in batches])
    components = principal_components(sample, min(_CHANNELS, c), dtype=np.float32)
    axes = components.axes.T * np.where(components.axes.sum(axis=1) < 0, -1.0, 1.0)
    return Reduction(components.mean.astype(np.float32), axes.astype(np.float32))


def reduced_maps(
    store: MapStore, rows: np.ndarray, reduction: Reduction, *, layer: str | None = None
) -> tuple[Maps, Maps]:
    """Maps of `rows` with fewer channels, and the sum over all neurons.

    Maps are read in batches, so the whole layer is never in memory.

    Returns
    -------
    maps : ndarray of shape (n, h, w, k), float32
    total : ndarray of shape (n, h, w), float32
    """
    h, w, _ = store.map_shape(layer)
    fewer = np.empty((len(rows), h, w, reduction.axes.shape[1]), dtype=np.float32)
    total, done = np.empty((len(rows), h, w), dtype=np.float32), 0
    for _, maps in store.iter_maps(rows, layer=layer, batch=BATCH):
        own = slice(done, done + len(maps))
        fewer[own], total[own] = reduction.reduced(maps)
        done += len(maps)
    return fewer, total


def score_of(row: Any, name: str) -> dict[str, float]:
    """A score of a row of a table: ``value``, ``low``, ``high`` (95 %) and ``n``."""
    ends = {end: float(row[f"{name}_{end}"]) for end in ("low", "high")}
    return {"value": float(row[name]), **ends, "n": int(row["n"])}


def encode_boxes(boxes: np.ndarray, target: str) -> np.ndarray:
    """Corners → what is regressed: the corners, or the centre and the logarithms of the sides."""
    if target == "corners":
        return np.asarray(boxes, dtype=float)
    low, high = boxes[:, :2], boxes[:, 2:]
    return np.hstack([(low + high) / 2, np.log(np.maximum(high - low, 1e-6))])


def decode_boxes(values: np.ndarray, target: str) -> np.ndarray:
    """The inverse of :func:`encode_boxes`; the corners are in order and inside [0, 1]."""
    values = np.asarray(values, dtype=float)
    if target == "centre_size":
        half = np.exp(np.clip(values[:, 2:], SMALLEST_LOG, 0)) / 2
        values = np.hstack([values[:, :2] - half, values[:, :2] + half])
    return tidy(values, np.array([[0.0, 0.0, 1.0, 1.0]]))


def tidy(boxes: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """Boxes with ``xmin < xmax`` and ``ymin < ymax``, cut at the frame of the picture."""
    low, high = np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])
    first, last = frames[:, :2], frames[:, 2:]
    low, high = np.clip(low, first, last), np.clip(high, first, last)
    least = LEAST_SIDE * (last - first)
    centre = np.clip((low + high) / 2, first + least / 2, last - least / 2)
    thin = high - low < least
    return np.hstack(
        [np.where(thin, centre - least / 2, low), np.where(thin, centre + least / 2, high)]
    )


def mirror_maps(maps: np.ndarray) -> np.ndarray:
    """Maps ``(n, h, w, ...)`` mirrored left to right."""
    return maps[:, :, ::-1]


def mirror_halves(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Maps as sums and differences of columns of cells and their mirror images.

    Parameters
    ----------
    maps : ndarray of shape (n, h, w, k)

    Returns
    -------
    sums : ndarray of shape (n, h * ceil(w / 2) * k)
        They stay when the picture is mirrored.
    differences : ndarray of shape (n, h * floor(w / 2) * k)
        They change their sign. The two are a rotation of the flattened maps.
    """
    n, half = len(maps), maps.shape[2] // 2
    left, right, root = maps[:, :, :half], mirror_maps(maps)[:, :, :half], maps.dtype.type(0.5**0.5)
    middle = maps[:, :, half : maps.shape[2] - half]
    sums = np.concatenate([(left + right) * root, middle], axis=2)
    return sums.reshape(n, -1), ((left - right) * root).reshape(n, -1)


def of_halves(sums: np.ndarray, differences: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of :func:`mirror_halves`, of maps of `shape` ``(h, w, k)``; flattened."""
    n, half, root = len(sums), shape[1] // 2, sums.dtype.type(0.5**0.5)
    even, odd = (
        one.reshape(n, shape[0], width, shape[2])
        for one, width in ((sums, shape[1] - half), (differences, half))
    )
    both, middle = even[:, :, :half], even[:, :, half:]
    columns = [(both + odd) * root, middle, mirror_maps((both - odd) * root)]
    return np.concatenate(columns, axis=2).reshape(n, -1)


def mirrored(boxes: np.ndarray) -> np.ndarray:
    """Boxes of the pictures mirrored left to right, in unit coordinates of the input."""
    return np.column_stack([1 - boxes[:, 2], boxes[:, 1], 1 - boxes[:, 0], boxes[:, 3]])


def box_statistics(store: MapStore, box_kind: str | None = None) -> pd.DataFrame:
    """Size, shape and place of every true box, in units of its picture.

    Parameters
    ----------
    store : MapStore
    box_kind : str, optional
        Which boxes, where the store has several kinds.

    Returns
    -------
    DataFrame, one row per box
        ``image`` (row of the image table), ``label`` (the image's), ``kind``; ``x, y`` (centre),
        ``width, height`` (shares of the picture's sides), ``area`` (share of the picture),
        ``aspect`` (width / height in pixels), ``on_border`` (within 1 % of a side of the picture's
        border), ``boxes_in_image``, ``largest`` (of its image; exactly one per image). Empty boxes
        and boxes of another class than their image's are left out; ``attrs`` says how many
        (``n_left_out``), and of how many images (``n_images``).

    Raises
    ------
    FeatlabError
        The kind is unknown, or there are several and none was chosen.
    """
    table = true_boxes(store.images, store.boxes, box_kind)
    rows = table["image"].to_numpy(np.int64)
    sizes = store.images[["width", "height"]].to_numpy(float)[rows]
    pixels = table[bx.CORNERS].to_numpy(float)
    unit = bx.unit_boxes(pixels, sizes)
    sides, pixel_sides = unit[:, 2:] - unit[:, :2], pixels[:, 2:] - pixels[:, :2]
    close = (unit[:, :2] <= _BORDER).any(axis=1) | (unit[:, 2:] >= 1 - _BORDER).any(axis=1)
    statistics = pd.DataFrame(
        {
            "image": rows,
            "label": store.images["label"].to_numpy()[rows],
            "kind": table["kind"].to_numpy(),
            "x": (unit[:, 0] + unit[:, 2]) / 2,
            "y": (unit[:, 1] + unit[:, 3]) / 2,
            "width": sides[:, 0],
            "height": sides[:, 1],
            "area": sides.prod(axis=1),
            "aspect": pixel_sides[:, 0] / pixel_sides[:, 1],
            "on_border": close,
            "boxes_in_image": table.groupby("image")["image"].transform("size").to_numpy(),
            "largest": is_largest(table),
        }
    )
    of_kind = boxes_of_kind(store.boxes, box_kind)
    statistics.attrs.update(n_images=len(store), n_left_out=len(of_kind) - len(table))
    return statistics


def box_loss(loss: str, scale: float) -> Any:
    """What Keras lessens: of corners in units of 1 / `scale` of the input's sides."""
    from keras import ops

    if loss == "mse":
        return "mse"

    def smooth_l1(truth: Any, box: Any) -> Any:
        error = ops.abs(truth - box) / scale
        bent = ops.where(error < _BEND, error**2 / (2 * _BEND), error - _BEND / 2)
        return ops.mean(bent, axis=-1)

    def giou(truth: Any, box: Any) -> Any:
        # Smooth L1 moves boxes where GIoU is flat: disjoint, without area, or the whole input.
        return 1 - _giou(truth, box, scale) + _PULL * smooth_l1(truth, box)

    return {"smooth_l1": smooth_l1, "giou": giou}[loss]


def _giou(truth: Any, box: Any, scale: float) -> Any:
    """Generalised IoU (Rezatofighi et al. 2019, CVPR)."""
    from keras import ops

    a, b = truth / scale, box / scale
    area_a, area_b = (ops.prod(ops.maximum(c[:, 2:] - c[:, :2], 0.0), axis=1) for c in (a, b))
    low, high = ops.maximum(a[:, :2], b[:, :2]), ops.minimum(a[:, 2:], b[:, 2:])
    shared = ops.prod(ops.maximum(high - low, 0.0), axis=1)
    union = area_a + area_b - shared
    outer = ops.maximum(a[:, 2:], b[:, 2:]) - ops.minimum(a[:, :2], b[:, :2])
    hull = ops.prod(ops.maximum(outer, 0.0), axis=1)
    return shared / (union + 1e-7) - (hull - union) / (hull + 1e-7)
