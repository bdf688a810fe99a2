"""The sections "Data", "Network" and "The set at a glance"."""

from __future__ import annotations

import re
from functools import partial

import numpy as np
import pandas as pd
from markupsafe import Markup

from featlab import plots
from featlab.arguments import SIDES
from featlab.plots.network import output_shape
from featlab.report import _words as words
from featlab.report._elements import Figure, Options, Section, Table, table
from featlab.results.analysis import Results, SetOverview
from featlab.results.images import Audit, Embedding, Overview

_FLAGGED = 5
_MOST_WRONG = 10
_USES = {"train": "to learn from", "confirm": "to confirm detectors", "test": "to score on"}
_PROVENANCE_FIRST = (
    "backbone",
    "weights",
    "input_size",
    "preprocessing",
    "resize",
    "layers",
    "output_stride",
    "dtype",
    "engine",
    "precision",
    "fingerprint",
)


def data(results: Results, options: Options) -> Section:
    """What the pictures are, and whether they are fit for the question."""
    audit, boxes = results.audit, results.box_details
    files = {} if boxes is None else {"boxes": boxes.statistics}
    if audit is not None:
        files |= {
            "audit": audit.summary,
            "audit_images": _flagged_images(audit),
            "confounds": audit.confounds,
        }
    return Section(
        "data",
        "Data",
        "data.html",
        facts={"sizes": _sizes(results.store.images)},
        tables={
            "classes": _classes(results),
            "boxes": _boxes(results.store.boxes),
            "skipped": _skipped(results.store.images),
            "audit": None if audit is None else _checks(audit),
            "flagged": None if audit is None else _flagged(audit),
        },
        figures={
            "balance": _balance(results),
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
        facts={"description": results.backbone_description or description},
        tables={"essentials": provenance_table(results, essentials=True)},
        figures={"shape": _shape(results)},
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
        facts={"answer": _neighbours(overview)},
        tables={"misclassified": _misclassified(overview, images["path"])},
        figures={
            "tsne": _tsne(overview, images["label"]),
            "thumbnails": _thumbnails(results.set_overview, images["label"]),
        },
        files=files,
        link="At a glance",
    )


def answer(results: Results) -> Markup:
    """What the data is."""
    images, boxes = results.store.images, results.store.boxes
    sizes = results.split.value_counts()
    text = Markup("{} of {}: {}. Split: {}.").format(
        words.plural(len(images), "image"),
        words.plural(len(results.store.classes), "class", "classes"),
        words.listed(results.store.classes),
        ", ".join(f"{sizes.get(side, 0):,} {use}" for side, use in _USES.items()),
    )
    if len(boxes):
        with_boxes = int(boxes["image"].nunique())
        text += f" {words.plural(with_boxes, 'image has', 'images have')} ground-truth boxes."
    return text


def provenance_table(results: Results, *, essentials: bool) -> Table | None:
    """What the store says of how it was made: what matters most, or all of it."""
    known = {
        key: words.provenance(value)
        for key, value in results.store.provenance.items()
        if isinstance(value, (str, int, float))
    }
    first = [key for key in _PROVENANCE_FIRST if key in known]
    rest = [] if essentials else sorted(set(known) - set(first))
    rows = [[words.readable(key), known[key]] for key in first + rest]
    caption = "The network and its input" if essentials else "Provenance of the stored maps"
    return table(caption, ["What", "Value"], rows, (0, 1))


# ------------------------------------------------------------------------------------ the pictures


def _sizes(images: pd.DataFrame) -> str:
    width, height = images["width"], images["height"]
    if (width.min(), height.min()) == (width.max(), height.max()):
        return f"All pictures have {width.min():,} × {height.min():,} pixels."
    return (
        f"Pictures have {width.median():,.0f} × {height.median():,.0f} pixels in the median "
        f"(width {width.min():,} to {width.max():,}, height {height.min():,} to "
        f"{height.max():,})."
    )


def _classes(results: Results) -> Table | None:
    labels = results.store.images["label"].to_numpy(str)
    counts = pd.crosstab(labels, np.asarray(results.split, dtype=str))
    sides = [side for side in SIDES if side in counts]
    rows = [
        [words.name(label), *(f"{row[side]:,}" for side in sides), f"{row.sum():,}"]
        for label, row in counts.iterrows()
    ]
    return table("Images per class and split", ["Class", *sides, "All"], rows)


def _boxes(boxes: pd.DataFrame) -> Table | None:
    rows = [
        [
            words.name(kind) if kind else "(no kind)",
            f"{len(of_kind):,}",
            f"{of_kind['image'].nunique():,}",
        ]
        for kind, of_kind in boxes.groupby("kind", sort=True)
    ]
    return table("Ground-truth boxes", ["Kind", "Boxes", "Images with at least one"], rows)


def _skipped(images: pd.DataFrame) -> Table | None:
    skipped = images.attrs.get("skipped", [])
    rows = [[words.name(item["path"]), words.name(item["reason"])] for item in skipped]
    return table("Files that were skipped", ["File", "Reason"], rows, (0, 1))


def _balance(results: Results) -> Figure:
    images = results.store.images
    return Figure(
        partial(plots.data.class_balance, images, results.split),
        f"Stacked bars: images per class and split, {len(images)} in all.",
        "Images per class. Heads and detectors are chosen on train, detectors and thresholds "
        "confirmed on confirm, scores measured on test.",
        "class_balance",
    )


def _box_eda(results: Results) -> Figure | None:
    boxes = results.box_details
    if boxes is None or boxes.statistics.empty:
        return None
    median = float(boxes.statistics["area"].median())
    return Figure(
        partial(plots.data.box_statistics, boxes.statistics, n_images=len(results.store.images)),
        f"Size, shape and place of {len(boxes.statistics)} boxes; half cover less than "
        f"{words.percent(median)} of their picture.",
        "The ground-truth boxes: size, shape, number and place, in units of the picture.",
        "true_boxes",
    )


def _samples(results: Results) -> Figure | None:
    samples = results.samples
    if samples is None or not samples.pictures:
        return None
    boxed = sum(len(boxes) > 0 for boxes in samples.boxes)
    return Figure(
        partial(plots.sample_images, samples.pictures, samples.labels, samples.boxes),
        f"{len(samples.pictures)} pictures of the data set with their labels.",
        "Pictures of the data set, drawn at random, the classes in turn"
        + ("; white: ground-truth boxes." if boxed else "."),
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
        rows.append(
            [words.name(row["path_a"]), f"{row['kind']} duplicate of {row['path_b']}{side}"]
        )
    for _, row in audit.label_errors.head(_FLAGGED).iterrows():
        rows.append([words.name(row["path"]), f"looks like {row['suggested']}, not {row['label']}"])
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
    tables = [
        pd.DataFrame({"path": path, "finding": finding, "other": other})
        for path, finding, other in parts
    ]
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
        "What the network makes of a picture. The network is not trained: all that is learnt here "
        "is the head, on the pooled numbers. The numbers are those of this network; the picture, "
        "the map and the scores are a drawing.",
        "network_output",
    )


# --------------------------------------------------------------------------------------- the plane


def _neighbours(overview: Overview) -> str:
    apart = overview.separation
    by_chance = (apart.table["chance"] * apart.table["n"]).sum() / apart.n
    text = (
        f"Of the {apart.k} images most like an image (by the cosine of the pooled maps), "
        f"{words.percent(apart.neighbour_agreement)} are of its own class on average, where "
        f"{words.percent(by_chance)} "
        f"would be by chance; the silhouette is {words.number(apart.silhouette)} of 1."
    )
    wrong = overview.misclassified
    if wrong is None or not len(wrong):
        return text
    inside = int((wrong["share_predicted"] > wrong["share_true"]).sum())
    if len(wrong) == 1:
        where = "the class it is taken for" if inside else "its own class"
        return f"{text} The one test image that the logistic head gets wrong lies in {where}."
    return (
        f"{text} Of the {len(wrong)} test images that the logistic head gets wrong, {inside} lie "
        "deeper in the class they are taken for than in their own."
    )


def _tsne(overview: Overview, labels: pd.Series) -> Figure:
    plane, wrong = overview.embedding, overview.misclassified
    ringed = None if wrong is None else wrong["row"].to_numpy()
    return Figure(
        partial(plots.embedding_scatter, plane, labels, misclassified=ringed),
        f"t-SNE plane of {len(plane)} images, coloured by class.",
        f"{_dots(plane)}: near dots are images that the network sees alike (t-SNE of "
        f"principal components, perplexity {words.number(plane.perplexity, 0)}; "
        f"trustworthiness {words.number(plane.trustworthiness['tsne'])} of 1). Ringed: test images "
        "that the logistic head gets wrong. Distances between far groups mean nothing.",
        "tsne",
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
