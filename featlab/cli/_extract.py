"""The pass alone, on one machine or on many: extract, join."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featlab.cli import _network
from featlab.cli._options import (
    BackboneName,
    Dtype,
    Engine,
    GroupFrom,
    Images,
    InputSize,
    Layers,
    OnError,
    OutputStride,
    PassBatchSize,
    Precision,
    Preprocessing,
    Resize,
    Virtual,
    Weights,
)
from featlab.cli._pass import finished_store, index
from featlab.cli._progress import extract_bar
from featlab.errors import FeatlabError

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

    from featlab.backbones import Backbone
    from featlab.store import MapStore


def extract(
    images: Images,
    store: Annotated[Path, typer.Option("-o", "--output", help="The store to write (.h5).")],
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
    group_from: GroupFrom = None,
    on_error: OnError = "raise",
    append: Annotated[
        Path | None,
        typer.Option(
            help="A finished store beside the new one: only pictures that it lacks are run, and "
            "the new store shares its maps."
        ),
    ] = None,
    virtual: Virtual = False,
    shard: Annotated[
        str | None,
        typer.Option(
            help="k/n: only the k-th of n shares, on n machines that see the same folder; then "
            "`featlab join`."
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Address of a Dask scheduler, such as tcp://10.0.0.1:8786: its workers run the "
            "network."
        ),
    ] = None,
) -> None:
    """Run the network once and keep its feature maps; goes on where it was interrupted."""
    if shard is not None and (append or virtual or scheduler):
        raise FeatlabError("--shard goes without --append, --virtual and --scheduler.")
    share = None if shard is None else _share(shard)
    load = partial(
        _network.load,
        backbone,
        weights,
        input_size,
        layers,
        output_stride,
        preprocessing,
        engine,
        precision,
    )
    table, boxes = index(images, group_from, on_error)
    options = {"boxes": boxes, "resize": resize, "dtype": dtype}
    if share is not None:
        _extract_share(table, load, store, share, batch_size, options)
        return
    with _client(scheduler) as client:
        make = _maker(append, virtual, client)
        print(finished_store(table, load, store, options, batch_size, {}, make))


def join(
    store: Annotated[Path, typer.Argument(help="The store that every shard was given.")],
    virtual: Virtual = False,
) -> None:
    """Join what the shards of a pass wrote; or make one file of a virtual store."""
    from featlab.extract import join_shards

    print(join_shards(store, virtual=virtual))


def _share(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise FeatlabError(f"--shard must be k/n with 1 ≤ k ≤ n, such as 3/8, got {text!r}.")
    return int(number), int(of)


def _extract_share(
    table: pd.DataFrame,
    load: Callable[[], Backbone],
    path: Path,
    share: tuple[int, int],
    batch_size: int | None,
    options: dict[str, Any],
) -> None:
    from featlab.extract import extract_shard

    with _network.libraries_silenced():
        network = load()
        network.probe()
    done = extract_shard(
        table, network, path, share, batch_size=batch_size, progress=extract_bar, **options
    )
    if done is None:
        print(f"{path} is finished already")
    else:
        print(
            f"shard {share[0]} of {share[1]}: {done} images; when all are done: featlab join {path}"
        )


@contextmanager
def _client(scheduler: str | None) -> Iterator[Client | None]:
    if scheduler is None:
        yield None
        return
    from featlab.extract import connect

    with connect(scheduler) as client:
        yield client


def _maker(append: Path | None, virtual: bool, client: Client | None) -> Callable[..., MapStore]:
    """What makes the store: a whole pass, or one over what another store lacks."""
    from featlab.extract import append_maps, extract_maps

    if append is None:
        return partial(extract_maps, virtual=virtual, client=client)

    def grown(table: pd.DataFrame, network: Backbone, path: Path, **options: Any) -> MapStore:
        return append_maps(table, network, append, path, client=client, **options)

    return grown
