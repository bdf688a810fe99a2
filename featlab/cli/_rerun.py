"""The commands that take the network itself, or a predictor of it."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import featlab
from featlab.cli import _pass
from featlab.cli._options import (
    BoxKind,
    Copies,
    ModelBackbone,
    ModelCustom,
    ModelWeights,
    Output,
    Pass,
    Seed,
    Store,
    command_line,
    extract_bar,
    quiet_bar,
    show,
    takes_pass,
    writable_folder,
    write_figures,
    write_tables,
)
from featlab.cli._pages import labelled_store
from featlab.system import libraries_silenced

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

logger = logging.getLogger(__name__)

_FEWEST_CHOOSING = 10  # confirm images with a box by which thresholds are chosen
_A_SHEET = 12  # pictures of one figure
_MOST_BOXES = 20  # rows printed
_WHOSE = {
    "label": "the set's classes",
    "model": "the model's classes",
    "own": "the network's own classes",
}
_FIRST = ("dam_original", "grad_cam")  # whose boxes are printed; without guided gradients
_BOXES = [*("path", "class_asked", "probability"), *("xmin", "ymin", "xmax", "ymax")]

# The maps of the fine-tuned network are made and kept as those of the frozen one.
_AS_THE_FROZEN = ("resize", "dtype", "batch_size", "engine", "precision")
_LOCALISATION = [
    *("n", "threshold", "box_accuracy", "box_accuracy_low", "box_accuracy_high", "mean_iou"),
    *("mean_iou_low", "mean_iou_high", "max_box_acc", "centre_in_box", "picture_centre_in_box"),
    "seconds_per_image",
]


def gradients(
    store: Store,
    output: Output,
    target: Annotated[
        Literal["label", "own"] | None,
        typer.Option(
            help="Whose classes are asked for: yours, or those of the network's own classifier. "
            "(default: yours; own where there are no labels)"
        ),
    ] = None,
    model: Annotated[
        Path | None,
        typer.Option(
            help="For pictures without labels: a model of a set with labels (model.featlab, or the "
            "folder of its run), whose classes are asked for."
        ),
    ] = None,
    images: Annotated[
        int,
        typer.Option(
            min=1,
            help="Test images that are scored; others choose the thresholds. Without boxes, images "
            "that are shown.",
        ),
    ] = 60,
    pictures: Annotated[
        list[str] | None,
        typer.Option(
            help="A picture of the set to be shown with its boxes: its path in the set, a pattern "
            "of paths, or its file. May be given several times."
        ),
    ] = None,
    backbone: Annotated[
        str | None,
        typer.Option(help="A network or .keras file. (default: the one the store names)"),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="imagenet, none or a weights file. (default: those the store names)"),
    ] = None,
    custom: ModelCustom = None,
    box_kind: BoxKind = None,
    copies: Copies = "together",
    seed: Seed = 0,
) -> None:
    """Run the network again on some images: heat maps and boxes from its gradients.

    Grad-CAM and its relatives, guided back-propagation, DAM (boxes without labels), and checks of
    whether they mean it.
    """
    predictor = None if model is None else featlab.predict.load_predictor(model)
    with featlab.store.MapStore(store) as opened:
        with libraries_silenced():
            network = featlab.backbones.rebuild_backbone(
                opened.provenance, backbone, weights, custom or ()
            )
            network.input_size, network.layers  # noqa: B018 - builds what the name does not tell
        results = featlab.pipeline.analyse_gradients(
            opened,
            network,
            target=target,
            model=predictor,
            n_images=images,
            pictures=pictures or None,
            box_kind=box_kind,
            copies=copies,
            random_state=seed,
            progress=partial(quiet_bar, unit="item"),
        )
    results = dataclasses.replace(results, facts=results.facts | {"command": command_line()})
    results.save(output)
    for name, figure in gradient_figures(results).items():
        figure.savefig(output / f"{name}.png", dpi=150)
    _tell_gradients(results, output)


def gradient_figures(results: featlab.results.GradientResults) -> dict[str, Any]:
    """Every figure, by the name of its file; works from loaded results too."""
    plots = featlab.plots
    drawn: dict[str, Any] = {
        f"dam_{preset}_{k}": plots.dam_steps(example.trace, example.true_boxes)
        for preset in dict.fromkeys(example.preset for example in results.dam)
        for k, example in enumerate(one for one in results.dam if one.preset == preset)
    }
    examples = results.examples
    drawn["gradient_maps"] = plots.network.gradient_maps(
        examples.pictures, examples.maps, labels=examples.labels
    )
    for start in range(0, len(results.cams.pictures), _A_SHEET):
        name = f"grad_cam_family_{start // _A_SHEET + 1}" if start else "grad_cam_family"
        part = results.cams.subset(slice(start, start + _A_SHEET))
        drawn[name] = plots.pictures.cam_strips(part)
    drawn["randomisation"] = plots.curves.randomisation_curves(results.sanity).figure
    drawn["faithfulness"] = plots.scores.faithfulness_scores(results.faithfulness)
    return drawn


def _tell_gradients(results: featlab.results.GradientResults, output: Path) -> None:
    """The tables in a few lines."""
    facts = results.facts
    if facts["guided_refused"]:
        print(f"no guided back-propagation and no DAM: {facts['guided_refused']}")
    else:
        print(f"{facts['n_patched']} rectifiers guided in {facts['backbone']}")
    asked = ", ".join(f"{name} ({n})" for name, n in list(facts["asked"].items())[:10])
    print(f"asked for {_WHOSE[facts['target']]}: {asked}")
    if facts["n_scored"]:
        table = results.localisation.set_index("method")[_LOCALISATION]
        print(table.to_string(float_format="{:.3f}".format))
    else:
        print("no test image has a box, so nothing is scored")
    if facts["named"] or not facts["n_scored"]:
        of_dam = results.boxes[results.boxes["method"].eq(_FIRST[facts["guided_refused"] != ""])]
        print(f"boxes by {of_dam['method'].iloc[0]}:")
        show(of_dam.head(_MOST_BOXES), _BOXES)
    print("rank correlation with the trained network's map, weights shuffled down to …:")
    agreement = results.sanity.assign(
        down_to=results.sanity["down_to"].replace("", "(trained)")
    ).pivot_table(
        index=["stage", "down_to"], columns="rule", values=["spearman", "spearman_absolute"]
    )
    print(agreement.to_string(float_format="{:.3f}".format))
    print("faithfulness:")
    faith = results.faithfulness.set_index("method").drop(columns="baseline")
    print(faith.to_string(float_format="{:.3f}".format))
    print(f"tables, figures and examples: {output}")


@takes_pass
def finetune(
    made: Pass,
    output: Output,
    blocks: Annotated[int, typer.Option(min=1, help="Last blocks of the network to thaw.")] = 2,
    epochs: Annotated[int, typer.Option(min=1, help="Most epochs of each phase.")] = 30,
    patience: Annotated[
        int, typer.Option(min=1, help="Epochs without a lower validation loss before it stops.")
    ] = 5,
    learning_rate: Annotated[float, typer.Option(help="While the head learns alone.")] = 1e-3,
    thawed_learning_rate: Annotated[float, typer.Option(help="After blocks are thawed.")] = 1e-4,
    augment: Annotated[
        bool, typer.Option(help="Flip, turn, zoom and change the contrast while thawed.")
    ] = True,
    class_weights: Annotated[
        bool, typer.Option(help="Let the classes count alike, however many images they have.")
    ] = True,
    picture_size: Annotated[
        int | None,
        typer.Option(help="The trained models take pictures of this side and up-sample them."),
    ] = None,
    small_images: Annotated[
        int | None,
        typer.Option(min=32, help="Also compare copies of this side, with and without up-sampling"),
    ] = None,
    training_batch_size: Annotated[
        int, typer.Option(min=1, help="Pictures per step of the training.")
    ] = 32,
    copies: Copies = "together",
    seed: Seed = 0,
) -> None:
    """Train a head, then the last blocks too; compare with the heads on stored maps."""
    _pass.refuse_same(made, output)
    tables = _pass.index(made)
    featlab.splits.make_split(tables.images, random_state=seed)  # refused before the pass
    output.mkdir(parents=True, exist_ok=True)
    with libraries_silenced():
        import tensorflow  # noqa: F401  # tells of itself once, while it loads
    with (
        _pass.finished_store(made, tables, output / "maps.h5")[0] as whole,
        featlab.pipeline.stores.with_copies(whole, copies) as store,
    ):
        split = featlab.splits.make_split(store.images, random_state=seed)
        small = None
        if small_images is not None:
            small = featlab.pipeline.transfer.small_images_table(
                store.images, split, made.backbone,
                weights=None if made.weights.lower() == "none" else made.weights,
                side=small_images, folder=output / "small", random_state=seed,
                progress=extract_bar,
            )  # fmt: skip
        train = partial(
            _trained, store.images, split, made, output,
            options=featlab.finetune.TrainingOptions(
                picture_size=picture_size, resize=made.resize, epochs=epochs, patience=patience,
                batch_size=training_batch_size, learning_rate=learning_rate,
                thawed_learning_rate=thawed_learning_rate,
                class_weight="balanced" if class_weights else None,
            ),
            random_state=seed,
        )  # fmt: skip
        fits = {"frozen": train("frozen", 0, None), "thawed": train("thawed", blocks, augment)}
        tuned = dataclasses.replace(
            Pass(made.images, backbone=str(output / "thawed.keras")),
            **{name: getattr(made, name) for name in _AS_THE_FROZEN},
        )
        same = dataclasses.replace(whole.tables, provenance=tables.provenance)
        with _pass.finished_store(tuned, same, output / "maps_thawed.h5")[0] as after:
            transfer = featlab.pipeline.transfer_study(
                store,
                split,
                fits,
                after.regrouped(store.images["group"]),
                small_images=small,
                random_state=seed,
            )
    transfer = dataclasses.replace(transfer, about=transfer.about | {"command": command_line()})
    transfer.save(output)
    _tell_transfer(transfer)
    _write_transfer(transfer, output)


def _trained(
    images: pd.DataFrame,
    split: pd.Series,
    made: Pass,
    output: Path,
    name: str,
    blocks: int,
    augment: bool | None,
    *,
    options: featlab.finetune.TrainingOptions,
    random_state: int,
) -> featlab.finetune.fitting.FineTuned:
    """A finished or resumed training, its model saved once: its digest names the maps' origin."""
    fitted = featlab.finetune.fit_finetuned(
        images, split, _pass.load_network(made), blocks=blocks,
        options=dataclasses.replace(options, augment=augment),
        folder=output / "checkpoints" / name, random_state=random_state,
        progress=partial(_epochs, label=name),
    )  # fmt: skip
    path = output / f"{name}.keras"
    if fitted.epochs_run == 0 and path.exists():
        logger.info("%s is trained already", path)
    else:
        fitted.save(path)
    return fitted


