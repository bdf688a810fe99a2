"""What a worker of a Dask cluster does of a pass; needs the extra ``cluster``."""

from __future__ import annotations

import platform
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import cast

import pandas as pd
from distributed import Worker, WorkerPlugin, get_worker

from featlab.errors import FeatlabError
from featlab.extract._passing import TABLES, Pass, written_parts
from featlab.extract._provenance import refuse_difference
from featlab.extract._source import running_of
from featlab.store import load_tables
from featlab.version import __version__


class Share(WorkerPlugin):
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
        found = self.run.backbone.identity() | {"engine": running_of(self.run.backbone).engine}
        refuse_difference(self.run.plan.key, found, Path(f"the pass that {here} is to share"))
        return load_tables(tables).images


def write_range(name: str, start: int, stop: int) -> None:
    """The task that the scheduler sees."""
    cast(Share, get_worker().plugins[name]).write(range(start, stop))
