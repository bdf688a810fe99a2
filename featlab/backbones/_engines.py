"""What runs a network over a batch of pictures: TensorFlow, OpenVINO, or Keras on JAX or torch.

An engine takes raw pixels. The network's own preprocessing is part of what it runs, so that every
engine prepares pictures alike.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import tempfile
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from featlab.errors import FeatlabError
from featlab.system.files import write_whole
from featlab.system.machine import usable_cores

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

logger = logging.getLogger(__name__)

Run = Callable[[np.ndarray], Sequence[np.ndarray]]

ENGINES = ("auto", "tensorflow", "openvino", "jax", "torch")
PRECISIONS = ("float32", "bfloat16")

TOLERANCE = 1e-4
"""Largest difference from TensorFlow in float32 that is taken for rounding, as a share of the
largest activation."""

# Small batches stay in a core's cache, large ones fill a graphics card (docs/speed.md).
_CPU_BATCH, _GPU_BATCH = 8, 32
# Knowing the size of its batches, OpenVINO chooses its kernels. A call takes several of them, so
# that threads meet less often.
OPENVINO_BATCH, _OPENVINO_CALL = 4, 16
# A graph can hold no more than 2 GB of constants.
_LARGEST_CONSTANTS = 1 << 30
# The second call fills the gaps that one forward pass leaves between its operations.
_TENSORFLOW_CALLERS = 2


@dataclass(frozen=True)
class Engine:
    """A network that is ready to run.

    Attributes
    ----------
    name : str
        "tensorflow", "openvino", or the backend that Keras uses.
    run : callable
        Pixels ``(b, H, W, 3)`` uint8 → maps ``(b, h, w, c)`` float32 of each layer.
    streams : int
        Calls of `run` at the same time that pay; it may be called from that many threads.
    batch_size : int
        Pictures per call beyond which nothing is gained.
    shapes : tuple of tuple of int
        Height, width and channels of each map; of a converted network that was kept.
    parameters : int
        Of the network; of one that was kept.
    sized : callable, optional
        From a number of pictures to a `run` that takes so many at once, of the same network.
    device : str
        What it runs on, where it has `sized`.
    details : str
        What a measurement chose (:meth:`featlab.backbones.Backbone.settle`).
    """

    name: str
    run: Run
    streams: int
    batch_size: int
    shapes: tuple[tuple[int, ...], ...] = ()
    parameters: int = 0
    sized: Callable[[int], Run] | None = None
    device: str = ""
    details: str = ""


def make_engine(
    wanted: str,
    precision: str,
    model: keras.Model,
    preprocess: Callable[[Any], Any],
    probe: np.ndarray,
    kept: Path | None = None,
) -> Engine:
    """The engine that is asked for, or the fastest that this machine and network allow.

    "auto" is OpenVINO in bfloat16, and in float32 where it is installed, TensorFlow sees no
    graphics card and the converted network agrees with TensorFlow; else TensorFlow. Where Keras
    runs on another backend, "auto" is that backend.

    Parameters
    ----------
    wanted, precision : str
        Of :data:`ENGINES` and :data:`PRECISIONS`.
    model : keras.Model
        From scaled pixels to the list of maps.
    preprocess : callable
        From pixels 0 to 255, as floats, to scaled pixels.
    probe : ndarray of shape (1, H, W, 3), uint8
        Picture on which a converted network must agree with TensorFlow.
    kept : Path, optional
        Where a converted network is kept for :func:`kept_engine`.

    Raises
    ------
    FeatlabError
        The engine asked for is not installed, or cannot run this network or this precision.
    """
    import keras

    backend = keras.backend.backend()
    if backend != "tensorflow":
        if wanted not in ("auto", backend) or precision != "float32":
            raise FeatlabError(
                f"Keras runs on {backend} here, so engine must be auto or {backend} in float32, "
                f"got {wanted} in {precision}. Set KERAS_BACKEND=tensorflow to use the others."
            )
        return keras_engine(model, preprocess, backend)
    if wanted in ("jax", "torch"):
        raise FeatlabError(
            f"engine={wanted!r} needs Keras on that backend: set KERAS_BACKEND={wanted} before the "
            "start; it runs on tensorflow here."
        )
    function = _traced(model, preprocess, probe.shape[1:])
    only_openvino = wanted == "openvino" or precision != "float32"
    if only_openvino or (wanted == "auto" and find_spec("openvino") and not _has_gpu()):
        try:
            expected = [maps.numpy() for maps in _call(model, preprocess, probe)]
            engine, network = openvino_engine(function, precision, probe, expected)
            if kept is not None:
                with suppress(FeatlabError, OSError, RuntimeError):  # nothing is lost by that
                    _keep(kept, network, expected, model.count_params())
            return engine
        except FeatlabError as error:
            if only_openvino:
                raise
            logger.warning("the pass runs on TensorFlow: %s", error)
    return tensorflow_engine(function)


def tensorflow_engine(function: tf.types.experimental.ConcreteFunction) -> Engine:
    """TensorFlow on its own thread pool, or on the graphics card where there is one."""
    import tensorflow as tf

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        return [np.asarray(maps) for maps in function(tf.constant(pixels))]

    batch = _GPU_BATCH if _has_gpu() else _CPU_BATCH
    return Engine("tensorflow", run, _TENSORFLOW_CALLERS, batch)


def keras_engine(model: keras.Model, preprocess: Callable[[Any], Any], backend: str) -> Engine:
    """Keras on the backend in use, which may be the only one that sees a graphics card."""

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        maps = model.predict_on_batch(preprocess(pixels.astype(np.float32)))
        return list(maps) if isinstance(maps, (list, tuple)) else [maps]

    return Engine(backend, run, streams=1, batch_size=_GPU_BATCH)


def openvino_engine(
    function: tf.types.experimental.ConcreteFunction,
    precision: str,
    probe: np.ndarray,
    expected: Sequence[np.ndarray],
) -> tuple[Engine, Any]:
    """OpenVINO on the processor: one single-threaded stream on each core; the network it runs.

    Streams need not wait for each other between operations, as the threads of one forward pass
    do, and leave no core idle while another decodes.

    Parameters
    ----------
    function : ConcreteFunction
        What is converted.
    precision : {"float32", "bfloat16"}
    probe : ndarray of shape (1, H, W, 3), uint8
    expected : sequence of ndarray
        TensorFlow's maps of `probe`.

    Raises
    ------
    FeatlabError
        OpenVINO is not installed, cannot convert the network or gives another output than
        TensorFlow, or the processor has no such precision.
    """
    core = openvino_core(precision)
    try:
        network = _converted(core, function)
        network.reshape([OPENVINO_BATCH, *probe.shape[1:]])
        return compiled_engine(core, network, precision, probe, expected), network
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise FeatlabError(f"OpenVINO cannot convert this network: {reason}") from error


def openvino_core(precision: str) -> Any:
    """OpenVINO, where it is installed and has this precision; told to keep its use to itself."""
    # Each import sends a message to its makers, in a fork of this process.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        import openvino
    except ImportError as error:
        raise FeatlabError(
            "engine='openvino' (and bfloat16) needs OpenVINO: pip install 'featlab[fast]'."
        ) from error
    core = openvino.Core()
    if precision == "bfloat16" and "BF16" not in core.get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        raise FeatlabError(
            "precision='bfloat16' is not possible: this processor has no bfloat16 arithmetic. "
            "Leave precision out."
        )
    return core


def compiled_engine(
    core: Any, network: Any, precision: str, probe: np.ndarray, expected: Sequence[np.ndarray]
) -> Engine:
    """The network ready to run, once its output on the probe picture is the expected one."""
    cores, hint = usable_cores(), {"float32": "f32", "bfloat16": "bf16"}[precision]

    def compiled_in(hint: str, size: int, streams: int) -> Any:
        own = network.clone()
        own.reshape([size, *probe.shape[1:]])
        options = {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": cores}
        return core.compile_model(own, "CPU", options | {"INFERENCE_PRECISION_HINT": hint})

    compiled, one_at_a_time = compiled_in("f32", OPENVINO_BATCH, cores), Lock()
    _check_agreement(_infer([compiled.create_infer_request()], probe), expected)
    if precision == "bfloat16":
        compiled = compiled_in(hint, OPENVINO_BATCH, cores)

    @cache
    def request_alone() -> Any:
        """For a single picture, which a batch would be filled up for; gives the same maps."""
        return compiled_in(hint, 1, 1)

    def run_of(compiled: Any, size: int) -> Run:
        free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(cores):
            at_once = max(1, _OPENVINO_CALL // size)
            free.put([compiled.create_infer_request() for _ in range(at_once)])

        def run(pixels: np.ndarray) -> list[np.ndarray]:
            if len(pixels) == 1:
                with one_at_a_time:
                    return list(request_alone()(pixels).values())
            requests = free.get()
            try:
                return _infer(requests, pixels)
            finally:
                free.put(requests)

        return run

    device = f"{core.get_property('CPU', 'FULL_DEVICE_NAME')}, {cores} cores"
    run, others = run_of(compiled, OPENVINO_BATCH), lambda n: run_of(compiled_in(hint, n, cores), n)
    return Engine("openvino", run, cores, _OPENVINO_CALL, sized=others, device=device)


_MOST_KEPT = 8  # converted networks; each takes as much room as its weights


def kept_engine(wanted: str, precision: str, path: Path, probe: np.ndarray) -> Engine | None:
    """The engine of a converted network that an earlier process kept; loads no TensorFlow.

    None where there is none, where the file is damaged, and where another engine than OpenVINO
    might be meant: Keras on another backend, or a graphics card beside "auto". What was kept must
    give TensorFlow's maps of the probe picture, which lie beside it, as when it was converted.
    """
    openvino_meant = wanted == "openvino" or precision != "float32" or not _has_gpu_device()
    if wanted not in ("auto", "openvino") or not openvino_meant or _other_backend():
        return None
    if not (path.is_file() and find_spec("openvino")):
        return None
    core = openvino_core(precision)
    try:
        packed = path.read_bytes()
        with np.load(io.BytesIO(packed), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        network = core.read_model(arrays["graph"].tobytes(), arrays["weights"].tobytes())
        expected = [arrays[f"maps_{k}"] for k in range(len(arrays) - 3)]
        engine = compiled_engine(core, network, precision, probe, expected)
        shapes = tuple(maps.shape[1:] for maps in expected)
        return replace(engine, shapes=shapes, parameters=int(arrays["parameters"]))
    except Exception as error:  # whatever a damaged file makes of numpy and OpenVINO
        logger.info("the network kept in %s is made anew: %s", path, error)
        return None


def _keep(path: Path, network: Any, expected: Sequence[np.ndarray], parameters: int) -> None:
    """Write a converted network for the next process, and leave the latest ones only."""
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "graph.xml")
        openvino.serialize(network, graph)
        parts = {"graph": graph.read_bytes(), "weights": graph.with_suffix(".bin").read_bytes()}
    arrays: dict[str, Any] = {name: np.frombuffer(one, np.uint8) for name, one in parts.items()}
    arrays |= {f"maps_{k}": values for k, values in enumerate(expected)}
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, parameters=np.int64(parameters), **arrays)
    write_whole(path, packed.getvalue())
    older = sorted(path.parent.glob("*.npz"), key=lambda one: one.stat().st_mtime)
    for one in older[:-_MOST_KEPT]:
        one.unlink(missing_ok=True)


def _other_backend() -> bool:
    """Whether Keras runs, or would run, on another backend than TensorFlow; loads nothing."""
    if "keras" in sys.modules:
        return str(sys.modules["keras"].backend.backend()) != "tensorflow"
    backend = os.environ.get("KERAS_BACKEND")
    if backend is None:
        folder = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
        with suppress(OSError, ValueError):
            backend = json.loads(Path(folder, "keras.json").read_text("utf-8")).get("backend")
    return (backend or "tensorflow") != "tensorflow"


def _has_gpu_device() -> bool:
    """Whether the system has a graphics card that TensorFlow might see; loads nothing."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _traced(
    model: keras.Model, preprocess: Callable[[Any], Any], shape: tuple[int, ...]
) -> tf.types.experimental.ConcreteFunction:
    """The network as one graph, its weights as constants where they fit.

    Of constants TensorFlow folds batch normalisation into the convolutions before it: up to 1.4
    times as fast (docs/speed.md). ``model.predict`` sets up a data pipeline at each call besides.
    """
    import tensorflow as tf

    weights = [
        [variable.value.numpy() for variable in kind]
        for kind in (model.trainable_variables, model.non_trainable_variables)
    ]
    small = sum(array.nbytes for kind in weights for array in kind) <= _LARGEST_CONSTANTS

    @tf.function(input_signature=[tf.TensorSpec((None, *shape), tf.uint8)], autograph=False)
    def traced(pixels: tf.Tensor) -> list[tf.Tensor]:
        if not small:
            return _call(model, preprocess, pixels)
        constants = [[tf.constant(array) for array in kind] for kind in weights]
        scaled = preprocess(tf.cast(pixels, tf.float32))
        return _listed(model.stateless_call(*constants, scaled, training=False)[0])

    return traced.get_concrete_function()


