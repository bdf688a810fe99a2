"""Where the object is: what was fitted, its boxes and their scores."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd

from featlab.results.images import Components
from featlab.system.files import html_block, html_facts, html_folded, html_table

CURVES = ("method", "delta", "threshold", "accuracy", "accuracy_any")
SUCCESS = ("method", "delta", "accuracy", "accuracy_oracle")
BASELINES = ("random_neuron", "centre_gaussian", "whole_image", "mean_box")
BY_STUDENT = "student's boxes on confirm"
"""Where thresholds come from if no person drew boxes but on test images."""
WITHOUT_BOXES = ("none", "image labels")
"""Supervision of the methods that no box of a train image taught; of the baselines, too."""


@dataclass(frozen=True)
class ClassWeights:
    """A linear head on raw, mean-pooled features of one layer.

    Attributes
    ----------
    classes : sequence of str
    coef : ndarray of shape (k, c)
        One row for each of `classes`.
    intercept : ndarray of shape (k,)
        The softmax of ``X @ coef.T + intercept`` are the head's probabilities. (Of two classes
        ``heads.linear_weights`` gives the decision function and minus that: twice as much.)
    """

    classes: Sequence[str]
    coef: np.ndarray
    intercept: np.ndarray


@dataclass(frozen=True)
class Cells:
    """Cells of train images, drawn at random, on which methods are fitted.

    Attributes
    ----------
    values : ndarray of shape (m, c), float32
        Activations of all neurons in a cell.
    codes : ndarray of shape (m,)
        Class of the cell's image.
    images : ndarray of shape (m,)
        Row of the image table.
    place : ndarray of shape (m,)
        Number of the cell in its map, row by row.
    inside : ndarray of shape (m,), bool
        Whether the cell's centre lies in a box of its image; False where there are no boxes.
    boxed : ndarray of shape (m,), bool
        Whether the cell's image has a box at all.
    rank : ndarray of shape (m,), float32
        Share of its picture's cells that the cell is hotter than, 0-1, by the method that teaches
        the one fitted; NaN where none does, and on padding around the picture.
    components : Components or None
        Principal components of all these cells, ``log(1 + value / scale)``, for methods that need
        "components"; neither boxes nor labels have a part in them.
    scores : ndarray of shape (m, k), float32
        The cells on these.
    """

    values: np.ndarray
    codes: np.ndarray
    images: np.ndarray
    place: np.ndarray
    inside: np.ndarray
    boxed: np.ndarray
    rank: np.ndarray
    components: Components | None = None
    scores: np.ndarray = field(default_factory=lambda: np.empty((0, 0), np.float32))


@dataclass(frozen=True)
class Context:
    """Handed to every heat-map method; row *i* of the arrays "per image" is row *i* of the maps.

    Attributes
    ----------
    classes : list of str
        Sorted.
    codes : ndarray of shape (n,)
        Per image: place in `classes` of the class asked for.
    scale : ndarray of shape (c,)
        By which neurons are divided (`detector_scale` of the train rows); 0 for dead ones.
    centre : ndarray of shape (c / 2,) or None
        Means of a signed layer's neurons, each of which is two here: above and below.
    neurons : DataFrame or None
        Confirmed detectors of the layer, active and silent, best first.
    weights, intercepts : ndarray of shape (classes, c) and (classes,), or None
        Of a linear head on raw mean-pooled features.
    mlp : Pipeline or None
        A fitted scikit-learn pipeline of scaling and a multilayer perceptron.
    random_state : int
    fitted : mapping of str to Any
        What each method's own `fit` returned.
    """

    classes: list[str]
    codes: np.ndarray
    scale: np.ndarray
    neurons: pd.DataFrame | None = None
    weights: np.ndarray | None = None
    intercepts: np.ndarray | None = None
    mlp: Any | None = None
    random_state: int = 0
    fitted: Mapping[str, Any] = field(default_factory=dict)
    centre: np.ndarray | None = None

    def asked(self, per_class: np.ndarray) -> np.ndarray:
        """The rows of an array ``(classes, ...)`` for the classes asked for, ``(n, ...)``."""
        return per_class[self.codes]

    def of(self, codes: np.ndarray) -> Context:
        """The same for other images."""
        return replace(self, codes=codes)


Heat = Callable[[np.ndarray, Context], np.ndarray]
Fit = Callable[[Cells, Context], Any]


@dataclass(frozen=True)
class HeatMethod:
    """A way to make heat maps from stored maps.

    Attributes
    ----------
    name, title : str
    heat : callable
        ``(maps (n, h, w, c), Context) -> (n, h, w)``; or ``(n, k, h, w)`` for `k` draws of a method
        that depends on chance: each is scored by itself, and the scores are averaged.
    fit : callable, optional
        ``(Cells, Context) -> anything``; the result is ``context.fitted[name]``. None says that
        there was nothing to learn from; where that is so in every layer the method is left out.
    needs : tuple of str
        Of "neurons", "weights", "mlp", without which it is left out, and "components", which are
        made of the cells (``Cells.scores``).
    supervision : str
        "image labels", "boxes" where boxes of train images are learnt from, or "none".
    teacher : str, optional
        The method whose heat maps `fit` learns from.
    join : callable, optional
        ``(n, parts, h, w) -> (n, h, w)``: one map of the parts that `heat` gave, after those of all
        layers were fused.
    """

    name: str
    title: str
    heat: Heat
    fit: Fit | None = None
    needs: tuple[str, ...] = ()
    supervision: str = "image labels"
    teacher: str | None = None
    join: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class FittedMethods:
    """Heat-map methods ready to be applied.

    Attributes
    ----------
    methods : dict of str to HeatMethod
    contexts : dict of str to Context
        Layer → what the methods know of it, without images yet. Of several layers the heat maps
        are fused (``localise.heat.fuse_heats``).
    left_out : dict of str to str
        Methods that were wanted and have nothing to say → why; a heat map of nothing would be
        scored as if it had looked and missed.
    """

    methods: dict[str, HeatMethod]
    contexts: dict[str, Context]
    left_out: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BoxCorrection:
    """What a method's boxes lack, learnt on images with true boxes.

    Attributes
    ----------
    threshold : float
        Where the boxes that are corrected come from.
    model : Pipeline or None
        From features of the box to its correction; None leaves boxes as they are.
    """

    threshold: float
    model: Any | None


@dataclass(frozen=True)
class Localisation:
    """Scores of :func:`featlab.localise.evaluate_localisation`.

    Attributes
    ----------
    table : DataFrame
        One row per method, baselines last: method, baseline, supervision ("network" for methods
        that were given), class_asked ("label" or "predicted"; "as given"; "none" where there is no
        heat map of a class), threshold (NaN where there is none), n (images scored). At that
        threshold, chosen on other images, for the box around the largest region: box_accuracy
        (GT-known Loc: IoU >= 0.5 with the best true box), mean_iou, centre_in_box, top1_loc (NaN
        without predicted classes). Oracles, which choose the threshold *on the scored images*
        (what the literature prints): max_box_acc (also box_accuracy_oracle, at threshold_oracle)
        and max_box_acc_v2 (any region, mean over IoU 0.3, 0.5, 0.7, each with its own threshold);
        box_acc_v2_at_val is the latter with the three thresholds chosen on other images. pointing
        (the peak lies in a true box) and heat_in_box (share of the heat) need no threshold, nor
        has pxap (average precision of the pixels against masks, if given). Scores have _low and
        _high (95 % over images, or over whole groups where there are any; oracles choose anew
        under each weighting of the images).
        seconds_per_1000: the method's heat maps, an equal part of reading the maps, and the match
        with the true boxes at all thresholds; fitting is left out, and for given methods only the
        match counts. ``random_neuron`` is the mean over several drawn neurons, its threshold too;
        the interval is over images.
        ``attrs`` repeats `parameters`.
    per_image : DataFrame
        One row per method and scored image: method, row (of the image table), label, iou,
        xmin, ymin, xmax, ymax (predicted, pixels of the original), centre_in_box, hit, iou_any
        (of any region, at its own threshold), top1, pointing, heat_in_box. Of ``random_neuron``
        the means over its draws, which have no box in common: the corners are NaN.
    fitted : FittedMethods
        What was learnt on the train rows, for heat maps of other images.
    curves : DataFrame
        method, delta, threshold, accuracy (largest region), accuracy_any (any region), on the
        scored images; of ``random_neuron`` the mean curve of its draws.
    success : DataFrame
        method, delta (0, 0.05, … 1), accuracy (at `threshold`), accuracy_oracle (at the threshold
        best for this delta); largest region.
    draws : DataFrame
        Every score (second level of the columns) of every method (first level) under the same
        random weights of the images; for ``compare_methods``.
    parameters : dict of str to Any
        How it was made: box_kind, layer, delta, n_thresholds, threshold_step, threshold_from
        ("confirm", "train + confirm", "student's boxes on confirm" or "fixed at 0.2"),
        n_threshold_images, n_boot, n_groups (images or groups), n_effective (as many groups of one
        size say as much), n_without_given (confirm and test images left out for a given method),
        classes_without_detectors, left_out (method → why it has no row), target, class_asked_for,
        seconds (what they count).
    """

    table: pd.DataFrame
    per_image: pd.DataFrame
    fitted: FittedMethods
    curves: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(CURVES)))
    success: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(SUCCESS)))
    draws: pd.DataFrame = field(default_factory=pd.DataFrame)
    parameters: dict[str, Any] = field(default_factory=dict)

    def best(
        self, *, baseline: bool = False, supervision: Collection[str] | None = None
    ) -> pd.Series | None:
        """The best row of `table` among the map methods (of some supervision) or baselines.

        Best on the images that thresholds were chosen on, where that is known: picking the best on
        the scored images would flatter it. None where there is none.
        """
        if self.table.empty:
            return None
        rows = self.table[self.table["baseline"].astype(bool).eq(baseline)]
        rows = rows[rows["box_accuracy"].notna()]
        if supervision is not None:
            rows = rows[rows["supervision"].isin(supervision)]
        if rows.empty:
            return None
        tuned = rows.get("box_accuracy_confirm", pd.Series(np.nan, index=rows.index))
        # A baseline is a bar to pass, so the highest one on the scored images counts.
        by = rows["box_accuracy"] if baseline or tuned.isna().all() else tuned
        return rows.iloc[by.to_numpy(float).argmax()]

    def __repr__(self) -> str:
        if self.table.empty:
            return "<Localisation without a scored image>"
        n = int(self.table["n"].max())
        return f"<Localisation by {', '.join(self.table['method'])} on {n} test images>"

    def _repr_html_(self) -> str:
        if self.table.empty:
            return html_block("Localisation: no test image has a box")
        scores = ["box_accuracy", "box_accuracy_low", "box_accuracy_high", "mean_iou"]
        columns = ["method", "supervision", "threshold", *scores, "centre_in_box"]
        return html_block(
            f"Localisation: {int(self.table['n'].max()):,} test images, boxes at IoU ≥ 0.5",
            html_table(self.table[columns]),
            html_folded("How it was made", html_facts(self.parameters.items())),
        )


@dataclass(frozen=True)
class BoxHead:
    """A fitted box head as plain arrays, for ``boxheads.predict_boxes``.

    Attributes
    ----------
    name : str
        Of ``cascade``, ``ridge_pca``, ``pls``, ``mlp``.
    layer : str
        Whose maps it takes.
    target : str
        How its first box is regressed.
    context : float
        Side of the region around a box that a correction sees, in sides of the box.
    steps : int
        Corrections; 0 but for the cascade.
    arrays : mapping of str to ndarray
        Reduction of the channels (``channel_mean, channel_axes``), the first box (``first_mean,
        first_axes, first_level``; with a hidden layer ``hidden_weights, hidden_level,
        hidden_out``) and, where there are steps, the correction (``even, odd, middle, level``).
    network : mapping of str to object
        Which network and pass made its maps.
    measured : mapping of str to object
        ``mean_iou`` and ``box_accuracy`` on test images: ``value, low, high`` (95 %), ``n``.
    """

    name: str
    layer: str
    target: str
    context: float
    steps: int
    arrays: Mapping[str, np.ndarray]
    network: Mapping[str, Any] = field(default_factory=dict)
    measured: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<BoxHead {self.name} on {self.network.get('backbone')}, layer {self.layer}>"


@dataclass(frozen=True)
class BoxHeadResults:
    """Scores of :func:`featlab.boxheads.evaluate_box_heads`.

    Attributes
    ----------
    table : DataFrame, one row per head, baselines last
        ``head``, ``baseline``, ``n_fit`` (images fitted on), ``n`` (images scored); ``mean_iou``
        (with the best true box of the image), ``box_accuracy`` (IoU >= 0.5), ``box_accuracy_70``
        and ``centre_in_box``, each with ``_low`` and ``_high`` (95 %); ``interval`` (what it is
        over), ``parameters`` (what was tuned, in words), ``seconds`` (fitting and predicting,
        without reading the maps).
    per_image : DataFrame, one row per head and scored image
        ``head``, ``row`` (of the image table), ``label``, ``iou``, ``xmin, ymin, xmax, ymax``
        (predicted, pixels of the original), ``centre_in_box``, ``hit`` (IoU >= 0.5).
    facts : dict
        How it was made: ``fitted_on``, ``n_folds`` (0 where nothing could be tuned), ``box_kind``,
        ``target``, ``policy``, ``layer``, ``map_shape``, ``random_state``, ``n_boot``. The tables'
        ``attrs`` repeat it.
    fitted : mapping of str to BoxHead
        The heads that are plain arrays, of those asked for.
    held : DataFrame
        Their boxes of the images fitted on, each from folds that did not see the image: ``head,
        row, xmin, ymin, xmax, ymax, iou``; empty where nothing could be held out.
    """

    table: pd.DataFrame
    per_image: pd.DataFrame
    facts: dict[str, Any]
    fitted: Mapping[str, BoxHead] = field(default_factory=dict)
    held: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def leader(self) -> str:
        """The head with the best boxes of images held out; the first where none were."""
        if self.held.empty:
            return str(self.table["head"].iloc[0])
        return str(self.held.groupby("head", sort=False)["iou"].mean().idxmax())

    def boxes_of(self, head: str) -> pd.DataFrame:
        """A head's boxes of the scored images and their ``iou``, by row of the image table."""
        return self.per_image[self.per_image["head"] == head].set_index("row")

    def __repr__(self) -> str:
        n = int(self.table["n"].max())
        return f"<BoxHeadResults of {', '.join(self.table['head'])} on {n} test images>"

    def _repr_html_(self) -> str:
        scores = ["mean_iou", "mean_iou_low", "mean_iou_high", "box_accuracy", "centre_in_box"]
        return html_block(
            f"BoxHeadResults: {int(self.table['n'].max()):,} test images",
            html_table(self.table[["head", "n_fit", *scores, "seconds"]]),
            html_folded("Parameters", html_table(self.table[["head", "parameters"]])),
            html_folded("How it was made", html_facts(self.facts.items())),
        )


