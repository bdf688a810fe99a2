"""The pointing game, for single detectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from featlab import boxes as bx
from featlab.intervals import wilson_interval
from featlab.localise.checks import picture_sizes
from featlab.localise.context import cells_in_boxes
from featlab.localise.fitting import confirmed_detectors
from featlab.localise.methods import Progress
from featlab.localise.truth import select_boxes

if TYPE_CHECKING:
    from featlab.store import MapStore

COLUMNS = ["class", "neuron", "n", "pointing", "pointing_low", "pointing_high"]


def neuron_pointing(
    store: MapStore,
    neurons: pd.DataFrame,
    rows: Sequence[int] | np.ndarray,
    *,
    box_kind: str | None = None,
    layer: str | None = None,
    top: int | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """How often the peak of a detector's map lies in a box of its class.

    The peak is the centre of the cell with the map's maximum; cells that share the maximum share
    the point. A flat map has no peak and misses.

    Parameters
    ----------
    store : MapStore
    neurons : DataFrame
        Neuron table after ``confirm_neurons``; its replicated detectors of the layer are scored.
    rows : sequence of int
        Unseen images, i.e. the test rows; those without boxes are left out.
    box_kind, layer, progress
        As in :func:`evaluate`.
    top : int, optional
        At most so many detectors per class, best first; all by default.

    Returns
    -------
    DataFrame
        class, neuron, n (images of the class with boxes), pointing (share), pointing_low,
        pointing_high (Wilson, 95 %), the best detector of each class first.
        ``attrs["picture_centre"]`` is, per class, the share of the same images whose own centre
        lies in a box: what pointing at the middle would get.

    Raises
    ------
    FeatlabError
        As for :func:`evaluate`.

    References
    ----------
    Zhang et al. (2018), Top-down neural attention by excitation backprop, IJCV 126.
    """
    layer = layer or store.layers[-1]
    detectors = confirmed_detectors(neurons, layer=layer, top=top)
    table = select_boxes(store, box_kind)
    rows = np.intersect1d(np.asarray(rows, dtype=np.int64), table["image"].to_numpy(np.int64))
    ids = np.unique(detectors["neuron"].to_numpy(np.int64))
    hits = _hits(store, rows, ids, table, layer, progress)
    labels = store.images["label"].to_numpy()[rows]
    columns = np.searchsorted(ids, detectors["neuron"].to_numpy(np.int64))
    scored = []
    for name, neuron, column in zip(detectors["class"], detectors["neuron"], columns, strict=True):
        own = hits[labels == name, column]
        share = float(own.mean()) if len(own) else float("nan")
        scored.append([name, neuron, len(own), share, *wilson_interval(own.sum(), len(own))])
    result = pd.DataFrame(scored, columns=COLUMNS)
    whole = bx.whole_image_boxes(picture_sizes(store)[rows])
    middle = bx.centre_in_box(whole, rows, table)
    result.attrs = {
        "layer": layer,
        "picture_centre": {str(k): float(middle[labels == k].mean()) for k in np.unique(labels)},
    }
    return result


def _hits(
    store: MapStore,
    rows: np.ndarray,
    ids: np.ndarray,
    table: pd.DataFrame,
    layer: str,
    progress: Progress | None,
) -> np.ndarray:
    """Share of each map's peak that lies in a box, ``(k, m)``."""
    hits = [np.zeros((0, len(ids)))]
    batches = store.iter_maps(rows, layer=layer) if len(ids) else ()
    for chunk, maps in progress(batches) if progress else batches:
        k, h, w, _ = maps.shape
        values = maps[..., ids].reshape(k, h * w, len(ids))
        peak = values == values.max(axis=1, keepdims=True)
        inside = cells_in_boxes(store, chunk, (h, w), table)
        share = (peak & inside[..., None]).sum(axis=1) / peak.sum(axis=1)
        hits.append(np.where(peak.all(axis=1), 0.0, share))
    return np.concatenate(hits)