def _epochs(items: Iterable[int], *, label: str) -> Iterable[int]:
    from tqdm import tqdm

    return tqdm(items, desc=label, unit="epoch")


def _write_transfer(transfer: featlab.results.Transfer, output: Path) -> None:
    plots = featlab.plots
    drawings: dict[str, Any] = {
        "transfer_curves": plots.transfer_curves(transfer.curves),
        "transfer_comparison": plots.scores.transfer_comparison(transfer.comparison),
    }
    if transfer.neurons is not None:
        drawings["transfer_detectors"] = plots.detector_changes(transfer.neurons)
    if transfer.small_images is not None:
        drawings["transfer_small_images"] = plots.scores.small_images(transfer.small_images)
    write_tables(output, {f"transfer_{name}": table for name, table in transfer.tables().items()})
    write_figures(output, drawings, ["png"])


def _tell_transfer(transfer: featlab.results.Transfer) -> None:
    left_out = ["trained_on", "interval", "balanced_accuracy", "roc_auc", "log_loss", "test"]
    show(transfer.comparison.drop(columns=left_out))
    assert transfer.detectors is not None
    print("detectors before and after, on confirm images:")
    show(transfer.detectors, decimals="{:.3f}")
    if transfer.small_images is not None:
        show(transfer.small_images)


