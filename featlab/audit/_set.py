"""Every check on a finished store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from featlab.arguments import neuron_ids, origin_of
from featlab.audit import _lines as lines
from featlab.audit._adjusted import COLUMNS as ADJUSTED_COLUMNS
from featlab.audit._adjusted import TOP, adjusted_effects, chosen_detectors
from featlab.audit._confounds import COLUMNS as CONFOUND_COLUMNS
from featlab.audit._confounds import confounds
from featlab.audit._duplicates import find_duplicates
from featlab.audit._findings import NOT_DONE, Finding, as_table, balance, colour_alone
from featlab.audit._labels import LABEL_COLUMNS, label_errors, outliers
from featlab.audit._pictures import (
    PICTURE_COLUMNS,
    Pictures,
    Progress,
    read_pictures,
    with_objects,
)
from featlab.errors import FeatlabError
from featlab.features import feature_table
from featlab.results.audit import Audit

if TYPE_CHECKING:
    from featlab.store import MapStore


def audit_set(
    store: MapStore,
    split: ArrayLike,
    *,
    head_table: pd.DataFrame | None = None,
    neurons: pd.DataFrame | None = None,
    box_kind: str | None = None,
    random_state: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """Run every check on a finished store; the network is not run.

    Parameters
    ----------
    store : MapStore
    split : array_like of shape (n,)
        "train", "confirm" or "test" for every image.
    head_table : DataFrame, optional
        ``HeadResults.table``; without it colour alone is not judged.
    neurons : DataFrame, optional
        Neuron table. Its confirmed detectors, at most 50 per class, are judged with the picture
        statistics held fixed, on the images they were not chosen on (not "train").
    box_kind : str, optional
        Which boxes say where the objects are; by default the commonest kind.
    random_state : int
        Seed of the folds.
    progress : callable, optional
        Wraps the iteration over the pictures, like tqdm.

    Returns
    -------
    Audit
        Where the pictures are no longer there, what needs them is "not done".

    Raises
    ------
    FeatlabError
        `split` does not have one entry per image, or the store has fewer than two classes.
    """
    images = store.images
    sides = np.asarray(split).astype(str)
    if sides.shape != (len(images),):
        raise FeatlabError(
            f"split must have one entry per image ({len(images)}), got {len(sides)}."
        )
    labels, groups = images["label"].to_numpy(), images["group"].to_numpy()
    X = _features(store, neurons)
    pictures = _pictures(images, progress)
    statistics = _statistics(store, pictures, box_kind)
    findings = [lines.pictures_line(pictures, len(images), len(images.attrs.get("skipped", [])))]
    found = balance(labels, groups, sides)
    pairs = find_duplicates(images, pictures, X, split=sides)
    differences = _confounds(statistics, labels, pictures)
    n_read = int(pictures.readable.sum()) if pictures is not None else 0
    findings.append(lines.duplicates_line(pairs, len(images), looked=pictures is not None))
    findings.append(lines.confounds_line(differences, n_read))
    findings.append(lines.captions_line(statistics, differences))
    adjusted, finding = _adjusted(X, labels, statistics, neurons, sides, pictures)
    findings.append(finding)
    errors, finding = _label_errors(X, labels, groups, random_state)
    findings.append(finding)
    far = outliers(X, labels)
    findings.append(lines.outliers_line(far))
    summary = pd.concat(
        [as_table(findings[:1]), found, as_table(findings[1:]), _colour(head_table)],
        ignore_index=True,
    )
    return Audit(
        summary=summary,
        statistics=statistics,
        confounds=differences,
        adjusted=adjusted,
        duplicates=pairs,
        label_errors=_with_paths(errors, images),
        outliers=_with_paths(far[far["outlier"]].reset_index(drop=True), images),
    )


def _features(store: MapStore, neurons: pd.DataFrame | None) -> pd.DataFrame:
    """Pooled activations, of the layer and the pooling that the neuron table begins with."""
    first = {} if neurons is None or not len(neurons) else neurons.iloc[0].to_dict()
    return feature_table(store, layer=first.get("layer"), pooling=first.get("pooling", "mean"))


def _pictures(images: pd.DataFrame, progress: Progress | None) -> Pictures | None:
    """None where not one picture can be read any more."""
    try:
        pictures = read_pictures(images, progress=progress)
    except FeatlabError:
        return None
    return pictures if pictures.readable.any() else None


def _statistics(store: MapStore, pictures: Pictures | None, box_kind: str | None) -> pd.DataFrame:
    images, boxes = store.images, store.boxes
    table = pd.DataFrame(np.nan, index=images.index, columns=list(PICTURE_COLUMNS))
    if pictures is not None:
        table = pictures.statistics
    if len(boxes):
        kind = boxes["kind"].mode().iloc[0] if box_kind is None else box_kind
        table = with_objects(table, images, boxes[boxes["kind"] == kind])
    columns = {"path": images["path"], "label": images["label"]}
    return pd.concat([pd.DataFrame(columns), table], axis=1)


def _confounds(
    statistics: pd.DataFrame, labels: NDArray, pictures: Pictures | None
) -> pd.DataFrame:
    if pictures is None:
        return pd.DataFrame(columns=CONFOUND_COLUMNS)
    return confounds(statistics, labels)


def _adjusted(
    X: pd.DataFrame,
    labels: NDArray,
    statistics: pd.DataFrame,
    neurons: pd.DataFrame | None,
    sides: NDArray[np.str_],
    pictures: Pictures | None,
) -> tuple[pd.DataFrame, Finding]:
    reason = ""
    if neurons is None:
        reason = "No neuron table was given."
    elif pictures is None:
        reason = "No picture could be measured."
    else:
        rows = np.flatnonzero((sides != "train") & pictures.readable)
        try:
            present = chosen_detectors(neurons, origin_of(X), TOP)
            present = present[present["class"].isin(set(labels[rows]))]
            columns = np.flatnonzero(np.isin(neuron_ids(X), present["neuron"]))
            values = X.to_numpy()
            judged = [values[:, column][rows] for column in columns]
            unchosen = pd.DataFrame(
                np.reshape(judged, (len(columns), len(rows))).T, X.index[rows], X.columns[columns]
            )
            table = adjusted_effects(unchosen, labels[rows], statistics.iloc[rows], present)
            return table, lines.adjusted_line(table, len(rows))
        except FeatlabError as error:
            reason = str(error)
    return pd.DataFrame(columns=ADJUSTED_COLUMNS), Finding("detectors", NOT_DONE, reason, 0)


def _label_errors(
    X: pd.DataFrame, labels: NDArray, groups: NDArray, random_state: int
) -> tuple[pd.DataFrame, Finding]:
    try:
        errors = label_errors(X, labels, groups=groups, random_state=random_state)
        return errors, lines.labels_line(errors)
    except FeatlabError as error:
        empty = pd.DataFrame(columns=LABEL_COLUMNS)
        return empty, Finding("label errors", NOT_DONE, str(error), 0)


def _colour(head_table: pd.DataFrame | None) -> pd.DataFrame:
    if head_table is None:
        return as_table([Finding("colour alone", NOT_DONE, "No head table was given.", 0)])
    return colour_alone(head_table)


def _with_paths(table: pd.DataFrame, images: pd.DataFrame) -> pd.DataFrame:
    paths = images["path"].to_numpy()[table["row"].to_numpy(dtype=np.intp)]
    result = table.copy()
    result.insert(0, "path", paths)
    return result
