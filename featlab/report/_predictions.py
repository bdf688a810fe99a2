"""The sections "Predictions" (what the predictor says of pictures) and "Heat maps and boxes"."""

from __future__ import annotations

import base64
import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import PurePath

import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from featlab.plots.pictures import method_strips
from featlab.report import _words as words
from featlab.report._elements import Figure, Options, Section, Table, table
from featlab.report._interactive import small_jpeg
from featlab.report._words import PREDICTION_CLAIMS, claim, said
from featlab.results.analysis import Results
from featlab.results.images import SetMaps
from featlab.results.pictures import LEAST_IOU, UNUSUAL, Predictions, untuned_sentence
from featlab.system.machine import usable_cores

_CORNERS = ["xmin", "ymin", "xmax", "ymax"]
_LONGEST = 200  # characters of a name on a card
_STEPS = ((192, 75), (160, 65), (128, 60), (96, 55), (80, 45), (64, 40))  # side, JPEG quality
_OPEN = 18  # cards that are seen at once
_SAMPLED = 20  # pictures
_RESERVE = 20_000  # bytes: the sentences about what is left out


@dataclass(frozen=True)
class Card:
    """A picture and what is said of it, as the template fills it in."""

    uri: str
    width: int
    height: int
    box: list[float] | None
    true_boxes: list[list[float]]
    name: Markup
    place: int
    probability: str
    notes: list[Markup | str]
    file: str
    alt: str
    wrong: bool
    unsure: bool
    unusual: bool


def predictions(results: Results, options: Options) -> Section | None:
    """Test pictures with predicted and true boxes and classes, right and wrong."""
    known = results.predictions
    if known is None or known.table.empty:
        return None
    return _section(
        known,
        "Predictions on test images",
        facts={
            "answer": said(_scored(results), *_bounds(known), _drawn(results), _refitted(results)),
            "scored": True,
        },
        most=_OPEN,
    )


def asked(known: Predictions) -> Section:
    """Pictures that were asked about, of which nobody may know the truth."""
    return _section(
        known,
        "Predictions",
        facts={
            "answer": said(
                _counted(known), *_bounds(known), _asked_refitted(known), _left_out(known)
            ),
            "scored": False,
        },
    )


def _section(
    known: Predictions, title: str, facts: dict[str, object], most: int | None = None
) -> Section:
    cards = [_card(known, row) for row in sorted(known.pictures)]
    named = [known.classes[k] for k in sorted({card.place for card in cards})]
    return Section(
        "predictions",
        title,
        "predictions.html",
        facts={
            **facts,
            "parts": [cards]
            if most is None
            else [one for one in (cards[:most], cards[most:]) if one],
            "classes": [(known.classes.index(name), name[:_LONGEST]) for name in named],
            "method": _method(known),
            "any_true_box": any(card.true_boxes for card in cards),
            "boxes_scored": known.boxes_scored,
            "can_stand_out": known.can_stand_out,
        },
        files={} if known.every is None else {"predictions": known.every},
        link="Predictions",
    )


def _method(known: Predictions) -> str:
    return words.box_source(known.box_method)


