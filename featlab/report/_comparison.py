"""Pages besides the report: of several stores, and the report in brief."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from markupsafe import Markup

from featlab.arguments import (
    SIDES,
    confirmed_detectors,
    selected_detectors,
    with_unseen_limits,
)
from featlab.report import _compared as compared
from featlab.report import _words as words
from featlab.report import overview
from featlab.report._answers import scored
from featlab.report._elements import Options, Section, Table, drawn, table
from featlab.report._words import COMPARISON_CLAIMS, Claim, claim
from featlab.report.page import (
    NO_DATA,
    PLAIN_SCRIPTS,
    drawn_and_written,
    filled_in,
    page_path,
    whole_page,
)
from featlab.results.analysis import BASELINE_HEADS, Results
from featlab.results.localisation import WITHOUT_BOXES
from featlab.results.pictures import Comparison
from featlab.system.files import write_whole

_SCRIPTS = ("tables.js", "frame.js", "report.js")
_BRIEF_ROWS, _BRIEF_CLASSES = 12, 5


def write_comparison(comparison: Comparison, path: str | os.PathLike[str]) -> Path:
    """Write a comparison as one self-contained HTML page, and its tables beside it.

    Like the report, the page opens offline, asks for nothing and is complete without its script.
    Beside it lie ``compare`` (the entries), ``compare_heads``, ``compare_detectors``,
    ``compare_localisation``, ``compare_pairs`` and ``compare_likeness``, each as ``.csv`` and
    ``.parquet``.

    Parameters
    ----------
    comparison : Comparison
    path : path-like
        The HTML file; its folder is made if it is not there, an earlier file replaced.

    Returns
    -------
    Path

    Raises
    ------
    FeatlabError
        `path` is a folder.
    """
    path = page_path(path, "compare.html")
    sections = [section(comparison) for section in SECTIONS]
    page = filled_in(
        drawn_and_written(sections, path.parent),
        _SCRIPTS,
        kind="comparison",
        title=Markup("{}, seen in {} ways").format(
            words.name(words.folder(comparison.images) or "an image folder"),
            len(comparison.entries),
        ),
        lead=_lead(comparison),
        version="",
        data=Markup('{"pictures": []}'),
    )
    write_whole(path, page.encode("utf-8", "replace"))
    return path


@claim("compared lead", COMPARISON_CLAIMS)
def _lead(comparison: Comparison) -> str:
    n = words.plural(len(comparison.images), "image")
    return (
        f"The same {n} in {len(comparison.entries):,} ways: networks, layers or input sizes, on "
        "the same split. The best is chosen on one part of the images and judged on another."
    )


def _overview(comparison: Comparison) -> Section:
    return Section(
        "answers",
        "In short",
        "answers.html",
        facts={
            "alarms": [],
            "sights": [],
            "answers": {
                "Which tells the classes apart best?": compared.heads_answer(comparison),
                "Which has the most confirmed detectors?": compared.detectors_answer(comparison),
                "Which localises best?": compared.boxes_answer(comparison),
                "What does each cost?": _cost_answer(comparison),
            },
        },
    )


def _compared(comparison: Comparison) -> Section:
    """What each entry does and what it is: a row for each stored layer."""
    return Section(
        "compared",
        "Which to take",
        "compare_entries.html",
        tables={
            "choice": _choice(comparison),
            "entries": _entries(comparison.entries, len(comparison.images)),
        },
        files={"compare": comparison.entries},
    )


def _choice(comparison: Comparison) -> Table | None:
    """All that one chooses a network by, in one table."""
    boxes = bool(comparison.best_boxes)
    entries = comparison.entries
    rows = [
        [
            words.name(row["name"]),
            words.scored(row, "accuracy"),
            f"{row['confirmed']:,}",
            *([words.scored(row, "box_accuracy")] if boxes else []),
            *([words.scored(row, "trained_box_accuracy")] if boxes else []),
            words.number(row["seconds_per_1000"], 1),
            _megabytes(row["megabytes"]),
        ]
        for _, row in entries.iterrows()
    ]
    columns = ["Name", "Accuracy", "Detectors confirmed"]
    columns += ["Box accuracy, from labels", "Box accuracy, from drawn boxes"] * boxes
    return table(
        f"What each gives on the test images{words.with_intervals(entries, 'accuracy')}",
        [*columns, "Seconds for 1,000 boxes", "Store"],
        rows,
        file="compare",
    )


@claim("compared cost", COMPARISON_CLAIMS)
def _cost_answer(comparison: Comparison) -> Claim:
    """What each costs."""
    table = comparison.entries
    files = table.drop_duplicates("store").sort_values("megabytes", kind="stable")
    light, heavy = files.iloc[0], files.iloc[-1]
    n = len(comparison.images)
    if len(files) == 1:
        verdict = Markup("{} for all").format(_megabytes(light["megabytes"]))
        text = Markup("All are layers of one store of {}.").format(words.plural(n, "image"))
    else:
        verdict = Markup("{} to {}").format(
            _megabytes(light["megabytes"]), _megabytes(heavy["megabytes"])
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
    return Claim(text + " A store does not record how long its network ran.", verdict)


def _entries(entries: pd.DataFrame, n_images: int) -> Table | None:
    rows = [
        [
            words.name(row["name"]),
            Markup("{}: {}").format(words.name(row["backbone"]), words.name(row["layer"])),
            str(row["input_size"]).replace("x", "×"),
            f"{row['map_height']} × {row['map_width']}",
            f"{row['neurons']:,}",
            f"{row['dead']:,}",
            words.percent(row["active_share"]),
            _megabytes(row["megabytes"]),
        ]
        for _, row in entries.iterrows()
    ]
    columns = ["Name", "Network: layer", "Input (px)", "Map (cells)", "Neurons", "Dead"]
    return table(
        f"What was compared, on {words.plural(n_images, 'image')}",
        [*columns, "Active in an image", "Store"],
        rows,
        (0, 1),
        file="compare",
    )


def _megabytes(value: float) -> str:
    """`15 MB`."""
    return f"{words.number(value, 0 if value >= 10 else 1)}\N{NO-BREAK SPACE}MB"


def _kilobytes(row: pd.Series, n: int) -> str:
    return words.number(1000 * row["megabytes"] / n, 0)


def _likeness(comparison: Comparison) -> Section:
    """How alike the entries see the images."""
    rows = [
        [
            words.name(row["a"]),
            words.name(row["b"]),
            *(
                text
                for measure in ("cka", "rsa")
                for text in (
                    words.number(row[measure]),
                    words.number(row[f"{measure}_shuffled"]),
                    words.p_value(row[f"{measure}_p"]),
                )
            ),
        ]
        for _, row in comparison.likeness.iterrows()
    ]
    columns = ["One", "The other", "Linear CKA", "shuffled", "p", "RSA", "shuffled", "p"]
    return Section(
        "likeness",
        "How alike they see the images",
        "compare_likeness.html",
        facts={"closest": closest(comparison)},
        tables={
            "likeness": table(
                "Likeness of the mean-pooled maps, each two; shuffled: 95 % of the shuffles of one "
                "side's images stay below",
                columns,
                rows,
                (0, 1),
                file="compare_likeness",
            )
        },
        files={"compare_likeness": comparison.likeness},
        link="Likeness",
    )


@claim("closest pair", COMPARISON_CLAIMS)
def closest(comparison: Comparison) -> str | Markup:
    """Which two see the images most alike."""
    pairs = comparison.likeness.dropna(subset="cka")
    if pairs.empty:
        return "Too few images can be compared for that."
    best = pairs.iloc[int(pairs["cka"].argmax())]
    if best["cka"] <= best["cka_shuffled"]:
        return "No two see the images more alike than shuffled images are."
    return Markup(
        "{}: linear CKA {} on {}; where the images of one are shuffled, 95 % stay below {}."
    ).format(
        Markup("Closest are “{}” and “{}”" if len(pairs) > 1 else "“{}” and “{}”").format(
            words.name(best["a"]), words.name(best["b"])
        ),
        words.number(best["cka"]),
        words.plural(int(best["n"]), "image"),
        words.number(best["cka_shuffled"]),
    )


def _methods(comparison: Comparison) -> Section:
    facts = {"paragraphs": _described(comparison), "references": []}
    return Section("methods", "Methods", "methods.html", facts=facts)


@claim("compared images", COMPARISON_CLAIMS)
def _same_images(comparison: Comparison) -> Markup:
    sides = comparison.split.value_counts()
    return Markup(
        "All stores hold the same {} (path, content, label and boxes were checked), and share "
        "one split: {} to learn from, {} to choose by, {} to score on. An entry is one stored "
        "layer of one store."
    ).format(
        words.plural(len(comparison.images), "image"),
        *(f"{int(sides.get(side, 0)):,}" for side in SIDES),
    )


def _described(comparison: Comparison) -> list[Any]:
    """How it was done, in paragraphs."""
    others = len(comparison.entries) - 1
    paragraphs: list[Any] = [
        _same_images(comparison),
        Markup(
            "The head is a logistic regression on mean-pooled maps, tuned inside the train images. "
            "Detectors of all entries stand in one corrected family, so their numbers, and the "
            "boxes of their maps, may differ from those on a store’s own page."
        ),
        Markup(
            "The best entry, each entry’s map method and all thresholds were chosen on the confirm "
            "images; the test images were only scored. The best entry is compared with {}, image "
            "by image, by McNemar’s test (sign flips of groups, where images have groups). "
            "p-values are corrected by "
            "Holm’s method over these comparisons; intervals are 95 % each, uncorrected."
        ).format("the other" if others == 1 else f"each of the {others} others"),
    ]
    if comparison.box_kind:
        paragraphs.append(
            Markup("Boxes are those of kind “{}”.").format(words.name(comparison.box_kind))
        )
    return paragraphs


def _provenance(comparison: Comparison) -> Section:
    rows = [
        [words.name(row["name"]), words.name(row["weights"]), words.name(row["store"])]
        for _, row in comparison.entries.iterrows()
    ]
    return Section(
        "provenance",
        "Provenance",
        "provenance.html",
        facts={"commands": [comparison.command] * bool(comparison.command), "python_lines": ""},
        tables={
            "provenance": table("The stores", ["Name", "Weights", "File"], rows, (0, 1, 2)),
            "seconds": None,
        },
    )


SECTIONS = (
    _overview,
    _compared,
    compared.classes,
    compared.detectors,
    compared.localisation,
    _likeness,
    _methods,
    _provenance,
)
"""The page from top to bottom."""


# ------------------------------------------------------------------------------------- in brief


def write_brief(results: Results, path: str | os.PathLike[str]) -> Path:
    """Write answers, pictures and one table as a page that is one sheet of A4 when printed.

    Parameters
    ----------
    results : Results
    path : path-like
        The HTML file; its folder is made if it is not there, an earlier file replaced.

    Returns
    -------
    Path

    Raises
    ------
    FeatlabError
        `path` is a folder.
    """
    path = page_path(path, "brief.html")
    page = whole_page(results, drawn([brief(results)]), PLAIN_SCRIPTS, "brief", NO_DATA)
    write_whole(path, page.encode("utf-8", "replace"))
    return path


def brief(results: Results) -> Section:
    """The answers and pictures again, with the numbers behind them, for one printed page."""
    first = overview.overview(results, Options())
    made = results.clusters
    if results.unlabelled:
        numbers = None if made is None else overview.cluster_table(made)
    else:
        rows = [*_class_numbers(results), *_detector_numbers(results), *_box_numbers(results)]
        columns = ["Question", "By", "Score on unseen images", "To compare with", "n"]
        caption = "The numbers behind the answers, with 95 % intervals"
        numbers = table(caption, columns, rows, (0, 1, 2, 3))
    if numbers is not None:
        numbers = replace(numbers, rows=numbers.rows[:_BRIEF_ROWS], left_out=0, file="")
    facts = {**first.facts, "on_paper": True}
    return replace(first, partial="brief.html", facts=facts, tables={"numbers": numbers})


def _class_numbers(results: Results) -> list[list[Any]]:
    """How often the head is right, beside the baselines."""
    scores: Any = results.heads.table.set_index("head")
    head = results.heads.main
    if head not in scores.index:
        return []
    rivals = [
        f"{words.readable(name)} {words.percent(scores.loc[name, 'accuracy'])}"
        for name in BASELINE_HEADS
        if name in scores.index
    ]
    row = scores.loc[head]
    by = f"{words.readable(head)} head"
    return [
        ["Which class?", by, words.share(row, "accuracy"), ", ".join(rivals), f"{int(row['n']):,}"]
    ]


def _detector_numbers(results: Results) -> list[list[Any]]:
    """The detector that led at selection, of some classes, beside all that were selected."""
    confirmed = confirmed_detectors(with_unseen_limits(results.neurons))
    selected = selected_detectors(results.neurons)
    rows = []
    for _, row in confirmed.drop_duplicates("class").nlargest(_BRIEF_CLASSES, "auroc").iterrows():
        every = selected.loc[selected["class"].eq(row["class"]), "auroc_confirmed"]
        rows.append(
            [
                Markup("Is it {}?").format(words.name(row["class"])),
                f"neuron {row['neuron']}",
                f"AUROC {words.scored(row, 'auroc_confirmed')}",
                f"{words.score(every.median())}, median of all {len(every):,} selected",
                f"{int(results.split.eq('confirm').sum()):,}",
            ]
        )
    return rows


def _box_numbers(results: Results) -> list[list[Any]]:
    """How often boxes are found, by the kinds of the fourth answer, beside the best baseline."""
    scores = scored(results)
    if scores is None:
        return []
    rival = scores.best(baseline=True)
    against = "" if rival is None else (
        f"{words.method(rival['method'])} {words.percent(rival['box_accuracy'])}"
    )  # fmt: skip
    own = scores.table[scores.table["method"].isin(["detectors", "best_detector"])]
    every = [row for _, row in own[own["box_accuracy"].notna()].iterrows()]
    others = (scores.best(supervision=kind) for kind in (WITHOUT_BOXES, ["boxes"]))
    every += [row for row in others if row is not None]
    heads = None if results.box_details is None else results.box_details.heads
    if heads is not None:
        every += [row for _, row in heads[~heads["baseline"].astype(bool)].head(1).iterrows()]
    named = {}
    for row in every:
        name = words.method(row["method"]) if "method" in row else words.box_head(row["head"])
        named[name] = [words.share(row, "box_accuracy"), against, f"{int(row['n']):,}"]
    return [["Where? (IoU ≥ 0.5)", name, *cells] for name, cells in named.items()]
