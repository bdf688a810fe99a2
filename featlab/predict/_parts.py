"""What a prediction is made of: sets of classes, typicality, heat-map boxes, expected overlap."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageOps

from featlab.arguments import Progress, group_codes, tracked
from featlab.boxes.geometry import iou
from featlab.errors import FeatlabError
from featlab.intervals import share_interval
from featlab.localise import heat_boxes
from featlab.localise.heat import picture_sizes, timed_heats
from featlab.own import own_pictures
from featlab.results.localisation import FittedMethods
from featlab.store import MapStore

Floats = NDArray[np.float64]

_NEIGHBOURS = 5
_MOST_KEPT = 2000  # train images that new ones are compared with
_MOST_CALIBRATED = 10_000
_AROUND = np.array([0, -0.2, -0.1, 0.1, 0.2])  # thresholds that boxes of a heat map lie at
_LEAST_SHARE = 1e-3  # of the picture
_PENALTIES = np.logspace(0, 4, 13)
_FOLDS = 5
_LAST_THRESHOLD = 0.99


def one_of_each(rows: np.ndarray, groups: np.ndarray, random_state: int) -> np.ndarray:
    """Rows that are exchangeable with a new image: one of each group at random, rising.

    An image without a group is one of its own. Images of one group are alike: only one of them,
    drawn at random, stands to a new image (of a new group) as the others' drawn ones do.
    """
    rng = np.random.default_rng(random_state)
    shuffled = rng.permutation(rows)
    _, first = np.unique(group_codes(groups, len(groups))[shuffled], return_index=True)
    drawn = shuffled[first]
    return np.sort(rng.permutation(drawn)[:_MOST_CALIBRATED])


@dataclass(frozen=True)
class ClassSets:
    """Split-conformal sets of classes.

    The score of a class is 1 minus its probability; a set holds the classes whose score is at most
    the ⌈(n + 1) coverage⌉-th smallest of the calibration scores. A picture that is exchangeable
    with the calibration images has its class in the set with at least that probability, over
    draws of both; not for each class by itself.

    Attributes
    ----------
    scores : ndarray of shape (n,)
        Of the true classes of confirm images, one of each group.
    tested : ndarray of shape (m,)
        The same of test images, 0 where the true class is the most probable, which every set
        holds: how often the promise is kept.

    References
    ----------
    Sadinle, Lei & Wasserman (2019). Least ambiguous set-valued classifiers with bounded error
    levels. Journal of the American Statistical Association 114, 223-234.
    """

    scores: Floats
    tested: Floats

    def cut(self, coverage: float) -> float:
        """The largest score of a class in a set; infinite where n is too small to promise less."""
        n = len(self.scores)
        place = int(np.ceil((n + 1) * coverage - 1e-9))
        return float(np.sort(self.scores)[place - 1]) if place <= n else float("inf")

    def members(self, probability: Floats, coverage: float) -> NDArray[np.bool_]:
        """Which classes are in the set of each picture, ``(n, k)``; the most probable always is."""
        inside = 1 - probability <= self.cut(coverage)
        inside[np.arange(len(inside)), probability.argmax(axis=1)] = True
        return inside

    def realised(self, coverage: float) -> dict[str, float]:
        """Share of test images whose class is in their set, with a 95 % interval, and n."""
        inside = int((self.tested <= self.cut(coverage)).sum())
        low, high = share_interval(inside, len(self.tested))
        share = inside / len(self.tested) if len(self.tested) else float("nan")
        return {"coverage": share, "low": low, "high": high, "n": len(self.tested)}


@dataclass(frozen=True)
class Typicality:
    """How usual a picture is for the train set: a conformal p-value.

    A picture's novelty is 1 minus its cosine with the fifth nearest train image; its p-value the
    share of calibration images, itself among them, that are as novel.

    Attributes
    ----------
    train : ndarray of shape (m, c), float32
        Pooled activations of train images, each of length 1.
    novelty : ndarray of shape (n,)
        Of confirm images, one of each group.

    References
    ----------
    Sun et al. (2022). Out-of-distribution detection with deep nearest neighbors. ICML.
    Bates et al. (2023). Testing for outliers with conformal p-values. Annals of Statistics 51.
    """

    train: NDArray[np.float32]
    novelty: Floats

    def p_values(self, X: np.ndarray) -> Floats:
        """In (0, 1]; small for a picture unlike any of train, ``(n,)``."""
        return self.of_novelty(novelty_of(self.train, X))

    def of_novelty(self, novelty: Floats) -> Floats:
        """The p-values of pictures so novel."""
        usual = np.sort(self.novelty)
        return (1 + len(usual) - np.searchsorted(usual, novelty)) / self.steps

    @property
    def steps(self) -> int:
        """One over the smallest p-value that there can be."""
        return len(self.novelty) + 1


def unit_rows(X: np.ndarray) -> NDArray[np.float32]:
    """Each row at length 1; one of zeros stays."""
    length = np.linalg.norm(X, axis=1, keepdims=True)
    return (X / np.maximum(length, 1e-12)).astype(np.float32)


def novelty_of(train: NDArray[np.float32], X: np.ndarray) -> Floats:
    """1 minus the cosine with the fifth nearest of `train`, ``(n,)``."""
    k = min(_NEIGHBOURS, len(train))
    cosine = unit_rows(X).astype(np.float64) @ train.T.astype(np.float64)
    # The last digits of a product depend on how many pictures are asked at once; a tie must not.
    return 1 - np.round(np.partition(cosine, -k, axis=1)[:, -k], 9)


def fit_typicality(
    store: MapStore, layer: str, train: np.ndarray, calibration: np.ndarray, random_state: int
) -> Typicality:
    """Train images (of many a random sample) and the novelty of calibration images."""
    rng = np.random.default_rng(random_state)
    kept = np.sort(rng.permutation(train)[:_MOST_KEPT])
    units = unit_rows(store.pooled(kept, layer=layer))
    return Typicality(units, novelty_of(units, store.pooled(calibration, layer=layer)))


@dataclass(frozen=True)
class HeatBoxes:
    """Boxes from the heat map of one fitted method, cut at one threshold.

    Attributes
    ----------
    method : str
    threshold : float
    tuned : bool
        Whether the threshold was chosen on boxes of the set; else it is fixed.
    fitted : FittedMethods
        The method alone.
    """

    method: str
    threshold: float
    tuned: bool
    fitted: FittedMethods

    def boxes(self, store: MapStore, rows: np.ndarray, codes: np.ndarray) -> Floats:
        """Boxes in pixels for classes asked for, ``(k, 5, 4)``.

        The first is the method's own, the others lie at thresholds 0.1 and 0.2 below and above.
        """
        heats = timed_heats(store, rows, self.fitted, codes)[0][self.method]
        around = np.clip(self.threshold + _AROUND, 0, _LAST_THRESHOLD)
        frames, sizes = np.asarray(store.frames)[rows], picture_sizes(store, rows)
        return heat_boxes(heats, around, frames=frames, sizes=sizes)


def box_signs(boxes: Floats, others: Floats, sizes: np.ndarray) -> Floats:
    """What tells of a box how good it is, ``(k, 2)``: agreement and the log of its share.

    The mean IoU with `others` ``(k, m, 4)``, and the part of the picture (`sizes`: width, height)
    that it covers.
    """
    agreement = np.mean([iou(boxes, others[:, k]) for k in range(others.shape[1])], axis=0)
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    share = (sides / np.asarray(sizes, dtype=np.float64)).prod(axis=1)
    return np.column_stack([agreement, np.log(np.maximum(share, _LEAST_SHARE))])


@dataclass(frozen=True)
class ExpectedOverlap:
    """The IoU to expect of a box, from :func:`box_signs`: a ridge regression on confirm images.

    Attributes
    ----------
    weights : ndarray of shape (3,)
        Intercept, and a weight for each sign; these are 0 where they foretold nothing on held-out
        confirm images: then all boxes have the mean.
    """

    weights: Floats

    @property
    def informative(self) -> bool:
        """Whether it tells one box from another."""
        return bool(self.weights[1:].any())

    def of(self, signs: Floats) -> Floats:
        """The expected IoU of each box."""
        return np.clip(self.weights[0] + signs @ self.weights[1:], 0, 1)


def fit_overlap(signs: Floats, overlap: Floats) -> ExpectedOverlap:
    """A line to the IoU of images that the boxes were not fitted on; the mean if that does as well.

    Judged by the squared error on five held-out folds.
    """
    # Only what fits a predictor waits for it.
    from sklearn.dummy import DummyRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV(_PENALTIES))
    folds = KFold(_FOLDS, shuffle=True, random_state=0)
    foretold = cross_val_predict(model, signs, overlap, cv=folds)
    mean = cross_val_predict(DummyRegressor(), signs, overlap, cv=folds)
    if ((foretold - overlap) ** 2).sum() >= ((mean - overlap) ** 2).sum():
        return ExpectedOverlap(np.array([overlap.mean(), 0.0, 0.0]))
    scale, ridge = (step for _, step in model.fit(signs, overlap).steps)
    slopes = ridge.coef_ / scale.scale_
    return ExpectedOverlap(np.array([ridge.intercept_ - slopes @ scale.mean_, *slopes]))


def beside_real(expected: Floats, real: Floats) -> dict[str, float]:
    """How the expected IoU stands to the real one: rank correlation, and both means."""
    spread = min(np.ptp(expected), np.ptp(real)) > 0
    ranks = pd.Series(expected).corr(pd.Series(real), method="spearman") if spread else 0.0
    return {"value": float(ranks), "n": len(real),
            "expected": float(expected.mean()), "realised": float(real.mean())}  # fmt: skip


class Ticks:
    """One bar over all pictures, though each block of them has a pass of its own.

    Parameters
    ----------
    known, n : int
        Pictures that an earlier call has answered, and all.
    progress : callable, optional
        Wraps the numbers of the pictures that are left, `known` to `n`.
    """

    def __init__(self, known: int, n: int, progress: Progress | None) -> None:
        self._left, self._progress, self._done = range(known, n), progress, 0

    @cached_property
    def _ticks(self) -> Iterator[Any]:
        return iter(tracked(self._left, self._progress))

    def of(self, block: Sized) -> Progress | None:
        """The progress of one block's pass, whose batches may be fewer than its pictures."""
        return None if self._progress is None else partial(self._batches, len(block))

    def _batches(self, n: int, batches: Iterable[Sized]) -> Iterator[Sized]:
        batches, _ = list(batches), self._ticks  # the clock of the bar starts
        self._tell(n - sum(map(len, batches)))
        for batch in batches:
            yield batch
            self._tell(len(batch))

    def _tell(self, n: int) -> None:
        self._done += n
        # One more lets the bar close.
        for _ in range(n + (self._done == len(self._left))):
            next(self._ticks, None)


