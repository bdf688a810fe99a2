"""A finished store, open for reading."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from featlab.arguments import check_choice, check_whole, group_names, row_numbers
from featlab.errors import FeatlabError
from featlab.store.format import (
    POOLINGS,
    THUMBNAILS,
    Tables,
    check_boxes,
    check_maps,
    check_numbers,
    check_pooling,
    check_rows,
    check_tables,
    holds,
    layer_names,
    open_store,
    read_errors,
    read_tables,
    store_file,
)
from featlab.store.network import CODES, LOGITS, PER_IMAGE, TOTALS, OwnHead
from featlab.store.rows import ArrayRows, Piece, Rows
from featlab.system.files import html_block, html_counts, html_facts, html_folded

_BLOCK = 4096
_THUMBNAIL = 48  # pixels along each side


class MapStore:
    """A finished store of feature maps, open for reading.

    Row *i* of every array is row *i* of :attr:`images`.

    Parameters
    ----------
    path : path-like
        The HDF5 file, or the folder of a run that holds it and no other.

    Raises
    ------
    FeatlabError
        The file is missing, one of several in a folder, damaged, not a featlab store or of an
        unknown version; the message names the file and the key.

    Examples
    --------
    >>> with MapStore("maps.h5") as store:      # doctest: +SKIP
    ...     X = store.pooled()                  # (n, c)
    ...     for rows, maps in store.iter_maps():
    ...         ...                             # (k, h, w, c)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = store_file(path)
        self._absolute = self.path.absolute()
        self._groups: np.ndarray | None = None
        self._file = open_store(self.path)
        self._closing = contextlib.ExitStack()
        self._closing.callback(self._file.close)
        try:
            self._tables = read_tables(self._file)
            self.images, self.boxes = self._tables.images, self._tables.boxes
            self.skipped, self.provenance = self._tables.skipped, self._tables.provenance
            with read_errors(self.path, "/provenance or created_utc"):
                self.layers = layer_names(self.provenance["layers"])
                self._created = str(self._file.attrs.get("created_utc", ""))
            # What a store may lack is looked for now: of a closed file the answer would be no.
            self._optional = {
                key for key in (THUMBNAILS, *PER_IMAGE) if holds(self.path, self._file, key)
            }
            self._arrays = Rows(self._file)
            self._closing.callback(self._arrays.close)
            self._check_layout()
        except BaseException:
            # Of a damaged file even the closing may fail.
            with contextlib.suppress(RuntimeError):
                self.close()
            raise

    def __enter__(self) -> MapStore:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.images)

    def __reduce__(self) -> tuple[Callable[..., MapStore], tuple[Any, ...]]:
        """Another process opens the file anew; it may have been started in another folder."""
        return _reopened, (self._absolute, self._groups)

    def __repr__(self) -> str:
        if not self._file:
            return f"<MapStore {self.path} (closed)>"
        shapes = ", ".join(
            f"{layer} {' x '.join(map(str, self.map_shape(layer)))}" for layer in self.layers
        )
        return f"<MapStore {self.path}: {len(self)} images, {shapes}>"

    def _repr_html_(self) -> str:
        if not self._file:
            return html_block(repr(self))
        shapes = [
            (f"layer {layer}", "{} × {} cells, {:,} neurons".format(*self.map_shape(layer)))
            for layer in self.layers
        ]
        known = {k: v for k, v in sorted(self.provenance.items()) if not k.startswith("probe_")}
        return html_block(
            f"MapStore: {len(self):,} images",
            html_facts(
                [
                    ("file", self.path),
                    ("backbone", self.provenance.get("backbone", "")),
                    *shapes,
                    ("classes", html_counts(self.images["label"].replace("", "(no label)"))),
                    ("boxes", html_counts(self.boxes["kind"].replace("", "(no kind)"))),
                    ("skipped files", len(self.skipped)),
                ]
            ),
            html_folded("Provenance", html_facts(known.items())),
        )

    def regrouped(self, groups: ArrayLike) -> MapStore:
        """The same store, opened again, with other groups in its image table; "" is none."""
        return _reopened(self.path, group_names(groups, len(self)))

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._closing.close()

    @property
    def root(self) -> Path:
        """The folder that the paths of its pictures are relative to."""
        return Path(self.images["folder"].iloc[0])

    @property
    def created(self) -> str:
        """When the file was finished: date and time in ISO 8601, UTC; "" where it does not say."""
        return self._created

    @property
    def virtual(self) -> bool:
        """Whether its rows lie in other files, which it refers to."""
        return self._arrays.virtual

    @property
    def pieces(self) -> list[Piece]:
        """Where its rows lie, in their order; in the file itself where it is not virtual."""
        return self._arrays.pieces

    @property
    def tables(self) -> Tables:
        """Image table, box table and provenance together."""
        return self._tables

    @property
    def classes(self) -> list[str]:
        """The labels, sorted."""
        return sorted(self.images["label"].unique())

    @cached_property
    def frames(self) -> np.ndarray:
        """Where each picture lies in the network's input, ``(n, 4)`` left, top, right, bottom.

        In unit coordinates of the input: (0, 0, 1, 1) when the picture was stretched. Not to be
        written to.
        """
        # Asked for with every batch of maps: to read all of them each time is quadratic.
        frames = self._everything("frames")
        frames.flags.writeable = False
        return frames

    @property
    def colour_histogram(self) -> np.ndarray:
        """4 x 4 x 4 joint RGB histogram of each picture, ``(n, 64)`` float32; rows sum to 1."""
        return self._everything("colour_histogram")

    @property
    def thumbnails(self) -> np.ndarray | None:
        """Each picture in grey, ``(n, 48, 48)`` uint8; a store of an earlier featlab has none."""
        if THUMBNAILS not in self._optional:
            return None
        small = self._everything(THUMBNAILS)
        return small.reshape(len(small), _THUMBNAIL, _THUMBNAIL)

    @property
    def own_head(self) -> OwnHead | None:
        """The network's own head, where the network has one and its logits were kept."""
        return self._tables.own if self._optional.issuperset(PER_IMAGE) else None

    def own_kept(self, rows: Any = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """What the network's own head said of some images; :mod:`featlab.own` asks for it.

        Returns
        -------
        codes : ndarray of shape (k, m), int
            Places in ``own_head.classes``, the largest logit first; m is 10, or all of them.
        logits : ndarray of shape (k, m), float32
        totals : ndarray of shape (k, 1), float32
            Log-sum-exp of all logits.

        Raises
        ------
        FeatlabError
            The store has no logits of the network's own.
        """
        head, asked = self.own_head, self._rows(rows)
        if head is None:
            raise FeatlabError(
                f"{self.path} has no classes of the network's own: its network came without a "
                "classifier (of keras.applications: ask for it with --classifier), or an earlier "
                "featlab made the store."
            )
        codes, logits, totals = (self._arrays.read(key, asked) for key in PER_IMAGE)
        if codes.size and not (codes.min() >= 0 and codes.max() < len(head.classes)):
            raise FeatlabError(
                f"{self.path} is damaged: /{CODES} names classes it has not; extract it again."
            )
        return codes, logits, totals

    def map_shape(self, layer: str | None = None) -> tuple[int, int, int]:
        """Height, width and number of neurons of a layer's maps."""
        _, h, w, c = self._arrays.array(f"maps/{self.layer_name(layer)}").shape
        return h, w, c

    def maps(self, rows: Any = None, *, layer: str | None = None) -> np.ndarray:
        """Feature maps of some images.

        Parameters
        ----------
        rows : int, slice, sequence of int or boolean mask, optional
            Row numbers of the image table; all by default.
        layer : str, optional
            The last stored layer by default.

        Returns
        -------
        ndarray of shape (k, h, w, c), float32

        Raises
        ------
        FeatlabError
            `rows` or `layer` names what is not there.
        """
        return self._arrays.read(self._maps_key(layer), self._rows(rows), np.float32)

    def iter_maps(
        self, rows: Any = None, *, layer: str | None = None, batch: int = 64
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Feature maps in batches: pairs of row numbers ``(k,)`` and maps ``(k, h, w, c)``."""
        return self._batches(self._maps_key(layer), rows, batch)

    def pooled(
        self, rows: Any = None, *, layer: str | None = None, pooling: str = "mean"
    ) -> np.ndarray:
        """Pooled activations of some images, from the network's own float32 output.

        Parameters
        ----------
        rows : int, slice, sequence of int or boolean mask, optional
            Row numbers of the image table; all by default.
        layer : str, optional
            The last stored layer by default.
        pooling : {"mean", "max"}
            Over the cells of the map.

        Returns
        -------
        ndarray of shape (k, c), float32

        Raises
        ------
        FeatlabError
            `rows`, `layer` or `pooling` names what is not there.
        """
        key, asked = self._pooled_key(pooling, layer), self._rows(rows)
        if len(asked) == len(self):
            return self._arrays.read(key, asked, np.float32)
        unique, place = np.unique(asked, return_inverse=True)
        # A chunk holds many rows and is unpacked anew for each run of them: whole blocks are read.
        parts = [np.empty((0, self.map_shape(layer)[2]), np.float32)]
        for start in range(0, len(self), _BLOCK):
            block = np.arange(start, min(start + _BLOCK, len(self)))
            inside = np.isin(block, unique, assume_unique=True)
            if inside.any():
                parts.append(self._arrays.read(key, block, np.float32)[inside])
        return np.concatenate(parts)[place]

    def iter_pooled(
        self,
        rows: Any = None,
        *,
        layer: str | None = None,
        pooling: str = "mean",
        batch: int = _BLOCK,
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Pooled activations in batches: pairs of row numbers ``(k,)`` and values ``(k, c)``."""
        return self._batches(self._pooled_key(pooling, layer), rows, batch)

    def in_memory(self, rows: Any, layers: Iterable[str]) -> MemoryStore:
        """Some images with their maps of some layers, read once; any thread may ask them."""
        asked = self._rows(rows)
        keys = {"frames", *self._optional, *(self._pooled_key("mean", name) for name in layers)}
        arrays = {key: self._arrays.read(key, asked) for key in keys}
        # As everybody asks for them.
        arrays |= {self._maps_key(name): self.maps(asked, layer=name) for name in layers}
        images = self.images.iloc[asked].reset_index(drop=True)
        return MemoryStore(replace(self._tables, images=images), arrays)

    def verify(self) -> None:
        """Read everything once and check it against itself.

        Every chunk is decompressed (which checks its checksum) and pooled again, to ``/pooled``
        within the rounding of the stored number format; tables must have their digests.

        Raises
        ------
        FeatlabError
            Names the file and the key of the first thing that does not hold.
        """
        for layer in self.layers:
            for rows, maps in self.iter_maps(layer=layer):
                pooled = {
                    pooling: self._arrays.read(self._pooled_key(pooling, layer), rows)
                    for pooling in POOLINGS
                }
                check_pooling(self.path, layer, rows, maps, pooled)
        if not np.allclose(self.colour_histogram.sum(axis=1), 1, atol=1e-4):
            raise FeatlabError(f"{self.path}: /colour_histogram does not sum to 1; extract again.")
        low, high = np.split(self.frames, 2, axis=1)
        if not ((low >= 0) & (low < high) & (high <= 1)).all():
            raise FeatlabError(f"{self.path}: /frames leaves the network's input; extract again.")
        for key in sorted(self._optional):
            for _ in self._batches(key, None, 256):
                pass  # to be readable is all that is asked
        check_tables(self.path, self._tables)

    def layer_name(self, layer: str | None = None) -> str:
        """Check a layer's name; None is the last stored layer."""
        if layer is None:
            return self.layers[-1]
        if layer not in self.layers:
            raise FeatlabError(
                f"layer must be one of {', '.join(self.layers)} in {self.path}, got {layer!r}."
            )
        return layer

    def _everything(self, key: str) -> np.ndarray:
        return self._arrays.read(key, np.arange(len(self)))

    def _batches(self, key: str, rows: Any, batch: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Checked at the call, not at the first batch."""
        check_whole("batch", batch, 1)
        asked = self._rows(rows)
        batches = (asked[start : start + batch] for start in range(0, len(asked), batch))
        return ((some, self._arrays.read(key, some, np.float32)) for some in batches)

    def _maps_key(self, layer: str | None) -> str:
        return f"maps/{self.layer_name(layer)}"

    def _pooled_key(self, pooling: str, layer: str | None) -> str:
        check_choice("pooling", pooling, POOLINGS)
        return f"pooled/{self.layer_name(layer)}/{pooling}"

    def _rows(self, rows: Any) -> np.ndarray:
        return row_numbers(rows, self.images)

    def _check_layout(self) -> None:
        """That every array has the rows, the numbers and the bytes that the format says."""
        widths = {"frames": 4, "colour_histogram": 64}
        for layer in self.layers:
            maps = self._arrays.array(f"maps/{layer}")
            with read_errors(self.path, f"/maps/{layer}"):
                check_maps(maps)
                check_rows(self.path, f"maps/{layer}", maps, len(self))
                widths |= {self._pooled_key(pooling, layer): maps.shape[3] for pooling in POOLINGS}
        kinds = dict.fromkeys(widths, "f")
        if THUMBNAILS in self._optional:
            widths[THUMBNAILS], kinds[THUMBNAILS] = _THUMBNAIL**2, "u"
        if self.own_head is not None:
            most = self._arrays.array(LOGITS).shape[1:]
            widths |= {CODES: most[0] if most else 0, LOGITS: most[0] if most else 0, TOTALS: 1}
            kinds |= {CODES: "i", LOGITS: "f", TOTALS: "f"}
        for key, width in widths.items():
            dataset = self._arrays.array(key)
            with read_errors(self.path, f"/{key}"):
                check_numbers(dataset, 2, kinds[key])
                check_rows(self.path, key, dataset, len(self))
                if dataset.shape[1] != width:
                    raise ValueError(f"{dataset.shape[1]} columns where {width} are expected")
        if len(self._arrays) != len(self):
            raise FeatlabError(
                f"{self.path} is damaged: /parts has {len(self._arrays)} rows, the image table "
                f"{len(self)}; extract it again."
            )
        if self.virtual:
            # A virtual dataset holds nothing: what it promises is looked for in the first part.
            for key in ("frames", *(f"maps/{layer}" for layer in self.layers)):
                self._arrays.read(key, np.array([0]))
        check_boxes(self.path, self.boxes, len(self))


class MemoryStore(MapStore):
    """The maps of a few pictures, which never reached the disk; answers as a file does.

    Parameters
    ----------
    tables : Tables
    arrays : dict of str to ndarray
        The datasets of the file, by name.
    """

    def __init__(self, tables: Tables, arrays: dict[str, np.ndarray]) -> None:
        self.path = Path("pictures in memory")
        self._tables, self._file, self._closing = tables, arrays, contextlib.ExitStack()
        self._created, self._optional = "", set(arrays)
        self.images, self.boxes, self.skipped = tables.images, tables.boxes, tables.skipped
        self.provenance = tables.provenance
        self.layers = layer_names(self.provenance["layers"])
        self._arrays: Any = ArrayRows(arrays)


def _reopened(path: Path, groups: np.ndarray | None) -> MapStore:
    """A store, with groups of its own where some are given."""
    store = MapStore(path)
    if groups is not None:
        store._groups = groups
        store.images = store.images.assign(group=groups)
    return store
