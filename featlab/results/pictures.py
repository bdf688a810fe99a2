"""Pictures with boxes and heat maps, ready to be drawn."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pandas as pd

from featlab.system.files import html_block, html_facts, html_folded, html_table

UNUSUAL = 0.05
"""Typicality at which a predicted picture stands out, or below."""
LEAST_IOU = 0.5
"""Least IoU of a predicted box that is right."""
UNTUNED_ELSEWHERE = (
    ("kangaroos and raccoons", 107, 0.654, 0.561, 0.514),
    ("fruits", 82, 0.622, 0.671, 0.598),
    ("bodies of pets", 178, 0.826, 0.888, 0.843),
    ("heads of pets", 82, 0.329, 0.476, 0.232),
    ("heads of pets of other breeds", 169, 0.355, 0.497, 0.183),
    ("defects of steel", 502, 0.106, 0.127, 0.151),
    ("small things in built-in scenes", 72, 0.042, 0.597, 0.097),
)
"""Sets whose boxes were hidden: what was to be found, test images, share found (IoU of 0.5 or more)
with the method and threshold that no box chose, with those that confirm boxes choose, and by a blob
at the picture's centre whose threshold confirm boxes choose, too (``benchmarks/untuned.py``). The
rule's threshold was chosen in sight of all but the last two."""


def untuned_sentence() -> str:
    """How the rule that needs no boxes did where its boxes could be scored."""
    sets = "; ".join(
        f"{what} {100 * share:.0f} % of {n} ({100 * tuned:.0f} %, {100 * centre:.0f} %)"
        for what, n, share, tuned, centre in UNTUNED_ELSEWHERE
    )
    return (
        "No box chose their threshold. On sets whose boxes were hidden the same rule found, with "
        "an IoU of 0.5 or more (in brackets: method and threshold chosen with boxes, and a blob at "
        f"the picture's centre), {sets}. The rule's threshold was chosen in sight of all but the "
        "last two."
    )


@dataclass(frozen=True)
class Samples:
    """Pictures of the data set, with their ground truth.

    Attributes
    ----------
    pictures : list of ndarray of shape (height, width, 3), uint8, or None
        None where the picture could not be read.
    labels : list of str
    boxes : list of ndarray of shape (k, 4)
        ``xmin, ymin, xmax, ymax`` in pixels of `pictures` as they are here; k may be 0.
    """

    pictures: list[np.ndarray | None]
    labels: list[str]
    boxes: list[np.ndarray]


@dataclass(frozen=True)
class Examples:
    """Pictures with heat maps; entry *i* of every list belongs to one image.

    Attributes
    ----------
    rows : list of int
        Row numbers in the image table.
    pictures : list of ndarray of shape (height, width, 3), uint8, or None
        None where the picture could not be read.
    neurons : list of (class, neuron)
        What the m maps of each image are; for localisation examples one entry, (method, -1).
    heats : list of ndarray of shape (m, h, w)
        Coarse or at the picture's size. Each covers exactly its picture: padding of the network's
        input is already cut off.
    true_boxes : list of ndarray of shape (k, 4)
        ``xmin, ymin, xmax, ymax`` in pixels of `pictures` as they are here; k may be 0.
    labels : list of str
    predicted_boxes : list of ndarray of shape (4,) or None, optional
    predicted_labels : list of str or None, optional
    ious : list of float, optional
    signed : bool
        Whether `heats` are above and below the neuron's mean, as tokens are, and not from 0.
    """

    rows: list[int]
    pictures: list[np.ndarray | None]
    neurons: list[tuple[str, int]]
    heats: list[np.ndarray]
    true_boxes: list[np.ndarray]
    labels: list[str]
    predicted_boxes: list[np.ndarray | None] | None = None
    predicted_labels: list[str | None] | None = None
    ious: list[float] | None = None
    signed: bool = False

    def some(self, picks: Iterable[int]) -> Examples:
        """Only these images, by their places."""
        places = list(picks)
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        picked = {
            name: [value[i] for i in places]
            for name, value in values.items()
            if isinstance(value, list) and name != "neurons"
        }
        return replace(self, **picked)  # type: ignore[arg-type]

    def first(self, n: int) -> Examples:
        """The first `n` images only."""
        return self.some(range(min(n, len(self.rows))))


