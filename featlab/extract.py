"""The one pass of the network: image table + backbone → store."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, TypeVar

import filelock
import numpy as np
import pandas as pd

from featlab import __version__
from featlab._errors import FeatlabError
from featlab.images import colour_histogram, decode_image, picture_frame, resize_image
from featlab.store import BOX_DTYPES, IMAGE_DTYPES, MapStore, PartWriter, join_parts, part_rows

logger = logging.getLogger(__name__)

T = TypeVar("T")
Progress = Callable[[Iterable[Any]], Iterable[Any]]

_BATCHES_PER_PART = 8
_BATCHES_AHEAD = 3
_PROBE_TOLERANCE = 1e-3
_VERSIONS = ("tensorflow", "keras", "numpy", "h5py", "Pillow")


class MapSource(Protocol):
    """What the pass needs of a network; :class:`featlab.backbones.Backbone` is one."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""

    @property
    def weights(self) -> str:
        """Where the weights come from, in words."""

    def identity(self) -> dict[str, str]:
        """Everything that decides the maps; without a forward pass."""

    def probe(self) -> dict[str, np.ndarray]:
        """Layer → mean-pooled output ``(c,)`` on a fixed picture."""

    def forward(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        """Layer → maps ``(b, h, w, c)`` float32 of pictures ``(b, H, W, 3)`` uint8."""

    def describe(self) -> Any:
        """Anything whose ``str()`` describes the network."""


@dataclass(frozen=True)
class _Plan:
    """How a pass is cut up; kept beside the parts so that a resumed pass is cut the same way."""

    key: dict[str, str]
    n_images: int
    batch_size: int

    def part_ranges(self) -> list[range]:
        step = self.batch_size * _BATCHES_PER_PART
        return [
            range(start, min(start + step, self.n_images))
            for start in range(0, self.n_images, step)
        ]

    def batches(self, part: range) -> list[range]:
        return [
            range(start, min(start + self.batch_size, part.stop))
            for start in range(part.start, part.stop, self.batch_size)
        ]


def extract_maps(
    images: pd.DataFrame,
    backbone: MapSource,
    path: str | os.PathLike[str],
    *,
    boxes: pd.DataFrame | None = None,
    root: str | os.PathLike[str] | None = None,
    batch_size: int = 32,
    resize: str = "stretch",
    dtype: str = "float16",
    progress: Progress | None = None,
) -> MapStore:
    """Run the network over the images once and keep its feature maps in one HDF5 file.

    A finished store that came from the same pictures and the same network is returned as it is;
    if only labels, groups or boxes have changed, its tables are renewed around the same maps. An
    interrupted pass goes on from its finished parts, and gives the same file.

    Parameters
    ----------
    images : DataFrame
        Image table of :func:`featlab.images.index_images`.
    backbone : Backbone
        Or anything with the methods of :class:`MapSource`.
    path : path-like
        The store to write; parts lie in ``<path>.parts`` while the pass runs.
    boxes : DataFrame, optional
        Box table.
    root : path-like, optional
        Folder that the paths are relative to; ``images.attrs["root"]`` by default.
    batch_size : int
        Pictures per forward pass.
    resize : {"stretch", "pad"}
        Stretch a picture onto the input, or keep its aspect and pad with grey.
    dtype : {"float16", "float32"}
        Number format of the maps; a layer that overflows float16 becomes float32 by itself.
    progress : callable, optional
        Wraps the list of batches, as ``tqdm`` does.

    Returns
    -------
    MapStore
        Open for reading.

    Raises
    ------
    FeatlabError
        The store at `path` is of another network or other pictures; another process is writing
        it; a picture vanished or changed; the disk is full.
    """
    found = find_store(images, backbone, path, boxes=boxes, root=root, resize=resize, dtype=dtype)
    if found is not None:
        return found
    images, boxes = _complete(images, boxes, root)
    _check_options(batch_size, resize, dtype)
    path = Path(path)
    parts = path.with_name(path.name + ".parts")
    _make_folder(parts)
    with _sole_writer(parts):
        # Another process may have finished between the first look and the lock.
        found = find_store(images, backbone, path, boxes=boxes, resize=resize, dtype=dtype)
        if found is None:
            plan = _agree_on_plan(
                parts, _Plan(_key(images, backbone, resize, dtype), len(images), batch_size)
            )
            provenance = _write_all(plan, parts, images, backbone, path, resize, dtype, progress)
            provenance["annotations_digest"] = _annotations_digest(images, boxes)
            files = [_part_path(parts, part) for part in plan.part_ranges()]
            with _disk_errors(path, parts):
                join_parts(files, path, images=images, boxes=boxes, provenance=provenance)
            found = MapStore(path)
        shutil.rmtree(parts, ignore_errors=True)
    return found


def find_store(
    images: pd.DataFrame,
    backbone: MapSource,
    path: str | os.PathLike[str],
    *,
    boxes: pd.DataFrame | None = None,
    root: str | os.PathLike[str] | None = None,
    resize: str = "stretch",
    dtype: str = "float16",
) -> MapStore | None:
    """The finished store at `path`, if it holds just what :func:`extract_maps` would write.

    Makes no forward pass over the images. If the installed TensorFlow or Keras differ from those
    that wrote the store, the network's output on one fixed picture decides.

    Returns
    -------
    MapStore or None
        None where there is no file.

    Raises
    ------
    FeatlabError
        The store there came from something else; the message names what, and both values.
    """
    path = Path(path)
    if not path.exists():
        return None
    images, boxes = _complete(images, boxes, root)
    store = MapStore(path)
    try:
        wanted = _key(images, backbone, resize, dtype)
        _refuse_difference(store.provenance, wanted, path)
        if any(store.provenance.get(f"version_{name}") != _version(name) for name in _VERSIONS[:2]):
            _refuse_other_output(store.provenance, backbone, path)
    except FeatlabError:
        store.close()
        raise
    if _annotations_digest(images, boxes) == store.provenance["annotations_digest"]:
        return store
    logger.info("labels or boxes have changed: renewing the tables of %s around its maps", path)
    provenance = store.provenance | {"annotations_digest": _annotations_digest(images, boxes)}
    store.close()
    with _disk_errors(path, path.parent):
        join_parts([path], path, images=images, boxes=boxes, provenance=provenance)
    return MapStore(path)


def _write_all(
    plan: _Plan,
    parts: Path,
    images: pd.DataFrame,
    backbone: MapSource,
    path: Path,
    resize: str,
    dtype: str,
    progress: Progress | None,
) -> dict[str, Any]:
    """Write every part that is missing; returns the provenance of the whole."""
    missing = [
        part for part in plan.part_ranges() if part_rows(_part_path(parts, part)) != len(part)
    ]
    done = plan.n_images - sum(map(len, missing))
    if done:
        logger.info("going on with %d of %d images done", done, plan.n_images)
    provenance = _provenance(plan, images, backbone, resize)
    batches = [batch for part in missing for batch in plan.batches(part)]
    shown = iter(progress(batches) if progress else batches)
    read = _Reader(images, backbone.input_size, resize)
    with ThreadPoolExecutor(os.cpu_count(), "decode") as decoders:
        pictures = _ahead(decoders, read.batch, batches)
        try:
            for part in missing:
                writer = PartWriter(_part_path(parts, part), len(part), dtype)
                with _disk_errors(path, parts), _discarded_on_error(writer):
                    for _ in plan.batches(part):
                        next(shown)
                        pixels, colours, frames = next(pictures)
                        writer.append(backbone.forward(pixels), colours, frames)
                    writer.finish()
            next(shown, None)  # lets a progress bar close
        finally:
            decoders.shutdown(wait=False, cancel_futures=True)
    return provenance


@dataclass(frozen=True)
class _Reader:
    """Reads, checks and resizes pictures of the image table."""

    images: pd.DataFrame
    size: tuple[int, int]
    resize: str

    def batch(self, rows: range) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Pixels ``(b, H, W, 3)`` uint8, colours ``(b, 64)`` and frames ``(b, 4)``."""
        pixels, colours, frames = zip(*map(self._one, rows), strict=True)
        return np.stack(pixels), np.stack(colours), np.array(frames, dtype=np.float64)

    def _one(self, row: int) -> tuple[np.ndarray, np.ndarray, tuple[float, ...]]:
        entry = self.images.iloc[row]
        file = Path(self.images.attrs["root"], entry["path"])
        try:
            data = file.read_bytes()
        except OSError as error:
            raise FeatlabError(f"{file} could not be read: {error.strerror}.") from error
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise FeatlabError(f"{file} has changed since the folder was indexed; index it again.")
        picture = decode_image(data)
        height, width = picture.shape[:2]
        frame = picture_frame(width, height, self.size, self.resize)
        return resize_image(picture, self.size, self.resize), colour_histogram(picture), frame


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[range], T], tasks: Iterable[range]
) -> Iterator[T]:
    """Results of `work` in order, a few tasks ahead, so that decoding overlaps the network."""
    waiting = iter(tasks)
    running: deque[Future[T]] = deque(
        pool.submit(work, task) for task in islice(waiting, _BATCHES_AHEAD)
    )
    while running:
        result = running.popleft().result()
        running.extend(pool.submit(work, task) for task in islice(waiting, 1))
        yield result


def _complete(
    images: pd.DataFrame, boxes: pd.DataFrame | None, root: str | os.PathLike[str] | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Check the tables and note the folder."""
    absent = [column for column in IMAGE_DTYPES if column not in images]
    if absent or images.empty:
        raise FeatlabError(
            "images must be an image table of featlab.images.index_images with at least one row; "
            f"missing columns: {', '.join(absent) or 'none'}, rows: {len(images)}."
        )
    root = root if root is not None else images.attrs.get("root")
    if root is None:
        raise FeatlabError("root is needed: the image table does not say where its pictures lie.")
    attrs = images.attrs | {"root": str(Path(root).resolve())}
    images = images.reset_index(drop=True)
    images.attrs = attrs
    return images, pd.DataFrame(columns=list(BOX_DTYPES)) if boxes is None else boxes


def _check_options(batch_size: int, resize: str, dtype: str) -> None:
    if batch_size < 1:
        raise FeatlabError(f"batch_size must be at least 1, got {batch_size}.")
    if resize not in ("stretch", "pad"):
        raise FeatlabError(f"resize must be 'stretch' or 'pad', got {resize!r}.")
    if dtype not in ("float16", "float32"):
        raise FeatlabError(f"dtype must be 'float16' or 'float32', got {dtype!r}.")


def _key(images: pd.DataFrame, backbone: MapSource, resize: str, dtype: str) -> dict[str, str]:
    return {
        **backbone.identity(),
        "resize": resize,
        "dtype": dtype,
        "image_set_digest": _digest(images[["path", "sha256"]]),
    }


def _annotations_digest(images: pd.DataFrame, boxes: pd.DataFrame) -> str:
    return _digest(images[["label", "split", "group"]]) + _digest(boxes[list(BOX_DTYPES)])


def _digest(table: pd.DataFrame) -> str:
    lines = table.to_csv(index=False, lineterminator="\n")
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _refuse_difference(found: Mapping[str, Any], wanted: Mapping[str, str], path: Path) -> None:
    for name, value in wanted.items():
        if found.get(name) != value:
            raise FeatlabError(
                f"{path} was made with another {name.replace('_', ' ')}: {found.get(name)} there, "
                f"{value} asked for. Give another path, or remove the file."
            )


def _refuse_other_output(found: Mapping[str, Any], backbone: MapSource, path: Path) -> None:
    for layer, values in backbone.probe().items():
        stored = np.asarray(found.get(f"probe_{layer}", np.nan))
        scale = np.abs(values).max(initial=0)
        if stored.shape != values.shape or not np.allclose(
            stored, values, rtol=0, atol=_PROBE_TOLERANCE * scale
        ):
            raise FeatlabError(
                f"{path} was made with other library versions, under which layer {layer!r} gives "
                "another output on the probe picture. Give another path, or remove the file."
            )


def _provenance(
    plan: _Plan, images: pd.DataFrame, backbone: MapSource, resize: str
) -> dict[str, Any]:
    probe = backbone.probe()
    digest = hashlib.sha256()
    for layer in sorted(probe):
        digest.update(np.round(probe[layer].astype(np.float64), 3).tobytes())
    return {
        **plan.key,
        "weights": backbone.weights,
        "description": str(backbone.describe()),
        "fingerprint": digest.hexdigest()[:16],
        **{f"probe_{layer}": values.astype(np.float32) for layer, values in probe.items()},
        **{f"version_{name}": _version(name) for name in _VERSIONS},
        "version_python": platform.python_version(),
        "featlab_version": __version__,
        "engine": "tensorflow",
        "precision": "float32",
        "batch_size": plan.batch_size,
    }


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _agree_on_plan(parts: Path, plan: _Plan) -> _Plan:
    """The plan of an earlier, interrupted pass if there is one; its parts are kept."""
    file = parts / "plan.json"
    # Without a finished part there is nothing to go on with, and nothing to lose.
    if file.exists() and any(parts.glob("part-*.h5")):
        earlier = json.loads(file.read_text("utf-8"))
        for name, value in plan.key.items():
            if earlier["key"].get(name) != value:
                raise FeatlabError(
                    f"{parts} holds parts of an interrupted pass with another "
                    f"{name.replace('_', ' ')}: {earlier['key'].get(name)} there, {value} asked "
                    "for. Go on with that one, give another path, or remove the folder."
                )
        if earlier["batch_size"] != plan.batch_size:
            logger.info("keeping the interrupted pass's batch size %d", earlier["batch_size"])
        return _Plan(**earlier)
    temporary = parts / "plan.json.tmp"
    content = {"key": plan.key, "n_images": plan.n_images, "batch_size": plan.batch_size}
    temporary.write_text(json.dumps(content, indent=1), "utf-8")
    os.replace(temporary, file)
    return plan


def _part_path(parts: Path, part: range) -> Path:
    return parts / f"part-{part.start:09d}-{part.stop:09d}.h5"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FeatlabError(f"{folder} could not be made: {error.strerror}.") from error


@contextlib.contextmanager
def _sole_writer(parts: Path) -> Iterator[None]:
    """Hold the lock of a target; the system frees it when the process dies."""
    lock = filelock.FileLock(parts / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        raise FeatlabError(
            f"another process is writing {parts.name.removesuffix('.parts')} in {parts.parent}; "
            "wait for it, or give another path."
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _discarded_on_error(writer: PartWriter) -> Iterator[None]:
    try:
        yield
    except BaseException:
        writer.discard()
        raise


@contextlib.contextmanager
def _disk_errors(path: Path, parts: Path) -> Iterator[None]:
    """Say what a failed write means, and what is left."""
    try:
        yield
    except OSError as error:
        reason = "no space left on the disk" if "No space left" in str(error) else str(error)
        raise FeatlabError(
            f"writing {path} failed: {reason}. The finished parts are kept in {parts}; make room "
            "and run the same again to go on."
        ) from error
