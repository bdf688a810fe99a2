"""Files and tables that appear whole or not at all; text that harms no reader: XML, HTML."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import os
import shutil
import signal
import subprocess  # nosec B404
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from featlab.errors import FeatlabError

OURS = ".featlab"
"""A file in each folder that is replaced as a whole."""
RESULTS = ".featlab-results"
"""A file in each folder that tables, figures or pages were written into; it keeps its other files,
and is no folder of pictures."""


def is_own(path: Path) -> bool:
    """Whether a file belongs to who asks; where the system does not tell, or none is there, yes."""
    if not hasattr(os, "getuid") or not path.exists():
        return True
    return path.stat().st_uid == os.getuid()


def replace_durably(temporary: Path, path: Path) -> None:
    """Flush `temporary` to the disk, then give it its final name in one step."""
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)
    flush_names(path.parent)


def flush_names(folder: Path) -> None:
    """Flush what was made, renamed or removed in a folder: a power cut may undo it until then."""
    with contextlib.suppress(OSError):  # Windows cannot open a directory.
        directory = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def make_durably(folder: Path) -> None:
    """Make a folder, with those above it, unless it is there; no power cut takes it away again."""
    if not folder.is_dir():
        make_durably(folder.parent)
        folder.mkdir(exist_ok=True)
        flush_names(folder.parent)


def place_durably(new: Path, path: Path, aside: Path | None = None) -> None:
    """Flush a folder with all that is in it, then give it its final name.

    What has that name goes `aside`, to be removed by the caller; or back, if the system refuses.
    """
    if hasattr(os, "sync"):  # to flush thousands of small files one by one takes minutes
        os.sync()
    if aside is not None and path.exists():
        os.replace(path, aside)
    try:
        os.replace(new, path)
    except OSError:
        if aside is not None:
            with contextlib.suppress(OSError):
                os.replace(aside, path)
        raise
    # Else the disk could first see how what is aside is emptied, still under the final name.
    flush_names(path.parent)


def write_whole(path: Path, write: Callable[[Path], Any] | bytes | str) -> None:
    """Write a file under another name beside it, flush it, then give it its name in one step.

    Parameters
    ----------
    path : Path
        Its folder is made where it is missing.
    write : callable, bytes or str
        The content, or what fills the file whose path it is given (of the same suffix).

    Raises
    ------
    FeatlabError
        The system does not let the file be written; an earlier one of that name is still whole.
    """
    with system_errors(path):
        write_durably(path, write)


def write_durably(path: Path, write: Callable[[Path], Any] | bytes | str) -> None:
    """As :func:`write_whole`, for a caller that says itself what the system's refusal means."""
    make_durably(path.parent)
    # The suffix stays: Keras and numpy look at it.
    part = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:12]}.part{path.suffix}")
    try:
        if isinstance(write, bytes):
            part.write_bytes(write)
        elif isinstance(write, str):
            part.write_text(write, "utf-8", newline="")
        else:
            write(part)
        replace_durably(part, path)
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill; when all is in it, it takes its name and the place of an earlier one.

    Parameters
    ----------
    path : Path
        The folders above it are made where they are missing.

    Raises
    ------
    FeatlabError
        Something else has that name (:func:`refuse_foreign`), or the system does not let it be
        written; an earlier one of that name is still whole.
    """
    refuse_foreign(path)
    with system_errors(path):
        make_durably(path.parent)
        new, old = (path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.part") for _ in range(2))
        try:
            new.mkdir()
            yield new
            (new / OURS).write_text("Made by featlab, which may replace this folder.\n", "utf-8")
            place_durably(new, path, aside=old)
        finally:
            for left in (new, old):
                shutil.rmtree(left, ignore_errors=True)


def is_ours(path: Path) -> bool:
    """Whether :func:`whole_folder` has made it."""
    return (path / OURS).is_file()


def mark_results(folder: Path) -> None:
    """Make a folder for results, known as one: no class of pictures, should it lie among them."""
    if not (folder / RESULTS).is_file():
        write_whole(folder / RESULTS, "featlab has written into this folder.\n")


def refuse_foreign(path: Path) -> None:
    """Refuse to put a folder in the place of one with a person's own files.

    Raises
    ------
    FeatlabError
        There is a file of that name, the folder that the process runs in, or a folder that holds
        something and that :func:`whole_folder` has not made.
    """
    with system_errors(path):
        if Path.cwd().is_relative_to(path.resolve()):
            raise FeatlabError(f"{path} holds the folder that this runs in; give another name.")
        own = not path.exists() or (path.is_dir() and (is_ours(path) or not any(path.iterdir())))
        if not own:
            raise FeatlabError(
                f"{path} is there, was not written by featlab in one piece, and would be replaced; "
                "give another name, or remove it."
            )


@contextlib.contextmanager
def system_errors(path: Path) -> Iterator[None]:
    """What the system refuses while `path` is written, as a FeatlabError that names it."""
    try:
        yield
    except OSError as error:
        full = "No space left" in str(error)  # pyarrow's errors have no number
        reason = "no space left on the disk" if full else error.strerror or error
        raise FeatlabError(
            f"{path} could not be written: {reason}; make room or give another folder, and run "
            "the same again."
        ) from error


@contextlib.contextmanager
def held(lock: Path, busy: Callable[[], object], *, wait: float = 0) -> Iterator[None]:
    """Hold a file's lock; the system frees it when the process dies.

    Parameters
    ----------
    lock : Path
    busy : callable
        Called where another process still holds it after `wait` seconds. What it raises ends the
        attempt; where it returns, the lock is waited for.
    wait : float
    """
    import filelock  # loads asyncio

    held_lock = filelock.FileLock(lock)
    try:
        held_lock.acquire(timeout=wait)
    except filelock.Timeout:
        busy()
        held_lock.acquire()
    try:
        yield
    finally:
        held_lock.release()


class _RefuseDoctype(ElementTree.TreeBuilder):
    """A DOCTYPE can define entities that expand to gigabytes or read other files."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise FeatlabError("it has a DOCTYPE, which is refused; remove it")


