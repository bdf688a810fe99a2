"""Who works: other processes beside this one, the workers of a cluster, threads in their order."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import logging
import signal
import sys
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ThreadPoolExecutor
from contextvars import ContextVar
from itertools import islice
from multiprocessing import resource_tracker
from threading import Lock
from typing import Any, Generic, ParamSpec, TypeVar

import threadpoolctl  # type: ignore[import-untyped]

from featlab.errors import FeatlabError
from featlab.system import GARBAGE
from featlab.system.machine import usable_cores

logger = logging.getLogger(__name__)
P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

_IDLE = 300  # seconds after which a process that nobody asks anything ends
_ONE_EACH = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_MOST_GROWN = 600_000_000  # bytes, of another process: libraries and tables of 2,000 images


class _Others:
    """Other processes, the same for every stage, of one thread each, and who hands them calls.

    They are not those that joblib shares: a caller's own call of joblib would end them, or fail.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._pool: Any = None
        self._last: Future[Any] | None = None
        self._is_over = False
        self._starting = Lock()  # several threads may ask first
        # Threads that hand one call at a time to each of the processes; the rest wait here.
        self._messengers = ThreadPoolExecutor(n, "beside")

    @property
    def are_there(self) -> bool:
        """Whether they run: to start them takes seconds."""
        return self._pool is not None

    def begin(self, call: Callable[[], T]) -> Future[tuple[T, list[tuple[str, int, str]]]]:
        """Have a call made; it can be cancelled until one of the processes is free for it."""
        return self._messengers.submit(lambda: self.submit(_with_messages, call).result())

    def submit(self, function: Callable[..., Any], *given: Any) -> Future[Any]:
        """A call by one of the processes; where they have ended, as one died, there are new ones.

        Not after :meth:`end`: what still waits then must not start them again.
        """
        # The vendored loky needs no guard in a caller's script, as the standard library does.
        from joblib.externals.loky import ProcessPoolExecutor  # type: ignore[import-untyped]

        with self._starting:
            for _ in range(2):
                if self._is_over:
                    break
                if self._pool is None:
                    self._pool = ProcessPoolExecutor(
                        self._n, timeout=_IDLE, env=_ONE_EACH, initializer=_begin
                    )
                try:
                    with _no_interrupts():
                        self._last = self._pool.submit(function, *given)
                    return self._last
                except BrokenExecutor:
                    self._pool = None
        raise BrokenExecutor("the other processes have been ended")

    def end(self) -> None:
        """End them at once; what they had in hand fails, and what waits is not begun."""
        with self._starting:
            self._is_over = True
        self._messengers.shutdown(wait=False, cancel_futures=True)
        if self._pool is None:
            return
        # loky's thread fails aloud where a call is dropped that it is about to hand on.
        for _ in range(100):
            if self._last is None or self._last.running() or self._last.done():
                break
            time.sleep(0.01)
        self._pool.shutdown(kill_workers=True)


_teams: dict[int, _Others] = {}  # by their number


def _others() -> _Others:
    """One fewer than cores: this process has a core."""
    n = max(1, usable_cores() - 1)
    return _teams.get(n) or _teams.setdefault(n, _Others(n))


@contextlib.contextmanager
def _no_interrupts() -> Iterator[None]:
    """What is started within never sees Ctrl-C, which reaches all processes of a terminal.

    Only the first one is to heed it: that one ends the others.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # to start it within would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin() -> None:
    """What another process does first."""
    from joblib.externals.loky import process_executor

    gc.set_threshold(*GARBAGE)
    # One that has grown by 300 MB would be ended, and a new one import all that it needs again.
    process_executor._MAX_MEMORY_LEAK_SIZE = _MOST_GROWN


class Beside(Generic[T]):
    """A call that another process makes, or this one: with a single core, or where it is free."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._begun: Future[tuple[T, list[tuple[str, int, str]]]] | None = None
        if usable_cores() > 1:
            self._begun = _others().begin(call)

    @property
    def is_ready(self) -> bool:
        """Whether asking for the result would neither wait nor make it."""
        return "_result" in vars(self) or (self._begun is not None and self._begun.done())

    def take_over(self) -> bool:
        """Have it made here when it is asked for; False where it has begun, or is there."""
        if self._begun is None or not self._begun.cancel():
            return False
        self._begun = None
        return True

    def __call__(self) -> T:
        """The result; one thread makes it wherever that is, so that it is the same to the bit."""
        return self._result

    @functools.cached_property
    def _result(self) -> T:
        if self._begun is not None:
            try:
                return _logged_here(*self._begun.result())
            except BrokenExecutor:
                logger.warning("a process that worked beside this one died; its share is done here")
        return _with_one_thread(self._call)

    def end(self) -> None:
        """After an error elsewhere: what has begun is awaited, so that it ends quietly."""
        if self._begun is not None and not self._begun.cancel():
            self._begun.exception()


