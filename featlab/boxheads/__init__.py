"""From stored maps to boxes by regression; the network is never run.

`evaluate_box_heads` fits classical heads and scores them on test images beside baselines;
`predict_boxes` applies those that are plain arrays to other images, `save_box_head` and
`load_box_head` keep them in files;
`fit_joint_head` trains class and box together, as a Keras head on the stored maps;
`save_joint_model` writes it with its backbone as one ``.keras`` file;
`box_statistics` describes the boxes themselves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from featlab.arguments import row_numbers
from featlab.boxes.geometry import frame_to_picture
from featlab.boxheads._evaluation import evaluate_box_heads
from featlab.boxheads._evaluation import refit_box_head as refit_box_head
from featlab.boxheads._inputs import KEPT_SCORES as KEPT_SCORES
from featlab.boxheads._inputs import (
    LEAST_SIDE,
    SMALLEST_LOG,
    TARGETS,
    Floats,
    Reduction,
    box_statistics,
    reduced_maps,
    tidy,
)
from featlab.boxheads._inputs import score_of as score_of
from featlab.boxheads._joint import fit_joint_head, save_joint_model
from featlab.boxheads._linear import Hidden, Projection, ScoreHead, Shift
from featlab.boxheads._regional import (
    CHANNELS,
    CORRECTION,
    FARTHEST,
    GRID,
    HIDDEN,
    CascadeHead,
    MirrorLinear,
)
from featlab.errors import FeatlabError
from featlab.results.localisation import BoxHead
from featlab.store import MapStore
from featlab.store.arrays import (
    Kind,
    damage_errors,
    mapping_made,
    mapping_plain,
    read_arrays,
    write_arrays,
)
from featlab.store.network import refuse_other_network

__all__ = [
    "box_statistics",
    "evaluate_box_heads",
    "fit_joint_head",
    "load_box_head",
    "predict_boxes",
    "save_box_head",
    "save_joint_model",
]

KIND = Kind("featlab-box-head", "1.0", "featlab boxheads -o")
_FACTS = ("name", "layer", "target", "context", "steps")
_MOST_STEPS = 100
_NETWORK = "network_"  # before the name of an array that tells the network
_OTHER = "Give a store of the network that the box head was fitted on."


def predict_boxes(head: BoxHead, store: MapStore, rows: Any = None) -> Floats:
    """Boxes of images by a fitted head, from their stored maps.

    Parameters
    ----------
    head : BoxHead
        Of ``BoxHeadResults.fitted``, or from :func:`load_box_head`.
    store : MapStore
        Maps of the same network.
    rows : sequence of int, or mask of shape (n,), optional
        All images by default.

    Returns
    -------
    ndarray of shape (k, 4)
        Pixels of the original pictures, never empty.

    Raises
    ------
    FeatlabError
        The store is of another network or pass, named with both values.
    """
    refuse_other_network(head.network, store.provenance, store.path, _OTHER)
    numbers = row_numbers(rows, store.images)
    reduction = Reduction(head.arrays["channel_mean"], head.arrays["channel_axes"])
    maps, total = reduced_maps(store, numbers, reduction, layer=head.layer)
    frames = np.asarray(store.frames, dtype=float)[numbers]
    sizes = store.images[["width", "height"]].to_numpy(float)[numbers]
    return frame_to_picture(tidy(_working(head).predict(maps, total), frames), frames, sizes)


def _working(head: BoxHead) -> ScoreHead | CascadeHead:
    of = head.arrays
    projection = Projection(of["first_mean"], of["first_axes"])
    if HIDDEN[0] in of:
        last: Hidden | Shift = Hidden(*(of[part] for part in (*HIDDEN, "first_level")))
    else:
        last = Shift(of["first_level"])
    first = ScoreHead(projection, last, head.target, "")
    if not head.steps:
        return first
    correction = MirrorLinear(*(of[part] for part in CORRECTION))
    return CascadeHead(first, correction, head.context, head.steps, "")


def save_box_head(head: BoxHead, path: str | os.PathLike[str]) -> Path:
    """Write a fitted box head as arrays and JSON in one HDF5 file; complete or not at all.

    Parameters
    ----------
    head : BoxHead
        Of ``BoxHeadResults.fitted``.
    path : path-like

    Returns
    -------
    Path

    Raises
    ------
    FeatlabError
        The file cannot be written.
    """
    path = Path(path)
    facts, arrays = box_head_plain(head)
    network, probes = mapping_plain(head.network, _NETWORK)
    write_arrays(path, KIND, facts | {"network": network}, arrays | probes)
    return path


def load_box_head(path: str | os.PathLike[str]) -> BoxHead:
    """Read what :func:`save_box_head` wrote.

    Parameters
    ----------
    path : path-like

    Returns
    -------
    BoxHead

    Raises
    ------
    FeatlabError
        There is no file, it is a folder, another file or one of an unknown version, or damaged.
    """
    path = Path(path)
    if inside := ", ".join(sorted(one.name for one in path.glob("*.boxhead"))):
        raise FeatlabError(f"{path} is a folder; give one of the box heads in it: {inside}.")
    facts, arrays = read_arrays(path, KIND)
    with damage_errors(path, KIND):
        own = {name: one for name, one in arrays.items() if not name.startswith(_NETWORK)}
        network = mapping_made(facts["network"], arrays, _NETWORK)
        return replace(box_head_made(facts, own), network=network)


def box_head_plain(head: BoxHead) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A box head as what JSON says and named arrays, without its network."""
    facts = {name: getattr(head, name) for name in (*_FACTS, "measured")}
    return facts, dict(head.arrays)


