"""What a pass needs of a network and keeps of it; how it is cut into parts, and their folder."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import platform
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd

from featlab.arguments import check_choice, check_whole
from featlab.errors import FeatlabError
from featlab.images.pixels import JPEG_MARGIN, InputReader, intensity_of, jpeg_factor
from featlab.store.format import BOX_DTYPES, Tables
from featlab.store.network import ANOTHER_PATH, DECIDING, MOST, OwnHead, refuse_other_output
from featlab.store.rows import Piece
from featlab.store.writing import PartWriter
from featlab.system import __version__
from featlab.system.files import held, write_durably

_USUAL_BATCH = 32


class MapSource(Protocol):
    """What the pass needs of a network; :class:`featlab.backbones.Backbone` is one.

    It may have two attributes more: `precision` ("float32" without it) and `engine`, with a
    `name`, a `batch_size`, and the `streams`: how many threads may call :meth:`forward` at the
    same time (one without it). A network with a head of its own has `own_head`, an
    :class:`~featlab.store.network.OwnHead`, and, where that is not linear in the pooled maps,
    `forward_own`: from pixels to the maps and the head's logits.
    """

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
class PassOptions:
    """How a pass runs the network over the images; the same for every way of making a store.

    Attributes
    ----------
    batch_size : int, optional
        Pictures per forward pass. By default what is fastest for the engine (8 on a processor, 32
        on a graphics card), or less where that would need more than a quarter of the memory.
    resize : {"stretch", "pad"}
        Stretch a picture onto the input, or keep its aspect and pad with grey.
    dtype : {"float16", "float32"}
        Number format of the maps; a layer that overflows float16 becomes float32 by itself.
    own_logits : {"top", "all"}
        Of the network's own classes, where it has a head: the 10 largest logits of each picture,
        or all.

    Raises
    ------
    FeatlabError
        What no pass can do.
    """

    batch_size: int | None = None
    resize: str = "stretch"
    dtype: str = "float16"
    own_logits: str = "top"

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            check_whole("batch_size", self.batch_size, 1)
        check_choice("resize", self.resize, ("stretch", "pad"))
        check_choice("dtype", self.dtype, ("float16", "float32"))
        check_choice("own_logits", self.own_logits, ("top", "all"))


@dataclass(frozen=True)
class Running:
    """How a network is run.

    Attributes
    ----------
    engine : str
        Name of what runs it.
    streams : int
        Forward passes at the same time.
    batch_size : int
        Pictures per forward pass beyond which nothing is gained.
    """

    engine: str
    streams: int
    batch_size: int


def precision_of(source: MapSource) -> str:
    """Number format that the network computes in; loads nothing."""
    return str(getattr(source, "precision", "float32"))


def running_of(source: MapSource) -> Running:
    """How a network is run; builds it where that is not done yet."""
    engine = getattr(source, "engine", None)
    if engine is None:
        return Running("the network's own", 1, _USUAL_BATCH)
    return Running(engine.name, engine.streams, engine.batch_size)


_VERSIONS = (*DECIDING, "openvino", "numpy", "h5py", "Pillow")


def store_key(images: pd.DataFrame, backbone: MapSource, options: PassOptions) -> dict[str, str]:
    """Everything that must agree before a store is taken for what would be written now.

    The engine is not part of it: in float32 all engines agree to 1e-4 of the largest activation.
    `jpeg_scaling` is there only where a picture is large enough to be scaled while it is decoded,
    `own_logits` only where all are asked for, `intensity` only where the set has levels of its own.
    """
    scaling = {"jpeg_scaling": f"to {JPEG_MARGIN} times the input"}
    every = {"own_logits": "all"} if options.own_logits == "all" else {}
    every |= {"intensity": intensity_of(images)} if "levels" in images else {}
    return {
        **backbone.identity(),
        **every,
        **(scaling if _some_is_scaled(images, backbone.input_size, options.resize) else {}),
        "precision": precision_of(backbone),
        "resize": options.resize,
        "dtype": options.dtype,
        "image_set_digest": _digest(images[["path", "sha256", *({"levels"} & set(images))]]),
    }


def _some_is_scaled(images: pd.DataFrame, size: tuple[int, int], resize: str) -> bool:
    """Whether a picture is large enough that the pass scales it while it is decoded."""
    least = 2 * JPEG_MARGIN
    large = images[(images["width"] >= least * size[1]) | (images["height"] >= least * size[0])]
    return any(
        jpeg_factor(path, width, height, size, resize) > 1
        for path, width, height in zip(large["path"], large["width"], large["height"], strict=True)
    )


def annotations_digest(images: pd.DataFrame, boxes: pd.DataFrame) -> str:
    """Changes when labels, splits, groups or boxes do."""
    return _digest(images[["label", "split", "group"]]) + _digest(boxes[list(BOX_DTYPES)])


def provenance_of(tables: Tables) -> dict[str, str]:
    """What new tables tell of themselves: their digest, and what their provenance holds already."""
    digest = annotations_digest(tables.images, tables.boxes)
    return {**tables.provenance, "annotations_digest": digest}


def _digest(table: pd.DataFrame) -> str:
    lines = table.to_csv(index=False, lineterminator="\n")
    return hashlib.sha256(lines.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def refuse_other_maps(
    provenance: Mapping[str, Any], backbone: MapSource, who: Any, way_out: str = ANOTHER_PATH
) -> None:
    """Under other library versions, the output on the probe picture must be the stored one."""
    if any(provenance.get(f"version_{name}") != version_of(name) for name in DECIDING):
        refuse_other_output(provenance, backbone.probe(), who, way_out)


def own_head_of(source: MapSource, options: PassOptions) -> OwnHead | None:
    """The network's own head; None where it has none.

    Raises
    ------
    FeatlabError
        All of its logits are asked for, and it has none.
    """
    head: OwnHead | None = getattr(source, "own_head", None)
    if head is None and options.own_logits == "all":
        raise FeatlabError(
            "own_logits must be 'top' for a network without a classifier of its own, got 'all'; of "
            "keras.applications ask for it with classifier=True (--classifier)."
        )
    return head


_MOST_ASKED = 48


def warn_of_scaling(images: pd.DataFrame, source: MapSource, options: PassOptions) -> None:
    """Let a network with a head of its own look at a few labelled pictures before the pass."""
    ask = getattr(source, "warn_of_scaling", None)
    labelled = images[images["label"] != ""]
    if ask is None or getattr(source, "own_head", None) is None or labelled.empty:
        return
    some = labelled.iloc[np.unique(np.linspace(0, len(labelled) - 1, _MOST_ASKED).astype(int))]
    read = InputReader(some.reset_index(drop=True), source.input_size, options.resize)
    ask(np.stack([read(row)[0] for row in range(len(some))]), some["label"].tolist())


def logits_kept(head: OwnHead, options: PassOptions) -> int:
    """Logits of each picture that are kept."""
    return len(head.classes) if options.own_logits == "all" else min(MOST, len(head.classes))


def describe_pass(key: Mapping[str, str], backbone: MapSource, batch_size: int) -> dict[str, Any]:
    """The provenance of a store; makes one forward pass, over the probe picture."""
    probe = backbone.probe()
    digest = hashlib.sha256()
    for layer in sorted(probe):
        digest.update(np.round(probe[layer].astype(np.float64), 3).tobytes())
    return {
        **key,
        "weights": backbone.weights,
        "description": str(backbone.describe()),
        "fingerprint": digest.hexdigest()[:16],
        **{f"probe_{layer}": values.astype(np.float32) for layer, values in probe.items()},
        **{f"version_{name}": version_of(name) for name in _VERSIONS},
        "version_python": platform.python_version(),
        "featlab_version": __version__,
        "batch_size": batch_size,
    }


def version_of(package: str) -> str:
    """Version of an installed package, or the words "not installed"."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


