"""What the page's script reads: neurons, pictures, heat maps and points, within a budget of bytes.

One JSON object in one data block of the page:

``pictures`` : list of str
    JPEG files, base64; each picture once. The others name it by its place.
``neurons`` : object or null
    ``classes``; ``columns``, each base64 of little-endian uint16 with 65535 for none: ``neuron``,
    ``class`` (place in ``classes``), ``flags`` (1 silent, 2 selected, 4 confirmed), shares and
    AUROCs in 1/10,000, p-values as ``p_scale`` · −log10 p (65534: p = 0). Rows come in the order
    of what matters, and columns of the confirmation end with the last selected row. ``cards``:
    (class, neuron) of each card on the page. ``portraits``, or null: ``neurons`` (class, neuron),
    ``shape`` (height, width), and of each neuron twice ``most`` images, the strongest and those of
    other classes: ``picture`` and ``label`` (places, uint16), ``activation`` (uint16, 65534 for the
    largest of the neuron, ``tops``), ``cells`` (uint8, 255 for the neuron's highest cell,
    ``peaks``), ``frames`` (by picture), ``votes`` and ``held``.
``gallery`` : object or null
    ``images``: ``label``, ``picture``, ``boxes`` (in units of the picture), ``frame`` (where the
    picture lies in the maps); ``heats``: ``name`` or ``neuron`` (class, neuron), ``threshold``,
    ``shape`` (height, width), ``values``: base64 uint16, 65535 at the map's own maximum.
``embedding`` : object or null
    ``x``, ``y`` (whole numbers, 10,000 at the longer side), ``label`` (place in ``classes``),
    ``classes``, ``misclassified`` (points), and optionally ``thumbnail`` (picture or -1) and
    ``name`` of each point.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from featlab.arguments import with_unseen_limits
from featlab.report import _words as words
from featlab.results.analysis import Results, SetOverview
from featlab.results.pictures import Gallery
from featlab.system.machine import usable_cores

PAGE_BYTES = 10_000_000
_MISSING, _ZERO = 65535, 65534
_P_SCALE = 200  # keeps p to 0.6 %, and 10⁻³²³ within 16 bits
_ROW_BYTES = 38  # of a neuron: fourteen columns of 16 bits in base64
_FRAME_BYTES = 1500  # of the neurons: all but classes and columns
# The largest side in pixels and the JPEG quality to try, one after the other.
_PICTURE_STEPS = ((256, 82), (256, 65), (192, 65), (128, 60), (96, 50))
_THUMBNAIL_STEPS = ((96, 70), (64, 65), (48, 55))
_SIDE = 10_000


@dataclass(frozen=True)
class Budget:
    """Most bytes for each part of the data; what one part leaves goes to the neurons."""

    pictures: int
    heats: int
    thumbnails: int
    points: int
    portraits: int
    cells: int


def size_budget(free: int) -> Budget:
    """Share out the bytes that are left on the page.

    Parameters
    ----------
    free : int
        Bytes up to :data:`PAGE_BYTES`; nothing is given out where there are none.
    """
    free = max(free, 0)
    return Budget(
        pictures=min(free // 5, 1_200_000),
        heats=min(free // 10, 800_000),
        thumbnails=min(free // 6, 1_000_000),
        points=min(free // 6, 1_000_000),
        portraits=min(free // 8, 1_000_000),
        cells=min(free // 8, 1_000_000),
    )


def interactive(results: Results, free: int) -> Markup:
    """The data of the script as JSON that cannot leave its element, in at most `free` bytes."""
    budget, pictures = size_budget(free), Pictures()
    data: dict[str, Any] = {
        "gallery": _gallery(results, pictures, budget),
        "embedding": None
        if results.set_overview is None
        else _set_overview(results.set_overview, results.store.images, pictures, budget),
    }
    portraits = portrait_data(results, pictures, budget)
    data["pictures"] = pictures.encoded
    fixed = [data, portraits, [str(name) for name in results.store.classes]]
    frame = len(embeddable(fixed)) + _FRAME_BYTES
    data["neurons"] = explorer(results, max(free - frame, 0) // _ROW_BYTES)
    if data["neurons"] is not None:
        data["neurons"]["portraits"] = portraits
    return embeddable(data)


def embeddable(value: Any) -> Markup:
    """JSON in ASCII without ``<``, ``>`` and ``&``: no name can end the element it stands in."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