def _call(model: keras.Model, preprocess: Callable[[Any], Any], pixels: Any) -> list[tf.Tensor]:
    import tensorflow as tf

    return _listed(model(preprocess(tf.cast(pixels, tf.float32)), training=False))


def _listed(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def _converted(core: Any, function: tf.types.experimental.ConcreteFunction) -> Any:
    """The network as OpenVINO reads it, from a frozen graph."""
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    if function.captured_inputs:
        function = convert_variables_to_constants_v2(function)
    # Whatever else ends in the graph, such as a constant without use, would be an output too.
    outputs = [tensor.op.name for tensor in function.outputs]
    graph = tf.compat.v1.graph_util.extract_sub_graph(function.graph.as_graph_def(), outputs)
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "network.pb")
            file.write_bytes(graph.SerializeToString())
            return core.read_model(file)
    except OSError as error:
        raise FeatlabError(
            f"OpenVINO reads the network from the folder for temporary files (TMPDIR): {error}."
        ) from error


def _infer(requests: Sequence[Any], pixels: np.ndarray) -> list[np.ndarray]:
    """Maps of a call: its batches are begun at once, so that no stream waits for this thread."""
    from openvino import Tensor

    n, size = len(pixels), requests[0].model_inputs[0].get_shape()[0]
    missing = -n % size
    if missing:
        empty = np.zeros((missing, *pixels.shape[1:]), pixels.dtype)
        pixels = np.concatenate([pixels, empty])
    ports = requests[0].model_outputs
    maps = [np.empty((len(pixels), *port.get_shape()[1:]), np.float32) for port in ports]
    running = deque[Any]()
    try:
        for number, start in enumerate(range(0, len(pixels), size)):
            if len(running) == len(requests):
                running.popleft().wait()
            rows, request = slice(start, start + size), requests[number % len(requests)]
            # Its own memory, which it reads and fills in place.
            request.set_input_tensor(Tensor(pixels[rows], shared_memory=True))
            for k, whole in enumerate(maps):
                request.set_output_tensor(k, Tensor(whole[rows], shared_memory=True))
            request.start_async()
            running.append(request)
    finally:
        for request in running:
            request.wait()
    return [whole[:n] for whole in maps]


def _check_agreement(computed: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    for mine, theirs in zip(computed, expected, strict=True):
        largest = np.abs(theirs).max(initial=0)
        if mine.shape != theirs.shape or not np.allclose(
            mine, theirs, rtol=0, atol=TOLERANCE * largest
        ):
            raise FeatlabError(
                "OpenVINO gives another output than TensorFlow for this network; use "
                "engine='tensorflow'."
            )


def _has_gpu() -> bool:
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))
