"""What the machine has: cores, memory, scratch files for matrices that are larger than it."""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from numpy.typing import NDArray

from featlab.errors import FeatlabError

P = ParamSpec("P")
T = TypeVar("T")

IN_MEMORY = 512 * 2**20
"""Bytes up to which a table of features is held in memory."""
BLOCK = 16_000_000
"""Elements that are copied to double precision at once: 128 MB."""
CACHED = 100_000
"""Elements whose temporaries stay in a core's cache: what passes over them again and again takes
half the time of larger pieces."""

_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_USUAL_MEMORY = 8 * 2**30
_M_MMAP_THRESHOLD, _LARGE_BLOCK = -3, 2**20


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def total_memory() -> int:
    """Memory of the machine, or of the container, in bytes; 8 GB where it cannot be asked.

    All of it, not what is free: what is made from it is the same in the next run.
    """
    limits = [_USUAL_MEMORY]
    if hasattr(os, "sysconf"):
        with suppress(ValueError, OSError):
            limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with suppress(ValueError, OSError):  # "max" where there is no limit
        limits.append(int(_CGROUP_LIMIT.read_text("utf-8")))
    return min(limits)


def give_back_large_blocks() -> None:
    """Have the C library give every block of 1 MiB or more back to the system when it is freed.

    Of itself glibc does so only until the first is freed: then it keeps blocks of that size, up to
    32 MiB, in its heaps, which small ones cut to pieces, so that a process that makes large arrays
    again and again grows. Other C libraries stay as they are.

    References
    ----------
    mallopt(3), Linux man-pages: M_MMAP_THRESHOLD, "dynamic mmap threshold".
    """
    with suppress(AttributeError, OSError, TypeError):  # no such function, or no such library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BLOCK)


def compiled(function: Callable[P, T], *, fast: bool = False) -> Callable[P, T]:
    """The function in machine code, kept for other processes where a folder can be written.

    With `fast` sums may be taken in any order, so that loops are made for wide registers, and
    nothing may be NaN.
    """
    import numba

    options = {"nogil": True} | ({"fastmath": True, "error_model": "numpy"} if fast else {})
    with suppress(RuntimeError):  # neither the package's folder nor the user's
        return numba.njit(cache=True, **options)(function)  # type: ignore[no-any-return]
    return numba.njit(**options)(function)  # type: ignore[no-any-return]


def is_large(n: int, c: int) -> bool:
    """Whether `n` x `c` values of single precision are more than is held in memory."""
    return n * c * 4 > IN_MEMORY


def scratch_columns(n: int, c: int) -> NDArray[np.float32]:
    """Room for ``(n, c)`` values in a scratch file, column after column.

    Columns are contiguous, because neurons are compared one by one.
    """
    return scratch((c, n)).T


def scratch(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Zeros in a nameless file that is mapped into memory.

    The file lies where temporary files do (``TMPDIR``) and is gone with the array, whatever happens
    to the process.

    Raises
    ------
    FeatlabError
        The folder has no room for it, or cannot be written.
    """
    size, folder = int(np.prod(shape)) * 4, tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(prefix="featlab-") as file:
            # Writing to a mapped page that the disk has no room for would kill the process.
            if shutil.disk_usage(folder).free < size:
                raise OSError("there is no room")
            file.truncate(size)
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            # Not numpy's memmap: joblib would send its file's name, and there is none.
            mapped = mmap.mmap(file.fileno(), size)
        return np.frombuffer(mapped, np.float32).reshape(shape)
    except OSError as error:
        raise FeatlabError(
            f"A scratch file of {size / 1e9:.1f} GB cannot be made in {folder}: {error}; make room "
            "or set TMPDIR to another folder."
        ) from error


def matrix_rows(values: NDArray[Any], rows: NDArray[np.intp]) -> NDArray[Any]:
    """``values[rows]``, in a scratch file where that is large."""
    n, c = len(rows), values.shape[1]
    if not is_large(n, c):
        return values[rows]
    taken = scratch_columns(n, c)
    for column in range(c):
        taken[:, column] = values[:, column][rows]
    return taken


def lines_at_once(width: int, most: int | None = None) -> int:
    """How many lines of `width` elements are copied at once."""
    return max(1, (most or BLOCK) // max(width, 1))


def pieces(length: int, width: int, most: int | None = None) -> Iterator[slice]:
    """Slices of `length` lines of `width` elements, of at most so many elements or one line."""
    step = lines_at_once(width, most)
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def count_bad(values: NDArray[Any]) -> int:
    """How many entries of a matrix are NaN or infinite, without a mask of all of it."""
    lines = values.T if values.flags.f_contiguous else values
    return sum(
        int((~np.isfinite(lines[part])).sum()) for part in pieces(len(lines), lines.shape[1])
    )


def double_rows(values: NDArray[Any], rows: slice | NDArray[Any]) -> NDArray[np.float64]:
    """Some rows in double precision, row by row in memory."""
    if isinstance(rows, slice) or not values.flags.f_contiguous:
        return np.ascontiguousarray(values[rows], dtype=np.float64)
    # Column by column: a row of such a matrix is scattered over all of the file.
    taken = np.take(values.T, rows, axis=1)
    return np.ascontiguousarray(taken.T, dtype=np.float64)