def _card(known: Predictions, row: int) -> Card:
    one = known.table.iloc[row]
    label, picture = str(one["class"]), known.pictures[row]
    members = str(one["set"]).split("|")
    true = str(one["label"]) if "label" in one else label
    wrong = true != label or ("iou" in one and bool(one["iou"] < LEAST_IOU))
    box = one[_CORNERS].to_numpy(float)
    unusual = bool(one["typicality"] <= UNUSUAL)
    probability = words.probability(one["probability"])
    notes: list[Markup | str] = []
    if true != label:
        notes.append(Markup("✗ true class: {}").format(_name(true)))
    if "iou" in one and np.isfinite(one["iou"]):
        sign = "✓" if one["iou"] >= LEAST_IOU else "✗"
        notes.append(f"{sign} IoU {words.score(one['iou'])}")
    if len(members) > 1:
        notes.append(f"set of {len(members):,} classes")
    if unusual:
        notes.append(f"unusual (typicality {words.number(one['typicality'], 3)})")
    file = str(one["path"])
    known_as = f", true class {true[:_LONGEST]}" if true != label else ""
    return Card(
        uri=f"data:image/jpeg;base64,{base64.b64encode(picture).decode('ascii')}",
        width=int(one["width"]),
        height=int(one["height"]),
        box=box.round(1).tolist() if (box[2:] > box[:2]).all() else None,  # not for NaN
        true_boxes=np.round(known.true_boxes.get(row, np.zeros((0, 4))), 1).tolist(),
        name=_name(label),
        place=known.classes.index(label),
        probability=probability,
        notes=notes,
        file=file if len(file) <= _LONGEST else f"…{file[-_LONGEST:]}",
        alt=f"{PurePath(file).name[-_LONGEST:]}: predicted class {label[:_LONGEST]}, "
        f"{probability}{known_as}",
        wrong=wrong,
        unsure=len(members) > 1,
        unusual=unusual,
    )


def _name(text: str) -> Markup:
    return words.name(text[:_LONGEST])


