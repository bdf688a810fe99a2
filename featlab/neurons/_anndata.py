"""The pooled activations as AnnData, where scanpy's plots find the ranking."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from featlab.errors import FeatlabError

if TYPE_CHECKING:
    import anndata

    from featlab.store import MapStore

_FIELDS = {
    "names": "name",
    "scores": "statistic",
    "pvals": "p",
    "pvals_adj": "p_adjusted",
    "logfoldchanges": "log_fold_change",
}


def to_anndata(
    store: MapStore, table: pd.DataFrame | None = None, *, layer: str | None = None
) -> anndata.AnnData:
    """Images as observations, neurons as variables.

    Parameters
    ----------
    store : MapStore
    table : DataFrame, optional
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
    name = layer or store.layers[-1]
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
    if table is not None:
        data.uns["rank_genes_groups"] = _ranking(table, name)
    return data


def _ranking(table: pd.DataFrame, layer: str) -> dict[str, Any]:
    """The neuron table in scanpy's form: per field a record array with a column per class."""
    rows = table[(table["layer"] == layer) & (table["pooling"] == "mean")]
    rows = rows[(rows["reference"] == "rest") & rows["statistic"].notna()]
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
        "method": str(table.attrs.get("test", "mannwhitneyu")),
        "corr_method": str(table.attrs.get("correction", "fdr_bh")),
        "use_raw": False,
        "layer": None,
    }
    for field in ("pts", "pts_ref"):
        name = "pts_rest" if field == "pts_ref" else field
        result[name] = rows.pivot_table(index="name", columns="class", values=field)
    return result
