"""The section "Transfer": what `featlab finetune` found."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from featlab import plots
from featlab.plots.scores import small_images, transfer_comparison
from featlab.report import _words as words
from featlab.report._elements import Figure, Options, Section, Table, table
from featlab.results.analysis import Results
from featlab.results.networks import Transfer

_NAMES = {
    "frozen": "option 1: frozen network, trained head",
    "thawed": "option 2: last blocks thawed",
    "logistic": "scikit-learn: logistic regression on stored maps",
    "mlp": "scikit-learn: MLP on stored maps",
}


def transfer(results: Results, options: Options) -> Section | None:
    """Both options of transfer learning beside the heads on stored maps."""
    study = results.transfer
    if study is None:
        return None
    return Section(
        "transfer",
        "Transfer learning: frozen or fine-tuned?",
        "transfer.html",
        facts={"answer": _answer(study.comparison)},
        tables={
            "comparison": _comparison(study.comparison),
            "detectors": None if study.detectors is None else _detectors(study.detectors),
            "small_images": None if study.small_images is None else _small(study.small_images),
        },
        figures=_figures(study),
        files={f"transfer_{name}": rows for name, rows in study.tables().items()},
        link="Transfer",
    )


def _figures(study: Transfer) -> dict[str, Figure | None]:
    figures: dict[str, Figure | None] = {
        "comparison": Figure(
            partial(transfer_comparison, study.comparison),
            "Accuracy of both options of transfer learning and of the scikit-learn heads.",
            "Both options of transfer learning beside the heads on stored maps: the same split, "
            "test images that none of them saw.",
            "transfer_accuracy",
        ),
        "curves": Figure(
            partial(plots.transfer_curves, study.curves),
            "Loss and accuracy over the epochs, on training and validation images.",
            "Learning curves. Validation images are a part of train; the best epoch is kept.",
            "transfer_learning_curves",
        ),
        "detectors": None,
        "small_images": None,
    }
    if study.neurons is not None:
        figures["detectors"] = Figure(
            partial(plots.detector_changes, study.neurons),
            "AUROC of every neuron on confirm images, before and after fine-tuning.",
            "What fine-tuning did to the neurons: AUROC on images that none was chosen on.",
            "transfer_detector_changes",
        )
    if study.small_images is not None:
        figures["small_images"] = Figure(
            partial(small_images, study.small_images),
            "Accuracy from small copies of the pictures, with and without up-sampling.",
            "Small pictures: the same network as they are, and up-sampled to its own size.",
            "transfer_small_images",
        )
    return figures


def _comparison(comparison: pd.DataFrame) -> Table | None:
    rows = [
        [
            _NAMES.get(str(row["name"]), str(row["name"])),
            words.scored(row, "accuracy", 3),
            words.difference(row, 3),
            words.p_value(row["p"]),
            f"{int(row['trainable_parameters']):,}",
            words.number(row["seconds"], 1),
        ]
        for _, row in comparison.iterrows()
    ]
    columns = ["What is trained", "Accuracy", "Less logistic regression", "p", "Parameters"]
    n = int(comparison["n"].iloc[0])
    return table(
        f"Transfer learning on the same split, {words.plural(n, 'test image')}",
        [*columns, "Seconds"],
        rows,
        file="transfer_comparison",
    )


def _answer(comparison: pd.DataFrame) -> str:
    scores = comparison.set_index("name")
    if not {"thawed", "logistic"} <= set(scores.index):
        return ""
    tuned: Any = scores.loc["thawed"]
    plain: Any = scores.loc["logistic"]
    apart = tuned["difference_low"] > 0 or tuned["difference_high"] < 0
    verdict = "a difference" if apart else "no difference that these test images can show"
    return (
        f"Thawing the last blocks gives {words.percent(tuned['accuracy'])} after "
        f"{words.number(tuned['seconds'], 0)} seconds of training, a logistic regression on the "
        f"stored maps {words.percent(plain['accuracy'])} after "
        f"{words.number(plain['seconds'], 1)}: {verdict} ({words.difference(tuned, 3)})."
    )


def _detectors(changes: pd.DataFrame) -> Table | None:
    rows = [
        [
            words.name(row["class"]),
            _change(row, "selected"),
            _change(row, "replicated"),
            f"{int(row['replicated_both']):,}",
            f"{words.number(row['median_before'])} → {words.number(row['median_after'])}",
            words.number(row["spearman"]),
        ]
        for _, row in changes.iterrows()
    ]
    columns = ["Class", "Selected", "Confirmed", "Confirmed in both", "Median AUROC"]
    return table(
        "Detectors before and after fine-tuning, on images that none was chosen on",
        [*columns, "Rank correlation of all neurons"],
        rows,
        file="transfer_detectors",
    )


def _change(row: pd.Series, what: str) -> str:
    return f"{int(row[f'{what}_before']):,} → {int(row[f'{what}_after']):,}"


def _small(scores: pd.DataFrame) -> Table | None:
    rows = [
        [
            str(row["pictures"]),
            str(row["network"]),
            str(row["cells"]),
            words.scored(row, "accuracy"),
            words.difference(row).strip(" –"),
            words.p_value(row["p"]),
        ]
        for _, row in scores.iterrows()
    ]
    columns = ["Pictures", "Network", "Cells", "Accuracy", "Less the original pictures", "p"]
    return table(
        "Small pictures, with and without up-sampling",
        columns,
        rows,
        (0, 1),
        file="transfer_small_images",
    )
