"""One drawing of every public figure, from planted results for any class names.

A function added to a module of ``featlab.plots`` belongs into ``CHARTS`` or ``GRIDS``: the tests of
the figures compare them with what the modules have.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from fake_results import (
    make_box_laboratory,
    make_head_details,
    make_heads,
    make_localisation,
    make_neurons,
    make_picture,
    make_split,
    make_store,
)

from featlab.plots import curves, data, network, neurons, pictures, scores
from featlab.plots.style import GRADIENT_METHOD_NAMES
from featlab.results.analysis import HeadResults
from featlab.results.images import Embedding
from featlab.results.networks import CamExamples, DamTrace
from featlab.results.pictures import NeuronCard

GRADIENT_METHODS = [*GRADIENT_METHOD_NAMES][:4]


class Planted:
    """Results of a made-up data set with these classes; all from one seed."""

    def __init__(self, classes: list[str]) -> None:
        n = 40 * len(classes) if len(classes) < 10 else 20 * len(classes)
        self.classes = sorted(classes)
        self.store = make_store(classes, n, 40, boxes=True)
        self.split = make_split(n, len(classes))
        self.labels = self.store.images["label"].to_numpy(str)
        self.rng = np.random.default_rng(7)

    @cached_property
    def neurons(self) -> pd.DataFrame:
        table = make_neurons(self.store, self.split)
        # One p-value that no number holds: it must have a place of its own.
        table.loc[table["auroc"].idxmax(), "p_adjusted"] = 0.0
        return table

    @cached_property
    def heads(self) -> HeadResults:
        return make_heads(self.store, self.split)

    @cached_property
    def boxes(self) -> Any:
        return make_box_laboratory(make_localisation(self.store, self.split))

    def shown(self, n: int) -> list[str]:
        return [self.classes[i % len(self.classes)] for i in range(n)]

    def pictures(self, n: int) -> list[np.ndarray | None]:
        sizes = [(120, 90), (90, 120), (120, 80)]
        pictures = [make_picture(i, *sizes[i % 3]) for i in range(n)]
        return [None if i == n - 2 else picture for i, picture in enumerate(pictures)]

    def heats(self, n: int, *shape: int) -> list[np.ndarray]:
        rng = np.random.default_rng(5)
        return [rng.random(shape) ** 3 for _ in range(n)]


TRUE = np.array([[30.0, 20.0, 70.0, 60.0]])
FOUND = np.array([25.0, 15.0, 75.0, 70.0])


def _intervals(table: pd.DataFrame, score: str, half: float = 0.06) -> pd.DataFrame:
    return table.assign(
        **{
            f"{score}_low": np.clip(table[score] - half, 0, 1),
            f"{score}_high": np.clip(table[score] + half, 0, 1),
        }
    )


def _ablation(world: Planted, ax: Any = None) -> Any:
    k = [0, 1, 2, 5, 10, 20, 50]
    rows = [
        {"mode": "keep", "kind": kind, "k": size, "n": 60, "accuracy": 0.5 + slope * i}
        for kind, slope in (("detectors", 0.07), ("random", 0.03))
        for i, size in enumerate(k)
    ]
    table = pd.DataFrame(rows)
    return curves.ablation(
        table.assign(low=table["accuracy"] - 0.08, high=table["accuracy"] + 0.06), ax=ax
    )


def _backbones(world: Planted, ax: Any = None) -> Any:
    rows = [
        {"backbone": name, "head": head, "n": 60, "accuracy": value}
        for name, value in (("efficientnet_lite0", 0.9), ("vgg16", 0.8), ("a" * 70, 0.7))
        for head in ("logistic", "mlp")
    ]
    rows.append({"backbone": "", "head": "dummy", "n": 60, "accuracy": 0.5})
    return scores.backbones(_intervals(pd.DataFrame(rows), "accuracy"), ax=ax)


def _cam_strips(world: Planted) -> Any:
    k = 3
    return pictures.cam_strips(
        CamExamples(
            pictures=np.stack([make_picture(i, 96, 96) for i in range(k)]),
            labels=world.shown(k),
            true_boxes=[TRUE] * k,
            heats={name: world.heats(k, 7, 7) for name in GRADIENT_METHODS},
            boxes={name: [FOUND] * k for name in GRADIENT_METHODS},
        )
    )


def _card(world: Planted) -> Any:
    rows = pd.DataFrame({"row": range(4), "path": "x.jpg", "label": world.shown(4)})
    name = world.classes[0]
    return neurons.neuron_card(
        NeuronCard(
            layer="top",
            neuron=7,
            label=str(name),
            title=f"Neuron 7 of top, active for {name}",
            facts=[f"chosen: AUROC 0.90 for {name}", "unseen: AUROC 0.87 [0.80, 0.92], confirmed"],
            best=rows.assign(activation=[2.0, 1.9, 1.8, 1.7]),
            worst=rows.assign(activation=0.0),
            pictures=world.pictures(8),
            heats=world.heats(8, 7, 7),
            activations=world.store.activations[:, 7],
            labels=world.labels,
            unit="mean activation (network units)",
        )
    )


def _changes(world: Planted, ax: Any = None) -> Any:
    table = world.neurons[["class", "neuron"]].assign(
        auroc_before=world.neurons["auroc"],
        auroc_after=np.clip(world.neurons["auroc"] + 0.03, 0, 1),
        confirmed_before=world.neurons["auroc"] > 0.75,
        confirmed_after=world.neurons["auroc"] > 0.73,
    )
    return neurons.detector_changes(table, ax=ax)


def _confounds(world: Planted, ax: Any = None) -> Any:
    names = ["file_size", "brightness", "object_area", "width"]
    rows = [
        {"class": name, "statistic": what, "n": 10, "n_ref": 30, "auroc": 0.3 + 0.05 * i + 0.02 * k}
        for i, what in enumerate(names)
        for k, name in enumerate(world.classes[:30])
    ]
    return scores.confounds(_intervals(pd.DataFrame(rows), "auroc"), ax=ax)


def _dam(world: Planted) -> Any:
    rng, k, side = np.random.default_rng(1), 5, 21
    masks = rng.random((k, side, side)) < 0.1
    kept = np.arange(k) < 3
    return network.dam_steps(
        DamTrace(
            pixels=make_picture(3, side, side),
            label=world.classes[0],
            map_shape=(7, 7),
            units=np.stack([np.arange(k) % 7, np.arange(k) // 2, 100 * np.arange(k)], axis=1),
            scores=np.linspace(1, 0, k),
            gradients=rng.normal(size=(k, side, side)),
            masks=masks,
            losses=np.linspace(1.5, 4.4, k),
            kept=kept,
            union=masks[kept].any(axis=0),
            box_in_input=np.array([0.1, 0.2, 0.8, 0.9]),
            box=FOUND,
        ),
        np.array([[4.0, 5.0, 15.0, 19.0]]),
    )


def _distributions(world: Planted) -> Any:
    rows = (world.split == "confirm").to_numpy()
    detectors = world.neurons[world.neurons["detector"]]
    return neurons.activation_distributions(
        world.store.activations[rows], world.labels[rows], detectors
    )


def _embedding(world: Planted) -> Embedding:
    rng = np.random.default_rng(2)
    codes = np.array([world.classes.index(label) for label in world.labels])
    centres = rng.normal(size=(len(world.classes), 2)) * 30
    points = centres[codes] + rng.normal(size=(len(codes), 2)) * 4
    coordinates = pd.DataFrame(points, columns=["tsne_1", "tsne_2"]).assign(pc1=0.0, pc2=0.0)
    grid = pd.DataFrame({"row": range(30), "x": np.arange(30) % 6, "y": np.arange(30) // 6})
    return Embedding(
        coordinates=coordinates,
        explained_variance=np.array([0.4, 0.2]),
        perplexity=30.0,
        trustworthiness={"tsne": 0.91, "pca": 0.7},
        n_neighbors=10,
        thumbnails=grid,
        cell_side=1.0,
        parameters={},
    )


def _faithfulness(world: Planted) -> Any:
    table = pd.DataFrame({"method": [*GRADIENT_METHODS, "random"], "n": 24})
    table["baseline"] = table["method"] == "random"
    for score in ("deletion", "insertion", "average_drop", "increase"):
        table[score] = np.linspace(0.8, 0.2, len(table))
        table = _intervals(table, score)
    return scores.faithfulness_scores(table)


def _learning(world: Planted, ax: Any = None) -> Any:
    return curves.learning_curve(make_head_details(world.heads).learning, ax=ax)


def _calibration(world: Planted, ax: Any = None) -> Any:
    return curves.calibration(make_head_details(world.heads).calibration, ax=ax)


def _localisation_titles(world: Planted) -> tuple[Any, dict[str, str]]:
    found = make_localisation(world.store, world.split)
    titles = {
        "cam": "class activation map (CAM)",
        "detectors": "detectors combined",
        "centre_gaussian": "(a blob at the picture's centre)",
    }
    return found, titles


def _success(world: Planted, ax: Any = None) -> Any:
    scored, titles = _localisation_titles(world)
    return curves.success_curves(scored.success, titles, ax, n=60)


def _thresholds(world: Planted, ax: Any = None) -> Any:
    scored, titles = _localisation_titles(world)
    table = scored.curves
    table["accuracy"] = 0.8 - (table["threshold"] - 0.3 - 0.1 * table["method"].eq("cam")) ** 2
    return curves.threshold_curves(table, titles, {"cam": 0.32, "centre_gaussian": 0.5}, ax, n=60)


def _method_strips(world: Planted) -> Any:
    k, methods = 3, ["detectors combined", "first component of the class", "sum of all maps"]
    return pictures.method_strips(
        world.pictures(k),
        {name: world.heats(k, 7, 7) for name in methods},
        labels=world.shown(k),
        true_boxes=[TRUE] * k,
        predicted_boxes={name: [FOUND] * k for name in methods},
    )


def _detector_maps(world: Planted) -> Any:
    k, labels = 4, world.shown(4)
    return pictures.detector_maps(
        world.pictures(k),
        world.heats(k, 3, 7, 7),
        [f"neuron {i}\n{world.shown(3)[i]}" for i in range(3)],
        labels=labels,
        predicted_labels=[*labels[:2], labels[3], labels[1]],
        true_boxes=[TRUE] * k,
    )


def _localisation_examples(world: Planted) -> Any:
    k = 5
    return pictures.localisation_examples(
        world.pictures(k), world.heats(k, 7, 7), [TRUE] * k, [FOUND] * k,
        [0.9, 0.7, 0.5, 0.2, 0.0], labels=world.shown(k),
    )  # fmt: skip


def _randomisation(world: Planted, ax: Any = None) -> Any:
    layers = ["", "head", "block14_expand_bn", "block8_expand_conv", "stem_conv"]
    rng = np.random.default_rng(4)
    rows = [
        {
            "image": image, "rule": rule, "stage": stage, "down_to": layer,
            "spearman_absolute": 1 - slope * stage - 0.1 * rng.random() * (stage > 0),
        }
        for rule, slope in (("plain", 0.2), ("guided", 0.1))
        for stage, layer in enumerate(layers)
        for image in range(4)
    ]  # fmt: skip
    return curves.randomisation_curves(pd.DataFrame(rows), ax=ax)


def _small_images(world: Planted, ax: Any = None) -> Any:
    table = pd.DataFrame(
        {
            "pictures": ["32 px copies", "32 px copies", "original"],
            "network": ["at 32 px", "at 224 px, up-sampled on reading", "at 224 px"],
            "cells": ["1 × 1", "7 × 7", "7 × 7"], "n": 60, "accuracy": [0.7, 0.8, 0.95],
        }
    )  # fmt: skip
    return scores.small_images(_intervals(table, "accuracy"), ax=ax)


def _transfer_comparison(world: Planted, ax: Any = None) -> Any:
    table = pd.DataFrame(
        {
            "name": ["logistic", "mlp", "frozen", "thawed"], "n": 60,
            "accuracy": [0.9, 0.88, 0.91, 0.95], "seconds": [1.8, 2.7, 21.9, 1278.5],
            "trainable_parameters": [1281, 164097, 2562, 1483522],
        }
    )  # fmt: skip
    return scores.transfer_comparison(_intervals(table, "accuracy"), ax=ax)


def _transfer_curves(world: Planted) -> Any:
    epochs = np.arange(1, 13)
    parts = []
    for name in ("frozen", "thawed"):
        loss = 0.7 * np.exp(-epochs / 4)
        parts.append(
            pd.DataFrame(
                {
                    "name": name, "epoch": epochs, "loss": loss, "val_loss": 1.1 * loss,
                    "accuracy": 1 - loss / 2, "val_accuracy": 1 - loss / 1.8,
                    "phase": np.where((epochs > 6) & (name == "thawed"), "thawed", "frozen"),
                }
            )
        )  # fmt: skip
    return curves.transfer_curves(pd.concat(parts, ignore_index=True))


# Figures of one chart: draw on the axes that they are given. After a dash: what else it can draw.
CHARTS: dict[str, Callable[..., Any]] = {
    "ablation": _ablation,
    "backbones": _backbones,
    "calibration": _calibration,
    "class_balance": lambda world, ax=None: data.class_balance(
        world.store.images, world.split, ax=ax
    ),
    "confounds": _confounds,
    "confusion_matrix": lambda world, ax=None: scores.confusion_matrix(
        world.heads.confusion("logistic"), ax=ax
    ),
    "detector_aurocs": lambda world, ax=None: scores.detector_aurocs(
        world.neurons[world.neurons["detector"]], ["top", "one without detectors"], ax=ax
    ),
    "detector_changes": _changes,
    "embedding_scatter": lambda world, ax=None: data.embedding_scatter(
        _embedding(world), world.labels, misclassified=[3, 5, 8], ax=ax
    ),
    "embedding_thumbnails": lambda world, ax=None: data.embedding_thumbnails(
        _embedding(world), world.pictures(30), world.labels, ax=ax
    ),
    "box_curve": lambda world, ax=None: curves.box_curve(world.boxes.curve, ax=ax, best=0.5),
    "learning_curve": _learning,
    "output_shape": lambda world, ax=None: network.output_shape(
        (7, 7, 1280), (224, 224), n_classes=len(world.classes), ax=ax
    ),
    "randomisation_curves": _randomisation,
    "score_intervals": lambda world, ax=None: scores.score_intervals(
        world.heads.table, "accuracy", ax=ax
    ),
    "score_intervals-boxes": lambda world, ax=None: scores.score_intervals(
        world.boxes.heads, "mean_iou", ax=ax
    ),
    "score_intervals-methods": lambda world, ax=None: scores.score_intervals(
        make_localisation(world.store, world.split).table, "box_accuracy", ax=ax
    ),
    "score_intervals-stores": lambda world, ax=None: scores.score_intervals(
        world.heads.table.assign(name=world.heads.table["head"], baseline=False),
        "accuracy",
        ax=ax,
    ),
    "selected_vs_confirmed": lambda world, ax=None: neurons.selected_vs_confirmed(
        world.neurons, ax=ax
    ),
    "small_images": _small_images,
    "success_curves": _success,
    "threshold_curves": _thresholds,
    "transfer_comparison": _transfer_comparison,
    "volcano": lambda world, ax=None: neurons.volcano(
        world.neurons, ax=ax, alpha=0.05, min_auroc=0.7
    ),
}
# Figures of several panels: make a figure of their own.
GRIDS: dict[str, Callable[[Planted], Any]] = {
    "activation_distributions": _distributions,
    "box_statistics": lambda world: data.box_statistics(
        world.boxes.statistics, n_images=len(world.store.images)
    ),
    "cam_strips": _cam_strips,
    "dam_steps": _dam,
    "detector_maps": _detector_maps,
    "faithfulness_scores": _faithfulness,
    "gradient_maps": lambda world: network.gradient_maps(
        [make_picture(i, 64, 64) for i in range(2)],
        {
            rule: np.random.default_rng(6).normal(size=(2, 64, 64, 3))
            for rule in ("plain", "guided")
        },
        labels=world.shown(2),
    ),
    "localisation_examples": _localisation_examples,
    "method_strips": _method_strips,
    "neuron_card": _card,
    "sample_pictures": lambda world: pictures.sample_pictures(
        world.pictures(8), world.shown(8), [TRUE] * 8
    ),
    "sample_pictures-flagged": lambda world: pictures.sample_pictures(
        world.pictures(6), [f"{name}\nlooks like {name}" for name in world.shown(6)]
    ),
    "transfer_curves": _transfer_curves,
}
# Drawn from class names or numbers of classes: worth a picture for 2 and for 37.
BY_CLASS = {
    "activation_distributions", "class_balance", "confounds", "confusion_matrix",
    "detector_changes", "detector_maps", "embedding_scatter", "embedding_thumbnails",
    "neuron_card", "sample_pictures", "selected_vs_confirmed", "volcano",
}  # fmt: skip
FIGURES = CHARTS | GRIDS