def fitted(known: Predictions, most: int) -> dict[int, bytes]:
    """The pictures at the largest size at which all fit in `most` bytes of the page, as base64.

    Where they do not fit at the smallest either, the first that do.
    """
    room = (most - _RESERVE) * 3 // 4 - 2 * len(known.pictures)
    files, pictures = known.pictures, known.pictures
    some = list(files.values())[:: max(1, len(files) // _SAMPLED)]
    for step in _STEPS:
        if sum(map(len, pictures.values())) <= room:
            return pictures
        # A step that is too large for a sample of the pictures is not tried on all of them.
        mean = np.mean([len(_smaller(file, step)) for file in some])
        if mean * len(files) <= room or step == _STEPS[-1]:
            with ThreadPoolExecutor(usable_cores()) as pool:
                small = pool.map(partial(_smaller, step=step), files.values())
                pictures = dict(zip(files, small, strict=True))
    ends = np.cumsum([len(file) for file in pictures.values()])
    return dict(list(pictures.items())[: int((ends <= room).sum())])


def _smaller(file: bytes, step: tuple[int, int]) -> bytes:
    return small_jpeg(np.asarray(Image.open(io.BytesIO(file))), *step)


# ---------------------------------------------------------------------------------------- the words


def _bounds(known: Predictions) -> tuple[words.Claim | None, ...]:
    """What the boxes and numbers of these predictions cannot tell."""
    return _untuned(known), _uninformative(known), _never_unusual(known)


@claim("boxes that no box tuned", PREDICTION_CLAIMS)
def _untuned(known: Predictions) -> str:
    """That boxes are not scored here, and how their rule did elsewhere."""
    if not known.untuned:
        return ""
    rule = untuned_sentence()
    return rule if known.boxes_scored else f"The boxes are not scored here. {rule}"


@claim("box score says nothing", PREDICTION_CLAIMS)
def _uninformative(known: Predictions) -> str:
    """That the expected IoU does not tell pictures apart."""
    if known.informative:
        return ""
    return "The expected IoU (box_score) is the same for all pictures: not informative here."


@claim("nothing can be unusual", PREDICTION_CLAIMS)
def _never_unusual(known: Predictions) -> str:
    """That too few images calibrate the typicality."""
    if known.can_stand_out:
        return ""
    few = words.plural(known.calibrated_on, "image")
    verb = "calibrates" if known.calibrated_on == 1 else "calibrate"
    return (
        f"Only {few} (one of each group) {verb} the typicality, so that it cannot fall below "
        f"{words.number(known.least_typicality)}: no picture can be called unusual."
    )


def _missed(table: pd.DataFrame) -> pd.Series:
    """Whether the class is right and the box is not."""
    return (table["class"] == table["label"]) & (table["iou"] < LEAST_IOU)


@claim("predictions")
def _scored(results: Results) -> str:
    """How often the predictor's class and box are right."""
    if results.predictions is None or results.predictions.table.empty:
        return ""
    table = results.predictions.table
    right, boxed = int((table["class"] == table["label"]).sum()), table["iou"].notna()
    first = f"{right:,} of {words.plural(len(table), 'test image')} get their own class"
    if not boxed.any():
        return f"{first}."
    hit = int((table["iou"] >= LEAST_IOU).sum())
    return (
        f"{first}; the predicted box has an IoU of 0.5 or more with a true one for {hit:,} of the "
        f"{int(boxed.sum()):,} with a true box."
    )


@claim("pictures of predictions")
def _drawn(results: Results) -> str:
    """Which of the test images are shown."""
    if results.predictions is None or not results.predictions.pictures:
        return ""
    known = results.predictions
    table, rows = known.table, list(known.pictures)
    wrong, missed = table["class"] != table["label"], _missed(table)
    boxed = table["iou"].notna()
    unknown = "with their own class" + (" and no true box" if known.boxes_scored else "")
    parts = [
        f"{int(some.iloc[rows].sum()):,} of {int(some.sum()):,} {what}"
        for some, what in (
            (wrong, "with a wrong class"),
            (missed, "with a wrong box alone"),
            (~wrong & ~missed & boxed, "with neither"),
            (~wrong & ~boxed, unknown),
        )
        if some.any()
    ]
    return f"Shown, drawn at random: {', '.join(parts)}."


@claim("refitted predictor")
def _refitted(results: Results) -> str:
    """That the file is of another fit than the scores."""
    if results.predictions is None or not results.predictions.refitted:
        return ""
    n = words.plural(results.predictions.refitted, "labelled image")
    return (
        f"The file model.featlab was fitted again on all {n}, these test images among them; "
        "what stands on this page is of the model before that, which had not seen them."
    )


@claim("asked of a refitted predictor", PREDICTION_CLAIMS)
def _asked_refitted(known: Predictions) -> str:
    """Whose the scores and the promise of the sets are."""
    if not known.refitted:
        return ""
    return (
        f"The model was fitted again on all {words.plural(known.refitted, 'labelled image')}: "
        "its scores, and how often the sets hold the right class, are those of the model before "
        "that, fitted without the images that it was scored on."
    )


@claim("asked lead", PREDICTION_CLAIMS)
def asked_lead(known: Predictions) -> str:
    """What was asked, and whom."""
    pictures = words.plural(len(known.table), "picture")
    classes = words.plural(len(known.classes), "class", "classes")
    return Markup("{}, asked of a model that knows {}: {}.").format(
        pictures, classes, words.listed(name[:_LONGEST] for name in known.classes)
    )


@claim("asked sure", PREDICTION_CLAIMS)
def _counted(known: Predictions) -> str:
    """How many are unsure, and how many unusual where any can be."""
    unsure = int(known.table["set"].str.contains("|", regex=False).sum())
    first = (
        f"For {unsure:,} of them several classes stay possible (sets made to hold the right one "
        f"with probability {words.number(known.coverage)})"
    )
    if not known.can_stand_out:
        return f"{first}."
    unusual = int((known.table["typicality"] <= UNUSUAL).sum())
    verb = "is" if unusual == 1 else "are"
    return (
        f"{first}; {unusual:,} {verb} unlike the train images "
        f"(typicality {words.number(UNUSUAL)} or less)."
    )


@claim("asked left out", PREDICTION_CLAIMS)
def _left_out(known: Predictions) -> str:
    """How many the page does not show, and where they are."""
    missing = len(known.table) - len(known.pictures)
    if not missing:
        return ""
    verb = "is" if missing == 1 else "are"
    return (
        f"{words.plural(missing, 'picture')} of {len(known.table):,} {verb} "
        "not shown, to keep the page small or because the file cannot be read any more: those "
        "with several classes or unlike the train images come first. All stand in predictions.csv."
    )


# ----------------------------------------------------------------------------- without labels


def set_maps(results: Results, options: Options) -> Section | None:
    """Heat maps and boxes of a set without labels."""
    made = results.set_maps
    if made is None:
        return None
    files = {"set_boxes": made.boxes}
    if len(made.table):
        files["localisation"] = made.table
    return Section(
        "set_maps",
        "Heat maps and boxes",
        "set_maps.html",
        facts={"answer": set_maps_answer(results)},
        tables={"scores": _blind_scores(made.table)},
        figures={"examples": _blind_examples(made, options.most_examples)},
        files=files,
    )


@claim("maps without labels")
def set_maps_answer(results: Results) -> str:
    """That the boxes need no label, and what they scored where there are boxes."""
    made = results.set_maps
    if made is None:
        return ""
    n = made.boxes["row"].nunique()
    text = f"A heat map and a box of {words.plural(n, 'picture')} by each method that asks no label"
    if dark := int((made.boxes["xmax"] <= made.boxes["xmin"]).sum()):
        one = words.plural(dark, "map is dark and has", "maps are dark and have")
        text += f" ({one} no box, of {len(made.boxes):,})"
    own = made.table[~made.table["baseline"].astype(bool)] if len(made.table) else made.table
    if own.empty:
        return f"{text}; there are no true boxes, so nothing is scored here."
    best, base = (
        some.iloc[int(some["box_accuracy_confirm"].fillna(-1).to_numpy(float).argmax())]
        for some in (own, made.table[made.table["baseline"].astype(bool)])
    )
    return (
        f"{text}. Of {words.plural(int(best['n']), 'test image')} with a true box"
        f"{words.of_kind(results)} the one that was best on others "
        f"({_blind_method(best['method'])}) finds "
        f"{words.share(best, 'box_accuracy')} (IoU at least 0.5), the best baseline "
        f"({words.method(base['method'])}) {words.share(base, 'box_accuracy')}."
    )


def _blind_method(name: str) -> str:
    """A method's name; without labels the whole set is the one class."""
    return words.method(name).replace("of the class", "of the set")


def _blind_scores(scores: pd.DataFrame) -> Table | None:
    rows = [
        [
            _blind_method(row["method"]),
            "baseline" if row["baseline"] else "no label",
            words.scored(row, "box_accuracy"),
            words.scored(row, "mean_iou"),
        ]
        for _, row in scores.iterrows()
    ]
    columns = ["Method", "Learns from", "Boxes found (IoU ≥ 0.5)", "Mean IoU"]
    return table("Boxes on test images with true boxes", columns, rows, (0, 1), file="localisation")


def _blind_examples(made: SetMaps, most: int) -> Figure | None:
    first = made.examples.first(most)
    if most < 1 or not first.pictures:
        return None
    names = {name: _blind_method(name) for name, _ in first.neurons}
    boxes = made.boxes.set_index(["method", "row"]).sort_index()[_CORNERS]
    return Figure(
        partial(
            method_strips,
            first.pictures,
            {title: [heat[k] for heat in first.heats] for k, title in enumerate(names.values())},
            labels=[path.rpartition("/")[2] for path in first.labels],
            true_boxes=first.true_boxes,
            predicted_boxes={
                title: list(boxes.loc[name].loc[first.rows].to_numpy(float))
                for name, title in names.items()
            },
        ),
        f"{words.plural(len(first.pictures), 'picture')} under the heat maps of methods that need "
        "no labels.",
        "Pictures drawn at random, under heat maps that need no labels. Blue: the box of each "
        "method; white: true boxes, where there are any.",
        "set_maps",
        pictures=True,
    )
