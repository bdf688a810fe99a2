"""An image set: whether it is fit for the question, how it lies, and sets that are made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from numpy.typing import NDArray

from featlab.results.pictures import Examples
from featlab.system.files import html_block, html_folded, html_table


@dataclass(frozen=True)
class Finding:
    """One check.

    Attributes
    ----------
    check : str
        Its name.
    verdict : {"pass", "warn", "fail", "not done"}
    finding : str
        One sentence with the numbers.
    n : int
        Images it rests on.
    """

    check: str
    verdict: str
    finding: str
    n: int


@dataclass(frozen=True)
class Audit:
    """Is this image set fit for the question?

    Attributes
    ----------
    summary : DataFrame, one row per check
        ``check``, ``verdict`` ("pass", "warn", "fail" or "not done"), ``finding`` (one sentence),
        ``n`` (images it rests on).
    statistics : DataFrame of n rows
        ``path, label`` and the columns of :func:`picture_statistics`; row i is row i of the image
        table.
    confounds : DataFrame
        From :func:`confounds`.
    adjusted : DataFrame
        From :func:`adjusted_effects`.
    duplicates : DataFrame
        From :func:`duplicates`.
    copies : DataFrame
        What copies on several sides of a split are worth: ``copies`` ("together" on one side, or
        "split"), ``n`` (test images), ``n_leaking`` (those with a copy on another side), and the
        ``accuracy`` of the logistic head, with its 95 % interval ``accuracy_low, accuracy_high``.
        Empty where there are none.
    label_errors : DataFrame
        From :func:`label_errors`, with ``path`` first.
    outliers : DataFrame
        The outliers only, from :func:`outliers`, with ``path`` first.
    """

    summary: pd.DataFrame
    statistics: pd.DataFrame
    confounds: pd.DataFrame
    adjusted: pd.DataFrame
    duplicates: pd.DataFrame
    copies: pd.DataFrame
    label_errors: pd.DataFrame
    outliers: pd.DataFrame

    @property
    def verdict(self) -> str:
        """The worst verdict of the summary: "fail", "warn" or "pass"."""
        verdicts = set(self.summary["verdict"])
        return next((word for word in ("fail", "warn") if word in verdicts), "pass")

    def __repr__(self) -> str:
        counts = self.summary["verdict"].value_counts()
        return f"<Audit: {self.verdict}; {', '.join(f'{n} {word}' for word, n in counts.items())}>"

    def _repr_html_(self) -> str:
        flagged = {"Duplicates": self.duplicates, "Label errors?": self.label_errors}
        return html_block(
            f"Audit: {self.verdict}",
            html_table(self.summary),
            *(
                html_folded(f"{title}: {len(table):,}", html_table(table))
                for title, table in (flagged | {"Outliers": self.outliers}).items()
                if len(table)
            ),
        )


Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Components:
    """The leading principal components of n rows.

    Attributes
    ----------
    mean, scale : ndarray of shape (c,)
        What is subtracted from each column, and what it is divided by.
    axes : ndarray of shape (k, c)
        Unit vectors, the first of the largest variance; the largest entry of each is positive.
    shares : ndarray of shape (k,)
        Of the whole variance, in [0, 1].
    """

    mean: Floats
    scale: Floats
    axes: Floats
    shares: Floats


@dataclass(frozen=True)
class Embedding:
    """The images on two planes.

    Attributes
    ----------
    coordinates : DataFrame of shape (m, 4)
        ``pc1, pc2`` (in units of the features) and ``tsne_1, tsne_2`` (without a unit); the index
        holds the row numbers of the images laid out, which are all where there are no more than
        5,000.
    explained_variance : ndarray of shape (k,)
        Share of the features' whole variance that each of the k components kept has.
    perplexity : float
        Of the t-SNE.
    trustworthiness : dict of str to float
        ``"tsne"`` and ``"pca"``: how far the neighbours on that plane are neighbours in the
        original space too; 1 is perfect, about 0.5 is chance.
    n_neighbors : int
        Neighbours that the trustworthiness looks at.
    thumbnails : DataFrame
        ``row, x, y``: images to show as thumbnails on the t-SNE plane, one per cell of a square
        grid, and the centres of their cells.
    cell_side : float
        Side of a cell of that grid, in units of the plane.
    parameters : dict of str to object
        What made the embedding.
    """

    coordinates: pd.DataFrame
    explained_variance: Floats
    perplexity: float
    trustworthiness: dict[str, float]
    n_neighbors: int
    thumbnails: pd.DataFrame
    cell_side: float
    parameters: dict[str, Any]

    def __len__(self) -> int:
        return len(self.coordinates)


@dataclass(frozen=True)
class Separation:
    """How far the classes lie apart in the original space.

    Attributes
    ----------
    table : DataFrame, one row per class
        ``class``, ``n``; ``silhouette``: mean over the images of (b - a) / max(a, b), -1 to 1, a
        being the mean cosine distance to the own class and b to the nearest other (0 for a class
        of one image); ``neighbour_agreement``: mean share of the k nearest that are of the class;
        ``chance``: what that share would be if neighbours were drawn at random. ``attrs`` repeats
        the numbers below for who reads the table alone.
    silhouette, neighbour_agreement : float
        Means over all images.
    k : int
        Neighbours of each image.
    n : int
        Images.
    """

    table: pd.DataFrame
    silhouette: float
    neighbour_agreement: float
    k: int
    n: int


@dataclass(frozen=True)
class Overview:
    """The set at a glance.

    Attributes
    ----------
    embedding : Embedding
    separation : Separation
        Of ``class_separation``.
    neighbours : DataFrame
        Of ``nearest_neighbours``, for every image.
    misclassified : DataFrame or None
        Of ``misclassified``; None where no predictions were given.
    """

    embedding: Embedding
    separation: Separation
    neighbours: pd.DataFrame
    misclassified: pd.DataFrame | None


@dataclass(frozen=True)
class OwnClasses:
    """What the network itself calls the pictures, by the classifier that it came with.

    Attributes
    ----------
    n_classes : int
        Classes that it knows.
    pictures : DataFrame
        From ``own.own_pictures``: the five most probable of each picture.
    called : DataFrame
        From ``own.own_set``.
    boxes : DataFrame or None
        From ``own.own_boxes``, of what each picture is called; None where the classifier is not
        linear in the maps.
    """

    n_classes: int
    pictures: pd.DataFrame
    called: pd.DataFrame
    boxes: pd.DataFrame | None


@dataclass(frozen=True)
class Clusters:
    """Images that the network sees alike, in a set without labels.

    Attributes
    ----------
    table : DataFrame, one row per cluster
        ``cluster`` (the largest first), ``n``, ``share`` of the set, ``typical`` (paths of the
        images nearest to its centre, ``|`` between them).
    images : DataFrame, one row per image
        ``row, path, cluster``, ``distance`` to the centre.
    choice : DataFrame
        ``clusters``, ``silhouette`` (mean over images): for each number that was tried.
    neurons : DataFrame
        ``cluster, layer, neuron, auroc, mean, mean_ref``: those that tell it from the rest, on the
        images that the clusters were made of.
    embedding : Embedding
    pictures : mapping of int to ndarray of shape (height, width, 3), uint8, or None
        Row → picture, for the typical images.
    """

    table: pd.DataFrame
    images: pd.DataFrame
    choice: pd.DataFrame
    neurons: pd.DataFrame
    embedding: Embedding
    pictures: Mapping[int, npt.NDArray[np.uint8] | None]


@dataclass(frozen=True)
class SetMaps:
    """Heat maps and boxes that need no labels.

    Attributes
    ----------
    boxes : DataFrame
        ``row, path, method, threshold, xmin, ymin, xmax, ymax``: a row per image and method.
    table : DataFrame
        ``Localisation.table`` of the methods and baselines; empty where there are no boxes.
    examples : Examples
    """

    boxes: pd.DataFrame
    table: pd.DataFrame
    examples: Examples


@dataclass(frozen=True)
class Scenes:
    """A set of scenes in memory; entry *i* of every list is scene *i*.

    Attributes
    ----------
    images : list of ndarray of uint8, shape (h, w, 3)
    labels : list of str
    boxes : DataFrame
        The box table: image (the scene's number, from 0), kind ("object"), label, xmin, ymin,
        xmax, ymax (pixels, continuous).
    masks : list of ndarray of bool, shape (h, w)
    """

    images: list[npt.NDArray[np.uint8]]
    labels: list[str]
    boxes: pd.DataFrame
    masks: list[npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Neurons:
    """Activations of :func:`make_neurons`.

    Attributes
    ----------
    X : DataFrame of shape (n_images, n_neurons)
        float32, not negative; a feature table, of the layer "made_up" and the pooling "mean".
    y : Series of str of shape (n_images,)
    truth : DataFrame
        One row per neuron: neuron, label (the class that it detects, "" for none), dead.
    """

    X: pd.DataFrame
    y: pd.Series
    truth: pd.DataFrame
