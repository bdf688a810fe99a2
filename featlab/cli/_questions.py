"""Commands about classes, set and boxes of a finished store: heads, audit, boxheads."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featlab._errors import FeatlabError
from featlab.cli._network import libraries_silenced
from featlab.cli._options import BoxKind, Seed, Store
from featlab.cli._progress import quiet_bar
from featlab.cli._summary import show

if TYPE_CHECKING:
    import pandas as pd

    from featlab.heads import HeadResults
    from featlab.store import MapStore

_SCORES = ["accuracy", "accuracy_low", "accuracy_high", "balanced_accuracy", "roc_auc", "log_loss"]
_PAIRS = ["difference", "difference_low", "difference_high", "p_adjusted", "test"]

Folder = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Folder for the tables, figures and fitted heads."),
]


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
    layer: Annotated[str | None, typer.Option(help="(default: the last stored)")] = None,
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
    from featlab import heads as room
    from featlab import plots, splits
    from featlab.store import MapStore

    common: dict[str, Any] = {
        "heads": names.split(","),
        "class_weight": class_weight,
        "random_state": seed,
    }
    if len(stores) > 1:
        opened = {name: MapStore(path) for name, path in _store_names(stores).items()}
        images = next(iter(opened.values())).images
        split = splits.make_split(images, random_state=seed)
        found = room.compare_backbones(opened, split, pooling=pooling, layer=layer, **common)
        show(found.table, ["backbone", "head", "n", *_SCORES])
        print("pairs of networks, on the same test images (Holm over all):")
        show(found.pairs, ["head", "a", "b", *_PAIRS])
        _write(output, {"backbones": found.table, "backbone_pairs": found.pairs})
        _draw(output, {"backbones": plots.backbones(found.table)})
        return
    with MapStore(stores[0]) as store:
        tables, figures = _one_store(store, pooling, layer, folds, curve, common, output)
    _write(output, tables)
    _draw(output, figures)


def _save_heads(scores: HeadResults, folder: Path | None) -> None:
    """The fitted heads as plain arrays; the two that are no layers of weights are left out."""
    from featlab.heads import save_head

    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, model in scores.models.items():
        if name not in ("dummy", "knn"):
            save_head(model, folder / f"{name}.npz")


def _one_store(
    store: MapStore,
    pooling: str,
    layer: str | None,
    folds: int,
    curve: bool,
    common: dict[str, Any],
    output: Path | None,
) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Print the heads of one store; its tables and figures."""
    from featlab import features, plots, splits
    from featlab import heads as room

    X = features.feature_table(store, pooling, layer=layer)
    labels, groups = store.images["label"], store.images["group"]
    everything = {"groups": groups, "colour": store.colour_histogram, **common}
    if folds:
        crossed = room.cross_validate_heads(X, labels, n_outer=folds, **everything)
        summary, pairs = crossed.summary(), room.compare_all(crossed)
        show(summary, ["head", "n_scores", *_SCORES])
        print("pairs of heads over the same folds (corrected resampled t, Holm over all):")
        show(pairs, ["a", "b", "difference", "difference_low", "difference_high", "p_adjusted"])
        return {"heads": summary, "head_folds": crossed.table, "head_pairs": pairs}, {}
    split = splits.make_split(store.images, random_state=common["random_state"])
    scores = room.evaluate_heads(X, labels, split, **everything)
    _save_heads(scores, output)
    first = common["heads"][0]
    tables = {
        "heads": scores.table,
        "head_pairs": room.compare_all(scores),
        "per_class": room.per_class(scores, first),
        "calibration": room.calibration_table(scores, first),
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
        "heads": plots.head_comparison(scores.table),
        "calibration": plots.calibration(tables["calibration"]),
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


def audit(store: Store, box_kind: BoxKind = None, output: Folder = None, seed: Seed = 0) -> None:
    """Is the set fit for the question: duplicates, labels, outliers, confounds, colour alone."""
    from featlab import audit as room
    from featlab import features, plots, splits
    from featlab import heads as classifiers
    from featlab.pipeline import find_detectors
    from featlab.store import MapStore

    with MapStore(store) as opened:
        labels, groups = opened.images["label"], opened.images["group"]
        split = splits.make_split(opened.images, random_state=seed)
        X = features.feature_table(opened)
        scores = classifiers.evaluate_heads(
            X, labels, split, colour=opened.colour_histogram, groups=groups, random_state=seed
        )
        found = room.audit_set(
            opened,
            split,
            head_table=scores.table,
            neurons=find_detectors(X, labels, split, groups, random_state=seed),
            box_kind=box_kind,
            random_state=seed,
            progress=partial(quiet_bar, label="audit", unit="img"),
        )
    for _, row in found.summary.iterrows():
        print(f"{row['verdict']:>8}  {row['check']}: {row['finding']}")
    print(f"{found.verdict:>8}  in all")
    tables = vars(found) | {"audit": found.summary}
    _write(output, {name: tables[name] for name in tables if name != "summary"})
    _draw(output, {"confounds": plots.confounds(found.confounds)})


def boxheads(
    store: Store,
    names: Annotated[
        str,
        typer.Option(
            "--heads", help="Comma-separated: cascade, ridge_pca, pls, mlp, gradient_boosting."
        ),
    ] = "cascade,ridge_pca,pls,gradient_boosting",
    target: Annotated[str, typer.Option(help="centre_size or corners.")] = "centre_size",
    policy: Annotated[
        str, typer.Option(help="Of several boxes in an image: largest, or best_match.")
    ] = "largest",
    layer: Annotated[str | None, typer.Option(help="(default: the last stored)")] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Also the joint class + box recipe, as published (with its leak) and honestly.",
        ),
    ] = False,
    classes: Annotated[
        str,
        typer.Option(help="The classes of that recipe: label, group, or breed (of breed_12.jpg)."),
    ] = "label",
    box_kind: BoxKind = None,
    output: Folder = None,
    seed: Seed = 0,
) -> None:
    """Boxes by regression on the stored maps, for sets whose train images have boxes."""
    from featlab import boxheads as room
    from featlab import features, plots, splits
    from featlab.audit import duplicates
    from featlab.store import MapStore

    if classes not in ("label", "group", "breed"):
        raise FeatlabError(f"--classes must be label, group or breed, got {classes!r}.")
    with MapStore(store) as opened:
        statistics = room.box_statistics(opened, box_kind)
        found = room.evaluate_box_heads(
            opened,
            splits.make_split(opened.images, random_state=seed),
            box_kind=box_kind,
            heads=names.split(","),
            target=target,
            policy=policy,
            layer=layer,
            random_state=seed,
            progress=partial(quiet_bar, label="box heads", unit="head"),
        )
        columns = ["head", "n_fit", "n", "mean_iou", "mean_iou_low", "mean_iou_high"]
        columns += ["box_accuracy", "box_accuracy_70", "centre_in_box", "seconds", "parameters"]
        show(found.table, columns)
        tables = {"box_heads": found.table, "box_heads_images": found.per_image}
        if published:
            with libraries_silenced():
                import tensorflow  # noqa: F401  # tells of itself once, while it loads
            both = room.published_protocol(
                opened,
                box_kind=box_kind,
                classes=room.breed_names(opened.images["path"])
                if classes == "breed"
                else opened.images[classes].to_numpy(),
                duplicates=duplicates(opened.images, features.feature_table(opened)),
                layer=layer,
                random_state=seed,
            )
            print("the joint class + box recipe, as published and under an honest protocol:")
            show(both)
            tables["published"] = both
    _write(output, tables | {"boxes": statistics})
    figures = {"box_heads": plots.box_heads(found.table), "boxes": plots.box_eda(statistics)}
    _draw(output, figures)


def _store_names(paths: list[Path]) -> dict[str, Path]:
    """Short names that differ: the file's, or its folder's where the files are called the same."""
    names = [path.stem for path in paths]
    if len(set(names)) < len(names):
        names = [path.resolve().parent.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    return dict(zip(names, paths, strict=True))


def _write(folder: Path | None, tables: Mapping[str, pd.DataFrame]) -> None:
    from featlab import report

    if folder is None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        for suffix in (".csv", ".parquet"):
            report.write_table(table, folder / f"{name}{suffix}")


def _draw(folder: Path | None, figures: Mapping[str, Any]) -> None:
    from featlab import plots

    if folder is None:
        return
    for name, figure in figures.items():
        for kind in ("svg", "png"):
            (folder / f"{name}.{kind}").write_bytes(plots.encode(figure, kind, dpi=150))
    print(f"tables and figures: {folder}")