def box_head_made(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> BoxHead:
    """The box head again; ValueError or KeyError where its parts do not fit together."""
    head = BoxHead(
        str(facts["name"]), str(facts["layer"]), str(facts["target"]), float(facts["context"]),
        int(facts["steps"]), dict(arrays), measured=dict(facts["measured"]),
    )  # fmt: skip
    if head.target not in TARGETS or not 0 <= head.steps <= _MOST_STEPS:
        raise ValueError(f"target {head.target[:80]!r}, {head.steps} steps")
    _try_out(head)
    return head


def _try_out(head: BoxHead) -> None:
    """A box of maps of zeros: arrays that do not fit together are found here."""
    reduction = Reduction(head.arrays["channel_mean"], head.arrays["channel_axes"])
    channels, kept = reduction.axes.shape
    cells, rest = divmod(head.arrays["first_mean"].size, max(kept, 1))
    if rest or reduction.mean.shape != (channels,) or not np.isfinite(head.context):
        raise ValueError("the arrays of the box head do not fit together")
    maps, total = reduction.reduced(np.zeros((1, cells, 1, channels), dtype=np.float32))
    boxes = _working(head).predict(maps, total)
    if boxes.shape != (1, 4) or not np.isfinite(boxes).all():
        raise ValueError("the box head gives no box")


def head_tensor(head: BoxHead, maps: Any) -> Any:
    """:func:`predict_boxes` in a Keras graph, in single precision, of pictures that fill the input.

    Parameters
    ----------
    head : BoxHead
    maps : keras.KerasTensor of shape (b, h, w, c)
        Of the head's layer.

    Returns
    -------
    keras.KerasTensor of shape (b, 4)
        Shares of the picture's sides.
    """
    from keras import layers, ops

    of, (_, h, w, _) = head.arrays, maps.shape
    axes, first = of["channel_axes"], of["first_axes"]
    reduced = _affine_tensor(maps, axes, -of["channel_mean"] @ axes)
    flat, level = layers.Flatten()(reduced), -of["first_mean"] @ first
    # Weights of mirrored cells, not mirrored maps.
    turned = first.reshape(h, w, -1, first.shape[1])[:, ::-1].reshape(first.shape)
    plain, other = (
        _decoded_tensor(_last_tensor(head, _affine_tensor(flat, weights, level)), head.target)
        for weights in (first, turned)
    )
    other = ops.stack([1 - other[:, 2], other[:, 1], 1 - other[:, 0], other[:, 3]], axis=1)
    boxes = (plain + other) / 2
    if head.steps:
        boxes = _corrected_tensor(head, reduced[..., :CHANNELS], boxes)
    return _tidy_tensor(boxes)


def _last_tensor(head: BoxHead, scores: Any) -> Any:
    """What is regressed on the scores: a shift, or a hidden layer."""
    from keras import ops

    of = head.arrays
    if HIDDEN[0] not in of:
        return scores + of["first_level"].astype(np.float32)
    weights, level, out = (of[part] for part in HIDDEN)
    units = ops.relu(_affine_tensor(scores[:, : len(weights)], weights, level))
    return _affine_tensor(units, out, of["first_level"])


def _corrected_tensor(head: BoxHead, maps: Any, boxes: Any) -> Any:
    """The steps of a cascade."""
    from keras import layers, ops

    correct = layers.Dense(4)
    for _ in range(head.steps):
        change = correct(_sampled_tensor(maps, boxes, head.context))
        change = ops.clip(change, -FARTHEST, FARTHEST)
        low, high = boxes[:, :2], boxes[:, 2:]
        sides = ops.maximum(high - low, 1e-6)
        moved = (low + high) / 2 + change[:, :2] * sides
        encoded = ops.concatenate([moved, ops.log(sides) + change[:, 2:]], axis=1)
        boxes = _decoded_tensor(encoded, "centre_size")
    linear = MirrorLinear(*(head.arrays[part] for part in CORRECTION))
    size = GRID * GRID * maps.shape[-1]
    level = linear(np.zeros((1, size)))
    correct.set_weights([linear(np.eye(size)) - level, level[0]])
    return boxes


def _affine_tensor(values: Any, weights: np.ndarray, level: np.ndarray) -> Any:
    """``values @ weights + level`` along the last axis."""
    from keras import layers

    dense = layers.Dense(weights.shape[1])
    result = dense(values)
    dense.set_weights([weights, level])
    return result


def _decoded_tensor(values: Any, target: str) -> Any:
    """As ``decode_boxes``."""
    from keras import ops

    if target == "centre_size":
        centre, half = values[:, :2], ops.exp(ops.clip(values[:, 2:], SMALLEST_LOG, 0.0)) / 2
        values = ops.concatenate([centre - half, centre + half], axis=1)
    return _tidy_tensor(values)


def _tidy_tensor(boxes: Any) -> Any:
    """As ``tidy``, of pictures that fill the input."""
    from keras import ops

    one, other = boxes[:, :2], boxes[:, 2:]
    low = ops.clip(ops.minimum(one, other), 0.0, 1.0)
    high = ops.clip(ops.maximum(one, other), 0.0, 1.0)
    half = LEAST_SIDE / 2
    centre = ops.clip((low + high) / 2, half, 1 - half)
    thin = high - low < LEAST_SIDE
    corners = [ops.where(thin, centre - half, low), ops.where(thin, centre + half, high)]
    return ops.concatenate(corners, axis=1)


def _sampled_tensor(maps: Any, boxes: Any, context: float) -> Any:
    """As ``sample_regions``."""
    from keras import ops

    _, h, w, k = maps.shape
    steps = (((np.arange(GRID) + 0.5) / GRID * 2 - 1) * context).astype(np.float32)
    centre, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2

    def weights(axis: int, cells: int) -> Any:
        """Of the cells along one axis in each sample, ``(b, GRID, cells)``."""
        along = slice(axis, axis + 1)
        place = (centre[:, along] + half[:, along] * steps) * cells - 0.5
        place = ops.expand_dims(ops.clip(place, 0, cells - 1), -1)
        return ops.relu(1 - ops.abs(place - np.arange(cells, dtype=np.float32)))

    rows = ops.matmul(weights(1, h), ops.reshape(maps, (-1, h, w * k)))
    rows = ops.reshape(rows, (-1, GRID, w, k))
    samples = ops.matmul(ops.expand_dims(weights(0, w), 1), rows)
    return ops.reshape(samples, (-1, GRID * GRID * k))
