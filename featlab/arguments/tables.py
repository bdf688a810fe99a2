"""Rows of a box table that are the truth; rows of a neuron table that are detectors, best first."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from featlab.arguments.checks import check_choice, check_columns, check_whole, said
from featlab.errors import FeatlabError


def boxes_of_kind(boxes: pd.DataFrame, box_kind: str | None) -> pd.DataFrame:
    """The rows of a box table that are of one kind.

    Raises
    ------
    FeatlabError
        There are several kinds and none was chosen, or the kind is unknown.
    """
    kinds = sorted(boxes["kind"].astype(str).unique())
    if box_kind is None:
        if len(kinds) > 1:
            raise FeatlabError(
                f"the boxes are of several kinds ({', '.join(kinds)}); choose one with --box-kind "
                "(box_kind=)."
            )
        return boxes
    if kinds:
        check_choice("box_kind", box_kind, kinds)
    return boxes[boxes["kind"] == box_kind]


def true_boxes(images: pd.DataFrame, boxes: pd.DataFrame, box_kind: str | None) -> pd.DataFrame:
    """The boxes that are the truth: of one kind, solid, and of their image's own class.

    A box that bears the name of *another* class of the set is no truth for the image's class; one
    that bears a name which is no class (a part, "object", nothing) is. A box without area is none.

    Parameters
    ----------
    images, boxes : DataFrame
        Image table and box table of a store; ``boxes["image"]`` are rows of `images`.
    box_kind : str or None
        Needed where there are several kinds.

    Returns
    -------
    DataFrame
        The rows of `boxes` that are kept, numbered anew.

    Raises
    ------
    FeatlabError
        As for :func:`boxes_of_kind`.
    """
    table = boxes_of_kind(boxes, box_kind)
    labels = images["label"].to_numpy()
    own = labels[table["image"].to_numpy(np.int64)]
    named = table["label"].to_numpy()
    other = table["label"].isin(set(labels.tolist())).to_numpy() & (named != own)
    solid = ((table["xmax"] > table["xmin"]) & (table["ymax"] > table["ymin"])).to_numpy()
    return table[~other & solid].reset_index(drop=True)


def selected_detectors(neurons: pd.DataFrame, *, silent: bool = False) -> pd.DataFrame:
    """Detectors that are active for their class, as they were selected; `silent` ones too.

    Only an active neuron's map shows where its class is. The order of the rows is kept.

    Raises
    ------
    FeatlabError
        The table lacks the columns of ``rank_neurons``.
    """
    check_columns(
        "the neuron table",
        neurons,
        ("class", "neuron", "detector", "direction"),
        "give the result of rank_neurons or confirm_neurons",
    )
    # `eq(True)` on purpose: NaN (not a detector) is neither an error nor True.
    kept = neurons["detector"].eq(True)
    return neurons[kept if silent else kept & neurons["direction"].eq("active")]


def confirmed_detectors(
    neurons: pd.DataFrame,
    *,
    layer: str | Sequence[str] | None = None,
    pooling: str | None = None,
    most: int | None = None,
    silent: bool = False,
) -> pd.DataFrame:
    """Detectors that held on unseen images, by class, best first.

    Best is the effect they were selected with (its distance from an AUROC of 0.5, then the rank),
    not the confirmed one: choosing the best of the confirmed values would flatter them again. Where
    a neuron stands several times for a class (as mean and as maximum, against several references)
    the best of its rows is kept.

    Parameters
    ----------
    neurons : DataFrame
        Neuron table after ``confirm_neurons``.
    layer : str or sequence of str, optional
        Only those of one layer, or of some.
    pooling : str, optional
        Only those of one pooling.
    most : int, optional
        At most so many per class.
    silent : bool
        Those that are silent for their class, too.

    Returns
    -------
    DataFrame
        Rows of `neurons`, numbered anew; a (layer, class, neuron) stands once.

    Raises
    ------
    FeatlabError
        The table was not confirmed, has rows but none of that layer or pooling, or `most` is no
        whole number from 1 up.
    """
    if most is not None:
        check_whole("most", most, 1)
    check_columns(
        "the neuron table", neurons, ("layer", "pooling", "auroc", "rank", "replicated"),
        "give the result of confirm_neurons",
    )  # fmt: skip
    rows = selected_detectors(neurons, silent=silent)
    rows = rows[rows["replicated"].eq(True)]
    for column, value in (("layer", layer), ("pooling", pooling)):
        if value is not None:
            asked = [value] if isinstance(value, str) else list(value)
            _check_holds(neurons, column, asked)
            rows = rows[rows[column].isin(asked)]
    rows = best_first(rows).drop_duplicates(["layer", "class", "neuron"])
    if most is not None:
        rows = rows.groupby("class", sort=False).head(most)
    return rows.reset_index(drop=True)


def _check_holds(neurons: pd.DataFrame, column: str, asked: list[str]) -> None:
    """Refuse a neuron table of other layers (poolings): its detectors say nothing of these."""
    held = sorted(neurons[column].astype(str).unique())
    if held and not set(asked) & set(held):
        there, wanted = (", ".join(map(repr, names)) for names in (held, asked))
        raise FeatlabError(
            f"the neuron table is of {column} {there}, not {wanted}; rank the feature table of "
            f"that {column}, or ask for another."
        )


def in_turn(detectors: pd.DataFrame, most: int) -> pd.DataFrame:
    """The best of each class, then the second best of each, …; `detectors` are best first."""
    turns = detectors.assign(turn=detectors.groupby("class").cumcount())
    return turns.sort_values(["turn", "class"], kind="stable").head(most).drop(columns="turn")


def detector_row(neurons: pd.DataFrame, neuron: int, label: str, *, layer: str) -> pd.Series:
    """The best row of one neuron for one class in one layer.

    Raises
    ------
    FeatlabError
        There is none.
    """
    rows = neurons[
        neurons["neuron"].eq(neuron) & neurons["class"].eq(label) & neurons["layer"].eq(layer)
    ]
    if rows.empty:
        raise FeatlabError(f"the neuron table has no neuron {neuron} of {layer} for {said(label)}.")
    return best_first(rows).iloc[0]


def best_first(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of a neuron table by class; within it the largest effect, then the first rank."""
    order = rows.assign(_size=-(rows["auroc"].astype(float) - 0.5).abs()).sort_values(
        ["class", "_size", "rank", "layer", "pooling", "neuron"], kind="stable"
    )
    return order.drop(columns="_size")
