"""Class and box learned together by a Keras head on stored maps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from featlab import boxes as bx
from featlab.boxheads._maps import mirror_maps
from featlab.boxheads._networks import ARCHITECTURES, LOSSES, build
from featlab.boxheads._targets import mirrored, tidy
from featlab.errors import FeatlabError
from featlab.heads._inputs import check_at_least, check_choice, check_sides, encode
from featlab.intervals import bootstrap_interval, wilson_interval
from featlab.results.boxheads import JointHeadResults

if TYPE_CHECKING:
    from featlab.store import MapStore

_PIXELS = 224.0
_WHOLE = np.array([[0.0, 0.0, 1.0, 1.0]])


def train_joint_head(
    maps: MapStore | np.ndarray,
    labels: ArrayLike,
    boxes: ArrayLike,
    split: ArrayLike,
    *,
    head: str = "flatten",
    loss: str | None = None,
    epochs: int | None = None,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    box_scale: float | None = None,
    mirror: bool | None = None,
    layer: str | None = None,
    random_state: int = 0,
) -> JointHeadResults:
    """Train class and box together on stored maps; the backbone is never run.

    Trained on the *train and confirm* rows, scored on the *test* rows. Images without a box (NaN)
    are left out.

    Parameters
    ----------
    maps : MapStore or ndarray of shape (n, h, w, c)
    labels : array_like of shape (n,)
    boxes : array_like of shape (n, 4)
        Corners in unit coordinates of the network's input
        (:func:`featlab.boxes.picture_to_frame`); NaN where an image has none.
    split : array_like of shape (n,)
        ``train``, ``confirm`` or ``test``.
    head : {"flatten", "spatial"}
        ``flatten``: Flatten → Dense softmax and Flatten → Dense(4, linear), as published.
        ``spatial``: 1 x 1 and 3 x 3 convolutions, then soft looks that keep their positions.
    loss : {"mse", "smooth_l1", "giou"}, optional
        Of the box; by default "mse" for ``flatten``, "smooth_l1" for ``spatial``. "giou"
        has a share of smooth L1 in it; alone it can stay at boxes as large as the picture.
    epochs : int, optional
        By default 7 (as published) for ``flatten``, 60 for ``spatial``.
    batch_size : int
    learning_rate : float
        Adam's at the start; it falls to a tenth over the epochs of ``spatial``.
    box_scale : float, optional
        The box is learned in units of 1 / `box_scale` of the input's side. By default 224 for
        ``flatten``, which learns pixels, as published (with 1 and Adam it does not converge on a
        few hundred unscaled maps), and 1 for ``spatial``.
    mirror : bool, optional
        Show every image mirrored in half of the epochs, at random; by default for ``spatial`` only.
    layer : str, optional
        Of the store; its last by default.
    random_state : int
        Seed. It is given to Keras, which seeds Python and NumPy globally too.

    Returns
    -------
    JointHeadResults

    Raises
    ------
    FeatlabError
        Shapes that do not match, an unknown word, nothing to train or to score on.
    """
    check_choice("head", head, ARCHITECTURES)
    spatial = head == "spatial"
    loss = loss or ("smooth_l1" if spatial else "mse")
    check_choice("loss", loss, LOSSES)
    epochs = (60 if spatial else 7) if epochs is None else epochs
    box_scale = (1.0 if spatial else _PIXELS) if box_scale is None else float(box_scale)
    check_at_least("epochs", epochs, 1)
    check_at_least("batch_size", batch_size, 1)
    mirror = spatial if mirror is None else mirror
    codes, classes = encode(labels)
    truth, sides = np.asarray(boxes, dtype=float), np.asarray(split).astype(str)
    n = len(codes)
    if len(maps) != n or truth.shape != (n, 4) or sides.shape != (n,):
        raise FeatlabError(
            f"maps, labels, boxes (n, 4) and split must have one row per image, got {len(maps)}, "
            f"{n}, {truth.shape} and {sides.shape}."
        )
    check_sides(sides)
    known = np.isfinite(truth).all(axis=1)
    fit, test = np.flatnonzero(known & (sides != "test")), np.flatnonzero(known & (sides == "test"))
    if not len(fit) or not len(test):
        raise FeatlabError(
            f"the joint head needs images with boxes to train and to score on, got {len(fit)} "
            f"train and confirm and {len(test)} test rows."
        )
    X, X_test = _rows(maps, fit, layer), _rows(maps, test, layer)

    import keras

    keras.utils.set_random_seed(random_state)
    unit = np.sqrt(np.mean(X**2)) or 1.0
    if spatial:  # flatten takes the maps as they are, as published
        X, X_test = X / unit, X_test / unit
    model = build(head, X.shape[1:], len(classes), loss, box_scale, learning_rate)
    history = _train(
        model, X, codes[fit], truth[fit] * box_scale,
        epochs=epochs, batch_size=batch_size, mirror=mirror, box_scale=box_scale,
        rates=_rates(learning_rate, epochs, falling=spatial), random_state=random_state,
    )  # fmt: skip
    probability, raw = _predict(model, X_test, batch_size, box_scale, both=mirror)
    predictions = _predictions(test, codes[test], classes, probability, raw, truth[test])
    return _scored(
        predictions,
        history,
        len(fit),
        random_state,
        {
            "head": head,
            "loss": loss,
            "epochs": epochs,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "box_scale": box_scale,
            "mirror": mirror,
            "random_state": random_state,
            "weights": int(model.count_params()),
        },
    )


def _rows(maps: MapStore | np.ndarray, rows: np.ndarray, layer: str | None) -> np.ndarray:
    if isinstance(maps, np.ndarray):
        return maps[rows].astype(np.float32)
    return maps.maps(rows, layer=layer)


def _rates(rate: float, epochs: int, *, falling: bool) -> np.ndarray:
    """Learning rate of every epoch; half a cosine from `rate` to a tenth of it where it falls."""
    if not falling or epochs == 1:
        return np.full(epochs, rate)
    return rate * (0.1 + 0.45 * (1 + np.cos(np.pi * np.arange(epochs) / (epochs - 1))))


def _train(
    model: Any,
    X: np.ndarray,
    codes: np.ndarray,
    boxes: np.ndarray,
    *,
    epochs: int,
    batch_size: int,
    mirror: bool,
    box_scale: float,
    rates: np.ndarray,
    random_state: int,
) -> pd.DataFrame:
    rng = np.random.default_rng(random_state)
    rows = []
    for epoch in range(epochs):
        began = time.perf_counter()
        model.optimizer.learning_rate.assign(float(rates[epoch]))
        order, sums = rng.permutation(len(X)), np.zeros(3)
        flipped = rng.random(len(X)) < (0.5 if mirror else 0.0)
        for start in range(0, len(X), batch_size):
            part = order[start : start + batch_size]
            maps, box, turn = X[part], boxes[part], flipped[part]
            if turn.any():
                maps[turn] = mirror_maps(maps[turn])
                box[turn] = mirrored(box[turn] / box_scale) * box_scale
            target = {"label": codes[part], "box": box.astype(np.float32)}
            model.reset_metrics()  # else Keras mixes the batches so far into its answer
            logs = model.train_on_batch(maps, target, return_dict=True)
            values = [float(logs[name]) for name in ("loss", "label_loss", "box_loss")]
            sums += len(part) * np.array(values)
        seconds = time.perf_counter() - began
        rows.append([epoch, seconds, *sums / len(X)])
    return pd.DataFrame(rows, columns=["epoch", "seconds", "loss", "label_loss", "box_loss"])


def _predict(
    model: Any, X: np.ndarray, batch_size: int, box_scale: float, *, both: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Class probabilities, and boxes in unit coordinates; with `both` means over mirror images."""
    found = model.predict(X, batch_size=batch_size, verbose=0)
    probability, boxes = np.asarray(found["label"]), np.asarray(found["box"], float) / box_scale
    if both:
        other = model.predict(mirror_maps(X), batch_size=batch_size, verbose=0)
        probability = (probability + np.asarray(other["label"])) / 2
        boxes = (boxes + mirrored(np.asarray(other["box"], float) / box_scale)) / 2
    return probability, boxes


