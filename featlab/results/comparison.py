"""Several stores of the same images side by side."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from featlab.results.pictures import MethodExamples
from featlab.system import html

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
]


@dataclass(frozen=True)
class Comparison:
    """Several stores of the same images side by side; an *entry* is one layer of one store.

    Attributes
    ----------
    entries : DataFrame, one row per entry
        ``name``; ``store`` (its path), ``backbone``, ``weights``, ``input_size``, ``layer``,
        ``map_height``, ``map_width`` (cells), ``neurons``, ``dead`` (neurons that are the same in
        all images), ``active_share`` (share of neurons that are above 0 anywhere in an image, mean
        over images), ``megabytes`` (of the store's file, all its layers). The logistic head on the
        mean-pooled maps: ``n`` (test images), ``accuracy`` with ``_low`` and ``_high`` (95 %), and
        what the choice of the best was made by, ``accuracy_confirm`` and ``log_loss_confirm``.
        Active detectors: ``selected``, ``confirmed``; of the one with the highest AUROC at
        selection ``best_class``, ``best_neuron`` and ``auroc_confirmed`` with its interval. The
        map method that was best on the confirm images: ``n_boxes`` (test images with a box),
        ``method``, ``box_accuracy_confirm``, ``box_accuracy`` and ``mean_iou`` with their
        intervals, the best ``baseline`` with ``baseline_box_accuracy``, and ``seconds_per_1000``
        (heat maps and boxes of 1,000 images). NaN where there are no boxes.
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
        ``iou_difference`` of the mean IoU with ``_low`` and ``_high`` (95 %, bootstrap). Empty
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
        return html.block(
            f"Comparison on {len(self.images):,} images",
            html.table(self.entries[[*columns, "megabytes"]]),
            html.facts(best),
            *(html.folded(title, html.table(table)) for title, table in pairs.items()),
        )
