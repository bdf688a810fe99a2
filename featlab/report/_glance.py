"""The section "The set at a glance"."""

from __future__ import annotations

from typing import Any

from featlab import plots
from featlab.report import _words as words
from featlab.report._drawing import drawing
from featlab.report._grids import Grid, grid
from featlab.results.analysis import Results

_MOST_WRONG = 10


def figures(results: Results) -> dict[str, Any]:
    """The figures; none where the section is not there."""
    if results.glance is None:
        return {}
    found, labels = results.glance.overview, results.store.images["label"]
    plane = found.embedding
    wrong = None if found.misclassified is None else found.misclassified["row"].to_numpy()
    trust = plane.trustworthiness["tsne"]
    drawn: dict[str, Any] = {
        "tsne": drawing(
            plots.embedding_scatter(plane, labels, misclassified=wrong),
            f"t-SNE plane of {len(plane)} images, coloured by class.",
            f"{_dots(plane)}: near dots are images that the network sees alike (t-SNE of "
            f"principal components, perplexity {words.number(plane.perplexity, 0)}; "
            f"trustworthiness {words.number(trust)} of 1). Ringed: test images that the logistic "
            "head gets wrong. Distances between far groups mean nothing.",
            file="tsne",
        ),
        "thumbnails": None,
    }
    if any(picture is not None for picture in results.glance.pictures.values()):
        drawn["thumbnails"] = drawing(
            plots.embedding_thumbnails(plane, results.glance.pictures, labels),
            "Thumbnails of images on the same plane, framed in the colour of their class.",
            "The same plane in pictures, one per cell; frames: classes.",
            "jpg",
            file="tsne_thumbnails",
        )
    return drawn


def tables(results: Results) -> dict[str, Grid | None]:
    """The tables; None where there is nothing to tell."""
    return {
        "misclassified": _misclassified(results),
    }


def sentences(results: Results) -> dict[str, str]:
    """The sentences; empty where the section is not there."""
    return {
        "glance_answer": _glance_answer(results),
    }


def _glance_answer(results: Results) -> str:
    if results.glance is None:
        return ""
    found = results.glance.overview
    about = found.separation.attrs
    text = (
        f"Of the {about['k']} images most like an image (by the cosine of the pooled maps), "
        f"{words.percent(about['neighbour_agreement'])} are of its own class on average, where "
        f"{words.percent((found.separation['chance'] * found.separation['n']).sum() / about['n'])} "
        f"would be by chance; the silhouette is {words.number(about['silhouette'])} of 1."
    )
    wrong = found.misclassified
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


def _dots(plane: Any) -> str:
    """What the dots of the plane are."""
    n = plane.parameters["n"]
    if len(plane) == n:
        return "Every image as a dot"
    return f"A random {len(plane):,} of the {n:,} images as dots"


def _misclassified(results: Results) -> Grid | None:
    if results.glance is None or results.glance.overview.misclassified is None:
        return None
    table, paths = results.glance.overview.misclassified, results.store.images["path"]
    rows = [
        [
            words.name(paths.iloc[int(row["row"])]),
            words.name(row["label"]),
            words.name(row["predicted"]),
            words.percent(row["share_true"]),
            words.percent(row["share_predicted"]),
            words.name(paths.iloc[int(row["nearest"])]),
        ]
        for _, row in table.head(_MOST_WRONG).iterrows()
    ]
    columns = ["Image", "Class", "Taken for", "Neighbours of its class", "of the other"]
    return grid(
        "Where the misclassified test images lie: their nearest neighbours",
        [*columns, "Most like"],
        rows,
        (0, 1, 2, 5),
        total=len(table),
        file="misclassified",
    )