class Pictures:
    """JPEG files by row of the image table, each kept once."""

    def __init__(self) -> None:
        self.encoded: list[str] = []
        self._place: dict[int, int] = {}

    def add(
        self,
        pictures: Iterable[tuple[int, np.ndarray | None]],
        most: int,
        steps: Sequence[tuple[int, int]],
    ) -> dict[int, int]:
        """Places of the pictures by row, at the best step at which the new ones fit in `most`.

        Where they do not fit at the last step either, the first ones that do.
        """
        given = [(row, pixels) for row, pixels in pictures if pixels is not None]
        new = [(row, pixels) for row, pixels in given if row not in self._place]
        files: list[str] = []
        for side, quality in steps if new else ():
            encode = partial(_jpeg, side=side, quality=quality)
            with ThreadPoolExecutor(usable_cores()) as pool:
                files = list(pool.map(encode, [pixels for _, pixels in new]))
            if sum(map(len, files)) <= most:
                break
        fitting = int((np.cumsum([len(file) for file in files]) <= most).sum())
        for (row, _), file in zip(new[:fitting], files[:fitting], strict=True):
            self._place[row] = len(self.encoded)
            self.encoded.append(file)
        return {row: self._place[row] for row, _ in given if row in self._place}


def _jpeg(pixels: np.ndarray, side: int, quality: int) -> str:
    return _base64(small_jpeg(pixels, side, quality))


def small_jpeg(pixels: np.ndarray, side: int, quality: int) -> bytes:
    """A JPEG file with at most `side` pixels on its longer side."""
    image, buffer = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((side, side))
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return buffer.getvalue()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _packed(values: np.ndarray) -> str:
    """Whole numbers from 0 to 65534 as base64; 65535 stands for NaN."""
    codes = np.where(np.isfinite(values), np.clip(np.round(values), 0, _ZERO), _MISSING)
    return _base64(codes.astype("<u2").tobytes())


def explorer_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The living pairs, what matters first: confirmed, selected, then by the size of the effect."""
    live = table[table["auroc"].notna()]
    if "reference" in live:
        live = live[live["reference"].eq("")]
    selected, confirmed = live["detector"].eq(True), live["confirmed"].eq(True)
    state = (selected & confirmed).astype(int) + selected.astype(int)
    size = (live["auroc"] - 0.5).abs()
    order = live.assign(state=state, size=size)
    return order.sort_values(["state", "size"], ascending=False, kind="stable")


def explorer(results: Results, most_rows: int) -> dict[str, Any] | None:
    """The rows of the neuron explorer, at most `most_rows`; None without any."""
    rows = explorer_rows(results.neurons)
    kept = with_unseen_limits(rows.head(most_rows))
    if kept.empty:
        return None
    classes = [str(name) for name in results.store.classes]
    place = {name: k for k, name in enumerate(classes)}
    selected = kept[kept["state"] > 0]
    flags = kept["direction"].eq("silent") + 2 * (kept["state"] > 0) + 4 * (kept["state"] > 1)
    columns = {
        "neuron": kept["neuron"].to_numpy(float),
        "class": kept["class"].astype(str).map(place).to_numpy(float),
        "flags": flags.to_numpy(float),
        "p_adjusted": _p_codes(kept["p_adjusted"]),
        "p_confirmed": _p_codes(selected["p_confirmed"]),
    }
    for name in ("auroc", "auroc_low", "auroc_high", "pts", "pts_ref"):
        columns[name] = 10_000 * kept[name].to_numpy(float)
    for name in ("auroc_confirmed", "auroc_confirmed_low", "auroc_confirmed_high"):
        columns[name] = 10_000 * selected[name].to_numpy(float)
    known = results.selection
    return {
        "classes": classes,
        "held": _held(len(kept), len(rows), int(results.neurons["auroc"].isna().sum())),
        "alpha": known.alpha,
        "min_auroc": known.min_auroc,
        "p_scale": _P_SCALE,
        "columns": {name: _packed(values) for name, values in columns.items()},
        "cards": [
            [place[card.label], card.neuron] for card in results.cards if card.label in place
        ],
    }


def portrait_data(results: Results, pictures: Pictures, budget: Budget) -> dict[str, Any] | None:
    """The slot ``portraits`` of the neurons: of as many detectors, best first, as fit."""
    known = results.portraits
    if known is None:
        return None
    m, two, most, h, w = known.cells.shape
    kept = min(m, budget.cells // (two * most * (h * w + 6) * 4 // 3 + 40))
    if not kept:
        return None
    rows, classes = known.rows[:kept], [str(name) for name in results.store.classes]
    wanted = {row: known.pictures.get(row) for row in dict.fromkeys(rows.ravel().tolist())}
    places = pictures.add(wanted.items(), budget.portraits, _THUMBNAIL_STEPS)
    labels = results.store.images["label"].astype(str).to_numpy()
    code = {name: k for k, name in enumerate(classes)}
    flat = rows.ravel().tolist()
    size = np.abs if known.signed else np.asarray
    peaks = size(known.cells[:kept]).max(axis=(1, 2, 3, 4))
    tops = known.activations[:kept].max(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        cells = np.nan_to_num(known.cells[:kept] / peaks[:, None, None, None, None])
        strength = np.nan_to_num(known.activations[:kept] / tops[:, None, None])
    levels = 128 + 127 * cells if known.signed else 255 * cells.clip(0, 1)
    frames = {
        place: np.asarray(known.frames[row], dtype=float).round(4).tolist()
        for row, place in places.items()
    }
    votes = _votes(results)
    return {
        "neurons": [[code[label], neuron] for label, neuron in known.neurons[:kept]],
        "shape": [h, w],
        "most": most,
        "picture": _packed(np.array([places.get(row, np.nan) for row in flat], dtype=float)),
        "label": _packed(np.array([code[labels[r]] if r >= 0 else np.nan for r in flat], float)),
        "activation": _packed(_ZERO * strength.ravel()),
        "signed": known.signed,
        "cells": _base64(levels.round().astype(np.uint8).tobytes()),
        "tops": [float(f"{value:.3g}") for value in tops],
        "peaks": [float(f"{value:.3g}") for value in peaks],
        "frames": {k: frame for k, frame in frames.items() if frame != [0, 0, 1, 1]},
        "votes": [votes.get(neuron, "") for _, neuron in known.neurons[:kept]],
        "held": _pictured(kept, m, known.n_images, known.n_unseen),
    }


def _votes(results: Results) -> dict[int, str]:
    """Neuron → the network's own classes that it votes for."""
    table = results.neurons
    if "votes_for" not in table:
        return {}
    voting = table[table["votes_for"].ne("")].drop_duplicates("neuron")
    names = voting["votes_for"].astype(str).str.replace("|", ", ").str.slice(0, 120)
    return dict(zip(voting["neuron"].astype(int), names, strict=True))


