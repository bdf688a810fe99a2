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
from featlab.boxheads._inputs import TARGETS, Floats, Reduction, box_statistics, reduced_maps, tidy
from featlab.boxheads._inputs import score_of as score_of
from featlab.boxheads._joint import fit_joint_head, save_joint_model
from featlab.boxheads._linear import Hidden, Projection, ScoreHead, Shift
from featlab.boxheads._regional import CORRECTION, HIDDEN, CascadeHead, MirrorLinear
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
        There is no file, it is another one or of an unknown version, or it is damaged.
    """
    path = Path(path)
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
