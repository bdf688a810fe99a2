"""The command about classes: classifiers on the pooled maps, of one network or several."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import featlab
from featlab.cli._options import Folder, Layer, Seed
from featlab.cli._output import show, write_figures, write_tables

if TYPE_CHECKING:
    import pandas as pd

_SCORES = ["accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "roc_auc", "log_loss"]
_PAIRS = ["difference", "difference_low", "difference_high", "p_adjusted", "test"]


def heads(
    stores: Annotated[
        list[Path],
        typer.Argument(help="A store; or several of the same images, to compare their networks."),
    ],
    names: Annotated[
        str,
        typer.Option(
            "--heads",
            help="Comma-separated: logistic, logistic_l1, mlp, linear_svm, knn, nearest_centroid.",
        ),
    ] = "logistic,mlp",
    pooling: Annotated[
        str, typer.Option(help="mean, max, softmax_mean, softmax_max or flat.")
    ] = "mean",
    layer: Layer = None,
    class_weight: Annotated[
        str | None, typer.Option(help="balanced: every class counts the same. (default: no)")
    ] = None,
    folds: Annotated[
        int, typer.Option(min=0, help="Score by nested cross-validation over so many folds.")
    ] = 0,
    curve: Annotated[
        bool, typer.Option("--curve", help="Also: accuracy over the number of train images.")
    ] = False,
    output: Folder = None,
    seed: Seed = 0,
) -> None:
    """Who is in the picture: classifiers on the pooled maps, compared image by image."""
    common: dict[str, Any] = {
        "heads": names.split(","),
        "class_weight": class_weight,
        "random_state": seed,
    }
    if len(stores) > 1:
        with ExitStack() as stack:
            opened = {
                name: stack.enter_context(featlab.store.MapStore(path))
                for name, path in _store_names(stores).items()
            }
            images = next(iter(opened.values())).images
            split = featlab.splits.make_split(images, random_state=seed)
            networks = featlab.heads.compare_backbones(
                opened, split, pooling=pooling, layer=layer, **common
            )
        show(networks.table, ["backbone", "head", "n", *_SCORES])
        print("pairs of networks, on the same test images (Holm over all):")
        show(networks.pairs, ["head", "a", "b", *_PAIRS])
        write_tables(output, {"backbones": networks.table, "backbone_pairs": networks.pairs})
        write_figures(output, {"backbones": featlab.plots.scores.backbones(networks.table)})
        return
    with featlab.store.MapStore(stores[0]) as store:
        tables, figures = _one_store(store, pooling, layer, folds, curve, common, output)
    write_tables(output, tables)
    write_figures(output, figures)


def _save_heads(scores: featlab.results.HeadResults, folder: Path | None) -> None:
    """The fitted heads as plain arrays; the two that are no layers of weights are left out."""
    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in scores.models.items():
        if name not in ("dummy", "knn"):
            featlab.heads.save_head(model, folder / f"{name}.npz")


def _one_store(
    store: featlab.store.MapStore,
    pooling: str,
    layer: str | None,
    folds: int,
    curve: bool,
    common: dict[str, Any],
    output: Path | None,
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Print the heads of one store; its tables and figures."""
    room, plots = featlab.heads, featlab.plots
    X = featlab.features.feature_table(store, layer=layer, pooling=pooling)
    labels, groups = store.images["label"], store.images["group"]
    everything = {"groups": groups, "colour": store.colour_histogram, **common}
    if folds:
        crossed = room.cross_validate_heads(X, labels, n_outer=folds, **everything)
        summary, pairs = crossed.summary, room.compare_heads(crossed)
        show(summary, ["head", "n_scores", *_SCORES])
        print("pairs of heads over the same folds (corrected resampled t, Holm over all):")
        show(pairs, ["a", "b", "difference", "difference_low", "difference_high", "p_adjusted"])
        return {"heads": summary, "head_folds": crossed.table, "head_pairs": pairs}, {}
    split = featlab.splits.make_split(store.images, random_state=common["random_state"])
    scores = room.evaluate_heads(X, labels, split, **everything)
    _save_heads(scores, output)
    first = common["heads"][0]
    calibration = room.calibration(scores, first)
    tables = {
        "heads": scores.table,
        "head_pairs": room.compare_heads(scores),
        "per_class": room.per_class(scores, first),
        "calibration": calibration.table,
    }
    show(scores.table, ["head", "n_train", "n", *_SCORES, "parameters"])
    print("pairs of heads, on the same test images (Holm over all):")
    show(tables["head_pairs"], ["a", "b", *_PAIRS])
    if len(scores.classes) > 2:
        print(f"the {first} head, class by class:")
        show(
            tables["per_class"], ["class", "support", "recall", "precision", "f1", "confused_with"]
        )
    figures = {
        "heads": plots.score_intervals(scores.table, "accuracy"),
        "calibration": plots.calibration(calibration),
    }
    if curve:
        tables["learning_curve"] = room.learning_curve(
            X, labels, split, head=first, groups=groups, random_state=common["random_state"]
        )
        print(f"the {first} head on fewer images per class:")
        columns = ["size", "n_train", "accuracy", "accuracy_low", "accuracy_high", "accuracy_sd"]
        show(tables["learning_curve"], columns)
        figures["learning_curve"] = plots.learning_curve(tables["learning_curve"])
    return tables, figures


def _store_names(paths: list[Path]) -> dict[str, Path]:
    """Short names that differ: the file's, or its folder's where the files are called the same."""
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [path.resolve().parent.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return dict(zip(names, paths, strict=True))
