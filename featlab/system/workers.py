"""Other processes: stages that run beside this one, in workers that are ready when it is."""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

import joblib  # type: ignore[import-untyped]
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from featlab.system.machine import usable_cores

P = ParamSpec("P")
T = TypeVar("T")

_started = False


def workers() -> joblib.parallel_config:
    """What `joblib.Parallel` shall use: the same processes for every stage, of one thread each."""
    global _started
    _started = True
    return joblib.parallel_config("loky", n_jobs=usable_cores(), inner_max_num_threads=1)


@contextlib.contextmanager
def beside(
    function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> Iterator[Callable[[], T]]:
    """Begin a call in another process; what is yielded waits for it and returns its result.

    With a single core there is nothing to win, and the call is made when its result is asked for.
    Either way it has one thread, so that the result is the same to the last bit.

    Parameters
    ----------
    function : callable
        Of a room that is quick to import; it and its arguments travel to the other process.
    """
    call = functools.partial(function, *args, **kwargs)
    if usable_cores() < 2:
        yield functools.cache(functools.partial(_with_one_thread, call))
        return
    with workers():
        begun = joblib.Parallel(return_as="generator")([joblib.delayed(call)()])
    try:
        yield functools.cache(lambda: next(begun))
    finally:
        # After an error elsewhere the result is awaited all the same: joblib cannot stop quietly.
        with contextlib.suppress(Exception):
            next(begun, None)


@contextlib.contextmanager
def ready(*modules: str) -> Iterator[None]:
    """Start the other processes, and let one import modules while this one imports its own.

    Parameters
    ----------
    *modules : str
        What :func:`beside` will need; importing takes seconds.
    """
    if usable_cores() < 2:
        yield
        return
    with workers():
        # Not all of them: this process needs a core for its own imports.
        begun = joblib.Parallel(return_as="generator")([joblib.delayed(_load)(modules)])
    try:
        yield
    finally:
        for _ in begun:
            pass


def dismiss() -> None:
    """End the other processes at once, as the program does: waiting for them takes a second."""
    if _started:
        from joblib.externals.loky import get_reusable_executor  # type: ignore[import-untyped]

        get_reusable_executor().shutdown(kill_workers=True)


def _load(modules: tuple[str, ...]) -> None:
    for module in modules:
        importlib.import_module(module)


def _with_one_thread(call: Callable[[], T]) -> T:
    with threadpool_limits(1):
        return call()
