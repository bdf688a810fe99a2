"""The section "Transfer learning": what `featlab finetune` found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from featlab import plots
from featlab.plots.scores import small_images, transfer_comparison
from featlab.report import _words as words
from featlab.report._drawing import drawing
from featlab.report._grids import Grid, grid
from featlab.results.analysis import Results

_TRANSFER = {
    "frozen": "option 1: frozen network, trained head",
    "thawed": "option 2: last blocks thawed",
    "logistic": "scikit-learn: logistic regression on stored maps",
    "mlp": "scikit-learn: MLP on stored maps",
}


def figures(results: Results) -> dict[str, Any]:
    """The figures; none where the section is not there."""
    found = results.transfer
    if found is None:
        return {}
    drawn: dict[str, Any] = {
        "transfer": drawing(
            transfer_comparison(found.comparison),
            "Accuracy of both options of transfer learning and of the scikit-learn heads.",
            "Both options of transfer learning beside the heads on stored maps: the same split, "
            "test images that none of them saw.",
            file="transfer_accuracy",
        ),
        "transfer_curves": drawing(
            plots.transfer_curves(found.curves),
            "Loss and accuracy over the epochs, on training and validation images.",
            "Learning curves. Validation images are a part of train; the best epoch is kept.",
            file="transfer_learning_curves",
        ),
        "detector_changes": None,
        "small_images": None,
    }
    if found.neurons is not None:
        drawn["detector_changes"] = drawing(
            plots.detector_changes(found.neurons),
            "AUROC of every neuron on confirm images, before and after fine-tuning.",
            "What fine-tuning did to the neurons: AUROC on images that none was chosen on.",
            file="transfer_detector_changes",
        )
    if found.small_images is not None:
        drawn["small_images"] = drawing(
            small_images(found.small_images),
            "Accuracy from small copies of the pictures, with and without up-sampling.",
            "Small pictures: the same network as they are, and up-sampled to its own size.",
            file="transfer_small_images",
        )
    return drawn


def tables(results: Results) -> dict[str, Grid | None]:
    """The tables; None where there is nothing to tell."""
    return {
        "transfer": _transfer(results),
        "detector_changes": _detector_changes(results),
        "small_images": _small_images(results),
    }


def sentences(results: Results) -> dict[str, str]:
    """The sentences; empty where the section is not there."""
    return {
        "transfer_answer": _transfer_answer(results),
    }


def _transfer(results: Results) -> Grid | None:
    if results.transfer is None:
        return None
    rows = [
        [
            _TRANSFER.get(str(row["name"]), str(row["name"])),
            words.scored(row, "accuracy", 3),
            f"{words.signed(row['difference'], 3)} "
            f"{words.interval(row['difference_low'], row['difference_high'], 3)}",
            words.p_value(row["p"]),
            f"{int(row['trainable_parameters']):,}",
            words.number(row["seconds"], 1),
        ]
        for _, row in results.transfer.comparison.iterrows()
    ]
    columns = ["What is trained", "Accuracy", "Less logistic regression", "p", "Parameters"]
    n = int(results.transfer.comparison["n"].iloc[0])
    return grid(
        f"Transfer learning on the same split, {words.plural(n, 'test image')}",
        [*columns, "Seconds"],
        rows,
        file="transfer_comparison",
    )


def _transfer_answer(results: Results) -> str:
    if results.transfer is None:
        return ""
    table = results.transfer.comparison.set_index("name")
    if not {"thawed", "logistic"} <= set(table.index):
        return ""
    tuned: Any = table.loc["thawed"]
    plain: Any = table.loc["logistic"]
    shown = tuned["difference_low"] > 0 or tuned["difference_high"] < 0
    verdict = "a difference" if shown else "no difference that these test images can show"
    return (
        f"Thawing the last blocks gives {words.percent(tuned['accuracy'])} after "
        f"{words.number(tuned['seconds'], 0)} seconds of training, a logistic regression on the "
        f"stored maps {words.percent(plain['accuracy'])} after "
        f"{words.number(plain['seconds'], 1)}: {verdict} ({words.signed(tuned['difference'], 3)} "
        f"{words.interval(tuned['difference_low'], tuned['difference_high'], 3)})."
    )


def _detector_changes(results: Results) -> Grid | None:
    if results.transfer is None or results.transfer.detectors is None:
        return None
    rows = [
        [
            words.name(row["class"]),
            _change(row, "selected"),
            _change(row, "replicated"),
            f"{int(row['replicated_both']):,}",
            f"{words.number(row['median_before'])} → {words.number(row['median_after'])}",
            words.number(row["spearman"]),
        ]
        for _, row in results.transfer.detectors.iterrows()
    ]
    columns = ["Class", "Selected", "Confirmed", "Confirmed in both", "Median AUROC"]
    return grid(
        "Detectors before and after fine-tuning, on images that none was chosen on",
        [*columns, "Rank correlation of all neurons"],
        rows,
        file="transfer_detectors",
    )


def _change(row: pd.Series | Mapping[str, Any], what: str) -> str:
    return f"{int(row[f'{what}_before']):,} → {int(row[f'{what}_after']):,}"


def _small_images(results: Results) -> Grid | None:
    if results.transfer is None or results.transfer.small_images is None:
        return None
    rows = [
        [
            str(row["pictures"]),
            str(row["network"]),
            str(row["cells"]),
            words.scored(row, "accuracy"),
            f"{words.signed(row['difference'])} "
            f"{words.interval(row['difference_low'], row['difference_high'])}".strip(" –"),
            words.p_value(row["p"]),
        ]
        for _, row in results.transfer.small_images.iterrows()
    ]
    columns = ["Pictures", "Network", "Cells", "Accuracy", "Less the original pictures", "p"]
    return grid(
        "Small pictures, with and without up-sampling",
        columns,
        rows,
        (0, 1),
        file="transfer_small_images",
    )
