"""Numbers and names in words, and claims: sentences that are made only where they hold.

Names of classes and files are escaped here; the rest is ours. A claim is a function from results to
the words, or to nothing; condition and words stand side by side in it. The decorator `claim` lists
it in `CLAIMS` under its name, and a property test draws results at random and holds every claim of
the list against the tables. What is always true (what an AUROC is) may stand in a template.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from functools import wraps
from pathlib import PurePath
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from featlab.arguments import confirmed_detectors, score_text
from featlab.plots.style import GRADIENT_METHOD_NAMES
from featlab.results.analysis import Results

_LONGEST = 60
_LISTED = 6
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August"),
    *("September", "October", "November", "December"),
)
LEAST_INSIDE = 0.7  # AUROC inside against outside of the boxes: the least of a clear "yes"
_METHODS = {
    "detectors": "detectors combined",
    "best_detector": "best detector alone",
    "signed_detectors": "active minus silent detectors",
    "contrast": "detectors, class against others",
    "cam": "class activation map (CAM)",
    "cam_positive": "CAM, positive weights",
    "mlp_cam": "CAM of the MLP",
    "cell_head": "head at every cell",
    "sum": "sum of all maps",
    "eigen_cam": "first component per picture",
    "ddt": "first component of the class",
    "parts": "part shared over the set",
    "fusion": "detectors, head and component, fused",
    "student": "cells taught by the fused map",
    "cell_boxes": "cells learnt from boxes",
    "random_neuron": "a random neuron",
    "centre_gaussian": "a blob at the picture's centre",
    "whole_image": "the whole picture",
    "mean_box": "the mean training box",
}
_BOX_HEADS = {
    "cascade": "cascade: ridge, then corrections",
    "ridge_pca": "ridge on principal components",
    "pls": "partial least squares",
    "mlp": "small neural network (MLP)",
    "gradient_boosting": "boosted trees on heat-map statistics",
    "mean_box": "the mean training box",
    "whole_image": "the whole picture",
    "centre": "a box at the picture's centre",
}

STAGES = {
    "index": "finding the pictures, labels and boxes",
    "extract": "the network over all pictures",
    "copies": "looking for copies",
    "features": "pooling the maps",
    "heads": "classifiers",
    "neurons": "testing every neuron",
    "detector details": "detectors: shuffled labels, leaving them out",
    "own classes": "the network's own classes",
    "overview": "the plane of the pictures",
    "localise": "boxes from heat maps",
    "box heads": "boxes by regression",
    "boxes drawn": "how many boxes it takes",
    "learning curve": "how many images it takes",
    "audit": "checks of the set",
    "clusters": "clusters",
    "units": "each detector's own map",
    "examples": "pictures for this page",
    "predictor": "the model for new pictures",
    "report": "this page",
}


def number(value: Any, digits: int = 2) -> str:
    """A number with `digits` decimals; a dash for what is not a number."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}"
    if not float(text.replace(",", "")):
        text = text.removeprefix("-")
    return text.replace("-", "−")


def signed(value: Any, digits: int = 2) -> str:
    """A number with its sign; none on what rounds to 0."""
    text = number(value, digits)
    return f"+{text}" if text[0] not in "–−" and re.search("[1-9]", text) else text


def percent(value: Any) -> str:
    """A share as a percentage that claims all or nothing only where it is all or nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{100 * value:.0f}"
    if text in ("0", "100") and value not in (0, 1):
        text = f"{100 * value:.1f}"
        text = {"0.0": "< 0.1", "100.0": "> 99.9"}.get(text, text)
    return f"{text}\N{NO-BREAK SPACE}%"


def probability(value: float) -> str:
    """A model's probability: it is never sure, though a number of 64 bits may round to 1."""
    least = 1e-9
    return percent(min(max(value, least), 1 - least))


def interval(low: Any, high: Any, digits: int = 2) -> str:
    """`[0.91, 0.97]`; empty where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{number(low, digits)},\N{NO-BREAK SPACE}{number(high, digits)}]"


def score(value: Any, digits: int = 2) -> str:
    """A score; one that is neither 0 nor 1 does not read so, but gets decimals more."""
    if value is None or not math.isfinite(value):
        return "–"
    text = score_text(value, digits)
    if text[0] in "<>":
        return text.replace("-", "−")
    return number(value, len(text.partition(".")[2]))


def scored(row: pd.Series, name: str, digits: int = 2) -> str:
    """A score and its interval."""
    low, high = (row.get(f"{name}_{end}", math.nan) for end in ("low", "high"))
    value = score(row.get(name), digits)
    if not (math.isfinite(low) and math.isfinite(high)):
        return value
    return f"{value} [{score(low, digits)},\N{NO-BREAK SPACE}{score(high, digits)}]"


def p_value(p: Any) -> str:
    """A p-value as a reader wants it: `0.013`, `3 × 10⁻⁹`, `< 10⁻³⁰⁰`."""
    if p is None or not math.isfinite(p):
        return "–"
    if p < 1e-300:
        return "< 10⁻³⁰⁰"
    if p >= 0.001:
        return f"{p:.3f}"
    mantissa, exponent = f"{p:.0e}".split("e")
    power = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa} × 10{power}"


def with_intervals(table: pd.DataFrame, score: str) -> str:
    """`, with 95 % intervals`, where any row has one."""
    ends = table.get(f"{score}_low", pd.Series(dtype=float))
    return ", with 95 % intervals" if ends.notna().any() else ""


def day(moment: str) -> str:
    """`2026-11-29T17:40:00+00:00` → `29 November 2026`; "" for what is no date."""
    try:
        date = datetime.fromisoformat(moment)
    except ValueError:
        return ""
    return f"{date.day} {_MONTHS[date.month - 1]} {date.year}"


def plural(count: int, noun: str, many: str | None = None) -> str:
    """`1 image`, `2,000 images`."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def name(text: object) -> Markup:
    """A user's name, shortened, in its own direction of writing; the whole name as a tool tip."""
    full = str(text)
    short = full if len(full) <= _LONGEST else f"{full[: _LONGEST - 13]}…{full[-12:]}"
    return Markup('<bdi class="name" title="{}">{}</bdi>').format(full, short)


