"""From a finished store to everything a report tells; the network is never run here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from featlab import features, heads, images, localise, neurons, report, splits
from featlab._errors import FeatlabError
from featlab.store import MapStore

_SAMPLES, _EXAMPLES, _SHOWN_DETECTORS, _POINTING_DETECTORS = 12, 6, 4, 10

Progress = Callable[[Any], Any]


def analyse(
    store: MapStore,
    *,
    box_kind: str | None = None,
    pooling: str = "mean",
    random_state: int = 0,
    command: str = "",
    seconds: dict[str, float] | None = None,
    progress: Progress | None = None,
) -> report.Results:
    """Split, heads, detectors, localisation and example pictures of a store.

    Parameters
    ----------
    store : MapStore
    box_kind : str, optional
        Which kind of box is the truth, where the store has several.
    pooling : {"mean", "max"}
        Features of the heads and the detectors. The class activation maps need "mean".
    random_state : int
        Seed of the split, the heads, the bootstrap and the examples.
    command : str
        How the analysis was called, for the report.
    seconds : dict of str to float, optional
        Seconds of earlier stages; this function adds its own.
    progress : callable, optional
        Wraps the batches of maps that localisation reads.

    Returns
    -------
    featlab.report.Results
    """
    seconds = {} if seconds is None else seconds
    labels = store.images["label"]
    split = splits.make_split(store.images, random_state=random_state)
    X = features.feature_table(store, pooling)
    with _timed(seconds, "heads"):
        scores = heads.evaluate_heads(
            X,
            labels,
            split,
            colour=store.colour_histogram,
            groups=store.images["group"],
            random_state=random_state,
        )
    with _timed(seconds, "neurons"):
        table = find_detectors(X, labels, split)
        frequent = neurons.softmax_top_k(X[split == "train"], labels[split == "train"])
    with _timed(seconds, "localise"):
        weights = class_weights(scores) if pooling == "mean" else None
        where = localise.evaluate(
            store,
            split,
            neurons=table,
            weights=weights,
            box_kind=box_kind,
            random_state=random_state,
            progress=progress,
        )
        chosen = neurons.select_neurons(table, top=_SHOWN_DETECTORS)
        test_rows = np.flatnonzero(split == "test")
        pointing = localise.neuron_pointing(
            store, table, test_rows, box_kind=box_kind, top=_POINTING_DETECTORS
        )
    with _timed(seconds, "examples"):
        load = picture_loader(store)
        boxes = localise.select_boxes(store, box_kind)
        return report.Results(
            store=store,
            split=split,
            heads=scores,
            neurons=table,
            softmax_top_k=frequent,
            localisation=where,
            pointing=pointing if len(pointing) else None,
            seconds=seconds,
            box_kind=box_kind or _only_kind(store.boxes),
            command=command,
            backbone_description=str(store.provenance.get("description", "")),
            samples=_samples(store, load, boxes, random_state),
            detector_examples=_detector_examples(store, load, boxes, scores, chosen, random_state),
            localisation_examples=_localisation_examples(
                store, load, boxes, split, where, table, weights, random_state
            ),
        )


def find_detectors(X: pd.DataFrame, labels: pd.Series, split: pd.Series) -> pd.DataFrame:
    """The neuron table: ranked on the train rows, confirmed on the confirm rows."""
    train, confirm = split == "train", split == "confirm"
    ranked = neurons.rank_neurons(X[train], labels[train])
    return neurons.confirm_neurons(ranked, X[confirm], labels[confirm])


def write_results(results: report.Results, folder: Path) -> dict[str, Any]:
    """Report, tables and summary; returns the summary."""
    folder.mkdir(parents=True, exist_ok=True)
    with _timed(results.seconds, "report"):  # type: ignore[arg-type]
        report.write_tables(results, folder)
        report.write_report(results, folder / "report.html")
    return report.write_summary(results, folder / "summary.json")


def picture_loader(store: MapStore) -> Callable[[int], np.ndarray | None]:
    """A function from row number to the picture, None where it is not to be had any more."""
    root = Path(store.images.attrs["root"])

    def load(row: int) -> np.ndarray | None:
        try:
            return images.decode_image((root / store.images["path"].iloc[row]).read_bytes())
        except (OSError, FeatlabError):
            return None

    return load


def class_weights(scores: heads.HeadResults) -> dict[str, np.ndarray]:
    """Class → the logistic head's weights of the neurons, for class activation maps."""
    coefficients, _ = heads.linear_weights(scores.models["logistic"])
    return dict(zip(scores.classes, coefficients, strict=True))