@dataclass(frozen=True)
class MethodExamples:
    """Pictures with the heat map and box of several methods; entry *i* belongs to one image.

    Attributes
    ----------
    pictures : list of ndarray of shape (height, width, 3), uint8, or None
    labels : list of str
    true_boxes : list of ndarray of shape (k, 4)
    heats, predicted_boxes : dict of str to list
        Method → heat maps ``(h, w)`` that cover the picture, and boxes ``(4,)``.
    rows : list of int
        Row numbers in the image table.
    """

    pictures: list[np.ndarray | None]
    labels: list[str]
    true_boxes: list[np.ndarray]
    heats: dict[str, list[np.ndarray]]
    predicted_boxes: dict[str, list[np.ndarray]]
    rows: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Gallery:
    """Test pictures under coarse heat maps, for the reader to threshold.

    Attributes
    ----------
    rows : list of n int
        Row numbers in the image table.
    pictures : list of n ndarrays of shape (height, width, 3), uint8, or None
    labels : list of n str
    true_boxes : list of n ndarrays of shape (k, 4)
        ``xmin, ymin, xmax, ymax`` in pixels of `pictures` as they are here; k may be 0.
    frames : ndarray of shape (n, 4)
        Where each picture lies in its heat maps: left, top, right, bottom in units of the map.
    heats : dict of str to ndarray of shape (n, h, w)
        Method → maps over the network's input, not normalised; the best method first.
    thresholds : dict of str to float
        Method → its own threshold.
    neurons : list of m (class, neuron)
    neuron_heats : ndarray of shape (n, m, h, w)
        The maps of these detectors; of a signed layer how far they are above their mean.
    neuron_threshold : float or None
        The threshold of single detectors.
    """

    rows: list[int]
    pictures: list[np.ndarray | None]
    labels: list[str]
    true_boxes: list[np.ndarray]
    frames: np.ndarray
    heats: dict[str, np.ndarray]
    thresholds: dict[str, float]
    neurons: list[tuple[str, int]]
    neuron_heats: np.ndarray
    neuron_threshold: float | None = None


@dataclass(frozen=True)
class Portraits:
    """What drives each confirmed detector, in images that it was not chosen on.

    Attributes
    ----------
    neurons : list of m (class, neuron)
        Of the main layer, best first.
    rows : ndarray of shape (m, 2, k), int
        Rows of the image table: the strongest images of all, and those of the other classes; the
        strongest first, -1 where there are fewer.
    activations : ndarray of shape (m, 2, k)
        Pooled; 0 where there is no image.
    cells : ndarray of shape (m, 2, k, h, w), float32
        The neuron's map in the network's input, of a signed layer less its mean; 0 where there is
        no image.
    pictures : mapping of int to ndarray of shape (height, width, 3), uint8, or None
        Row → small picture.
    frames : ndarray of shape (n, 4)
        Where every picture of the set lies in its map: left, top, right, bottom in units of it.
    n_images, n_unseen : int
        Images that the strongest were sought among, drawn at random, and unseen ones in all.
    signed : bool
        Whether `cells` are below 0, too.
    """

    neurons: list[tuple[str, int]]
    rows: np.ndarray
    activations: np.ndarray
    cells: np.ndarray
    pictures: Mapping[int, np.ndarray | None]
    frames: np.ndarray
    n_images: int
    n_unseen: int
    signed: bool = False