def parse_xml(data: bytes) -> ElementTree.Element:
    """The root of an XML document.

    Raises
    ------
    FeatlabError
        It is no XML, or has a DOCTYPE.
    """
    parser = ElementTree.XMLParser(target=_RefuseDoctype())
    try:
        return ElementTree.fromstring(data, parser)
    # An unknown encoding is a LookupError, a multi-byte one a ValueError.
    except (ElementTree.ParseError, LookupError, ValueError) as error:
        if isinstance(error, FeatlabError):
            raise
        reason = str(error)[:200].partition("\n")[0].rstrip(".") or type(error).__name__
        raise FeatlabError(f"it is not valid XML ({reason})") from error


# What a spreadsheet takes for a formula; the wide signs are those of East Asian keyboards.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")


def write_table(table: pd.DataFrame, path: str | os.PathLike[str]) -> Path:
    r"""Write one table as CSV or Parquet, by the suffix of `path`, complete or not at all.

    The parameters in ``table.attrs`` go with it: into the Parquet file, from which pandas reads
    them back, and for CSV, which has no place for them, into ``<path>.json``.

    In CSV, text (and a column's name) that a spreadsheet would take for a formula gets an
    apostrophe in front: text that begins with ``= + - @``, their wide forms, a tab or a line break,
    whether or not there are apostrophes before that. To have the text back, take one apostrophe off
    whatever matches ``'+[=+@\-＝＋－＠\t\r\n]``; or read the Parquet file, which has it as it was.

    Raises
    ------
    FeatlabError
        Another suffix than ``.csv`` or ``.parquet``, or the file cannot be written.
    """
    path, table = Path(path), table.copy()
    table.attrs = plain(dict(table.attrs))
    if path.suffix == ".parquet":
        write_whole(path, partial(table.to_parquet, index=False))
    elif path.suffix == ".csv":
        safe = _harmless(table)
        write = partial(safe.to_csv, index=False, lineterminator="\n", quoting=_quoting(safe))
        write_whole(path, partial(write, encoding="utf-8"))
        if table.attrs:
            parameters = json.dumps(table.attrs, indent=1, ensure_ascii=False)
            write_whole(path.with_name(path.name + ".json"), parameters)
    else:
        raise FeatlabError(f"a table is written as .csv or .parquet, got {path.name}.")
    return path


