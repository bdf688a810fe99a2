"""What is read off the graph of a Keras network and changed in a copy: maps, classifier, stride.

A network that holds others as layers is made flat first (:func:`flat`), so that all that follows
meets one graph of layers. A layer of ``base`` inside it is ``base/relu`` to a person.

A transformer's tokens ``(b, 1 + h w, d)`` are maps of h × w cells; what stands before the grid
(class and register tokens) is left out, and the first of it is ``layer@cls``, of one cell.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from featlab.errors import FeatlabError
from featlab.store.network import OwnHead

if TYPE_CHECKING:
    import keras

_CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D")
_LONGEST_CAUSE = 300  # characters
_POOLINGS = ("MaxPooling2D", "AveragePooling2D")
_GRID = re.compile(r"(?:(\d+)\+)?(\d+)x(\d+)")
_SCALED = ("Rescaling", "Normalization")  # the maps before them in another unit
_PASSED = ("Dropout", "Flatten", "Reshape")  # change neither the values nor their order


# Keras allows no slash in the name of a layer; of what it allows, nobody writes this.
_INSIDE = ">"
# Weights of red, green and blue in what is seen as grey (ITU-R BT.601, as Pillow has them).
_GREY = (0.299, 0.587, 0.114)


def graph_of(model: Any) -> Any:
    """The graph of a Functional or built Sequential network; None of anything else."""
    graph = getattr(model, "_functional", None) or model  # a Sequential keeps its graph inside
    return graph if hasattr(graph, "_nodes_by_depth") and hasattr(graph, "inputs") else None


def flat(model: keras.Model, size: tuple[int, int] | None = None) -> keras.Model:
    """One graph of all layers of a network of RGB pictures; the layers are those of `model`.

    Networks inside it are taken apart, and their layers get the name of what held them in front. A
    network of grey pictures gets a layer before it that makes them.

    Parameters
    ----------
    model : keras.Model
        Functional or Sequential, of one input ``(b, H, W, 1 or 3)``.
    size : (int, int), optional
        Height and width; needed where the network leaves them open.
    """
    import keras

    graph = graph_of(model)
    entrance = graph.inputs[0]
    _, *own_size, colours = entrance.shape
    nested = any(graph_of(one) is not None for one in graph.operations)
    plain = colours == len(_GREY) and size in (None, tuple(own_size))
    if plain and not nested and not isinstance(graph.input_shape, dict):
        return graph
    pixels = keras.Input(
        (*(size or own_size), len(_GREY)), name=entrance._keras_history.operation.name
    )
    x = pixels
    if colours == 1:
        grey = keras.layers.Conv2D(1, 1, use_bias=False, trainable=False, name="to_grey")
        x = grey(x)
        grey.set_weights([np.reshape(_GREY, (1, 1, 3, 1))])
    named: set[int] = set()

    def called(path: tuple[str, ...]) -> Callable[[Any], Callable[..., Any]]:
        def of(operation: Any) -> Callable[..., Any]:
            inner, place = graph_of(operation), (*path, operation.name)
            if inner is not None:
                return lambda inputs, **_: inner._run_through_graph(inputs, called(place))
            if id(operation) not in named:
                named.add(id(operation))
                operation.name = _INSIDE.join(place)
            return operation

        return of

    outputs = graph._run_through_graph([x], called(()))
    return keras.Model(pixels, outputs, name=model.name)


def spatial_layers(model: keras.Model) -> dict[str, tuple[int, int, int]]:
    """Layers whose output is a map, in order: name → (height, width, neurons).

    Maps of a single cell are left out, unless the network has no other.
    """
    size = model.inputs[0].shape[1:3]
    shapes = {_path_of(node): _map_shape(node, size) for node in _nodes(model)}
    return _wide({name: shape for name, shape in shapes.items() if shape is not None})


def last_map(model: keras.Model) -> str:
    """The last layer of maps that everything goes through from the input to the output.

    A layer on one of several branches holds a part of what the network knows. Where the network
    has no such layer behind its first weights, it is the last one with maps.
    """
    nodes, size = _nodes(model), model.inputs[0].shape[1:3]
    place = {id(node): k for k, node in enumerate(nodes)}
    farthest = dict.fromkeys(range(len(nodes)), 0)  # the last node that takes a node's output
    for k, node in enumerate(nodes):
        for source in map(node_of, node.input_tensors):
            farthest[place[id(source)]] = k
    for source in map(node_of, model.outputs):
        farthest[place[id(source)]] = len(nodes)
    shapes, reached, learned = {}, 0, False
    for k, node in enumerate(nodes):
        shape = _map_shape(node, size)
        kernels = getattr(node.operation, "weights", [])
        learned = learned or any(len(weight.shape) > 1 for weight in kernels)
        own = learned and _kind(node) not in _SCALED
        if own and shape is not None and reached <= k:  # no edge passes it by
            shapes[_path_of(node)] = shape
        reached = max(reached, farthest[k])
    return list(_wide(shapes) or spatial_layers(model))[-1]


def _wide(shapes: dict[str, tuple[int, int, int]]) -> dict[str, tuple[int, int, int]]:
    return {name: shape for name, shape in shapes.items() if shape[0] * shape[1] > 1} or shapes


def output_of(model: keras.Model, layer: str) -> Any:
    """The output tensor of a layer of maps within the network's graph.

    Parameters
    ----------
    model : keras.Model
    layer : str
        Of a network that was taken apart its path, or the name of what it was inside. Of tokens
        ``layer@1+14x14`` tells how many stand before a grid of how many rows and columns, where the
        number of tokens does not, and ``layer@cls`` is the first of them.

    Raises
    ------
    FeatlabError
        No such layer, one that is called several times, or one that gives no maps.
    """
    # Not layer.output: of a layer that was called before, that is a tensor of another graph.
    path, _, grid = layer.partition("@")
    name, nodes = path.replace("/", _INSIDE), _nodes(model)
    calls = [node for node in nodes if node.operation.name == name and not node.is_input]
    calls = calls or [n for n in nodes if n.operation.name.startswith(name + _INSIDE)][-1:]
    if len(calls) != 1:
        last = ", ".join(list(spatial_layers(model))[-8:])
        raise FeatlabError(
            f"layers must name layers of {model.name} that are called once, got {layer!r}. The "
            f"last ones with maps: {last}."
        )
    output = calls[0].output_tensors[0]
    if len(output.shape) == 4 and not grid:
        return output
    size = model.inputs[0].shape[1:3]
    cells = token_cells(output.shape, size, grid) if len(output.shape) == 3 else None
    if cells is None:
        raise FeatlabError(
            f"layer {layer!r} of {model.name} gives no maps (b, h, w, c), and no grid of tokens "
            f"that is known: {tuple(output.shape)}. Name tokens like {path}@1+14x14 (1 before a "
            "grid of 14 rows and 14 columns)."
        )
    return _as_maps(output, cells, "cls" if grid == "cls" else "grid")


def token_cells(
    shape: Sequence[int | None], size: Sequence[int], grid: str = ""
) -> tuple[int, int, int] | None:
    """Tokens before the grid, its rows and columns, of ``(b, n, d)``; None where they are no grid.

    Where `grid` is empty it is that of square patches of the picture that leaves the fewest tokens
    before it.
    """
    n, spec = shape[1], _GRID.fullmatch(grid)
    if n is None or shape[2] is None:
        return None
    if spec is not None:
        before, h, w = (int(one or 0) for one in spec.groups())
        return (before, h, w) if before + h * w <= n else None
    if grid == "cls":
        return (0, 1, 1)
    if grid or None in size:
        return None
    for before in range(n // 3 + 1):
        for patch in range(2, min(size) // 2 + 1):
            h, w = size[0] // patch, size[1] // patch
            if h * w == n - before:
                return before, h, w
    return None


def _as_maps(tokens: keras.KerasTensor, cells: tuple[int, int, int], name: str) -> Any:
    """Maps ``(b, h, w, d)`` of tokens; the same each time they are asked of one graph."""
    import keras

    before, h, w = cells
    operation = tokens._keras_history.operation
    for node in operation._outbound_nodes:
        (after, *_) = node.operation._outbound_nodes or [None]
        if node.operation.name == f"{operation.name}_{name}_tokens" and after is not None:
            return after.output_tensors[0]
    some = tokens[:, before : before + h * w]
    some._keras_history.operation.name = f"{operation.name}_{name}_tokens"
    shape = (h, w, tokens.shape[2])
    return keras.layers.Reshape(shape, name=f"{operation.name}_{name}")(some)


def _nodes(model: keras.Model) -> list[Any]:
    """The calls of layers that make up a network, each after those whose outputs it takes."""
    graph = graph_of(model)
    place = {id(operation): k for k, operation in enumerate(graph.operations)}
    return [
        node
        for depth in sorted(graph._nodes_by_depth, reverse=True)
        for node in sorted(graph._nodes_by_depth[depth], key=lambda one: place[id(one.operation)])
    ]


def node_of(tensor: keras.KerasTensor) -> Any:
    """The call of a layer that made a tensor, with its `operation` and its `input_tensors`."""
    history = tensor._keras_history
    return history.operation._inbound_nodes[history.node_index]


def _path_of(node: Any) -> str:
    return node.operation.name.replace(_INSIDE, "/")


def _map_shape(node: Any, size: Sequence[int] | None = None) -> tuple[int, int, int] | None:
    """Height, width and neurons of the maps that a call gives, or of tokens if `size` is given."""
    shape = tuple(getattr(node.output_tensors[0], "shape", ()))
    if len(shape) == 3 and size is not None and not node.is_input:
        cells = token_cells(shape, size)
        return cells and (cells[1], cells[2], shape[2])
    maps = not node.is_input and len(shape) == 4 and None not in shape[1:]
    return (shape[1], shape[2], shape[3]) if maps else None


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
    coarse, fine = maps[last_map(model)][0], -(-height // output_stride)
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
        reason = f"rebuilding it failed: {cause_of(error)}"
        raise _not_possible(model, output_stride, reason) from error
    if spatial_layers(changed)[last_map(changed)][0] != fine:
        raise _not_possible(model, output_stride, "the shapes of its last stage do not fit")
    changed.set_weights(model.get_weights())
    return changed


def _changes(model: keras.Model, coarse: int, output_stride: int) -> dict[str, dict[str, Any]]:
    """Layer → what changes in its configuration."""
    changes: dict[str, dict[str, Any]] = {}
    for node in _nodes(model):
        layer, shape = node.operation, _map_shape(node)
        kind = _kind(node)
        if kind not in _CONVOLUTIONS + _POOLINGS or shape is None or shape[0] != coarse:
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
        source = _below(node)
        if _kind(source) == "ZeroPadding2D":
            changes[source.operation.name] = {"padding": (0, 0)}
    return changes


def _not_possible(model: keras.Model, output_stride: int, reason: str) -> FeatlabError:
    return FeatlabError(
        f"output_stride={output_stride} is not possible for {model.name}: {reason}. Leave it out, "
        "or ask for an earlier layer or a larger input_size."
    )


def cloned(model: keras.Model, name: str, **how: Any) -> keras.Model:
    """A copy of a network, layer by layer, with new weights.

    Parameters
    ----------
    model : keras.Model
        Functional or Sequential.
    name : str
        What an error calls it.
    **how
        Of ``keras.models.clone_model``.

    Raises
    ------
    FeatlabError
        A part of the network is a model of the user's own class, or its layers cannot be rebuilt.
    """
    import keras

    try:
        return keras.models.clone_model(model, **how)
    except (ValueError, TypeError, NotImplementedError) as error:
        raise FeatlabError(
            f"{name} cannot be copied layer by layer: {cause_of(error).rstrip('.')}. Give a "
            "functional or Sequential Keras model."
        ) from error


def cause_of(error: Exception) -> str:
    """Why Keras failed: the last line of what it says, which is where the first error stands."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    last = lines[-1] if lines else type(error).__name__
    last = last.removeprefix("Exception encountered: ").partition(" Full object config:")[0]
    return last if len(last) <= _LONGEST_CAUSE else f"{last[:_LONGEST_CAUSE]} …"


