"""Change a Keras network's last stage so that its maps are twice as fine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from featlab.errors import FeatlabError

if TYPE_CHECKING:
    import keras

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D")
_POOLINGS = ("MaxPooling2D", "AveragePooling2D")


def spatial_layers(model: keras.Model) -> dict[str, tuple[int, int, int]]:
    """Layers whose output is a map, in order: name → (height, width, neurons).

    Maps of a single cell are left out, unless the network has no other.
    """
    shapes = {}
    for layer in model.layers:
        shape = _shape(layer)
        if type(layer).__name__ != "InputLayer" and len(shape) == 4 and None not in shape[1:]:
            shapes[layer.name] = (shape[1], shape[2], shape[3])
    wide = {name: shape for name, shape in shapes.items() if shape[0] * shape[1] > 1}
    return wide or shapes


def output_of(model: keras.Model, layer: str) -> Any:
    """The output tensor of a layer of maps within the network's graph.

    Raises
    ------
    FeatlabError
        No such layer, one that is called several times, or one that gives no maps.
    """
    # Not layer.output: of a nested model that is a tensor of its own graph. A Sequential keeps its
    # graph in a model of its own.
    graph = getattr(model, "_functional", None) or model
    nodes = [node for some in graph._nodes_by_depth.values() for node in some]
    calls = [node for node in nodes if node.operation.name == layer and not node.is_input]
    if len(calls) != 1:
        last = ", ".join(list(spatial_layers(model))[-8:])
        raise FeatlabError(
            f"layers must name layers of {model.name} that are called once, got {layer!r}. The "
            f"last ones with maps: {last}."
        )
    output = calls[0].output_tensors[0]
    if len(output.shape) != 4:
        raise FeatlabError(f"layer {layer!r} of {model.name} gives no maps (b, h, w, c).")
    return output


def remove_last_stride(model: keras.Model, output_stride: int) -> keras.Model:
    """A copy whose last stage keeps its resolution: stride removed, later kernels dilated by 2.

    The weights are those of `model`; every second cell of the new maps equals a cell of the old
    ones, but for the border.

    Raises
    ------
    FeatlabError
        The architecture does not allow it.

    References
    ----------
    .. [1] Yu, Koltun and Funkhouser, "Dilated Residual Networks", CVPR 2017.
    """
    height = model.input_shape[1]
    maps = spatial_layers(model)
    coarse, fine = list(maps.values())[-1][0], -(-height // output_stride)
    if coarse == fine:
        return model
    if coarse != -(-height // (2 * output_stride)):
        raise _not_possible(model, output_stride, f"its last map has {coarse} rows of cells")
    config = model.get_config()
    if any("layers" in entry["config"] for entry in config["layers"]):
        raise _not_possible(model, output_stride, "it contains a nested network")
    changes = _changes(model, coarse, output_stride)
    for entry in config["layers"]:
        entry["config"].update(changes.get(entry["config"]["name"], {}))
        entry.pop("build_config", None)
    try:
        changed = type(model).from_config(config)
    except (ValueError, TypeError) as error:
        reason = str(error).splitlines()[0]
        raise _not_possible(model, output_stride, f"rebuilding it failed: {reason}") from error
    if list(spatial_layers(changed).values())[-1][0] != fine:
        raise _not_possible(model, output_stride, "the shapes of its last stage do not fit")
    changed.set_weights(model.get_weights())
    return changed


def _changes(model: keras.Model, coarse: int, output_stride: int) -> dict[str, dict[str, Any]]:
    """Layer → what changes in its configuration."""
    changes: dict[str, dict[str, Any]] = {}
    for layer in model.layers:
        kind, shape = type(layer).__name__, _shape(layer)
        if kind not in _CONVOLUTIONS + _POOLINGS or len(shape) != 4 or shape[1] != coarse:
            continue
        if max(layer.strides) > 1:
            changes[layer.name] = {"strides": (1, 1), "padding": "same"}
        elif kind in _POOLINGS:
            raise _not_possible(model, output_stride, f"pooling {layer.name} cannot be dilated")
        elif max(layer.kernel_size) > 1:
            changes[layer.name] = {"dilation_rate": (2, 2), "padding": "same"}
        else:
            continue
        # Explicit padding was made for the old stride; "same" takes its place.
        source = layer.input._keras_history.operation
        if type(source).__name__ == "ZeroPadding2D":
            changes[source.name] = {"padding": (0, 0)}
    return changes


def _shape(layer: keras.Layer) -> tuple[Any, ...]:
    try:
        output = layer.output
    except (AttributeError, ValueError):  # never called, or called more than once
        return ()
    return tuple(output.shape) if hasattr(output, "shape") else ()


def _not_possible(model: keras.Model, output_stride: int, reason: str) -> FeatlabError:
    return FeatlabError(
        f"output_stride={output_stride} is not possible for {model.name}: {reason}. Leave it out, "
        "or ask for an earlier layer or a larger input_size."
    )
