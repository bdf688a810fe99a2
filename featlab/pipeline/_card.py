"""What is known of one neuron, put together for its card."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from featlab import arguments, localise, neurons
from featlab.errors import FeatlabError
from featlab.pipeline._examples import picture_loader
from featlab.results.pictures import NeuronCard
from featlab.store import MapStore

_RELATIVES = 4
_MOST_IMAGES = 20_000  # whose activations make the distributions and the relatives


def neuron_card(
    store: MapStore,
    neuron: int,
    table: pd.DataFrame,
    *,
    label: str | None = None,
    pooling: str = "mean",
    layer: str | None = None,
    rows: Sequence[int] | np.ndarray | None = None,
    k: int = 4,
) -> NeuronCard:
    """The best and worst images of a neuron, its effect, and its nearest relatives.

    Parameters
    ----------
    store : MapStore
    neuron : int
        Channel index.
    table : DataFrame
        Neuron table of `rank_neurons`, confirmed or not.
    label : str, optional
        The class that the facts are about; by default the one with the largest effect.
    pooling : {"mean", "max"}
    layer : str, optional
        The last stored layer by default.
    rows : sequence of int, optional
        Row numbers of the images to show and to count; unseen ones are the honest choice. All by
        default. Of more than 20,000 a random 20,000 make the distributions and the relatives.
    k : int
        Best and worst images, each.

    Returns
    -------
    featlab.NeuronCard
        For `featlab.plots.neuron_card`.

    Raises
    ------
    FeatlabError
        The table has no row for the neuron, layer, pooling and class.
    """
    name = layer or store.layers[-1]
    row = _row_of(table, neuron, name, pooling, label)
    chosen = np.arange(len(store)) if rows is None else np.asarray(rows, dtype=np.int64)
    best = neurons.top_images(store, neuron, k, pooling=pooling, layer=name, rows=chosen)
    worst = neurons.bottom_images(store, neuron, k, pooling=pooling, layer=name, rows=chosen)
    shown = [*best["row"], *worst["row"]]
    heats = localise.example_heats(store, shown, neurons=[neuron], layer=name)[:, 0]
    sizes, load = store.images[["width", "height"]].to_numpy(), picture_loader(store)
    labels = store.images["label"].to_numpy(str)
    drawn = np.sort(chosen[arguments.stratified_rows(labels[chosen], _MOST_IMAGES)])
    pooled, labels = store.pooled(drawn, layer=name, pooling=pooling), labels[drawn]
    return NeuronCard(
        title=f"Neuron {neuron} of {name}, {row['direction']} for {row['class']}",
        facts=_facts(row, pooled, labels, neuron),
        best=best,
        worst=worst,
        pictures=[load(place) for place in shown],
        heats=[
            localise.heat_on_picture(heat, store.frames[place], *sizes[place])
            for heat, place in zip(heats, shown, strict=True)
        ],
        activations=pooled[:, neuron],
        labels=labels,
        unit=f"{pooling} activation (network units)",
    )


def _row_of(
    table: pd.DataFrame, neuron: int, layer: str, pooling: str, label: str | None
) -> pd.Series:
    found = table[
        (table["neuron"] == neuron)
        & (table["layer"] == layer)
        & (table["pooling"] == pooling)
        & (table["reference"] == "rest")
    ]
    if label is not None:
        found = found[found["class"] == label]
    found = found[found["auroc"].notna()]
    if found.empty:
        raise FeatlabError(
            f"the neuron table has no living neuron {neuron} of layer {layer!r}, pooling "
            f"{pooling!r}" + (f" and class {label!r}." if label is not None else ".")
        )
    # Of two classes that share an effect, the one that the neuron is active for.
    size = found["effect"].abs().round(12)
    return found.assign(size=size).sort_values(["size", "effect"]).iloc[-1]


def _facts(row: pd.Series, pooled: np.ndarray, labels: np.ndarray, neuron: int) -> list[str]:
    facts = [
        f"chosen: AUROC {row['auroc']:.2f} [{row['auroc_low']:.2f}, {row['auroc_high']:.2f}], "
        f"adjusted p {row['p_adjusted']:.1g}",
    ]
    if np.isfinite(row.get("auroc_confirmed", np.nan)):
        low, high = row["auroc_confirmed_low"], row["auroc_confirmed_high"]
        held = "replicated" if row["replicated"] else "not replicated"
        facts.append(f"unseen: AUROC {row['auroc_confirmed']:.2f} [{low:.2f}, {high:.2f}], {held}")
    else:
        facts.append("not selected, so not confirmed")
    facts += [
        f"fires in {row['pts']:.0%} of the class, {row['pts_ref']:.0%} of the rest",
        f"mean {row['mean']:.2f} and {row['mean_ref']:.2f}, Hedges' g {row['hedges_g']:.2f}",
        "",
        "nearest relatives (rank correlation within classes):",
    ]
    return facts + [f"neuron {other}: {r:+.2f}" for other, r in _relatives(pooled, labels, neuron)]


def _relatives(pooled: np.ndarray, labels: np.ndarray, neuron: int) -> list[tuple[int, float]]:
    """The neurons that agree most from image to image, whatever the classes' means."""
    ranks = pd.DataFrame(pooled).rank()
    within = (ranks - ranks.groupby(labels).transform("mean")).to_numpy()
    length = np.sqrt((within**2).sum(axis=0))
    r = np.divide(
        within.T @ within[:, neuron], length * length[neuron],
        out=np.zeros(len(length)), where=length * length[neuron] > 0,
    )  # fmt: skip
    r[neuron] = 0
    return [(int(k), float(r[k])) for k in np.argsort(-np.abs(r))[:_RELATIVES]]