logger = logging.getLogger(__name__)

PLAN = "plan.json"
_SHARE_LOCKS = "lock-*"
_SHARED = "shared"
# Machines that take a share of one pass agree on its plan one after the other.
_AGREEING_SECONDS = 60

TABLES = "tables.h5"
"""The image table, the box table and the provenance, beside the parts."""


@dataclass(frozen=True)
class Plan:
    """How a pass is cut up; kept beside the parts so that a resumed pass is cut the same way.

    Attributes
    ----------
    key : dict of str to str
        What made the parts: that of the store, and the engine, whose last bits are its own.
    n_images, batch_size : int
    part_rows : int
        Rows of each part but the last.
    """

    key: dict[str, str]
    n_images: int
    batch_size: int
    part_rows: int

    @property
    def digest(self) -> str:
        """What a part must carry to be one of this pass."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:32]

    def part_ranges(self) -> list[range]:
        """Rows of each part."""
        return _cut(range(self.n_images), self.part_rows)

    def shard(self, number: int, of: int) -> list[range]:
        """Rows of the parts of one share of several, numbered from 1."""
        return self.part_ranges()[number - 1 :: of]

    def batches(self, part: range) -> list[range]:
        """Rows of each forward pass within a part."""
        return _cut(part, self.batch_size)


def _cut(rows: range, step: int) -> list[range]:
    return [
        range(start, min(start + step, rows.stop)) for start in range(rows.start, rows.stop, step)
    ]


def agree_on_plan(parts: Path, plan: Plan) -> Plan:
    """The plan of an earlier, interrupted pass if there is one; its parts are kept.

    Raises
    ------
    FeatlabError
        The parts there are of another pass; the message names what differs, and both values.
    """
    file = parts / PLAN
    earlier = json.loads(file.read_text("utf-8")) if file.exists() else None
    # Another machine may have begun its share; parts of another pass are not taken for ours.
    begun = any(parts.glob("part-*.h5")) or any(parts.glob(_SHARE_LOCKS))
    if earlier is not None and begun:
        for name, value in plan.key.items():
            if earlier["key"].get(name) != value:
                raise FeatlabError(
                    f"{parts} holds parts of an interrupted pass with another "
                    f"{name.replace('_', ' ')}: {earlier['key'].get(name)} there, {value} asked "
                    "for. Go on with that one, give another path, or remove the folder."
                )
        if earlier["batch_size"] != plan.batch_size:
            logger.info("keeping the interrupted pass's batch size %d", earlier["batch_size"])
        return Plan(**earlier)
    write_durably(file, json.dumps(asdict(plan), indent=1))
    return plan


def agreed_plan(parts: Path) -> Plan:
    """The plan of a pass that has begun.

    Raises
    ------
    FeatlabError
        There is none.
    """
    try:
        return Plan(**json.loads((parts / PLAN).read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise FeatlabError(
            f"{parts} holds no pass that could be joined: {PLAN} is missing or damaged there; "
            "run `featlab extract` first."
        ) from error


def parts_of(path: Path) -> Path:
    """Folder of the parts of a store."""
    return path.with_name(path.name + ".parts")


def part_path(parts: Path, part: range) -> Path:
    """Where a finished part lies."""
    return parts / f"part-{part.start:09d}-{part.stop:09d}.h5"


def make_folder(folder: Path) -> None:
    """Make the folder of the parts."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FeatlabError(f"{folder} could not be made: {error.strerror}.") from error