def blocks_in_memory(pictures: Any, size: int) -> Iterator[list[Any]] | None:
    """Pictures that are no files, `size` at a time; None where paths are given.

    Of an iterable the first one decides; it is read no further than the block that is asked for.
    """
    if isinstance(pictures, (str, os.PathLike)):
        return None
    if isinstance(pictures, (bytes, bytearray, Image.Image)) or getattr(pictures, "ndim", 0) == 3:
        pictures = [pictures]
    if isinstance(pictures, np.ndarray) and pictures.ndim != 4:
        raise FeatlabError(
            "pictures as pixels must be uint8 of shape (h, w, 3) or (n, h, w, 3), got "
            f"{pictures.dtype} of shape {pictures.shape}."
        )
    if isinstance(pictures, (list, tuple)) and (
        not pictures or isinstance(pictures[0], (str, os.PathLike))
    ):
        return None
    if not isinstance(pictures, Iterable):
        raise FeatlabError(
            "pictures must be paths, a store, uint8 pixels (h, w, 3) or (n, h, w, 3), images of "
            f"Pillow or bytes, got {type(pictures).__name__}."
        )
    return _blocks(iter(pictures), size)


def _blocks(pictures: Iterator[Any], size: int) -> Iterator[list[Any]]:
    number = 0
    while block := list(islice(pictures, size)):
        yield [(number + k, one) for k, one in enumerate(block)]
        number += len(block)