def _pictured(kept: int, m: int, n: int, unseen: int) -> str:
    """Of how many detectors there are pictures, and among how many images they were sought."""
    first = f"the first {kept:,} of {m:,}" if kept < m else f"all {m:,}" if m > 1 else "the one"
    among = (
        f"{n:,} of {unseen:,} unseen images, drawn at random"
        if n < unseen
        else (words.plural(n, "unseen image"))
    )
    return (
        f"Pictures of {first} confirmed, active {'detector' if m == 1 else 'detectors'}: {among}."
    )


def _held(kept: int, total: int, dead: int) -> str:
    """How much of the table the page holds."""
    pairs = words.plural(total, "pair") + " of class and neuron"
    if kept < total:
        held = f"{kept:,} of {pairs}, detectors and large effects first, to keep the page small"
    else:
        held = f"all {pairs}"
    if dead:
        pairs = f"{words.plural(dead, 'pair')} of neurons"
        held += f"; {pairs} that are the same in every image are left out"
    return f"{held}. The full table lies beside this page."


def _p_codes(p: pd.Series) -> np.ndarray:
    """−log10 p, scaled; 65534 for a p-value of 0, below what a number can hold."""
    values = p.to_numpy(float)
    with np.errstate(divide="ignore"):
        codes = -np.log10(values) * _P_SCALE
    return np.where(values == 0, _ZERO, np.where(np.isnan(values), np.nan, codes))


def _gallery(results: Results, pictures: Pictures, budget: Budget) -> dict[str, Any] | None:
    if (gallery := results.gallery) is None:
        return None
    sizes = results.store.images[["width", "height"]].to_numpy(float)[gallery.rows]
    regressed, _ = regressed_boxes(results, gallery.rows)
    places = pictures.add(
        zip(gallery.rows, gallery.pictures, strict=True), budget.pictures, _PICTURE_STEPS
    )
    kept = [i for i, row in enumerate(gallery.rows) if row in places]
    heats = _gallery_heats(gallery, kept, budget.heats)
    if not kept or not heats:
        return None
    images = []
    for i in kept:
        height, width = gallery.pictures[i].shape[:2]  # type: ignore[union-attr]
        unit = np.asarray(gallery.true_boxes[i], dtype=float).reshape(-1, 4)
        images.append(
            {
                "label": gallery.labels[i],
                "picture": places[gallery.rows[i]],
                "boxes": (unit / [width, height, width, height]).round(5).tolist(),
                "frame": np.asarray(gallery.frames[i], dtype=float).round(6).tolist(),
                "regressed": None
                if (box := regressed[i]) is None
                else (box / np.tile(sizes[i], 2)).round(5).tolist(),
            }
        )
    return {"images": images, "heats": heats}


