"""The sections "Data", "Network" and "The set at a glance"."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pandas as pd
from markupsafe import Markup

from featlab import plots
from featlab.arguments import SIDES, true_boxes
from featlab.plots.network import output_shape
from featlab.report import _answers as answers
from featlab.report import _methods as methods
from featlab.report import _words as words
from featlab.report._elements import Figure, Options, Section, Table, table
from featlab.report._words import claim, said
from featlab.results.analysis import Results, SetOverview
from featlab.results.images import Audit, Embedding, Overview

_FLAGGED, _IN_TURN = 5, ", the classes in turn"
_MOST_WRONG = 10
_USES = {"train": "to learn from", "confirm": "to confirm detectors", "test": "to score on"}


def data(results: Results, options: Options) -> Section:
    """What the pictures are, and whether they are fit for the question."""
    audit, boxes = results.audit, results.box_details
    files = {"skipped": results.store.skipped}
    files |= {} if boxes is None else {"boxes": boxes.statistics}
    if audit is not None:
        files |= {"audit": audit.summary, "audit_images": _flagged_images(audit)}
        files["confounds"] = audit.confounds
    return Section(
        "data",
        "Data",
        "data.html",
        facts={
            "sizes": _sizes(results),
            "checks": answers.verdict(results),
            "no_boxes": _no_boxes(results) or _classes_without_boxes(results),
        },
        tables={
            "classes": None if results.unlabelled else _classes(results),
            "boxes": _boxes(results),
            "reading": _reading(results),
            "skipped": _skipped(results.store.skipped),
            "audit": None if audit is None else _checks(audit),
            "flagged": None if audit is None else _flagged(audit),
        },
        figures={
            "balance": None if results.unlabelled else _balance(results),
            "box_eda": _box_eda(results),
            "samples": _samples(results),
            "confounds": None if audit is None else _confounds(audit),
        },
        files=files,
    )


def network(results: Results, options: Options) -> Section:
    """What the network makes of a picture."""
    description = str(results.store.provenance.get("description", ""))
    return Section(
        "network",
        "Network and the shape of its output",
        "network.html",
        facts={
            "description": results.backbone_description or description,
            "passes": _passes(results),
        },
        tables={"essentials": methods.provenance_table(results, essentials=True)},
        figures={"shape": None if results.unlabelled else _shape(results)},
        link="Network",
    )


def set_overview(results: Results, options: Options) -> Section | None:
    """The images on a plane, and who lies beside whom."""
    if results.set_overview is None:
        return None
    overview, images = results.set_overview.overview, results.store.images
    files = {
        "embedding": images[["path", "label"]].join(overview.embedding.coordinates, how="right"),
        "separation": overview.separation.table,
    }
    if overview.misclassified is not None:
        files["misclassified"] = overview.misclassified
    return Section(
        "set_overview",
        "The set at a glance",
        "set_overview.html",
        facts={"answer": said(_neighbours(results), _misplaced(results))},
        tables={"misclassified": _misclassified(overview, images["path"])},
        figures={
            "tsne": _tsne(results, overview),
            "thumbnails": _thumbnails(results.set_overview, images["label"]),
        },
        files=files,
        link="At a glance",
    )


@claim("data")
def answer(results: Results) -> Markup:
    """What the data is."""
    n_boxed, kind = _truth(results)["image"].nunique(), words.of_kind(results)
    sizes, n = results.split.value_counts(), words.plural(len(results.store.images), "image")
    text = Markup("{} without labels: heads, detectors and what needs them are left out.").format(n)
    if not results.unlabelled:
        text = Markup("{} of {} ({}){}. Split: {}.").format(
            n,
            words.plural(len(results.store.classes), "class", "classes"),
            words.listed(results.store.classes),
            f", {n_boxed:,} with ground-truth boxes{kind}" if n_boxed else "",
            ", ".join(f"{sizes.get(side, 0):,} {use}" for side, use in _USES.items()),
        )
    elif n_boxed:
        have = words.plural(n_boxed, "image has", "images have")
        text += f" {have} ground-truth boxes{kind}."
    return text


def _truth(results: Results) -> pd.DataFrame:
    return true_boxes(results.store.images, results.store.boxes, results.box_kind)


# ------------------------------------------------------------------------------------ the pictures


@claim("picture sizes")
def _sizes(results: Results) -> str:
    width, height = (results.store.images[side] for side in ("width", "height"))
    if (width.min(), height.min()) == (width.max(), height.max()):
        return f"All pictures have {width.min():,} × {height.min():,} pixels."
    return (
        f"Pictures have {width.median():,.0f} × {height.median():,.0f} pixels in the median "
        f"(width {width.min():,} to {width.max():,}, height {height.min():,} to "
        f"{height.max():,})."
    )


@claim("no boxes")
def _no_boxes(results: Results) -> str:
    return "" if len(results.store.boxes) else "There are no ground-truth boxes."


def _classes(results: Results) -> Table | None:
    labels = results.store.images["label"].to_numpy(str)
    counts = pd.crosstab(labels, np.asarray(results.split, dtype=str))
    sides = [side for side in SIDES if side in counts]
    rows = [
        [words.name(label), *(f"{row[side]:,}" for side in sides), f"{row.sum():,}"]
        for label, row in counts.iterrows()
    ]
    return table("Images per class and split", ["Class", *sides, "All"], rows)


def _boxes(results: Results) -> Table | None:
    boxes, labels = results.store.boxes, results.store.images["label"]
    rows = []
    for (kind, label), part in boxes.groupby(["kind", "label"], sort=True):
        own = part["image"][(labels.iloc[part["image"]] == label).to_numpy()]
        of_class = int((labels == label).sum())
        rows.append(
            [
                words.name(kind) if kind else "(no kind)",
                words.name(label) if label else "(no class)",
                f"{len(part):,}",
                f"{part['image'].nunique():,}",
                f"{own.nunique():,} of {of_class:,}" if of_class and label else "–",
            ]
        )
    columns = ["Kind", "Class", "Boxes", "Images with at least one", "Of the images of the class"]
    return table("Ground-truth boxes", columns, rows, (0, 1))


@claim("classes without boxes")
def _classes_without_boxes(results: Results) -> Markup | str:
    """Which classes the scores of places leave out."""
    if results.unlabelled or (truth := _truth(results)).empty:
        return ""
    with_boxes = set(results.store.images["label"].iloc[truth["image"]])
    without = [label for label in results.store.classes if label not in with_boxes]
    text = Markup("No image of {} has a box: places are scored on the other classes alone.")
    return text.format(words.listed(without)) if without else ""


def _reading(results: Results) -> Table | None:
    read = words.reading(results.store.provenance)
    rows = [[words.readable(what), words.whole(whence)] for what, whence in read.items()]
    return table("How the set was read", ["What", "From"], rows, (0, 1))


def _skipped(skipped: pd.DataFrame) -> Table | None:
    left_out = zip(skipped["path"], skipped["reason"], strict=True)
    rows = [[words.name(path), words.whole(reason)] for path, reason in left_out]
    return table("Left out, or not read", ["File", "Reason"], rows, (0, 1))


def _balance(results: Results) -> Figure:
    images = results.store.images
    return Figure(
        partial(plots.data.class_balance, images, results.split),
        f"Stacked bars: images per class and split, {len(images)} in all.",
        "Images per class and side of the split.",
        "class_balance",
    )


def _box_eda(results: Results) -> Figure | None:
    boxes = results.box_details
    if boxes is None or boxes.statistics.empty:
        return None
    return Figure(
        partial(plots.data.box_statistics, boxes.statistics, n_images=len(results.store.images)),
        str(_box_sizes(results)),
        f"The boxes{words.of_kind(results)}: size, shape, number, place, in units of the picture.",
        "true_boxes",
    )


@claim("box sizes")
def _box_sizes(results: Results) -> str:
    boxes = results.box_details
    if boxes is None or boxes.statistics.empty:
        return ""
    which = words.plural(len(boxes.statistics), "box", "boxes") + words.of_kind(results)
    area = words.percent(boxes.statistics["area"].median())
    return f"Size, shape and place of {which}; in the median {area} of the picture is covered."


@claim("samples")
def _drawn(results: Results) -> str:
    samples = results.samples
    if samples is None or not samples.pictures:
        return ""
    n, total = len(samples.pictures), words.plural(len(results.store.images), "picture")
    boxed, turn = any(map(len, samples.boxes)), "" if results.unlabelled else _IN_TURN
    legend = f"; white: ground-truth boxes{words.of_kind(results)}" if boxed else ""
    return f"{n:,} of {total} of the data set, drawn at random{turn}{legend}."


def _samples(results: Results) -> Figure | None:
    samples = results.samples
    if samples is None or not samples.pictures:
        return None
    return Figure(
        partial(plots.sample_pictures, samples.pictures, samples.labels, samples.boxes),
        f"{words.plural(len(samples.pictures), 'picture')} of the data set"
        f"{'' if results.unlabelled else ' with their labels'}.",
        str(_drawn(results)),
        "sample_images",
        pictures=True,
    )


# --------------------------------------------------------------------------------------- the audit


def _checks(audit: Audit) -> Table | None:
    rows = [
        [words.readable(row["check"]), row["verdict"], str(row["finding"])]
        for _, row in audit.summary.iterrows()
    ]
    return table("Checks of the set", ["Check", "Verdict", "Finding"], rows, (0, 1, 2))


def _flagged(audit: Audit) -> Table | None:
    """The images that a person should look at, a few of each kind."""
    rows = []
    for _, row in audit.duplicates.head(_FLAGGED).iterrows():
        side = ", on two sides of the split" if row["across"] else ""
        why = f"{row['kind']} duplicate of {row['path_b']}{side}"
        rows.append([words.name(row["path_a"]), why])
    for _, row in audit.label_errors.head(_FLAGGED).iterrows():
        why = f"to the others like {row['suggested']}, not {row['label']}"
        rows.append([words.name(row["path"]), why])
    for _, row in audit.outliers.head(_FLAGGED).iterrows():
        rows.append([words.name(row["path"]), f"unlike the other images of {row['label']}"])
    return table("Images to look at", ["Image", "Why"], rows, (0, 1), file="audit_images")


def _flagged_images(audit: Audit) -> pd.DataFrame:
    """Every image that a check names, with the reason."""
    duplicates, errors, outliers = audit.duplicates, audit.label_errors, audit.outliers
    kinds = duplicates["kind"].astype(str) + " duplicate"
    parts = [
        (duplicates["path_a"], kinds, duplicates["path_b"]),
        (errors["path"], "label error?", errors["suggested"]),
        (outliers["path"], "outlier", outliers["label"]),
    ]
    tables = [pd.DataFrame(dict(zip(("path", "finding", "other"), p, strict=True))) for p in parts]
    return pd.concat(tables, ignore_index=True).astype(str)


def _confounds(audit: Audit) -> Figure | None:
    if audit.confounds.empty:
        return None
    return Figure(
        partial(plots.scores.confounds, audit.confounds),
        "How well single properties of the pictures tell the classes, as AUROC with interval.",
        "What tells the classes without any network: the strongest properties of the pictures, "
        "each alone. 0.5 tells nothing; 0 and 1 tell everything.",
        "confounds",
    )


# ------------------------------------------------------------------------------------- the network


@claim("passes")
def _passes(results: Results) -> str:
    """How often the network ran for what the page shows."""
    again = [
        name
        for name, made in (("Gradients", results.gradients), ("Transfer", results.transfer))
        if made is not None
    ]
    once = "The network ran once over each picture"
    if not again:
        return f"{once}. Everything below is computed from what it left."
    return (
        f"{once}, and again for {' and '.join(f'“{name}”' for name in again)}. Everything else "
        "below is computed from what the first run left."
    )


def _shape(results: Results) -> Figure | None:
    size = re.findall(r"\d+", str(results.store.provenance.get("input_size", "")))
    if len(size) != 2:
        return None
    h, w, c = results.store.map_shape()
    height, width = (int(side) for side in size)
    n_classes = results.store.images["label"].nunique()
    return Figure(
        partial(output_shape, (h, w, c), (height, width), n_classes=n_classes),
        f"From left to right: a picture of {height} × {width} pixels, the frozen network, a stack "
        f"of {c:,} maps of {h} × {w} cells, {c:,} pooled numbers, a score for each class.",
        "What the network makes of a picture; a head learns from the pooled numbers. The numbers "
        "are those of this network; the picture, the map and the scores are a drawing.",
        "network_output",
    )


# --------------------------------------------------------------------------------------- the plane


@claim("neighbours")
def _neighbours(results: Results) -> str:
    if results.set_overview is None:
        return ""
    apart = results.set_overview.overview.separation
    by_chance = (apart.table["chance"] * apart.table["n"]).sum() / apart.n
    return (
        f"Of the {apart.k} images most like an image (by the cosine of the pooled maps), "
        f"{words.percent(apart.neighbour_agreement)} are of its own class on average, where "
        f"{words.percent(by_chance)} "
        f"would be by chance; the silhouette is {words.number(apart.silhouette)} of 1."
    )


@claim("misplaced")
def _misplaced(results: Results) -> str:
    """Where the test images lie that the head gets wrong."""
    wrong = None if results.set_overview is None else results.set_overview.overview.misclassified
    if wrong is None or not len(wrong):
        return ""
    inside = int((wrong["share_predicted"] > wrong["share_true"]).sum())
    who, how = "that the logistic head gets wrong", "deeper in the class taken for than in its own."
    if len(wrong) == 1:
        return f"The test image {who} lies {'' if inside else 'no '}{how}"
    lie = "lies" if inside == 1 else "lie"
    return f"{inside:,} of {len(wrong):,} test images {who} {lie} {how}"


def _tsne(results: Results, overview: Overview) -> Figure:
    labels, wrong = results.store.images["label"], overview.misclassified
    ringed = None if wrong is None else wrong["row"].to_numpy()
    return Figure(
        partial(plots.embedding_scatter, overview.embedding, labels, misclassified=ringed),
        f"t-SNE plane of {words.plural(len(overview.embedding), 'image')}, coloured by class.",
        str(_plane(results)),
        "tsne",
    )


@claim("plane")
def _plane(results: Results) -> str:
    if results.set_overview is None:
        return ""
    overview = results.set_overview.overview
    plane, wrong = overview.embedding, overview.misclassified
    ringed = wrong is not None and len(wrong)
    return (
        f"{_dots(plane)}: near dots are images that the network sees alike (t-SNE of "
        f"principal components, perplexity {words.number(plane.perplexity, 0)}; "
        f"trustworthiness {words.number(plane.trustworthiness['tsne'])} of 1)."
        f"{' Ringed: test images that the logistic head gets wrong.' if ringed else ''} "
        "Distances between far groups mean nothing."
    )


def _dots(plane: Embedding) -> str:
    """What the dots of the plane are."""
    n = plane.parameters["n"]
    if len(plane) == n:
        return "Every image as a dot"
    return f"A random {len(plane):,} of the {n:,} images as dots"


def _thumbnails(set_overview: SetOverview, labels: pd.Series) -> Figure | None:
    if all(picture is None for picture in set_overview.pictures.values()):
        return None
    plane = set_overview.overview.embedding
    return Figure(
        partial(plots.embedding_thumbnails, plane, set_overview.pictures, labels),
        "Thumbnails of images on the same plane, framed in the colour of their class.",
        "The same plane in pictures, one per cell; frames: classes.",
        "tsne_thumbnails",
        pictures=True,
    )


def _misclassified(overview: Overview, paths: pd.Series) -> Table | None:
    wrong = overview.misclassified
    if wrong is None:
        return None
    rows = [
        [
            words.name(paths.iloc[int(row["row"])]),
            words.name(row["label"]),
            words.name(row["predicted"]),
            words.percent(row["share_true"]),
            words.percent(row["share_predicted"]),
            words.name(paths.iloc[int(row["nearest"])]),
        ]
        for _, row in wrong.head(_MOST_WRONG).iterrows()
    ]
    columns = ["Image", "Class", "Taken for", "Neighbours of its class", "of the other"]
    return table(
        "Where the misclassified test images lie: their nearest neighbours",
        [*columns, "Most like"],
        rows,
        (0, 1, 2, 5),
        total=len(wrong),
        file="misclassified",
    )
