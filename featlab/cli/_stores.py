"""Stores: made by the pass alone, on one machine or many; joined, told of, checked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import featlab
from featlab.cli import _pass
from featlab.cli._options import Pass, Store, Virtual, takes_pass
from featlab.cli._output import extract_bar
from featlab.errors import FeatlabError

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client


@takes_pass
def extract(
    made: Pass,
    store: Annotated[Path, typer.Option("-o", "--output", help="The store to write (.h5).")],
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
    table, boxes = _pass.index(made)
    if share is not None:
        _extract_share(made, table, boxes, store, share)
        return
    with _client(scheduler) as client:
        print(_pass.finished_store(made, table, boxes, store, _maker(append, virtual, client))[0])


def join(
    store: Annotated[Path, typer.Argument(help="The store that every shard was given.")],
    virtual: Virtual = False,
) -> None:
    """Join what the shards of a pass wrote; or make one file of a virtual store."""
    print(featlab.extract.join_shards(store, virtual=virtual))


def info(store: Store) -> None:
    """Say what a store holds."""
    with featlab.store.MapStore(store) as opened:
        print(opened)
        for label, count in opened.images["label"].value_counts().sort_index().items():
            print(f"  class {label}: {count} images")
        for kind, count in opened.boxes["kind"].value_counts().sort_index().items():
            print(f"  boxes {kind or '(no kind)'}: {count}")
        if opened.virtual:
            files = {piece.file for piece in opened.pieces}
            print(f"  virtual: its maps lie in {len(files)} other files")
        print(f"  skipped files: {len(opened.images.attrs['skipped'])}")
        for key, value in sorted(opened.provenance.items()):
            if not key.startswith("probe_"):
                print(f"  {key}: {value}")


def verify(store: Store) -> None:
    """Read a store once and check it against itself."""
    with featlab.store.MapStore(store) as opened:
        opened.verify()
        print(f"{store}: {len(opened)} images, layers {', '.join(opened.layers)}: all is well")


def _share(text: str) -> tuple[int, int]:
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
        raise FeatlabError(f"--shard must be k/n with 1 ≤ k ≤ n, such as 3/8, got {text!r}.")
    return int(number), int(of)


def _extract_share(
    made: Pass, table: pd.DataFrame, boxes: pd.DataFrame, path: Path, share: tuple[int, int]
) -> None:
    with _pass.libraries_silenced():
        network = _pass.load_network(made)
        network.probe()
    done = featlab.extract.extract_shard(
        table,
        network,
        path,
        share,
        boxes=boxes,
        options=_pass.pass_options(made),
        progress=extract_bar,
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
    with connect(scheduler) as client:
        yield client


def connect(address: str, seconds: float = 20) -> Client:
    """A client of the Dask scheduler at an address such as ``tcp://10.0.0.1:8786``."""
    try:
        from distributed import Client
    except ImportError as error:
        raise FeatlabError(
            "a Dask cluster needs the extra cluster: pip install 'featlab[cluster]'."
        ) from error
    try:
        return Client(address, timeout=seconds)
    except (OSError, ValueError) as error:
        raise FeatlabError(f"no Dask scheduler answers at {address}: {error}.") from error


def _maker(
    append: Path | None, virtual: bool, client: Client | None
) -> Callable[..., featlab.store.MapStore]:
    """What makes the store: a whole pass, or one over what another store lacks."""
    if append is None:
        return partial(featlab.extract.extract_maps, virtual=virtual, client=client)

    def grown(
        table: pd.DataFrame, network: featlab.backbones.Backbone, path: Path, **options: Any
    ) -> featlab.store.MapStore:
        return featlab.extract.append_maps(table, network, append, path, client=client, **options)

    return grown
