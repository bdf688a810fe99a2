"""Files of named arrays and of what JSON can say: nothing in them can run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from featlab.errors import FeatlabError
from featlab.store.format import check_numbers, item_inside, plain
from featlab.system.files import write_whole

_LARGE = 4096  # values from which an array is compressed


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes
    ----------
    type, version : str
        Root attributes ``encoding-type`` and ``encoding-version``.
    made_by : str
        The command that writes it; of several, with "` or `" between them.
    """

    type: str
    version: str
    made_by: str

    @property
    def noun(self) -> str:
        """What the file is, in words."""
        return self.type.removeprefix("featlab-").replace("-", " ")


def mapping_plain(
    values: Mapping[str, Any], prefix: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A mapping of words, numbers and arrays as what JSON says and numbered arrays.

    A name, which may hold any sign, never is that of an array of the file.
    """
    numbered = [name for name, one in values.items() if isinstance(one, np.ndarray)]
    words = {name: one if isinstance(one, (str, int, float)) else str(one)
             for name, one in values.items() if name not in numbered}  # fmt: skip
    arrays = {f"{prefix}{k}": values[name] for k, name in enumerate(numbered)}
    return {"words": words, "arrays": numbered}, arrays


def mapping_made(
    facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray], prefix: str
) -> dict[str, Any]:
    """What :func:`mapping_plain` told, again."""
    numbered = {str(name): arrays[f"{prefix}{k}"] for k, name in enumerate(facts["arrays"])}
    return {**facts["words"], **numbered}


def write_arrays(
    path: Path, kind: Kind, facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Write named arrays and what JSON can say, complete or not at all."""
    # Made in memory: on a full disk HDF5 cannot even close a file.
    with h5py.File(path.name, "w", driver="core", backing_store=False) as file:
        file.attrs["encoding-type"], file.attrs["encoding-version"] = kind.type, kind.version
        text = json.dumps(facts, ensure_ascii=True)
        file.create_dataset("facts", data=np.frombuffer(text.encode(), np.uint8), track_times=False)
        for name, values in arrays.items():
            packed = {"compression": "gzip", "shuffle": True} if values.size > _LARGE else {}
            file.create_dataset(f"arrays/{name}", data=values, track_times=False, **packed)
        file.flush()
        image = file.id.get_file_image()
    write_whole(path, image)


def read_arrays(path: Path, kind: Kind) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """What :func:`write_arrays` wrote.

    Raises
    ------
    FeatlabError
        There is no file, it is another one or of an unknown version, or it is damaged.
    """
    if not path.is_file():
        raise FeatlabError(f"there is no {kind.noun} {path}; make it with `{kind.made_by}`.")
    with damage_errors(path, kind):
        try:
            file = h5py.File(path, "r")
        except PermissionError as error:
            raise FeatlabError(f"{path} may not be read: {error.strerror}.") from error
        except OSError as error:
            if not h5py.is_hdf5(path):
                raise ValueError("it is no HDF5 file") from error
            raise
        with file:
            _check_kind(file, path, kind)
            text = _finite_values(file, "facts").tobytes().decode()
            facts = json.loads(text)
            if not isinstance(facts, dict):
                raise ValueError("/facts is no JSON object")
            group = file.get("arrays")
            if not isinstance(group, h5py.Group):
                raise ValueError("there is no group /arrays")
            names = list(group)
            return facts, {name: _finite_values(file, f"arrays/{name}") for name in names}


def _check_kind(file: h5py.File, path: Path, known: Kind) -> None:
    kind, version = (plain(file.attrs.get(f"encoding-{name}")) for name in ("type", "version"))
    if not isinstance(kind, str) or kind != known.type:
        raise FeatlabError(
            f"{path} is an HDF5 file but no {known.noun}: attribute encoding-type is "
            f"{repr(kind)[:80]}, not {known.type!r}; make one with `{known.made_by}`."
        )
    if str(version) != known.version:
        raise FeatlabError(
            f"{path} has encoding-version {repr(version)[:80]}; this featlab reads "
            f"{known.version}. You may need to update featlab."
        )


def _finite_values(file: h5py.File, key: str) -> np.ndarray:
    """An array of finite numbers that lies in this very file."""
    dataset = item_inside(file, key, h5py.Dataset, "dataset")
    if dataset.shape is None or dataset.dtype.kind not in "fiu":
        raise ValueError(f"/{key} holds no numbers")
    check_numbers(dataset, dataset.ndim, dataset.dtype.kind)
    values = np.asarray(dataset[()])
    if not np.isfinite(values).all():
        raise ValueError(f"/{key} has values that are not finite")
    return values


@contextlib.contextmanager
def damage_errors(path: Path, kind: Kind) -> Iterator[None]:
    """HDF5, JSON and what is made of them tell of damage by nearly every built-in exception."""
    try:
        yield
    except FeatlabError:
        raise
    except Exception as error:
        lacking = "it has no " if isinstance(error, KeyError) else ""
        reason = lacking + (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise FeatlabError(
            f"{path} is damaged, or no {kind.noun}: {reason}; make it again with `{kind.made_by}`."
        ) from error