def whole(text: object) -> Markup:
    """What holds a user's names, uncut: else nobody would learn what was not read."""
    return Markup("<bdi>{}</bdi>").format(text)


def listed(names: Iterable[object]) -> Markup:
    """`a, b and c`; the first six of many."""
    every = [name(text) for text in names]
    rest = len(every) - _LISTED
    if rest > 1:
        return Markup(", ").join(every[:_LISTED]) + f" and {rest} more"
    if len(every) < 2:
        return Markup("").join(every)
    return Markup(", ").join(every[:-1]) + " and " + every[-1]


def readable(identifier: object) -> str:
    """`top_20_detectors` → `top 20 detectors`."""
    return str(identifier).replace("_", " ")


def method(identifier: object) -> str:
    """A localisation method in words."""
    base = str(identifier).removesuffix("_refined")
    if base != str(identifier):
        return f"{method(base)}, corrected"
    names = GRADIENT_METHOD_NAMES | _METHODS
    return names.get(str(identifier), readable(identifier))


def stage(title: str) -> str:
    """A stage of the analysis in words."""
    return STAGES.get(title, readable(title))


def learns_from(row: pd.Series) -> str:
    """What a method learns from, as a table shows it."""
    if row["baseline"]:
        return "baseline"
    if row["supervision"] == "none":
        return "nothing"
    if row["supervision"] != "network":
        return str(row["supervision"])
    # What runs through the network asks a head for its gradient; the user's learnt from labels.
    elsewhere = row["class_asked"] in ("own", "model")
    return f"{'nothing of this set' if elsewhere else 'image labels'}, through the network"


def counts(first: Any, second: Any) -> str:
    """`12 / 3`; a dash where they are not known."""
    if pd.isna(first) or pd.isna(second):
        return "–"
    return f"{int(first):,} / {int(second):,}"


def box_source(identifier: object) -> str:
    """What predicted boxes come from: a box head or a heat-map method."""
    return box_head(identifier) if str(identifier) in _BOX_HEADS else method(identifier)


def box_head(identifier: object) -> str:
    """A box head in words."""
    return _BOX_HEADS.get(str(identifier), readable(identifier))


def regression(head: object) -> str:
    """A box head in a few words, as a legend has it."""
    return f"box regression ({readable(head)})"


def share(row: pd.Series, score: str) -> str:
    """A score and its interval in per cent."""
    low, high = (row.get(f"{score}_{end}", math.nan) for end in ("low", "high"))
    if not (math.isfinite(low) and math.isfinite(high)):
        return percent(row[score])
    return f"{percent(row[score])} ({percent(low)} to {percent(high)})"


def fires(row: pd.Series, verdict: str = "verdict") -> str:
    """Whether a detector's map finds the object: the verdict, graded by the size of the effect."""
    grade = row.get(verdict)
    if not isinstance(grade, str):
        return "–"
    if grade == "on the object":
        # As printed: 0.70 is not called weak beside a cut of 0.7.
        return "yes" if round(float(row["auroc_inside"]), 2) >= LEAST_INSIDE else "weakly"
    return f"no: {grade}" if grade.startswith("beside") else grade


def difference(row: pd.Series, digits: int = 2) -> str:
    """A signed difference and its interval."""
    ends = interval(row["difference_low"], row["difference_high"], digits)
    return f"{signed(row['difference'], digits)} {ends}".strip()


def provenance(value: Any) -> str:
    """A value of a store's provenance as text; a JSON list becomes a plain one."""
    text = str(value)
    if text.startswith("["):
        try:
            return ", ".join(map(str, json.loads(text)))
        except json.JSONDecodeError:
            return text
    return text


def reading(known: Mapping[str, Any]) -> dict[str, str]:
    """What labels, split and boxes were read from; nothing where the store does not say."""
    return dict(json.loads(known.get("reading", "{}")))


