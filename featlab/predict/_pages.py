"""Pictures as a person looks at predictions: small ones for a page, drawn ones in a folder."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from featlab.arguments import true_boxes
from featlab.boxes.geometry import CORNERS, best_iou
from featlab.errors import FeatlabError
from featlab.images.decode import decode_scaled
from featlab.images.pixels import jpeg_factor, levels_of, resize_picture
from featlab.localise import heat_on_picture
from featlab.localise.heat import timed_heats
from featlab.predict._parts import Floats
from featlab.predict._predictor import Predictor
from featlab.results import Results
from featlab.results.pictures import LEAST_IOU, UNUSUAL, Predictions, untuned_sentence
from featlab.store import MapStore
from featlab.system.files import whole_folder
from featlab.system.machine import usable_cores

MOST_PICTURES = 2000
"""Pictures on a page; a browser scrolls through so many."""
_BLOCK = 64  # pictures in memory
_SMALL, _LARGE = 256, 1280  # longer side, pixels
_OF_EACH = 12  # test pictures with a wrong class, a wrong box, and none of both
_JPEG_SUFFIXES = (".jpg", ".jpeg")
_LINE = 120  # characters
_BOX, _EDGE = "#56b4e9", "#000000"


def write_pictures(
    predictor: Predictor,
    store: MapStore,
    table: pd.DataFrame,
    folder: str | os.PathLike[str],
    *,
    heat: bool = False,
) -> Path:
    """Draw box, class and probability onto each picture, with at most 1,280 pixels a side.

    At most 64 pictures are in memory; each becomes a JPEG file in folders like the pictures' own.

    Parameters
    ----------
    predictor : Predictor
    store : MapStore
        Of the pictures.
    table : DataFrame
        What :meth:`Predictor.predict` says of the store; or :func:`suggest_boxes`, of some of its
        images (column ``row``), whose class is known and not said to be probable.
    folder : path-like
        Appears when all pictures are in it, in the place of an earlier one.
    heat : bool
        Under the heat map of the class.

    Returns
    -------
    Path

    Raises
    ------
    FeatlabError
        The folder cannot be written.
    """
    taken = set(table["path"])
    known = {"probability", "typicality"} <= set(table)
    rows = table["row"].to_numpy() if "row" in table else np.arange(len(table))
    with whole_folder(Path(folder)) as new:
        asked = table["class"].to_numpy(str) if heat else None
        pictures = _pictures(predictor, store, rows, _LARGE, asked)
        for place, (_, picture) in enumerate(pictures):
            if picture is None:
                continue
            said = table.iloc[place]
            scale = picture.width / said["width"], picture.height / said["height"]
            box = said[CORNERS].to_numpy(float) * np.tile(scale, 2)
            line = _line(said) if known else str(said["class"])
            drawn = marked(picture, box, line)
            file = new / _file(str(said["path"]), taken)
            file.parent.mkdir(parents=True, exist_ok=True)
            drawn.save(file, "JPEG", quality=90)
    return Path(folder)


def _line(said: pd.Series) -> str:
    """What stands on a drawn picture."""
    line = f"{min(int(100 * said['probability']), 99)} % {said['class']}"
    return f"{line}, unusual" if said["typicality"] <= UNUSUAL else line


def page_predictions(
    predictor: Predictor,
    store: MapStore,
    table: pd.DataFrame,
    *,
    coverage: float = 0.9,
    heat: bool = False,
) -> Predictions:
    """What a page shows: all predictions, and small pictures of at most 2,000.

    Of more pictures those that want an eye come first: several classes in the set, or unlike the
    train set; then others, evenly over the table.
    """
    wants = table["set"].str.contains("|", regex=False) | (table["typicality"] <= UNUSUAL)
    first, others = np.flatnonzero(wants), np.flatnonzero(~wants)
    left = max(MOST_PICTURES - len(first), 0)
    spread = np.linspace(0, max(len(others) - 1, 0), min(left, len(others))).round().astype(int)
    rows = np.sort(np.concatenate([first[:MOST_PICTURES], others[np.unique(spread)]]))
    asked = table["class"].to_numpy(str)[rows] if heat else None
    small = _pictures(predictor, store, rows, _SMALL, asked)
    return _predictions(predictor, table, small, coverage=coverage)


def prediction_lines(predictor: Predictor, table: pd.DataFrame, coverage: float) -> list[str]:
    """What the answers are, and how far each may be trusted, a line each.

    Parameters
    ----------
    predictor : Predictor
    table : DataFrame
        What it says of some pictures.
    coverage : float
        Of the sets of classes in the table.
    """
    noun = "picture" if len(table) == 1 else "pictures"
    counts = ", ".join(f"{name} {n:,}" for name, n in table["class"].value_counts().items())
    lines = [f"{len(table):,} {noun}: {counts}"]
    if predictor.refitted:
        lines.append(f"the model was {predictor.refit_sentence}")
    steps = predictor.typicality.steps
    unusual = str(int((table["typicality"] <= UNUSUAL).sum()))
    if 1 / steps > UNUSUAL:
        unusual = (
            f"cannot be told, as only {steps - 1} images calibrate it: none can have less than "
            f"{1 / steps:.2f}"
        )
    lines.append(f"unlike the train set (typicality at most {UNUSUAL}): {unusual}")
    kept, measured = predictor.sets.realised(coverage), predictor.measured
    lines.append(
        f"sets of classes: {coverage} asked for, {kept['coverage']:.3f} "
        f"[{kept['low']:.3f}, {kept['high']:.3f}] of {kept['n']:.0f} test images"
    )
    if "accuracy" in measured:
        lines.append(f"classes: accuracy {_score(measured['accuracy'])}")
    return lines + _box_lines(predictor)


def _box_lines(predictor: Predictor) -> list[str]:
    """How good the boxes were on test images, and what ``box_score`` tells of them."""
    measured, method = predictor.measured, predictor.box_method
    quality = "not scored here: the set had no boxes"
    if predictor.untuned:
        quality += f". {untuned_sentence()}"
    if "mean_iou" in measured:
        quality = f"mean IoU {_score(measured['mean_iou'])}"
    if predictor.given:
        quality += " when the head was written; box_score is empty, as nothing foretells its IoU"
        return [f"boxes by {method}, given by hand: {quality}"]
    lines = [f"boxes by {method}: {quality}"]
    if predictor.overlap is not None and "box_score" in measured:
        score = measured["box_score"]
        informs = f", rank correlation {score['value']:.2f}"
        if not predictor.overlap.informative:
            informs = "; not informative here: the same for all pictures"
        lines.append(
            f"box_score: {score['expected']:.3f} expected, {score['realised']:.3f} realised"
            f"{informs} on {score['n']:.0f} test images"
        )
    return lines


def _score(score: dict[str, float]) -> str:
    """A score with its interval and n."""
    low, high = score["low"], score["high"]
    return f"{score['value']:.3f} [{low:.3f}, {high:.3f}] on {score['n']:.0f} test images"


def predictions_beside_truth(
    predictor: Predictor, results: Results, predictions: pd.DataFrame
) -> Predictions:
    """What the predictor says of test images, beside the truth; pictures of right and wrong ones.

    Parameters
    ----------
    predictor : Predictor
    results : Results
        That it was made of.
    predictions : DataFrame
        What it says of their store.
    """
    store = results.store
    test = np.flatnonzero(results.split.to_numpy(str) == "test")
    table = predictions.iloc[test].reset_index(drop=True)
    truth = true_boxes(store.images, store.boxes, results.box_kind)
    overlap = best_iou(table[CORNERS].to_numpy(float), test, truth)
    boxed = np.isin(test, truth["image"].to_numpy(np.int64))
    table = table.assign(
        label=store.images["label"].to_numpy(str)[test], iou=np.where(boxed, overlap, np.nan)
    )
    wrong = (table["class"] != table["label"]).to_numpy()
    missed = ~wrong & (table["iou"] < LEAST_IOU).to_numpy()
    rng = np.random.default_rng(results.random_state)
    drawn = [
        rng.permutation(np.flatnonzero(some))[:_OF_EACH]
        for some in (wrong, missed, ~wrong & ~missed)
    ]
    rows = np.sort(np.concatenate(drawn))
    corners = {
        int(row): truth.loc[truth["image"] == test[row], CORNERS].to_numpy(float) for row in rows
    }
    small = _pictures(predictor, store, test[rows], _SMALL)
    by_row = ((row, picture) for row, (_, picture) in zip(rows, small, strict=True))
    return _predictions(predictor, table, by_row, true_boxes=corners)


def _predictions(
    predictor: Predictor,
    table: pd.DataFrame,
    pictures: Iterable[tuple[int, Image.Image | None]],
    *,
    coverage: float = 0.9,
    true_boxes: dict[int, Floats] | None = None,
) -> Predictions:
    return Predictions(
        table=table,
        classes=list(predictor.classes),
        box_method=predictor.box_method,
        coverage=coverage,
        pictures={int(row): _jpeg(one) for row, one in pictures if one is not None},
        true_boxes=true_boxes or {},
        calibrated_on=len(predictor.typicality.novelty),
        refitted=predictor.refitted,
        untuned=predictor.untuned,
        informative=predictor.overlap is None or predictor.overlap.informative,
    )


def _pictures(
    predictor: Predictor,
    store: MapStore,
    rows: np.ndarray,
    side: int,
    asked: np.ndarray | None = None,
) -> Iterator[tuple[int, Image.Image | None]]:
    """Rows and their pictures, `side` pixels at most; None where one is not to be had any more.

    Under the heat map of the class that is `asked` for, where one is for each of the rows.
    """
    table = store.images.assign(levels=levels_of(store.images))
    images = table[["path", "width", "height", "levels"]].to_numpy(object)
    frames = np.asarray(store.frames)
    with ThreadPoolExecutor(usable_cores()) as pool:
        for start in range(0, len(rows), _BLOCK):
            part = slice(start, start + _BLOCK)
            some = rows[part]
            read = list(pool.map(lambda row: _read(store.root, images[row], side), some))
            if asked is not None:
                codes = np.searchsorted(predictor.classes, asked[part])
                fitted = predictor.heat.fitted
                heats = timed_heats(store, some, fitted, codes)[0][predictor.heat.method]
                read = [
                    one if one is None else glowing(one, heat, frame)
                    for one, heat, frame in zip(read, heats, frames[some], strict=True)
                ]
            yield from zip(map(int, some), read, strict=True)


def _read(root: Path, image: NDArray[Any], side: int) -> Image.Image | None:
    path, width, height, levels = image
    scale = min(1.0, side / max(width, height))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    try:
        data = (root / path).read_bytes()
        picture = decode_scaled(data, jpeg_factor(path, width, height, size), levels)
    except (OSError, FeatlabError):
        return None
    return Image.fromarray(resize_picture(picture.image, size, box=picture.box))


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _file(path: str, taken: set[str]) -> str:
    """The name of a drawn picture: its own, ``.jpg`` behind it where it is no JPEG."""
    name = path
    while not name.lower().endswith(_JPEG_SUFFIXES) or (name in taken and name != path):
        name += ".jpg"
    return name


# --------------------------------------------------------------------------------------- the pixels


def glowing(picture: Image.Image, heat: np.ndarray, frame: np.ndarray) -> Image.Image:
    """The picture under a heat map ``(h, w)`` of its input; dim where there is no heat."""
    fine = heat_on_picture(heat, frame, picture.size)
    extent = float(np.ptp(fine))
    share = (fine - fine.min()) / extent if extent > 0 else np.zeros_like(fine)
    colours = _glow()[np.round(255 * share).astype(np.uint8)]
    weight = (0.45 + 0.25 * share)[..., None]
    pixels = weight * colours + (1 - weight) * np.asarray(picture, dtype=np.float32)
    return Image.fromarray(pixels.round().astype(np.uint8))


@cache
def _glow() -> np.ndarray:
    """256 colours, dark to bright."""
    from matplotlib import colormaps

    return (255 * colormaps["inferno"](np.arange(256))[:, :3]).astype(np.float32)


def marked(picture: Image.Image, box: np.ndarray, text: str) -> Image.Image:
    """The picture with a box, where it has an area, and a line of text.

    Parameters
    ----------
    picture : image of Pillow in mode RGB
    box : ndarray of shape (4,)
        Pixels of `picture`.
    text : str
    """
    drawn, pen = picture.copy(), max(2, round(max(picture.size) / 250))
    draw = ImageDraw.Draw(drawn)
    if (box[2:] > box[:2]).all():  # not for NaN
        first = np.clip(np.round(box[:2]), 0, [picture.width - 1, picture.height - 1])
        last = np.maximum(np.clip(np.round(box[2:]), 0, picture.size) - 1, first)
        # A dark edge on both sides, so that the line is seen on any picture.
        draw.rectangle([*(first - 1), *(last + 1)], outline=_EDGE, width=pen + 2)
        draw.rectangle([*first, *last], outline=_BOX, width=pen)
    font, line = _font(max(12, round(max(picture.size) / 40))), " ".join(text.split())[:_LINE]
    while line and draw.textlength(line, font=font) > picture.width - 8:
        line = line[:-2] + "…" if len(line) > 2 else ""
    left, top, end, foot = draw.textbbox((4, 3), line, font=font)
    draw.rectangle((left - 4, top - 3, end + 4, foot + 3), fill=_EDGE)
    draw.text((4, 3), line, font=font, fill="white")
    return drawn


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The font of the figures, which knows most scripts."""
    import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"), size)