def export(
    model: Annotated[
        Path, typer.Argument(help="A predictor (model.featlab), or the folder of a run with one.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o",
            "--output",
            help="File of the model: .keras, .onnx or .tflite; without a suffix the folder of a "
            "SavedModel.",
        ),
    ],
    backbone: ModelBackbone = None,
    weights: ModelWeights = None,
    custom: ModelCustom = None,
) -> None:
    """One model for other programs: pixels to class probabilities, heat map and box."""
    featlab.predict.export_format(output)
    predictor = featlab.predict.load_predictor(model)
    with libraries_silenced():
        network = featlab.backbones.rebuild_backbone(
            predictor.provenance, backbone, weights, custom or ()
        )
        whole = predictor.to_keras(network)
        classes = featlab.predict.write_model(whole, output, predictor.classes)
    height, width = network.input_size
    print(f"{output}: RGB pixels 0 to 255 of {height} x {width} (pictures stretched to it) to")
    print(f"  probability: of {len(predictor.classes)} classes, named in {classes}")
    print(f"  heat: of the most probable class, by {predictor.heat.method}")
    print(f"  box: xmin, ymin, xmax, ymax as shares of the sides, by {predictor.box_method}")
    if grey := featlab.images.pixels.intensity_in_words(predictor.intensity):
        print(f"  pixels are made of files as in the set: {grey}")


