"""One pass on the workers of a Dask cluster: each loads the network once and writes parts."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

from featlab.errors import FeatlabError
from featlab.extract._passing import Pass
from featlab.extract._source import Progress

if TYPE_CHECKING:
    from distributed import Client


def connect(address: str, seconds: float = 20) -> Client:
    """A client of the scheduler at an address such as ``tcp://10.0.0.1:8786``.

    Raises
    ------
    FeatlabError
        Dask is not installed, or no scheduler answers.
    """
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
    from distributed import KilledWorker, as_completed
    from distributed.comm import CommClosedError

    from featlab.extract._worker import Share, write_range

    share = Share(replace(run, parts=run.parts.resolve()), f"featlab-{uuid4().hex}")
    shown = iter(progress(list(wanted)) if progress else wanted)
    futures = []
    try:
        client.register_plugin(share, name=share.name)
        futures = client.map(
            write_range,
            [share.name] * len(wanted),
            [rows.start for rows in wanted],
            [rows.stop for rows in wanted],
            pure=False,
            key=share.name,
        )
        for future in as_completed(futures):
            future.result()
            next(shown, None)
        next(shown, None)  # lets a progress bar close
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
            client.unregister_worker_plugin(share.name)