@dataclass(frozen=True)
class JointHeadResults:
    """What a joint class + box head reached on test images, and the head itself.

    Attributes
    ----------
    accuracy, accuracy_low, accuracy_high : float
        Share of test images with the right class; 95 % over images or their groups.
    mean_iou, mean_iou_low, mean_iou_high : float
        Of predicted and true box, in the frame of the network's input; 95 %, likewise.
    n_train, n : int
        Images trained on (train and confirm), and scored.
    seconds_per_epoch : float
        Mean over the epochs, the first (which compiles) left out where there are more.
    history : DataFrame, one row per epoch
        ``epoch, seconds, loss, label_loss, box_loss``.
    predictions : DataFrame, one row per test image
        ``row, label, predicted, correct, iou, xmin, ymin, xmax, ymax`` (unit coordinates of the
        input, in order and inside it), ``raw_xmin`` … ``raw_ymax`` (as the network gave them).
    parameters : dict
        What it was trained with.
    model : keras.Model
        From maps as they are stored, ``(b, h, w, c)``, to ``label``, probabilities, and ``box``,
        unit coordinates as ``raw_xmin`` … ``raw_ymax``.
    classes : list of str
        The order of the probabilities.
    layer : str or None
        Of the store; None where the maps were an array.
    weights_sha256 : str
        Of the store's network; empty where the maps were an array.
    """

    accuracy: float
    accuracy_low: float
    accuracy_high: float
    mean_iou: float
    mean_iou_low: float
    mean_iou_high: float
    n_train: int
    n: int
    seconds_per_epoch: float
    history: pd.DataFrame
    predictions: pd.DataFrame
    parameters: dict[str, Any]
    model: Any = field(default=None, repr=False)
    classes: list[str] = field(default_factory=list)
    layer: str | None = None
    weights_sha256: str = ""