def suggest(
    results: Annotated[
        Path, typer.Argument(help="The folder of a run, with maps.h5 and model.featlab.")
    ],
    most: Annotated[int, typer.Option("-n", "--most", min=1, help="Pictures to suggest.")] = 20,
    side: Annotated[
        Literal["train", "confirm", "test"],
        typer.Option(
            help="From which side of the split: train, whose boxes teach; confirm or test, whose "
            "boxes choose thresholds and measure, at random."
        ),
    ] = "train",
    formats: Annotated[
        str,
        typer.Option(
            help="The boxes to correct, separated by commas: csv, coco, voc, yolo, label-studio, "
            "cvat."
        ),
    ] = "voc,label-studio",
    pictures: Annotated[
        bool, typer.Option("--pictures", help="Draw each box onto a copy of its picture.")
    ] = False,
    box_kind: BoxKind = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="Folder for list and boxes. (default: suggested, in the folder of the run)",
            callback=writable_folder,
        ),
    ] = None,
    copies: Copies = "together",
) -> None:
    """Which pictures to box next, and boxes of them to correct.

    Writes suggested.csv: a row for each picture, the first to box first, with the reason; and the
    boxes of the run's best method in the formats of labelling tools. Boxed pictures count after the
    next `featlab run` of the set, which makes no pass.
    """
    room = featlab.predict
    wanted = [name.strip() for name in formats.split(",") if name.strip()]
    for name in wanted:
        featlab.arguments.check_choice("--formats", name, room.FORMATS)
    folder = results / "suggested" if output is None else output
    predictor = room.load_predictor(results)
    seed = int(predictor.measured.get("random_state", 0))
    with labelled_store(results, copies) as store:
        split = featlab.splits.make_split(store.images, random_state=seed)
        table = room.suggest_boxes(
            predictor, store, split, most, side=side, box_kind=box_kind, random_state=seed
        )
        places = store.images["folder"].to_numpy(str)[table["row"]]
        truth = featlab.arguments.true_boxes(store.images, store.boxes, box_kind)
        if pictures:
            room.write_pictures(predictor, store, table, folder / room.PICTURES)
    table.insert(1, "file", [str(Path(*one)) for one in zip(places, table["path"], strict=True)])
    write_tables(folder, {"suggested": table})
    by = f"featlab {featlab.__version__}, boxes by {predictor.box_method}, to be corrected"
    room.write_boxes(
        table.assign(probability=1.0), folder, wanted, classes=predictor.classes, model=by
    )
    show(table, ["path", "class", "score", "why"] if side == "train" else ["path", "class"])
    if side != "train":
        print(f"{side} images {table['why'].iloc[0]}")
    _tell_boxed(split.to_numpy(str), truth["image"].unique())
    print(f"boxes to correct, by {predictor.box_method}: {', '.join(wanted) or 'none'}")
    print(f"suggested: {folder / 'suggested.csv'}")


def _tell_boxed(sides: np.ndarray, boxed: np.ndarray) -> None:
    """How many images of each side have a box, and what is lacking."""
    of_side = {one: int((sides[boxed] == one).sum()) for one in featlab.arguments.SIDES}
    counts = (f"{one} {n} of {(sides == one).sum()}" for one, n in of_side.items())
    print(f"images with a box so far: {', '.join(counts)}")
    if not of_side["test"]:
        print(
            "  none of test: nothing is scored, and no box chooses the boxes' method or threshold "
            "(--side test)"
        )
    elif of_side["confirm"] < _FEWEST_CHOOSING:
        print(
            f"  fewer than {_FEWEST_CHOOSING} of confirm: thresholds are chosen on those of train, "
            "too (--side confirm)"
        )
