"""Stages of an analysis: what each needs, how long it took, and which run beside the others."""

from __future__ import annotations

import contextlib
import functools
import gc
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import pandas as pd
from sklearn import config_context
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from featlab.system import processes
from featlab.system.machine import usable_cores
from featlab.system.processes import Beside, beside

_MOST_SENT = 2**26  # values of a table that is sent to another process


@dataclass(frozen=True)
class Stage:
    """One step of an analysis.

    Attributes
    ----------
    name : str
        What its result is called.
    make : callable
        Makes the result; its parameters without a default bear the names of what it needs: what was
        given, and the results of stages before it.
    title : str
        What its time counts as; several stages may share one.
    beside : bool
        Whether it is begun in another process when its turn comes, and awaited where it is needed.
        Then everything that it takes must be able to travel there.
    """

    name: str
    make: Callable[..., Any]
    title: str
    beside: bool = False

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of what it takes."""
        parameters = inspect.signature(self.make).parameters.values()
        return tuple(one.name for one in parameters if one.default is inspect.Parameter.empty)


def run_stages(
    stages: Sequence[Stage],
    given: Mapping[str, Any],
    left_out: dict[str, str] | None = None,
) -> tuple[dict[str, Any], dict[str, float]]:
    """Run stages one after the other, some of them beside the rest.

    Parameters
    ----------
    stages : sequence of Stage
        In their order.
    given : mapping of str to Any
        What there is before the first of them.
    left_out : dict of str to str, optional
        What there is not → why. A stage that needs it, or what such a stage would make, is left
        out for the same reason, and noted here. Of stages of one name the one that can be made is.

    Returns
    -------
    results : dict of str to Any
        By the stages' names, without what was given.
    seconds : dict of str to float
        Title → wall-clock seconds here: of a stage beside the others only what it was awaited for,
        or took where it had not begun there.
    """
    known: dict[str, Callable[[], Any]] = {
        name: functools.partial(_same, value) for name, value in given.items()
    }
    seconds: dict[str, float] = {}
    elsewhere: dict[str, tuple[str, Beside[Any]]] = {}

    def asked(name: str) -> Any:
        """A result; who would wait for another process makes meanwhile what has not begun there."""
        if name not in elsewhere:
            return known[name]()
        own, wanted = elsewhere[name]
        for title, call in elsewhere.values():
            if wanted.is_ready:
                break
            if call.take_over():
                with timed(seconds, title):
                    call()
        with timed(seconds, own):
            return wanted()

    with contextlib.ExitStack() as others:
        # More threads than cores that are free would wait for each other at every product.
        others.enter_context(threadpool_limits(max(1, usable_cores() - 1)))
        others.enter_context(_light())
        absent = {} if left_out is None else left_out
        begun = []
        for stage in stages:
            why = next((absent[name] for name in stage.needs if name in absent), None)
            if why is not None and stage.name not in begun:
                absent.setdefault(stage.name, why)
            if why is not None:
                continue
            absent.pop(stage.name, None)
            begun.append(stage.name)
            call = functools.partial(stage.make, **{name: asked(name) for name in stage.needs})
            if stage.beside and _is_light(call):
                elsewhere[stage.name] = stage.title, others.enter_context(beside(_call_light, call))
                continue
            with timed(seconds, stage.title):
                known[stage.name] = functools.partial(_same, call())
        results = {name: asked(name) for name in begun}
    return results, {title: round(value, 3) for title, value in seconds.items()}


def on_cluster(client: Any | None) -> AbstractContextManager[None]:
    """What ranks neurons, permutes labels or scores heat maps within, does so on a Dask cluster.

    Results are those of one process. What a worker had in hand that dies is done by another.

    Parameters
    ----------
    client : distributed.Client, optional
        Of a cluster whose workers have the same version of featlab (extra ``cluster``); None
        leaves all in this process.

    Examples
    --------
    >>> with on_cluster(client):                                        # doctest: +SKIP
    ...     table = rank_neurons(X, labels, correction="max_t")
    """
    return processes.on_cluster(client)


@contextlib.contextmanager
def timed(seconds: dict[str, float], title: str) -> Iterator[None]:
    """Add the wall-clock seconds of a block to those of its title."""
    start = time.perf_counter()
    yield
    seconds[title] = seconds.get(title, 0.0) + time.perf_counter() - start


def _same(value: Any) -> Any:
    return value


def _is_light(call: functools.partial[Any]) -> bool:
    """Whether what a call takes may be sent to another process."""
    tables = [value for value in call.keywords.values() if isinstance(value, pd.DataFrame)]
    return all(table.size <= _MOST_SENT for table in tables)


def _call_light(call: Callable[[], Any]) -> Any:
    with _light():
        return call()


@contextlib.contextmanager
def _light() -> Iterator[None]:
    """Without checks and searches that thousands of small models and corrections would repeat.

    The store has checked the values, so scikit-learn need not. Garbage is not looked for among the
    million objects that the libraries hold.
    """
    ours = not gc.get_freeze_count()
    if ours:
        gc.freeze()
    try:
        with config_context(assume_finite=True, skip_parameter_validation=True):
            yield
    finally:
        if ours:
            gc.unfreeze()