def _only_kind(boxes: pd.DataFrame) -> str | None:
    kinds = boxes["kind"].unique()
    return str(kinds[0]) if len(kinds) == 1 else None


def _truth(boxes: pd.DataFrame, row: int) -> np.ndarray:
    corners = boxes.loc[boxes["image"] == row, ["xmin", "ymin", "xmax", "ymax"]]
    return corners.to_numpy(float)


def _samples(
    store: MapStore, load: Callable[[int], Any], boxes: pd.DataFrame, random_state: int
) -> report.Samples:
    rows = report.choose_sample_rows(store.images, _SAMPLES, random_state)
    return report.Samples(
        pictures=[load(row) for row in rows],
        labels=[str(store.images["label"].iloc[row]) for row in rows],
        boxes=[_truth(boxes, row) for row in rows],
    )


def _detector_examples(
    store: MapStore,
    load: Callable[[int], Any],
    boxes: pd.DataFrame,
    scores: heads.HeadResults,
    chosen: pd.DataFrame,
    random_state: int,
) -> report.Examples | None:
    rows = report.choose_detector_rows(scores, _EXAMPLES, random_state)
    # The best of each class in turn, so that every class is seen before one is seen twice.
    shown = chosen.assign(turn=chosen.groupby("class").cumcount())
    shown = shown.sort_values(["turn", "class"]).head(_SHOWN_DETECTORS)
    if shown.empty or not rows:
        return None
    logistic = scores.predictions[scores.predictions["head"] == "logistic"].set_index("row")
    return report.Examples(
        rows=rows,
        pictures=[load(row) for row in rows],
        neurons=[(str(c), int(k)) for c, k in zip(shown["class"], shown["neuron"], strict=True)],
        heats=_on_pictures(
            store, rows, localise.example_heats(store, rows, neurons=shown["neuron"].to_numpy())
        ),
        true_boxes=[_truth(boxes, row) for row in rows],
        labels=[str(store.images["label"].iloc[row]) for row in rows],
        predicted_labels=[str(logistic.loc[row, "predicted"]) for row in rows],
    )


def _localisation_examples(
    store: MapStore,
    load: Callable[[int], Any],
    boxes: pd.DataFrame,
    split: pd.Series,
    where: localise.Localisation,
    table: pd.DataFrame,
    weights: dict[str, np.ndarray] | None,
    random_state: int,
) -> report.Examples | None:
    best = report.best_method(where.table, baseline=False)
    if best is None:
        return None
    method = str(best["method"])
    rows = report.choose_localisation_rows(where, _EXAMPLES, method)
    scored = where.per_image[where.per_image["method"] == method].set_index("row")
    heats, predicted = localise.heats_for(
        store,
        rows,
        method,
        split=split,
        threshold=float(best["threshold"]),
        neurons=table,
        weights=weights,
        random_state=random_state,
    )
    return report.Examples(
        rows=rows,
        pictures=[load(row) for row in rows],
        neurons=[(method, -1)],
        heats=_on_pictures(store, rows, heats[:, np.newaxis]),
        true_boxes=[_truth(boxes, row) for row in rows],
        labels=[str(store.images["label"].iloc[row]) for row in rows],
        predicted_boxes=list(predicted),
        ious=scored.loc[rows, "iou"].tolist(),
    )


def _on_pictures(store: MapStore, rows: list[int], heats: np.ndarray) -> list[np.ndarray]:
    """Heat maps ``(k, m, h, w)`` over the network's input, each brought onto its picture."""
    frames, sizes = store.frames, store.images[["width", "height"]].to_numpy()
    return [
        np.stack([localise.heat_on_picture(heat, frames[row], *sizes[row]) for heat in several])
        for row, several in zip(rows, heats, strict=True)
    ]


@contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[stage] = round(time.perf_counter() - start, 3)