def _predictions(
    rows: np.ndarray,
    codes: np.ndarray,
    classes: np.ndarray,
    probability: np.ndarray,
    raw: np.ndarray,
    truth: np.ndarray,
) -> pd.DataFrame:
    boxes, best = tidy(raw, _WHOLE), probability.argmax(axis=1)
    table = pd.DataFrame(
        {
            "row": rows,
            "label": classes[codes],
            "predicted": classes[best],
            "correct": best == codes,
            "iou": bx.iou(boxes, truth),
        }
    )
    table[bx.CORNERS] = boxes
    table[[f"raw_{name}" for name in bx.CORNERS]] = raw
    return table


def _scored(
    predictions: pd.DataFrame,
    history: pd.DataFrame,
    n_train: int,
    random_state: int,
    parameters: dict[str, Any],
) -> JointHeadResults:
    correct, iou = predictions["correct"].to_numpy(bool), predictions["iou"].to_numpy(float)
    accuracy_low, accuracy_high = wilson_interval(int(correct.sum()), len(correct))
    iou_low, iou_high = bootstrap_interval(iou, random_state=random_state)
    seconds = history["seconds"].to_numpy(float)
    return JointHeadResults(
        accuracy=float(correct.mean()),
        accuracy_low=accuracy_low,
        accuracy_high=accuracy_high,
        mean_iou=float(iou.mean()),
        mean_iou_low=iou_low,
        mean_iou_high=iou_high,
        n_train=n_train,
        n=len(predictions),
        seconds_per_epoch=float(seconds[1:].mean() if len(seconds) > 1 else seconds[0]),
        history=history,
        predictions=predictions,
        parameters=parameters,
    )
