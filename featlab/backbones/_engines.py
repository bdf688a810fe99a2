"""What runs a network over a batch of pictures: TensorFlow, OpenVINO, or Keras on JAX or torch.

An engine takes raw pixels. The network's own preprocessing is part of what it runs, so that every
engine prepares pictures alike.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np

from featlab._errors import FeatlabError
from featlab._machine import usable_cores

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
    """

    name: str
    run: Run
    streams: int
    batch_size: int


def check_request(engine: str, precision: str) -> None:
    """Refuse what no network can have, before anything is loaded.

    Raises
    ------
    FeatlabError
        An unknown value, or a precision that the engine does not have.
    """
    if engine not in ENGINES:
        raise FeatlabError(f"engine must be one of {', '.join(ENGINES)}, got {engine!r}.")
    if precision not in PRECISIONS:
        raise FeatlabError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    if precision != "float32" and engine not in ("auto", "openvino"):
        raise FeatlabError(
            f"precision={precision!r} needs engine='openvino', got engine={engine!r}."
        )


def make_engine(
    wanted: str,
    precision: str,
    model: keras.Model,
    preprocess: Callable[[Any], Any],
    probe: np.ndarray,
) -> Engine:
    """The engine that is asked for, or the fastest that this machine and network allow.

    "auto" is OpenVINO in bfloat16, and in float32 where it is installed, TensorFlow sees no
    graphics card and the converted network agrees with TensorFlow; else TensorFlow. Where Keras
    runs on another backend, "auto" is that backend.

    Parameters
    ----------
    wanted, precision : str
        As :func:`check_request` allows.
    model : keras.Model
        From scaled pixels to the list of maps.
    preprocess : callable
        From pixels 0 to 255, as floats, to scaled pixels.
    probe : ndarray of shape (1, H, W, 3), uint8
        Picture on which a converted network must agree with TensorFlow.

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
    if wanted == "openvino" or precision != "float32":
        return openvino_engine(function, precision, probe)
    if wanted == "auto" and find_spec("openvino") and not _has_gpu():
        try:
            return openvino_engine(function, precision, probe)
        except FeatlabError as error:
            logger.warning("the pass runs on TensorFlow: %s", error)
    return tensorflow_engine(function)


def tensorflow_engine(function: tf.types.experimental.ConcreteFunction) -> Engine:
    """TensorFlow on its own thread pool, or on the graphics card where there is one."""
    import tensorflow as tf

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        return [maps.numpy() for maps in function(tf.constant(pixels))]

    batch = _GPU_BATCH if _has_gpu() else _CPU_BATCH
    return Engine("tensorflow", run, _TENSORFLOW_CALLERS, batch)


def keras_engine(model: keras.Model, preprocess: Callable[[Any], Any], backend: str) -> Engine:
    """Keras on the backend in use, which may be the only one that sees a graphics card."""

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        maps = model.predict_on_batch(preprocess(pixels.astype(np.float32)))
        return list(maps) if isinstance(maps, (list, tuple)) else [maps]

    return Engine(backend, run, streams=1, batch_size=_GPU_BATCH)


def openvino_engine(
    function: tf.types.experimental.ConcreteFunction, precision: str, probe: np.ndarray
) -> Engine:
    """OpenVINO on the processor: one single-threaded stream on each core.

    Streams need not wait for each other between operations, as the threads of one forward pass
    do, and leave no core idle while another decodes.

    Raises
    ------
    FeatlabError
        OpenVINO is not installed, cannot convert the network or gives another output than
        TensorFlow, or the processor has no such precision.
    """
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
    streams = usable_cores()

    def compiled_in(hint: str) -> Any:
        options = {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams}
        return core.compile_model(network, "CPU", options | {"INFERENCE_PRECISION_HINT": hint})

    try:
        network = _converted(core, function)
        compiled = compiled_in("f32")
        _check_agreement(_infer(compiled.create_infer_request(), probe), function, probe)
        if precision == "bfloat16":
            compiled = compiled_in("bf16")
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise FeatlabError(f"OpenVINO cannot convert this network: {reason}") from error
    free: SimpleQueue[Any] = SimpleQueue()
    for _ in range(streams):
        free.put(compiled.create_infer_request())

    def run(pixels: np.ndarray) -> list[np.ndarray]:
        request = free.get()
        try:
            return _infer(request, pixels)
        finally:
            free.put(request)

    return Engine("openvino", run, streams, _CPU_BATCH)


def _traced(
    model: keras.Model, preprocess: Callable[[Any], Any], shape: tuple[int, ...]
) -> tf.types.experimental.ConcreteFunction:
    # model.predict sets up a data pipeline at each call; a compiled function is up to three times
    # as fast for small networks (docs/speed.md).
    import tensorflow as tf

    @tf.function(input_signature=[tf.TensorSpec((None, *shape), tf.uint8)], autograph=False)
    def traced(pixels: tf.Tensor) -> list[tf.Tensor]:
        outputs = model(preprocess(tf.cast(pixels, tf.float32)), training=False)
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]

    return traced.get_concrete_function()


def _converted(core: Any, function: tf.types.experimental.ConcreteFunction) -> Any:
    """The network as OpenVINO reads it, from a frozen graph.

    ``openvino.convert_model`` would do, but it reports its use over the network.
    """
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    graph = convert_variables_to_constants_v2(function).graph.as_graph_def()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "network.pb")
        file.write_bytes(graph.SerializeToString())
        return core.read_model(file)


def _infer(request: Any, pixels: np.ndarray) -> list[np.ndarray]:
    return list(request.infer(pixels, share_inputs=True).values())


def _check_agreement(
    found: Sequence[np.ndarray],
    function: tf.types.experimental.ConcreteFunction,
    probe: np.ndarray,
) -> None:
    import tensorflow as tf

    expected = [maps.numpy() for maps in function(tf.constant(probe))]
    for mine, theirs in zip(found, expected, strict=True):
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