def indexed(known: Mapping[str, Any]) -> dict[str, Any]:
    """How the pictures of a store were read, and how many copies were left out, by provenance."""
    return dict(json.loads(known.get("indexed", "{}")))


def target(kind: str | None) -> str:
    """What the boxes of that kind mark: a part's boxes do not mark the object."""
    return f"what the “{kind}” boxes mark" if kind else "the object"


def of_kind(results: Results) -> str:
    """Which boxes are meant, where the set has several kinds."""
    several = len(results.store.boxes["kind"].unique()) > 1
    return f" of kind “{results.box_kind}”" if several and results.box_kind else ""


def folder(images: pd.DataFrame) -> str:
    """Name of the folder that the pictures came from; empty where it is not known."""
    return PurePath(str(images["folder"].iloc[0]).replace("\\", "/")).name


# ------------------------------------------------------------------------------------------ claims

ALPHA = 0.05
"""Largest adjusted p of a difference that is said to be there."""


@dataclass(frozen=True)
class Claim:
    """A sentence or two that hold of the results at hand.

    Attributes
    ----------
    text : str or Markup
    verdict : str or Markup
        The same in a few words; "" where there is none.
    clear : bool
        Whether the verdict is a clear yes.
    name : str
        Its name in `CLAIMS`.
    """

    text: str
    verdict: str = ""
    clear: bool = False
    name: str = ""

    def __str__(self) -> str:
        return self.text

    def __html__(self) -> Markup:
        return escape(self.text)


Makes = Callable[..., "Claim | None"]
CLAIMS: dict[str, Makes] = {}
"""Every claim of a report: name → ``Results -> Claim``, None where it does not hold."""
COMPARISON_CLAIMS: dict[str, Makes] = {}
"""Every claim of a comparison: name → ``Comparison -> Claim or None``."""
PREDICTION_CLAIMS: dict[str, Makes] = {}
"""Every claim of a page of predictions: name → ``Predictions -> Claim or None``."""


def claim(
    title: str, kept: dict[str, Makes] = CLAIMS
) -> Callable[[Callable[[Any], str | Claim | None]], Makes]:
    """List a function from results to words as a claim; what says nothing is None.

    Parameters
    ----------
    title : str
        As a reader of the list would look for it; no other claim has it.
    kept : dict
        `CLAIMS`, `COMPARISON_CLAIMS` or `PREDICTION_CLAIMS`.
    """

    def register(make: Callable[[Any], str | Claim | None]) -> Makes:
        @wraps(make)
        def made(results: Any) -> Claim | None:
            text = make(results)
            if not text:
                return None
            one = text if isinstance(text, Claim) else Claim(text)
            return replace(one, name=title)

        assert title not in kept, title
        kept[title] = made
        return made

    return register


def said(*claims: Claim | str | None) -> Markup:
    """Claims one after the other, those that say nothing left out."""
    return Markup(" ").join(escape(one) for one in claims if one)


# ------------------------------------------------------------------- the one rule of a difference


def standing(pair: Mapping[str, Any] | pd.Series) -> str:
    """What a pair of scores of the same images shows: "ahead", "behind", "not shown", "unknown".

    By the adjusted p of the paired test (exact McNemar, sign flips of groups) and by nothing else:
    two intervals may overlap where the difference is sure.
    """
    p = pair.get("p_adjusted", math.nan)
    if not math.isfinite(p):
        return "unknown"
    if p >= ALPHA or not pair["difference"]:
        return "not shown"
    return "ahead" if pair["difference"] > 0 else "behind"


def points(pair: Mapping[str, Any] | pd.Series, digits: int = 0) -> str:
    """`+9 percentage points (−2 to 21, adjusted p 0.12)`."""
    gap = signed(100 * pair["difference"], digits)
    value = f"{gap} percentage point{'' if gap.strip('+−') == '1' else 's'}"
    notes = []
    if math.isfinite(pair["difference_low"]) and math.isfinite(pair["difference_high"]):
        low, high = (number(100 * pair[f"difference_{end}"], digits) for end in ("low", "high"))
        notes.append(f"{low} to {high}")
    if math.isfinite(pair.get("p_adjusted", math.nan)):
        notes.append(f"adjusted p {p_value(pair['p_adjusted'])}")
    return f"{value} ({', '.join(notes)})" if notes else value


def turned(pair: Mapping[str, Any] | pd.Series) -> dict[str, Any]:
    """The pair (a, b) as (b, a)."""
    swapped = dict(pair)
    swapped |= {"a": pair["b"], "b": pair["a"]}
    swapped |= {"only_a": pair["only_b"], "only_b": pair["only_a"]}
    swapped["difference"] = -pair["difference"]
    swapped["difference_low"] = -pair["difference_high"]
    swapped["difference_high"] = -pair["difference_low"]
    return swapped


def judged(neurons: pd.DataFrame, units: pd.DataFrame) -> str:
    """How many detectors were judged, and of how many: the leading of each class."""
    n, every = len(units), len(confirmed_detectors(neurons))
    if n < every:
        return f"{n:,} leading of {plural(every, 'confirmed detector')}"
    return plural(n, "confirmed detector")
