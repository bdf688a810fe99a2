"""The command that trains the network: a head, then its last blocks too."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featlab.cli import _network
from featlab.cli._options import (
    BackboneName,
    BatchSize,
    GroupFrom,
    Images,
    InputSize,
    OnError,
    Output,
    Preprocessing,
    Resize,
    Seed,
    Weights,
)
from featlab.cli._pass import finished_store, index
from featlab.cli._progress import extract_bar

if TYPE_CHECKING:
    import pandas as pd

    from featlab.backbones import Backbone
    from featlab.finetune import FineTuned
    from featlab.results.transfer import Transfer
from featlab.cli._folder import write_figures, write_tables

logger = logging.getLogger(__name__)


def finetune(
    images: Images,
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
    backbone: BackboneName = "efficientnet_lite0",
    weights: Weights = "imagenet",
    input_size: InputSize = None,
    preprocessing: Preprocessing = None,
    resize: Resize = "stretch",
    batch_size: BatchSize = 32,
    group_from: GroupFrom = None,
    on_error: OnError = "raise",
    seed: Seed = 0,
) -> None:
    """Train a head, then the last blocks too; compare with the heads on stored maps."""
    from featlab import finetune as room
    from featlab import splits
    from featlab.pipeline import small_images_table, transfer_study

    table, boxes = index(images, group_from, on_error)
    split = splits.make_split(table, random_state=seed)
    output.mkdir(parents=True, exist_ok=True)
    with _network.libraries_silenced():
        import tensorflow  # noqa: F401  # tells of itself once, while it loads
    load = partial(_network.load, backbone, weights, input_size, None, None, preprocessing)
    options = {"boxes": boxes, "resize": resize, "dtype": "float16"}
    store = finished_store(table, load, output / "maps.h5", options, batch_size, {})
    with store:
        small = None
        if small_images is not None:
            small = small_images_table(
                store.images, split, backbone,
                weights=None if weights.lower() == "none" else weights,
                side=small_images, folder=output / "small", random_state=seed,
                progress=extract_bar,
            )  # fmt: skip
        train = partial(
            _trained, store.images, split, load, output,
            picture_size=picture_size, resize=resize, epochs=epochs, patience=patience,
            batch_size=batch_size, learning_rate=learning_rate,
            thawed_learning_rate=thawed_learning_rate,
            class_weight="balanced" if class_weights else None, random_state=seed,
        )  # fmt: skip
        fits = {
            "frozen": train("frozen", blocks=0),
            "thawed": train("thawed", blocks=blocks, augment=augment),
        }
        tuned = partial(_network.load, str(output / "thawed.keras"))
        path = output / "maps_thawed.h5"
        with finished_store(table, tuned, path, options, batch_size, {}) as after:
            found = transfer_study(store, split, fits, after, small_images=small, random_state=seed)
    room.save_transfer(found, output)
    _tell_transfer(found)
    _write_transfer(found, output)


def _trained(
    images: pd.DataFrame,
    split: pd.Series,
    load: Callable[[], Backbone],
    output: Path,
    name: str,
    **options: Any,
) -> FineTuned:
    """A finished or resumed training, its model saved once: its digest names the maps' origin."""
    from featlab import finetune as room

    fitted = room.fit(
        images, split, load(), folder=output / "checkpoints" / name,
        progress=partial(_epochs, label=name), **options,
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


def _write_transfer(found: Transfer, output: Path) -> None:
    from featlab import plots

    drawings: dict[str, Any] = {
        "transfer_curves": plots.transfer_curves(found.curves),
        "transfer_comparison": plots.transfer_comparison(found.comparison),
    }
    if found.neurons is not None:
        drawings["transfer_detectors"] = plots.detector_changes(found.neurons)
    if found.small_images is not None:
        drawings["transfer_small_images"] = plots.small_images(found.small_images)
    write_tables(output, {f"transfer_{name}": table for name, table in found.tables().items()})
    write_figures(output, drawings, ["png"])


def _tell_transfer(found: Transfer) -> None:
    shown = ["name", "n", "accuracy", "accuracy_low", "accuracy_high", "difference", "p"]
    shown += ["seconds", "trainable_parameters"]
    print(found.comparison[shown].to_string(index=False, float_format="{:.3f}".format))
    assert found.detectors is not None
    print("detectors before and after, on confirm images:")
    print(found.detectors.to_string(index=False, float_format="{:.3f}".format))
    if found.small_images is not None:
        print(found.small_images.to_string(index=False, float_format="{:.3f}".format))