def find_head(
    network: keras.Model, last_map: str, names: Callable[[int], tuple[str, ...]], known: bool
) -> tuple[OwnHead, keras.KerasTensor] | None:
    """The classifier at the end of a Keras network, and its logits in the network's graph.

    It is one where a layer of two units or more ends in a softmax, or, if its classes are named
    (`known`), in nothing.

    Parameters
    ----------
    network : keras.Model
    last_map : str
        The last layer of maps that is stored.
    names : callable
        From the number of classes to their names.
    known : bool
        Whether those are names of the network's own.
    """
    if len(network.outputs) != 1 or len(network.outputs[0].shape) != 2:
        return None
    node, softmax = node_of(network.outputs[0]), False
    # What gives the logits is a dense layer, or a convolution of single cells.
    while _kind(node) in ("Activation", "Softmax", *_PASSED) and not _kernel(node):
        if _kind(node) == "Softmax" or _activation(node) == "softmax":
            softmax = True
        elif _kind(node) == "Activation" and _activation(node) != "linear":
            return None
        node = _below(node)
    softmax = softmax or _activation(node) == "softmax"
    if not _kernel(node) or not (softmax or (known and _activation(node) == "linear")):
        return None
    kernel, *bias = node.operation.get_weights()
    kernel = kernel.reshape(-1, kernel.shape[-1])
    k = kernel.shape[1]
    if k < 2:
        return None
    intercept = bias[0] if bias else np.zeros(k)
    below = _below(node)
    while _kind(below) in _PASSED and not _below(below).is_input:
        below = _below(below)
    means = _kind(below) == "GlobalAveragePooling2D"
    linear = means and below.input_tensors[0] is output_of(network, last_map)
    weights = (kernel.T.astype(np.float32), intercept.astype(np.float32)) if linear else ()
    return OwnHead(names(k), last_map, *weights), _logits(node)


def _logits(node: Any) -> keras.KerasTensor:
    """The output of a layer before its activation, one row a picture."""
    import keras

    layer = node.operation
    config = layer.get_config() | {"activation": "linear", "name": f"{layer.name}_logits"}
    bare = type(layer).from_config(config)
    logits = bare(node.input_tensors[0])
    bare.set_weights(layer.get_weights())
    if len(logits.shape) == 2:
        return logits
    return keras.layers.Flatten(name=f"{layer.name}_row")(logits)


def _below(node: Any) -> Any:
    """The call whose output a call takes."""
    return node_of(node.input_tensors[0])


def _kind(node: Any) -> str:
    return type(node.operation).__name__


def _kernel(node: Any) -> bool:
    """Whether a layer is a dense one, or a convolution that sees a single cell."""
    if _kind(node) != "Conv2D":
        return _kind(node) == "Dense"
    shape = _map_shape(node)
    return shape is not None and shape[:2] == tuple(node.operation.kernel_size) == (1, 1)


def _activation(node: Any) -> str:
    """Name of its activation; a layer that has none passes values on."""
    name = getattr(getattr(node.operation, "activation", None), "__name__", "linear")
    return re.sub(r"^log_softmax$", "softmax", name)