def plain(value: Any) -> Any:
    """Any value as what JSON knows; numbers that are not finite become None."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [plain(item) for item in value]
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    if isinstance(value, (int, np.integer)):
        return int(value)
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return None if value is None or value is pd.NA else str(value)


def _harmless(table: pd.DataFrame) -> pd.DataFrame:
    """The table; with an apostrophe in front of text that a spreadsheet would run."""
    table = table.rename(columns=_quoted)
    for column in table.columns:
        if not pd.api.types.is_numeric_dtype(table[column].dtype):
            table[column] = table[column].map(_quoted)
    return table


def _quoting(table: pd.DataFrame) -> Literal[0, 2]:
    """All text in quotes where some holds a carriage return, which ends a line for a reader."""
    texts = (table[name] for name in table if not pd.api.types.is_numeric_dtype(table[name].dtype))
    returned = any(isinstance(value, str) and "\r" in value for text in texts for value in text)
    return csv.QUOTE_NONNUMERIC if returned else csv.QUOTE_MINIMAL


def _quoted(value: Any) -> Any:
    if isinstance(value, str) and value.lstrip("'").startswith(_FORMULA):
        return f"'{value}"
    return value


# ------------------------------------------------------- small pieces of HTML, for notebooks

# Everything is escaped; colours are the notebook's.
_MOST_ROWS = 12
_LONGEST = 240
_MOST_COUNTED = 10


def html_block(title: str, *parts: str) -> str:
    """A title above `parts`, which are HTML already."""
    above = f'<p style="margin:0 0 .4em"><strong>{html_text(title)}</strong></p>'
    return f"<div>{above}{''.join(parts)}</div>"


def html_text(value: Any, longest: int | None = _LONGEST) -> str:
    """A value as escaped text in its own direction of writing, shortened to `longest` signs."""
    full = str(value)
    if longest is not None and len(full) > longest:
        return f'<bdi title="{escape(full)}">{escape(full[: longest - 1])}…</bdi>'
    return f"<bdi>{escape(full)}</bdi>"


def html_facts(pairs: Iterable[tuple[Any, Any]]) -> str:
    """Names and values in two columns."""
    rows = "".join(
        f'<tr><th scope="row" style="text-align:left">{html_text(name)}</th>'
        f'<td style="text-align:left">{html_text(value)}</td></tr>'
        for name, value in pairs
    )
    return f"<table><tbody>{rows}</tbody></table>"


def html_table(frame: pd.DataFrame) -> str:
    """The first rows of a table, numbers with three digits and to the right, text to the left."""
    first = frame.head(_MOST_ROWS)
    if first.empty:
        return "<p>no rows</p>"
    sides = [
        f' style="text-align:{"right" if pd.api.types.is_numeric_dtype(kind) else "left"}"'
        for kind in first.dtypes
    ]
    head = "".join(
        f'<th scope="col"{side}>{html_text(column)}</th>'
        for column, side in zip(first.columns, sides, strict=True)
    )
    rows = (zip(row, sides, strict=True) for row in first.itertuples(index=False))
    body = "".join(
        f"<tr>{''.join(f'<td{side}>{html_text(_cell(value))}</td>' for value, side in row)}</tr>"
        for row in rows
    )
    rest = len(frame) - len(first)
    more = f"<p>{rest:,} more rows</p>" if rest else ""
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"


def html_folded(summary: str, content: str) -> str:
    """`content`, which is HTML already, behind a line to open it."""
    return f"<details><summary>{html_text(summary)}</summary>{content}</details>"


def html_counts(values: pd.Series) -> str:
    """`kangaroo 163, raccoon 194`; the first ten of many values."""
    counts = values.value_counts().sort_index()
    texts = [f"{value} {count:,}" for value, count in counts.head(_MOST_COUNTED).items()]
    rest = len(counts) - len(texts)
    return (", ".join(texts) + (f" and {rest} more" if rest else "")) or "none"


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "–" if value != value else f"{value:.3g}"
    return str(value)


def end_apart(command: Sequence[str]) -> str:
    """What went wrong in a process of its own, which may die of the file that it reads; "" if not.

    Libraries that read files may crash on those that are damaged, or made to do so.
    """
    ended = subprocess.run(command, capture_output=True)  # nosec B603 - no shell, our own code
    if ended.returncode < 0:
        name = signal.Signals(-ended.returncode).name
        return f"the process that read it died ({name}): it is damaged, or made to do harm"
    return ended.stderr.decode(errors="replace").strip() if ended.returncode else ""