@contextlib.contextmanager
def sole_writer(parts: Path) -> Iterator[None]:
    """Hold the lock of a target, where nobody writes a share of it either."""
    with _held(parts, "lock"):
        for share in parts.glob(_SHARE_LOCKS):
            with _held(parts, share.name):
                pass
        yield


@contextlib.contextmanager
def one_of_several(parts: Path, shard: tuple[int, int]) -> Iterator[contextlib.ExitStack]:
    """Hold the lock of a share of a target, and until the stack given is closed all of it."""
    with contextlib.ExitStack() as agreeing:
        agreeing.enter_context(_held(parts, "lock", wait=_AGREEING_SECONDS))
        with _held(parts, f"lock-{shard[0]}-of-{shard[1]}"):
            yield agreeing


def _held(parts: Path, name: str, wait: float = 0) -> contextlib.AbstractContextManager[None]:
    def busy() -> None:
        raise FeatlabError(
            f"another process is writing {parts.name.removesuffix('.parts')} in {parts.parent}; "
            "wait for it, or give another path."
        ) from None

    return held(parts / name, busy, wait=wait)


def clear_finished(parts: Path, kept: Sequence[Piece]) -> None:
    """Clear the folder of a finished store, which a kill at the very end leaves as it was."""
    needed = _needed(parts, kept)
    if parts.is_dir() and (not needed or {*parts.iterdir()} != needed):
        with contextlib.suppress(FeatlabError), sole_writer(parts):
            clear_parts(parts, kept)


def clear_parts(parts: Path, kept: Sequence[Piece]) -> None:
    """Remove everything in the folder of the parts but those that a virtual store needs."""
    needed = _needed(parts, kept)
    if not needed:
        shutil.rmtree(parts, ignore_errors=True)
        return
    for file in {*parts.iterdir()} - needed:
        with contextlib.suppress(OSError):
            file.unlink()


def share_parts(pieces: Sequence[Piece]) -> None:
    """Note beside parts that another store refers to them, so that they are never cleared."""
    for folder in {piece.file.parent for piece in pieces if piece.file.match("*.parts/part-*.h5")}:
        (folder / _SHARED).touch()


def _needed(parts: Path, kept: Sequence[Piece]) -> set[Path]:
    own = {piece.file for piece in kept if piece.file.parent == parts}
    if not (parts / _SHARED).exists():
        return own
    return {*own, *parts.glob("part-*.h5"), parts / _SHARED}


@contextlib.contextmanager
def disk_errors(path: Path, parts: Path) -> Iterator[None]:
    """Say what a failed write means, and what is left."""
    try:
        yield
    except OSError as error:
        reason = "no space left on the disk" if "No space left" in str(error) else str(error)
        raise FeatlabError(
            f"writing {path} failed: {reason}. The finished parts are kept in {parts}; make room "
            "and run the same again to go on."
        ) from error


@contextlib.contextmanager
def discarded_on_error(writer: PartWriter) -> Iterator[None]:
    """Leave no half-written part behind."""
    try:
        yield
    except BaseException:
        writer.discard()
        raise
