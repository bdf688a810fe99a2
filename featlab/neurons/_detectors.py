"""The detectors of a neuron table: the best, what held, what is redundant, and other views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform

from featlab.arguments import (
    Features,
    best_first,
    blocks_of_neurons,
    check_between,
    check_choice,
    check_columns,
    check_whole,
    class_codes,
    feature_blocks,
    row_numbers,
    stratified_rows,
)
from featlab.errors import FeatlabError
from featlab.neurons._ranking import REST
from featlab.store import MapStore
from featlab.system.machine import pieces

if TYPE_CHECKING:
    import anndata

_DIRECTIONS = ("active", "silent", "both")
_MOST_IMAGES = 20_000  # the error of a correlation is then 0.007
_FIELDS = {
    "names": "name",
    "scores": "statistic",
    "pvals": "p",
    "pvals_adj": "p_adjusted",
    "logfoldchanges": "log_fold_change",
}


def confirmation(neurons: pd.DataFrame) -> pd.DataFrame:
    """How many of the selected neurons held on other images, and what their effects lost.

    Parameters
    ----------
    neurons : DataFrame
        From `confirm_neurons`.

    Returns
    -------
    DataFrame
        class, direction, selected, confirmed, rate, median_selected, median_confirmed (AUROC, of
        all the selected) and median_shrinkage; one row per class and direction that has any. The
        rate has no interval: the neurons share their images, and so hold or fail together.

    Raises
    ------
    FeatlabError
        The table is not confirmed.
    """
    _check_confirmed(neurons)
    rows = []
    for (name, direction), part in neurons[neurons["detector"]].groupby(["class", "direction"]):
        held = int(part["confirmed"].sum())
        rows.append(
            {
                "class": name,
                "direction": direction,
                "selected": len(part),
                "confirmed": held,
                "rate": held / len(part),
                "median_selected": part["auroc"].median(),
                "median_confirmed": part["auroc_confirmed"].median(),
                "median_shrinkage": part["shrinkage"].median(),
            }
        )
    return pd.DataFrame(rows)


def select_neurons(
    neurons: pd.DataFrame,
    *,
    confirmed: bool | None = None,
    direction: str = "active",
    most: int | None = None,
) -> pd.DataFrame:
    """Detectors of a neuron table, the best of each class first.

    Parameters
    ----------
    neurons : DataFrame
        From `rank_neurons` or `confirm_neurons`.
    confirmed : bool, optional
        Whether to keep only the confirmed ones; default: if the table says which those are.
    direction : {"active", "silent", "both"}
        Which way the neurons tell the class.
    most : int, optional
        At most so many neurons per class. One that several poolings found then stands once, by the
        pooling of its largest effect.

    Returns
    -------
    DataFrame
        Rows of `neurons`, sorted by class and by the effect they were chosen by, numbered anew.
        The confirmed ones were picked by their confirmed AUROC, which is therefore flattered:
        ``auroc_adjusted_low`` and ``_high`` allow for that.

    Raises
    ------
    FeatlabError
        `confirmed` is asked for and the table is not confirmed; `most` is less than 1.
    """
    if most is not None:
        check_whole("most", most, 1)
    check_choice("direction", direction, _DIRECTIONS)
    check_choice("confirmed", confirmed, (None, True, False))
    if confirmed is None:
        confirmed = "confirmed" in neurons
    rows = neurons[neurons["detector"]]
    if confirmed:
        _check_confirmed(neurons)
        rows = rows[rows["confirmed"]]
    if direction != "both":
        rows = rows[rows["direction"] == direction]
    rows = best_first(rows)
    if most is not None:
        rows = rows.drop_duplicates(["class", "reference", "layer", "neuron"])
        rows = rows.groupby("class", sort=False).head(most)
    return rows.reset_index(drop=True)


def _check_confirmed(table: pd.DataFrame) -> None:
    check_columns("the neuron table", table, ["confirmed"], "run confirm_neurons")


def cluster_detectors(
    neurons: pd.DataFrame, X: Features, y: ArrayLike, *, correlation: float = 0.7
) -> pd.DataFrame:
    """Group the detectors of each class that rise and fall alike within classes.

    The correlation is Spearman's over all rows of `X` (a random 20,000 where there are more) after
    each class's mean rank is taken out: two detectors of a class agree on its mean by definition,
    and what counts is whether they also agree from image to image. Clusters are cut from an average
    linkage of 1 - correlation.

    Parameters
    ----------
    neurons : DataFrame
        Rows of a neuron table, e.g. from `select_neurons`, best first.
    X, y
        As in `rank_neurons`.
    correlation : float
        Mean correlation at which clusters still merge, in [0, 1].

    Returns
    -------
    DataFrame
        The rows of `neurons` with ``cluster`` (from 0, by the best member, within the class),
        ``cluster_size``, ``representative`` (the first of its cluster in `neurons`) and
        ``relative`` (the most correlated other detector of the class, -1 where there is none) with
        ``relative_correlation``.

    Raises
    ------
    FeatlabError
        `neurons` is empty or does not fit `X`.
    """
    check_between("correlation", correlation, 0.0, 1.0)
    if neurons.empty:
        raise FeatlabError("there is no detector to cluster; select some first.")
    blocks = blocks_of_neurons(neurons, X, y)
    codes, _ = class_codes(y)
    use = stratified_rows(codes, _MOST_IMAGES)
    parts = []
    for _, rows in neurons.groupby("class", sort=False):
        values = np.empty((len(use), len(rows)))
        for (layer, pooling), block in blocks.items():
            own = (rows["layer"].eq(layer) & rows["pooling"].eq(pooling)).to_numpy()
            columns = block.places(rows["neuron"].to_numpy()[own])
            for place, column in zip(np.flatnonzero(own), columns, strict=True):
                values[:, place] = block.matrix[:, column][use]
        similar = _correlation(values, codes[use])
        parts.append(_clustered(rows, similar, correlation))
    return pd.concat(parts).sort_index()


def _correlation(values: np.ndarray, labels: np.ndarray) -> np.ndarray:
    ranks = pd.DataFrame(values).rank()
    within = (ranks - ranks.groupby(labels).transform("mean")).to_numpy()
    length = np.sqrt((within**2).sum(axis=0))
    unit = np.divide(within, length, out=np.zeros_like(within), where=length > 0)
    return unit.T @ unit


def _clustered(rows: pd.DataFrame, similar: np.ndarray, correlation: float) -> pd.DataFrame:
    k = len(rows)
    cluster = np.zeros(k, dtype=int)
    relative, closest = np.full(k, -1), np.full(k, np.nan)
    if k > 1:
        apart = np.clip(1 - similar, 0, 2)
        np.fill_diagonal(apart, 0)
        tree = linkage(squareform(apart, checks=False), method="average")
        cluster = fcluster(tree, 1 - correlation, criterion="distance")
        others = similar - 3 * np.eye(k)
        relative, closest = rows["neuron"].to_numpy()[others.argmax(axis=1)], others.max(axis=1)
    number = pd.factorize(cluster)[0]
    return rows.assign(
        cluster=number,
        cluster_size=np.bincount(number)[number],
        representative=~pd.Series(number).duplicated().to_numpy(),
        relative=relative,
        relative_correlation=closest,
    )


def softmax_top_k(X: pd.DataFrame | ArrayLike, y: ArrayLike, *, k: int = 3) -> pd.DataFrame:
    """How often each neuron is among an image's k largest softmax values, per class.

    Frequency is not selectivity: a neuron that fires everywhere leads every class's list. So the
    share in the rest and the difference stand beside the share.

    Parameters
    ----------
    X : DataFrame or array_like of shape (n, c)
        Pooled activations, or their softmax: its order within an image is the same. Of equal
        values the lower column counts as the larger.
    y : array_like of shape (n,)
        Labels.
    k : int
        From 1 to c.

    Returns
    -------
    DataFrame, one row per class and neuron that is in the top k of an image of the class
        ``layer``, ``class``, ``neuron``, ``count`` (images), ``share`` of the class's images,
        ``share_rest`` of the others, ``difference``; by class, then the largest count first.

    Raises
    ------
    FeatlabError
        As `rank_neurons`, or `k` out of range.
    """
    block = feature_blocks(X, y)[0]
    codes, classes = class_codes(y, least=2)
    n, c = block.matrix.shape
    check_whole("k", k, 1, c)
    counts = np.zeros((len(classes), c), dtype=np.int64)
    for rows in pieces(n, c):
        top = np.argsort(-block.matrix[rows], axis=1, kind="stable")[:, :k]
        np.add.at(counts, (codes[rows, None], top), 1)
    sizes = np.bincount(codes, minlength=len(classes))[:, None]
    share = counts / sizes
    with np.errstate(invalid="ignore"):
        share_rest = (counts.sum(axis=0) - counts) / (n - sizes)
    table = pd.DataFrame(
        {
            "layer": block.layer,
            "class": np.repeat(classes, c),
            "neuron": np.tile(block.neurons, len(classes)),
            "count": counts.ravel(),
            "share": share.ravel(),
            "share_rest": share_rest.ravel(),
            "difference": (share - share_rest).ravel(),
        }
    )
    table = table[table["count"] > 0]
    order = ["class", "count", "neuron"]
    return table.sort_values(order, ascending=[True, False, True], ignore_index=True)


def ranked_images(
    store: MapStore,
    neuron: int,
    rows: Any = None,
    *,
    most: int = 9,
    layer: str | None = None,
    pooling: str = "mean",
    lowest: bool = False,
) -> pd.DataFrame:
    """The images on which a neuron's pooled activation is largest, or smallest.

    Parameters
    ----------
    store : MapStore
    neuron : int
        Channel of the layer.
    rows : sequence of int, or boolean mask, optional
        Row numbers of the image table to choose among; all by default.
    most : int
        How many; all images where there are fewer.
    layer : str, optional
        The last stored layer by default.
    pooling : {"mean", "max"}
        Over the cells of its map.
    lowest : bool
        The smallest activations instead.

    Returns
    -------
    DataFrame
        row (of the image table), path, label, activation; the largest (smallest) first, ties by
        turns of the classes, then by row.

    Raises
    ------
    FeatlabError
        The neuron, the layer, the pooling or a row does not exist.
    """
    c = store.map_shape(layer)[2]
    check_whole("neuron", neuron, 0, c - 1)
    check_whole("most", most, 1)
    parts = [pooled[:, neuron] for _, pooled in store.iter_pooled(layer=layer, pooling=pooling)]
    places = row_numbers(rows, store.images)
    values = np.concatenate(parts)[places]
    # Where many are equal (0, of a neuron that seldom fires) the classes take turns.
    same = [store.images["label"].to_numpy(str)[places], values]
    turn = pd.Series(places).groupby(same).rank(method="first").to_numpy()
    order = np.lexsort((places, turn, values if lowest else -values))[:most]
    table = store.images.iloc[places[order]][["path", "label"]].reset_index(drop=True)
    table.insert(0, "row", places[order])
    return table.assign(activation=values[order])


def to_anndata(
    store: MapStore, neurons: pd.DataFrame | None = None, *, layer: str | None = None
) -> anndata.AnnData:
    """Images as observations, neurons as variables.

    Parameters
    ----------
    store : MapStore
    neurons : DataFrame, optional
        Neuron table of `rank_neurons` against the rest; its rows of this layer and the pooling
        "mean" go where ``scanpy.pl.rank_genes_groups`` and its relatives look.
    layer : str, optional
        The last stored layer by default.

    Returns
    -------
    anndata.AnnData
        ``X`` mean-pooled activations, ``layers["max"]`` max-pooled ones, ``obs`` the image table
        (label as a category), ``var`` the neurons ("neuron_0", ...), ``uns["provenance"]`` where
        the maps came from, ``uns["rank_genes_groups"]`` the ranking.

    Raises
    ------
    FeatlabError
        The package anndata is not installed, or the table has no rows that fit.
    """
    try:
        from anndata import AnnData
    except ModuleNotFoundError as error:
        raise FeatlabError(
            'to_anndata needs the package anndata: `pip install "featlab[anndata]"`.'
        ) from error
    name = store.layer_name(layer)
    X = store.pooled(layer=name)
    names = [f"neuron_{k}" for k in range(X.shape[1])]
    obs = store.images.set_index("path").rename_axis(None)
    obs.attrs = {}
    obs = obs.astype({column: str for column in obs.columns if obs[column].dtype == object})
    obs["label"] = pd.Categorical(obs["label"].astype(str))
    data = AnnData(
        X,
        obs=obs,
        var=pd.DataFrame({"layer": name}, index=names),
        layers={"max": store.pooled(layer=name, pooling="max")},
    )
    data.uns["provenance"] = {key: str(value) for key, value in store.provenance.items()}
    if neurons is not None:
        data.uns["rank_genes_groups"] = _ranking(neurons, name)
    return data


def _ranking(table: pd.DataFrame, layer: str) -> dict[str, Any]:
    """The neuron table in scanpy's form: per field a record array with a column per class."""
    rows = table[(table["layer"] == layer) & (table["pooling"] == "mean")]
    rows = rows[(rows["reference"] == REST) & rows["statistic"].notna()]
    if rows.empty:
        raise FeatlabError(
            f"the neuron table has no rows of layer {layer!r} and pooling 'mean' against the rest."
        )
    # scanpy draws scores that grow with the effect, so Mann-Whitney's U gives way to Cliff's delta.
    rows = rows.assign(name="neuron_" + rows["neuron"].astype(str), statistic=rows["effect"])
    per_class = {str(k): part.sort_values("rank") for k, part in rows.groupby("class")}
    kinds = {"names": object, "scores": np.float32, "logfoldchanges": np.float32}
    result: dict[str, Any] = {
        field: np.rec.fromarrays(
            [part[column].to_numpy(kinds.get(field, np.float64)) for part in per_class.values()],
            dtype=[(name, kinds.get(field, np.float64)) for name in per_class],
        )
        for field, column in _FIELDS.items()
    }
    result["params"] = {
        "groupby": "label",
        "reference": "rest",
        "method": "rank_neurons",
        "use_raw": False,
        "layer": None,
    }
    for field in ("pts", "pts_ref"):
        name = "pts_rest" if field == "pts_ref" else field
        result[name] = rows.pivot_table(index="name", columns="class", values=field, dropna=False)
    return result
