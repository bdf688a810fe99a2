"""From pictures to a report in one command: demo, run; and the pass that others begin with."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featlab.cli import _network
from featlab.cli._options import (
    BackboneName,
    BoxKind,
    Dtype,
    Engine,
    GroupFrom,
    Images,
    InputSize,
    Layers,
    OnError,
    Output,
    OutputStride,
    PassBatchSize,
    Precision,
    Preprocessing,
    Resize,
    Seed,
    Weights,
)
from featlab.cli._progress import bar, extract_bar, quiet_bar
from featlab.cli._stores import found_earlier, workers_ready
from featlab.cli._summary import command_line, tell
from featlab.errors import FeatlabError

if TYPE_CHECKING:
    import pandas as pd

    from featlab.backbones import Backbone
    from featlab.store import MapStore


_N_SCENES = 240


def demo(
    output: Output = Path("featlab-demo"),
    dataset: Annotated[
        str,
        typer.Option(
            help="scenes (built in); or, downloaded once: oxford-pets, oxford-pets-species, "
            "cub-200-2011."
        ),
    ] = "scenes",
    data: Annotated[
        Path | None, typer.Option(help="Folder for downloads; ~/.cache/featlab by default.")
    ] = None,
    n: Annotated[
        int | None, typer.Option("-n", min=40, help=f"Number of scenes; {_N_SCENES} by default.")
    ] = None,
    seed: Seed = 0,
) -> None:
    """Run everything on built-in scenes, or a public set, with the built-in network."""
    load = partial(_network.load, "efficientnet_lite0")
    if dataset != "scenes":
        if n is not None:
            raise FeatlabError("-n is the number of built-in scenes; leave it out with --dataset.")
        images, box_kind = _fetched(dataset, data or Path.home() / ".cache" / "featlab")
        # A public set is as it is: a file or box in it that cannot be used is nobody's to mend.
        _run(images, output, load, box_kind=box_kind, on_error="skip", seed=seed)
        return
    from featlab import datasets

    scenes = datasets.write_scenes(
        output / "scenes", n or _N_SCENES, random_state=seed, progress=partial(bar, label="scenes")
    )
    _run(scenes, output, load, seed=seed)


def _fetched(dataset: str, data: Path) -> tuple[Path, str]:
    """The index of a public set, and the kind of its boxes that every test picture has."""
    from featlab import datasets

    if dataset in ("oxford-pets", "oxford-pets-species"):
        label = "species" if dataset.endswith("-species") else "breed"
        return datasets.fetch_oxford_pets(data, label=label, progress=_download_bar), "body"
    if dataset == "cub-200-2011":
        return datasets.fetch_cub_200_2011(data, progress=_download_bar), "object"
    raise FeatlabError(
        "--dataset must be scenes, oxford-pets, oxford-pets-species or cub-200-2011, got "
        f"{dataset!r}."
    )


def _download_bar(blocks: Iterable[range]) -> Iterator[range]:
    """Rate and time left in bytes; a download that is gone on with begins where it was."""
    from tqdm import tqdm

    blocks = list(blocks)
    start, stop = blocks[0].start, blocks[-1].stop
    with tqdm(desc="download", total=stop, initial=start, unit="B", unit_scale=True) as shown:
        for block in blocks:
            yield block
            shown.update(len(block))


def run(
    images: Images,
    output: Output,
    backbone: BackboneName = "efficientnet_lite0",
    weights: Weights = "imagenet",
    input_size: InputSize = None,
    output_stride: OutputStride = None,
    layers: Layers = None,
    preprocessing: Preprocessing = None,
    resize: Resize = "stretch",
    dtype: Dtype = "float16",
    batch_size: PassBatchSize = None,
    engine: Engine = "auto",
    precision: Precision = "float32",
    box_kind: BoxKind = None,
    group_from: GroupFrom = None,
    on_error: OnError = "raise",
    seed: Seed = 0,
) -> None:
    """From an image folder to a report: index, extract, heads, neurons, localisation."""
    _run(
        images,
        output,
        partial(
            _network.load,
            backbone,
            weights,
            input_size,
            layers,
            output_stride,
            preprocessing,
            engine,
            precision,
        ),
        resize=resize,
        dtype=dtype,
        batch_size=batch_size,
        box_kind=box_kind,
        group_from=group_from,
        on_error=on_error,
        seed=seed,
    )


def _run(
    images: Path,
    output: Path,
    load: Callable[[], Backbone],
    *,
    seed: int,
    resize: str = "stretch",
    dtype: str = "float16",
    batch_size: int | None = None,
    box_kind: str | None = None,
    group_from: str | None = None,
    on_error: str = "raise",
) -> None:
    path = output / "maps.h5"
    with workers_ready(path.exists()):
        from featlab import localise, splits
        from featlab.pipeline import analyse, write_results

        seconds: dict[str, float] = {}
        start = time.perf_counter()
        table, boxes = index(images, group_from, on_error)
        seconds["index"] = round(time.perf_counter() - start, 3)
        # What the later stages would refuse is refused before the pass, not after it.
        splits.make_split(table, random_state=seed)
        localise.boxes_of_kind(boxes, box_kind)
        output.mkdir(parents=True, exist_ok=True)
        options = {"boxes": boxes, "resize": resize, "dtype": dtype}
        with finished_store(table, load, path, options, batch_size, seconds) as store:
            results = analyse(
                store,
                box_kind=box_kind,
                random_state=seed,
                command=command_line(),
                seconds=seconds,
                progress=quiet_bar,
                **found_earlier(output),
            )
            tell(write_results(results, output), output)


def index(images: Path, group_from: str | None, on_error: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The image table and the box table, with a bar."""
    from featlab.images import index_images

    return index_images(
        images, group_from=group_from, on_error=on_error, progress=partial(bar, label="index")
    )


def finished_store(
    table: pd.DataFrame,
    load: Callable[[], Backbone],
    path: Path,
    options: dict[str, Any],
    batch_size: int | None,
    seconds: dict[str, float],
    make: Callable[..., MapStore] | None = None,
) -> MapStore:
    """The finished store; `seconds` gets those of the pass, 0 when the store was there."""
    from featlab.extract import extract_maps, find_store

    seconds["extract"] = 0.0
    with _network.libraries_silenced():
        network = load()
        store = find_store(table, network, path, **options)
        if store is None:
            network.probe()  # loads them
    if store is not None:
        logging.getLogger(__name__).info("%s is finished already: no forward pass", path)
        return store
    start = time.perf_counter()
    store = (make or extract_maps)(
        table, network, path, batch_size=batch_size, progress=extract_bar, **options
    )
    seconds["extract"] = round(time.perf_counter() - start, 3)
    return store
