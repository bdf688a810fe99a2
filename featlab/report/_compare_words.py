"""The sentences of a comparison. Names of stores, layers and classes are escaped here."""

from __future__ import annotations

import math
from pathlib import PurePath

import pandas as pd
from markupsafe import Markup

from featlab.report import _words as words
from featlab.results.comparison import Comparison

ALPHA = 0.05
_TOLD = 3  # names in a sentence
Answer = tuple[Markup, bool, Markup]


def title(comparison: Comparison) -> Markup:
    """What the page is about."""
    root = PurePath(str(comparison.images.attrs.get("root", "")).replace("\\", "/")).name
    return Markup("{}, seen in {} ways").format(
        words.name(root or "an image folder"), len(comparison.entries)
    )


def heads_answer(comparison: Comparison) -> Answer:
    """Which tells the classes best: a verdict, whether it is a clear one, and the figures."""
    best = _entry(comparison, comparison.best_head)
    verdict, clear = _verdict(comparison.head_pairs)
    text = Markup(
        "The logistic head on “{}” does best on the confirm images (accuracy, then log loss). Of "
        "{} it gets {} right. {}"
    ).format(
        words.name(best["name"]),
        words.plural(int(best["n"]), "test image"),
        _share(best, "accuracy"),
        _against(comparison.head_pairs),
    )
    return verdict, clear, text


def detectors_answer(comparison: Comparison) -> Answer:
    """Which has more confirmed detectors."""
    table = comparison.entries.sort_values("confirmed", ascending=False, kind="stable")
    first = table.iloc[0]
    if not first["confirmed"]:
        return Markup("None has any"), False, Markup("No detector was confirmed in any of them.")
    counts = [
        Markup("“{}” {} (of {})").format(
            words.name(row["name"]),
            f"{int(row['confirmed']):,}",
            words.plural(int(row["neurons"]), "neuron"),
        )
        for _, row in table.head(_TOLD).iterrows()
    ]
    rest = f", {len(table) - len(counts)} more in the table" if len(table) > len(counts) else ""
    text = Markup(
        "Confirmed on unseen images, counted as pairs of neuron and class: {}{}. A count is no "
        "test: neurons of different networks do not correspond, and more neurons can be more "
        "detectors."
    ).format(Markup(", ").join(counts), rest)
    return Markup("“{}”, by count").format(words.name(first["name"])), False, text


def boxes_answer(comparison: Comparison) -> Answer:
    """Which localises better."""
    if not comparison.best_boxes:
        return (
            Markup("No boxes, so not measured"),
            False,
            Markup("Without boxes on confirm and test images nothing can be said."),
        )
    best = _entry(comparison, comparison.best_boxes)
    verdict, clear = _verdict(comparison.box_pairs)
    text = Markup(
        "Each with its own best map method from image labels alone, chosen on the confirm images, "
        "where “{}” with “{}” does best. On {} it finds the box (IoU ≥ 0.5) in {}; the best "
        "baseline, “{}”, in {}. {}"
    ).format(
        words.name(best["name"]),
        words.method(best["method"]),
        words.plural(int(best["n_boxes"]), "test image"),
        _share(best, "box_accuracy"),
        words.method(best["baseline"]),
        words.percent(best["baseline_box_accuracy"]),
        _against(comparison.box_pairs),
    )
    return verdict, clear, text


def cost_answer(comparison: Comparison) -> Answer:
    """What each costs."""
    table = comparison.entries
    files = table.drop_duplicates("store").sort_values("megabytes", kind="stable")
    light, heavy = files.iloc[0], files.iloc[-1]
    n = len(comparison.images)
    if len(files) == 1:
        verdict = Markup("{} for all").format(megabytes(light["megabytes"]))
        text = Markup("All are layers of one store of {}.").format(words.plural(n, "image"))
    else:
        verdict = Markup("{} to {}").format(
            megabytes(light["megabytes"]), megabytes(heavy["megabytes"])
        )
        text = Markup(
            "Least: the store of “{}”, {} kB an image; most: that of “{}”, {} kB."
        ).format(
            words.name(light["name"]), _kilobytes(light, n),
            words.name(heavy["name"]), _kilobytes(heavy, n),
        )  # fmt: skip
    seconds = table["seconds_per_1000"].dropna()
    if len(seconds):
        text += (
            f" Heat maps and boxes from stored maps took {words.number(seconds.min(), 1)} to "
            f"{words.number(seconds.max(), 1)} seconds for 1,000 images here."
        )
    return verdict, False, text + " A store does not record how long its network ran."