@dataclass(frozen=True)
class Predictions:
    """What a predictor says of pictures, and what some of them look like.

    Attributes
    ----------
    table : DataFrame
        From ``Predictor.predict``, a row a picture; where the truth is known also ``label`` and
        ``iou`` (best IoU with a true box, NaN where there is none).
    classes : list of str
        Of the predictor.
    box_method : str
        Where the boxes come from.
    coverage : float
        How often a set of classes shall hold the right one.
    pictures : dict of int to bytes
        Row of `table` → a small JPEG file.
    true_boxes : dict of int to ndarray of shape (k, 4)
        Row of `table` → its true boxes in pixels of the whole picture.
    calibrated_on : int
        Images that calibrate ``typicality``, one of each group: it cannot fall below one over one
        more than these.
    every : DataFrame, optional
        Of the test images of an analysis: the same of all its images, with ``label, split``.
    predictor : featlab.predict.Predictor, optional
        Of an analysis: what was asked, or the same fitted again on all labelled images.
    refitted : int
        Labelled images that the predictor was fitted on again; 0 for the model that was scored.
    untuned : bool
        Whether no box chose method and threshold of the boxes.
    informative : bool
        Whether ``box_score`` tells pictures apart; else it is one number for all.
    """

    table: pd.DataFrame
    classes: list[str]
    box_method: str
    coverage: float
    pictures: dict[int, bytes]
    true_boxes: dict[int, np.ndarray]
    calibrated_on: int
    every: pd.DataFrame | None = None
    predictor: Any = None  # of a room, of which the ground floor knows nothing
    refitted: int = 0
    untuned: bool = False
    informative: bool = True

    @property
    def boxes_scored(self) -> bool:
        """Whether any picture has a true box beside the predicted one."""
        return "iou" in self.table and bool(self.table["iou"].notna().any())

    @property
    def about_boxes(self) -> dict[str, Any]:
        """Their method, whether they were scored, and how well they did on test images.

        ``method``; ``scored``; ``elsewhere``, where no box chose the threshold how that rule did on
        other sets; ``mean_iou, box_accuracy`` where known: ``value, low, high`` (95 %), ``n``.
        """
        measured = {} if self.predictor is None else self.predictor.measured
        return {
            "method": self.box_method,
            "scored": self.boxes_scored,
            "elsewhere": untuned_sentence() if self.untuned else None,
            **{name: measured[name] for name in ("mean_iou", "box_accuracy") if name in measured},
        }

    @property
    def least_typicality(self) -> float:
        """What ``typicality`` cannot fall below."""
        return 1 / (self.calibrated_on + 1)

    @property
    def can_stand_out(self) -> bool:
        """Whether enough images calibrate ``typicality`` to call any picture unusual."""
        return self.least_typicality <= UNUSUAL


@dataclass(frozen=True)
class NeuronCard:
    """What :func:`neuron_card` draws; entry *i* of every list of pictures belongs to one image.

    Attributes
    ----------
    layer, neuron, label : str, int, str
        The neuron, and the class that the facts are about.
    title : str
    facts : list of str
        Effect, interval and the like, a line each.
    best, worst : DataFrame
        row, path, label, activation: the images on which the neuron is most and least active.
    pictures : list of ndarray of shape (height, width, 3), uint8, or None
        Of `best`, then of `worst`; None where a picture could not be read.
    heats : list of ndarray of shape (h, w)
        The neuron's maps over the same pictures, not normalised.
    activations, labels : ndarray of shape (n,)
        Pooled activations and classes of the images of the histogram.
    unit : str
        What the activations are.
    signed : bool
        Whether `heats` are above and below the neuron's mean, as tokens are, and not from 0.
    """

    layer: str
    neuron: int
    label: str
    title: str
    facts: list[str]
    best: pd.DataFrame
    worst: pd.DataFrame
    pictures: list[np.ndarray | None]
    heats: list[np.ndarray]
    activations: np.ndarray
    labels: np.ndarray
    unit: str
    signed: bool = False


ENTRY_COLUMNS = [
    *("name", "store", "backbone", "weights", "input_size", "layer", "map_height", "map_width"),
    *("neurons", "dead", "active_share", "megabytes"),
    *("n", "accuracy", "accuracy_low", "accuracy_high", "accuracy_confirm", "log_loss_confirm"),
    *("selected", "confirmed", "best_class", "best_neuron"),
    *("auroc_confirmed", "auroc_confirmed_low", "auroc_confirmed_high"),
    *("n_boxes", "method", "box_accuracy_confirm"),
    *("box_accuracy", "box_accuracy_low", "box_accuracy_high"),
    *("mean_iou", "mean_iou_low", "mean_iou_high"),
    *("baseline", "baseline_box_accuracy", "seconds_per_1000"),
    *("trained_box_accuracy", "trained_box_accuracy_low", "trained_box_accuracy_high"),
]


LIKENESS_COLUMNS = ["a", "b", "n"]
LIKENESS_COLUMNS += ["cka", "cka_shuffled", "cka_p", "rsa", "rsa_shuffled", "rsa_p"]


