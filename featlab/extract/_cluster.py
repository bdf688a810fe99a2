"""One pass on the workers of a Dask cluster: each loads the network once and writes parts.

Needs the extra ``cluster``, hence is imported when a client is given.
"""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import cast
from uuid import uuid4

import pandas as pd
from distributed import Client, KilledWorker, Worker, WorkerPlugin, as_completed, get_worker
from distributed.comm import CommClosedError

from featlab.arguments import Progress, tracked
from featlab.errors import FeatlabError
from featlab.extract._parts import TABLES, load_tables
from featlab.extract._passing import Pass, written_parts
from featlab.extract._source import running_of
from featlab.store.network import refuse_difference
from featlab.system import __version__


def write_parts_on(
    client: Client, run: Pass, wanted: Sequence[range], *, progress: Progress | None = None
) -> None:
    """Write parts of a pass on the workers of a cluster.

    The scheduler sees ranges of rows; the pictures and the parts go by the storage that all of
    them share. What a worker that dies had in hand is done by another one.

    Raises
    ------
    FeatlabError
        A worker could not do its share, or does not see the same storage.
    """
    plugin = WorkerPass(replace(run, parts=run.parts.resolve()), f"featlab-{uuid4().hex}")
    ticks = iter(tracked(list(wanted), progress))
    futures = []
    try:
        client.register_plugin(plugin, name=plugin.name)
        futures = client.map(
            write_range,
            [plugin.name] * len(wanted),
            [rows.start for rows in wanted],
            [rows.stop for rows in wanted],
            pure=False,
            key=plugin.name,
        )
        for future in as_completed(futures):
            future.result()
            next(ticks, None)
        next(ticks, None)  # lets a progress bar close
    except KilledWorker as error:
        raise FeatlabError(
            "several workers died one after the other on the same part, as they do when a worker "
            "has not enough memory. Give them more, or a smaller batch size; the finished parts "
            "are kept."
        ) from error
    except CommClosedError as error:
        raise FeatlabError(
            "the Dask scheduler is gone, or a worker went while it joined in. The finished parts "
            "are kept; run the same again."
        ) from error
    finally:
        # Who is dying cannot be told any more; how the pass ended is what counts.
        with contextlib.suppress(OSError):
            client.cancel(futures)
            client.unregister_worker_plugin(plugin.name)


class WorkerPass(WorkerPlugin):
    """What a worker keeps of a pass; a worker plugin, so that the network is loaded once.

    Parameters
    ----------
    run : Pass
    name : str
        Of the plugin.
    """

    def __init__(self, run: Pass, name: str) -> None:
        self.run, self.name, self.version = run, name, __version__

    def setup(self, worker: Worker) -> None:
        """Called by Dask in every worker, those that come later too."""
        self._threads = worker.state.nthreads
        # A part takes all threads of the worker: two at a time would be in each other's way.
        self._alone = Lock()

    def teardown(self, worker: Worker) -> None:
        """Called by Dask when the pass is over."""

    def write(self, rows: range) -> None:
        """Write the part of some rows."""
        with self._alone:
            if self.run.part(rows) is None:
                for _ in written_parts(self.run, self._images, [rows], threads=self._threads):
                    pass

    @cached_property
    def _images(self) -> pd.DataFrame:
        """The image table, read from the folder of the parts; and a look at the network."""
        here = f"the worker on {platform.node()}"
        if self.version != __version__:
            raise FeatlabError(f"{here} has featlab {__version__}, not {self.version}.")
        tables = self.run.parts / TABLES
        if not tables.exists():
            raise FeatlabError(
                f"{here} does not see {tables}; the store must lie on storage that all workers "
                "share."
            )
        own = self.run.backbone.identity() | {"engine": running_of(self.run.backbone).engine}
        refuse_difference(self.run.plan.key, own, Path(f"the pass that {here} is to share"))
        return load_tables(tables).images


def write_range(name: str, start: int, stop: int) -> None:
    """The task that the scheduler sees."""
    cast(WorkerPass, get_worker().plugins[name]).write(range(start, stop))
