"""Numbers and names in words. Names of classes and files are escaped here; the rest is ours."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import PurePath
from typing import Any

import pandas as pd
from markupsafe import Markup

from featlab.plots.style import GRADIENT_METHOD_NAMES

_LONGEST = 60
_LISTED = 6
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
    "fusion": "detectors, CAM and sum fused",
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


def number(value: Any, digits: int = 2) -> str:
    """A number with `digits` decimals; a dash for what is not a number."""
    if value is None or not math.isfinite(value):
        return "–"
    text = f"{value:,.{digits}f}"
    if not float(text.replace(",", "")):
        text = text.removeprefix("-")
    return text.replace("-", "−")


def signed(value: Any, digits: int = 2) -> str:
    """A number with its sign."""
    return f"+{number(value, digits)}" if value > 0 else number(value, digits)


def percent(value: Any) -> str:
    """A share as a percentage; with a decimal where rounding would claim all or nothing."""
    if value is None or not math.isfinite(value):
        return "–"
    edge = round(value, 2) in (0, 1) and value not in (0, 1)
    return f"{100 * value:.{1 if edge else 0}f}\N{NO-BREAK SPACE}%"


def interval(low: Any, high: Any, digits: int = 2) -> str:
    """`[0.91, 0.97]`; empty where there is none."""
    if not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{number(low, digits)},\N{NO-BREAK SPACE}{number(high, digits)}]"


def scored(row: pd.Series, score: str, digits: int = 2) -> str:
    """A score and its interval."""
    bounds = interval(row.get(f"{score}_low", math.nan), row.get(f"{score}_high", math.nan), digits)
    return f"{number(row.get(score), digits)} {bounds}".strip()


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


def plural(count: int, noun: str, many: str | None = None) -> str:
    """`1 image`, `2,000 images`."""
    return f"{count:,} {noun if count == 1 else many or noun + 's'}"


def name(text: object) -> Markup:
    """A user's name, shortened, in its own direction of writing; the whole name as a tool tip."""
    full = str(text)
    short = full if len(full) <= _LONGEST else f"{full[: _LONGEST - 13]}…{full[-12:]}"
    return Markup('<bdi class="name" title="{}">{}</bdi>').format(full, short)


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


def box_head(identifier: object) -> str:
    """A box head in words."""
    return _BOX_HEADS.get(str(identifier), readable(identifier))


def share(row: pd.Series, score: str) -> str:
    """A score and its interval in per cent."""
    low, high = (percent(row[f"{score}_{end}"]) for end in ("low", "high"))
    return f"{percent(row[score])} ({low} to {high})"


def difference(row: pd.Series, digits: int = 2) -> str:
    """A signed difference and its interval."""
    ends = interval(row["difference_low"], row["difference_high"], digits)
    return f"{signed(row['difference'], digits)} {ends}"


def provenance(value: Any) -> str:
    """A value of a store's provenance as text; a JSON list becomes a plain one."""
    text = str(value)
    if text.startswith("["):
        try:
            return ", ".join(map(str, json.loads(text)))
        except json.JSONDecodeError:
            return text
    return text


def folder(images: pd.DataFrame) -> str:
    """Name of the folder that the pictures came from; empty where it is not known."""
    return PurePath(str(images.attrs.get("root", "")).replace("\\", "/")).name