@dataclass(frozen=True)
class Comparison:
    """Several stores of the same images side by side; an *entry* is one layer of one store.

    Attributes
    ----------
    entries : DataFrame, one row per entry
        ``name``; ``store`` (its path), ``backbone``, ``weights``, ``input_size``, ``layer``,
        ``map_height``, ``map_width`` (cells), ``neurons``, ``dead`` (neurons that are the same in
        all images), ``active_share`` (share of neurons that are above 0 anywhere in an image, mean
        over images; NaN of signed layers), ``megabytes`` (of the store's file, all its layers). The
        logistic head on the mean-pooled maps: ``n`` (test images), ``accuracy`` with ``_low`` and
        ``_high`` (95 %), and what the choice of the best was made by, ``accuracy_confirm`` and
        ``log_loss_confirm``.
        Active detectors: ``selected``, ``confirmed``; of the one with the highest AUROC at
        selection, of those confirmed, ``best_class``, ``best_neuron`` and ``auroc_confirmed``
        (flattered by that) with an interval that allows for it. The
        map method that was best on the confirm images: ``n_boxes`` (test images with a box),
        ``method``, ``box_accuracy_confirm``, ``box_accuracy`` and ``mean_iou`` with their
        intervals, the best ``baseline`` with ``baseline_box_accuracy``, and ``seconds_per_1000``
        (heat maps and boxes of 1,000 images); and ``trained_box_accuracy`` with its interval, by
        the boxes of train images (``cell_boxes``). NaN where there are no boxes.
    heads : DataFrame
        ``backbone`` (an entry, "" for the baselines), ``head`` and the columns of
        ``HeadResults.table``.
    head_pairs : DataFrame, one row per entry but the leader
        ``a`` (the leader), ``b``, the columns of ``heads.compare_heads``, and ``p_adjusted``:
        Holm over the rows.
    detectors : DataFrame
        The neuron table's rows of the active detectors selected; ``layer`` is the entry. All
        entries are one corrected family.
    localisation : DataFrame
        ``entry`` and the columns of ``Localisation.table``: every method on every entry.
    box_pairs : DataFrame, one row per entry but the leader
        As ``head_pairs``, of the images whose box is found (IoU >= 0.5), and the paired
        ``iou_difference`` of the mean IoU with ``_low`` and ``_high`` (95 %). Empty
        where there are no boxes.
    success : DataFrame
        ``method`` (an entry, and the best baseline), ``delta``, ``accuracy``: one method on all
        entries.
    best_head, best_boxes : str
        The leaders, chosen on the confirm images; "" where there are no boxes.
    shared_method : str
        The method of `success` and `method_examples`: the best on the confirm images, mean over
        entries.
    method_examples : MethodExamples or None
        Test images drawn at random, under each entry's heat map by the shared method.
    images : DataFrame
        The image table, the same for all.
    split : Series of str
    box_kind : str or None
    likeness : DataFrame, one row per pair of entries
        As of `embed.likeness`, over all images.
    command : str
        How the comparison was called.
    """

    entries: pd.DataFrame
    heads: pd.DataFrame
    head_pairs: pd.DataFrame
    detectors: pd.DataFrame
    localisation: pd.DataFrame
    box_pairs: pd.DataFrame
    success: pd.DataFrame
    best_head: str
    best_boxes: str
    shared_method: str
    method_examples: MethodExamples | None
    images: pd.DataFrame
    split: pd.Series
    box_kind: str | None = None
    likeness: pd.DataFrame = field(default_factory=pd.DataFrame)
    command: str = ""

    def __repr__(self) -> str:
        names = ", ".join(self.entries["name"])
        return f"<Comparison of {len(self.entries)} on {len(self.images)} images: {names}>"

    def _repr_html_(self) -> str:
        columns = ["name", "accuracy", "confirmed", "auroc_confirmed", "box_accuracy", "mean_iou"]
        best = [("best head, chosen on confirm", self.best_head)]
        if self.best_boxes:
            best.append(("best boxes, chosen on confirm", self.best_boxes))
        pairs = {
            "Heads against the best": self.head_pairs,
            "Boxes against the best": self.box_pairs,
        }
        return html_block(
            f"Comparison on {len(self.images):,} images",
            html_table(self.entries[[*columns, "megabytes"]]),
            html_facts(best),
            *(html_folded(title, html_table(table)) for title, table in pairs.items()),
        )