_JPEG = b"\xff\xd8\xff"


def write_block(block: Iterable[tuple[int, Any]], folder: Path) -> list[Path]:
    """Write numbered pictures as files of the same pixels; bytes as they are."""
    return [_write_picture(one, folder / f"{number:09d}") for number, one in block]


def _write_picture(picture: Any, path: Path) -> Path:
    if isinstance(picture, (bytes, bytearray)):
        # The suffix of a JPEG lets the pass decode a large one at a part of its size.
        path = path.with_suffix(".jpg" if picture[:3] == _JPEG else ".bin")
        path.write_bytes(picture)
        return path
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise FeatlabError(
                "a picture must be uint8 of shape (h, w, 3), got "
                f"{picture.dtype} of shape {picture.shape}."
            )
        if not picture.size:
            raise FeatlabError(f"a picture must have pixels, got shape {picture.shape}.")
        picture = Image.fromarray(picture)
    if not isinstance(picture, Image.Image):
        raise FeatlabError(
            "pictures must be all paths, or all pixels, images of Pillow or bytes, got "
            f"{type(picture).__name__} among them."
        )
    if 0 in picture.size:
        raise FeatlabError("a picture must have pixels, got an image of Pillow without any.")
    path = path.with_suffix(".bmp")  # the quickest to write
    ImageOps.exif_transpose(picture).convert("RGB").save(path)
    return path


def own_answer(store: MapStore, rows: np.ndarray) -> dict[str, Any]:
    """What the network itself calls the pictures; empty where it has no classifier."""
    if store.own_head is None:
        return {"own_class": "", "own_probability": np.nan}
    first = own_pictures(store, rows, most=1)
    return {name: first[name].to_numpy() for name in ("own_class", "own_probability")}
