"""What :func:`evaluate` returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from featlab import boxes as bx
from featlab.localise.scoring import (
    CURVE_COLUMNS,
    SCORES,
    SUCCESS_COLUMNS,
    MethodScores,
    curves,
    mean_table,
    success,
)
from featlab.results.localisation import FittedMethods, Localisation

TABLE_COLUMNS = [
    "method",
    "baseline",
    "supervision",
    "class_asked",
    "box_accuracy_confirm",
    "threshold",
    "n",
    *(f"{score}{end}" for score in SCORES[:3] for end in ("", "_low", "_high")),
    "box_accuracy_oracle",
    "threshold_oracle",
    *(f"{score}{end}" for score in SCORES[3:] for end in ("", "_low", "_high")),
    "seconds_per_1000",
]
IMAGE_COLUMNS = [
    *("method", "row", "label", "iou", *bx.CORNERS, "centre_in_box", "hit"),
    *("iou_any", "top1", "pointing", "heat_in_box"),
]


def localisation(
    table: list[dict[str, Any]],
    images: list[pd.DataFrame],
    attrs: Mapping[str, Any],
    fitted: FittedMethods,
    scores: Mapping[str, Sequence[MethodScores]] | None = None,
    draws: pd.DataFrame | None = None,
) -> Localisation:
    """The result from the rows of its tables; the parameters go into their ``attrs``."""
    methods = pd.DataFrame(table, columns=TABLE_COLUMNS)
    per_image = pd.concat(images, ignore_index=True) if images else pd.DataFrame()
    per_image = per_image.reindex(columns=IMAGE_COLUMNS)
    methods.attrs.update(attrs)
    per_image.attrs.update(attrs)
    if scores is None or draws is None:
        return Localisation(methods, per_image, fitted)
    over = [
        pd.concat([mean_table(part, one).assign(method=name) for name, one in scores.items()])
        .reindex(columns=columns)
        .reset_index(drop=True)
        for part, columns in ((curves, CURVE_COLUMNS), (success, SUCCESS_COLUMNS))
    ]
    return Localisation(methods, per_image, fitted, over[0], over[1], draws)