@contextlib.contextmanager
def beside(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Iterator[Beside[T]]:
    """Begin a call in another process; what is yielded waits for it and returns its result.

    With a single core there is nothing to win, and the call is made when its result is asked for.
    Either way it has one thread, so that the result is the same to the last bit.

    Parameters
    ----------
    function : callable
        Of a room that is quick to import; it and its arguments travel to the other process.
    """
    begun = Beside(functools.partial(function, *args, **kwargs))
    with _ended([begun]):
        yield begun


def others_are_there() -> bool:
    """Whether other processes run, never with a single core: to start them takes seconds."""
    return usable_cores() > 1 and _others().are_there


@contextlib.contextmanager
def each(function: Callable[[S], T], items: Iterable[S]) -> Iterator[Callable[[], list[T]]]:
    """Begin a call for each item, as :func:`beside`; who asks for the results makes the last ones.

    One that takes long should come early.
    """
    begun = [Beside(functools.partial(function, item)) for item in items]

    def results() -> list[T]:
        for one in reversed(begun):
            if one.take_over():
                one()
        return [one() for one in begun]

    with _ended(begun):
        yield results


@contextlib.contextmanager
def _ended(begun: Sequence[Beside[Any]]) -> Iterator[None]:
    """Nothing of what has begun goes on after a block; who interrupts waits for none of it."""
    try:
        yield
    except KeyboardInterrupt:
        dismiss()
        raise
    finally:
        for one in reversed(begun):
            one.end()


@contextlib.contextmanager
def ready(*modules: str) -> Iterator[None]:
    """Start the other processes, and let one import modules, as :func:`load`, meanwhile.

    Parameters
    ----------
    *modules : str
        What :func:`beside` will need; importing takes seconds.
    """
    with _ended([Beside(functools.partial(load, *modules))]):
        yield


def dismiss() -> None:
    """End the other processes at once, as the program does: waiting for them takes a second."""
    while _teams:
        _teams.popitem()[1].end()


_cluster: ContextVar[Any] = ContextVar("cluster", default=None)


@contextlib.contextmanager
def on_cluster(client: Any | None) -> Iterator[None]:
    """What is done within, where it is dear and needs little, is done by the workers of a cluster.

    Parameters
    ----------
    client : distributed.Client, optional
        Of a Dask cluster whose workers have the same version of featlab; None leaves all here.
    """
    token = _cluster.set(client)
    try:
        yield
    finally:
        _cluster.reset(token)


def has_cluster() -> bool:
    """Whether there are workers of a cluster to do things."""
    return _cluster.get() is not None


def done_on_cluster(calls: Iterable[Callable[[], T]]) -> list[T]:
    """Results of calls, in their order, by the workers of the cluster; each has one thread there.

    What a worker had in hand that dies is done by another: the calls stay with the scheduler. There
    are two for each worker at a time, since they hold what they work on.

    Raises
    ------
    FeatlabError
        Several workers died on the same call, or the scheduler is gone.
    """
    from distributed import KilledWorker, wait
    from distributed.comm import CommClosedError

    client, futures, waiting = _cluster.get(), [], iter(calls)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Sending large graph", UserWarning)
            for call in waiting:
                futures.append(client.submit(_with_one_thread, call, pure=False))
                under_way = [one for one in futures if not one.done()]
                if len(under_way) >= 2 * max(1, len(client.nthreads())):
                    wait(under_way, return_when="FIRST_COMPLETED")
            return [future.result() for future in futures]
    except KilledWorker as error:
        raise FeatlabError(
            "several workers of the cluster died one after the other on the same part of the "
            "analysis, as they do when they have not enough memory; give them more."
        ) from error
    except CommClosedError as error:
        raise FeatlabError("the Dask scheduler is gone; run the same again.") from error
    finally:
        with contextlib.suppress(OSError):  # who is gone cannot be told
            client.cancel(futures)


def _with_messages(call: Callable[[], T]) -> tuple[T, list[tuple[str, int, str]]]:
    """A result, and what was logged on the way: this process has no bars to write above."""
    records: deque[logging.LogRecord] = deque()
    handler = logging.Handler()
    handler.emit = records.append  # type: ignore[assignment, method-assign]
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        result = call()
    finally:
        root.removeHandler(handler)
    return result, [(record.name, record.levelno, record.getMessage()) for record in records]


def _logged_here(result: T, messages: list[tuple[str, int, str]]) -> T:
    for name, level, text in messages:
        logging.getLogger(name).log(level, "%s", text)
    return result


def load(*modules: str) -> None:
    """Import modules; nothing of them is ever looked through for garbage.

    To be used by who owns the process. It is a fifth of the time that imports take, and more later:
    libraries leave a million objects that stay.
    """
    if set(modules) <= set(sys.modules):
        return  # to freeze once more would keep the garbage of what went before for ever
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        for module in modules:
            importlib.import_module(module)
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Products of matrices in the thread that asks for them; to be put around loops.

    OpenBLAS's other threads wait for the next product in a loop of their own, for some 20 ms, and
    take a core from the network or from the threads of Python beside them. Small products gain
    nothing by them. Nested and in threads of Python it may be used within another one only.
    """
    with _blas("scipy.linalg" in sys.modules).limit(limits=1, user_api="blas"):
        yield


@functools.cache
def _blas(of_scipy: bool) -> threadpoolctl.ThreadpoolController:
    """NumPy's, and SciPy's own where it is loaded; to look for them takes milliseconds."""
    return threadpoolctl.ThreadpoolController()


def _with_one_thread(call: Callable[[], T]) -> T:
    with threadpoolctl.threadpool_limits(1):
        return call()


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[S], T], tasks: Iterable[S], ahead: int
) -> Iterator[T]:
    """Results of `work` in the order of the tasks; never more than `ahead` are under way."""
    waiting = iter(tasks)
    running: deque[Future[T]] = deque(pool.submit(work, task) for task in islice(waiting, ahead))
    while running:
        result = running.popleft().result()
        running.extend(pool.submit(work, task) for task in islice(waiting, 1))
        yield result
