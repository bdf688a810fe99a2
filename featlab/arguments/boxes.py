"""Which rows of a box table are the truth."""

from __future__ import annotations

import numpy as np
import pandas as pd

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
    if kinds and box_kind not in kinds:
        raise FeatlabError(
            f"box_kind must be one of {', '.join(kinds)}, got {box_kind!r}; see --box-kind."
        )
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