def regressed_boxes(
    results: Results, rows: list[int]
) -> tuple[list[np.ndarray | None], list[float]]:
    """Boxes of some images by the leading box head, and their IoU; None and NaN where not known."""
    if (known := results.box_regression) is None:
        return [None] * len(rows), [float("nan")] * len(rows)
    own = known.boxes_of(known.leader).reindex(rows)
    corners = own[["xmin", "ymin", "xmax", "ymax"]].to_numpy(float)
    return [None if np.isnan(one).any() else one for one in corners], own["iou"].tolist()


def _gallery_heats(gallery: Gallery, kept: list[int], most: int) -> list[dict[str, Any]]:
    """Methods, then detectors, as many as fit."""
    entries: list[tuple[dict[str, Any], np.ndarray]] = [
        (
            {"name": words.method(method), "threshold": _threshold(gallery.thresholds.get(method))},
            heats,
        )
        for method, heats in gallery.heats.items()
    ]
    entries += [
        (
            {"neuron": [name, neuron], "threshold": _threshold(gallery.neuron_threshold)},
            gallery.neuron_heats[:, k],
        )
        for k, (name, neuron) in enumerate(gallery.neurons)
    ]
    fitting: list[dict[str, Any]] = []
    spent = 0
    for entry, heats in entries:
        values = _coarse(heats[kept])
        spent += len(values)
        if spent > most:
            break
        fitting.append(entry | {"shape": list(heats.shape[1:]), "values": values})
    return fitting


def _coarse(heats: np.ndarray) -> str:
    """Maps ``(n, h, w)`` with 16 bits, each on its own scale."""
    heats = np.asarray(heats, dtype=float)
    low = heats.min(axis=(1, 2), keepdims=True)
    extent = heats.max(axis=(1, 2), keepdims=True) - low
    unit = np.divide(heats - low, extent, out=np.zeros_like(heats), where=extent > 0)
    return _base64(np.round(unit * _MISSING).astype("<u2").tobytes())


def _threshold(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), 4)


def _set_overview(
    set_overview: SetOverview, images: pd.DataFrame, pictures: Pictures, budget: Budget
) -> dict[str, Any] | None:
    overview = set_overview.overview
    wrong = () if overview.misclassified is None else overview.misclassified["row"].tolist()
    places = pictures.add(set_overview.pictures.items(), budget.thumbnails, _THUMBNAIL_STEPS)
    plane = overview.embedding.coordinates[["tsne_1", "tsne_2"]]
    images = images.iloc[plane.index]
    points = {int(row): point for point, row in enumerate(plane.index)}
    return embedding(
        plane.to_numpy(float),
        images["label"].astype(str).tolist(),
        misclassified=[points[row] for row in wrong],
        thumbnails={points[row]: place for row, place in places.items()},
        names=images["path"].astype(str).tolist(),
        most=budget.points,
    )


def embedding(
    points: np.ndarray,
    labels: Sequence[str],
    *,
    misclassified: Iterable[int] = (),
    thumbnails: dict[int, int] | None = None,
    names: Sequence[str] | None = None,
    most: int = 1_000_000,
) -> dict[str, Any] | None:
    """The slot ``embedding`` of the data.

    Parameters
    ----------
    points : ndarray of shape (n, 2)
    labels : sequence of str, length n
    misclassified : iterable of int
        Points to ring.
    thumbnails : dict of int to int, optional
        Point → place in ``pictures``.
    names : sequence of str, optional
        File of each point; left out where they would not fit.
    most : int
        Most bytes; None is returned where the points alone do not fit.
    """
    points = np.asarray(points, dtype=float)
    classes = sorted(set(labels))
    place = {name: k for k, name in enumerate(classes)}
    low = points.min(axis=0)
    extent = float(np.ptp(points, axis=0).max()) or 1.0
    x, y = ((points - low) / extent * _SIDE).round().astype(int).T
    slot: dict[str, Any] = {
        "x": x.tolist(),
        "y": y.tolist(),
        "label": [place[name] for name in labels],
        "classes": classes,
        "misclassified": sorted(int(i) for i in misclassified),
    }
    if thumbnails:
        slot["thumbnail"] = [thumbnails.get(i, -1) for i in range(len(points))]
    if len(embeddable(slot)) > most:
        return None
    named = slot | {"name": [name[-120:] for name in names]} if names is not None else slot
    return named if len(embeddable(named)) <= most else slot