def methods(comparison: Comparison) -> list[Markup]:
    """How it was done, in paragraphs."""
    sides = comparison.split.value_counts()
    others = len(comparison.entries) - 1
    paragraphs = [
        Markup(
            "All stores hold the same {} (path, content, label and boxes were checked), and share "
            "one split: {} to learn from, {} to choose by, {} to score on. An entry is one stored "
            "layer of one store."
        ).format(
            words.plural(len(comparison.images), "image"),
            *(f"{int(sides.get(side, 0)):,}" for side in ("train", "confirm", "test")),
        ),
        Markup(
            "The head is a logistic regression on mean-pooled maps, tuned inside the train images. "
            "Detectors of all entries stand in one corrected family, so their numbers may differ "
            "from those on a store’s own page."
        ),
        Markup(
            "The best entry, each entry’s map method and all thresholds were chosen on the confirm "
            "images; the test images were only scored. The best entry is compared with {}, image "
            "by image: McNemar’s test (sign flips of groups, where images have groups) with "
            "Newcombe’s interval, and a bootstrap for the mean IoU. p-values are corrected by "
            "Holm’s method over these comparisons; intervals are 95 % each, uncorrected."
        ).format("the other" if others == 1 else f"each of the {others} others"),
    ]
    if comparison.box_kind:
        paragraphs.append(
            Markup("Boxes are those of kind “{}”.").format(words.name(comparison.box_kind))
        )
    return paragraphs


def megabytes(value: float) -> str:
    """`15 MB`."""
    return f"{words.number(value, 0 if value >= 10 else 1)}\N{NO-BREAK SPACE}MB"


def points(row: pd.Series, score: str) -> str:
    """A difference of shares in percentage points, with its interval."""
    value, low, high = (100 * row[f"{score}{end}"] for end in ("", "_low", "_high"))
    told = f"{words.signed(value, 1)}"
    if math.isfinite(low):
        told += f" [{words.signed(low, 1)},\N{NO-BREAK SPACE}{words.signed(high, 1)}]"
    return told


def _entry(comparison: Comparison, name: str) -> pd.Series:
    return comparison.entries[comparison.entries["name"] == name].iloc[0]


def _verdict(pairs: pd.DataFrame) -> tuple[Markup, bool]:
    """Against how many of the others the leader's lead is shown."""
    leader = words.name(pairs["a"].iloc[0])
    sure = pairs["p_adjusted"] < ALPHA
    ahead, behind = pairs[sure & (pairs["difference"] > 0)], pairs[sure & (pairs["difference"] < 0)]
    if len(behind):
        return Markup("“{}” on confirm, but “{}” is ahead on test").format(
            leader, words.name(behind["b"].iloc[0])
        ), False
    if len(ahead) == len(pairs):
        return Markup("“{}”, clearly").format(leader), True
    if len(ahead):
        rest = pairs.loc[pairs.index.difference(ahead.index), "b"]
        return Markup("“{}”, though not shown to be better than {}").format(
            leader, words.listed(rest) if len(rest) < _TOLD else f"{len(rest)} of the others"
        ), False
    return Markup("No difference is shown"), False


def _against(pairs: pd.DataFrame) -> Markup:
    """Over how many of the others the lead is sure, and how large it is over the nearest."""
    nearest = pairs.iloc[int(pairs["difference"].argmin())]
    surely = int(((pairs["p_adjusted"] < ALPHA) & (pairs["difference"] > 0)).sum())
    count = ""
    if len(pairs) > 1:
        count = f"it is clearly ahead of {surely or 'none'} of the {len(pairs)} others; "
    return Markup(
        "Image by image {}its lead over {}“{}” is {} percentage points ({}, adjusted p {})."
    ).format(
        count,
        "the nearest, " if count else "",
        words.name(nearest["b"]),
        words.signed(100 * nearest["difference"], 1),
        f"{words.signed(100 * nearest['difference_low'], 1)} to "
        f"{words.signed(100 * nearest['difference_high'], 1)}",
        words.p_value(nearest["p_adjusted"]),
    )


def _share(row: pd.Series, score: str) -> str:
    return (
        f"{words.percent(row[score])} ({words.percent(row[f'{score}_low'])} to "
        f"{words.percent(row[f'{score}_high'])})"
    )


def _kilobytes(row: pd.Series, n: int) -> str:
    return words.number(1000 * row["megabytes"] / n, 0)
