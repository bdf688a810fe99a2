"""The command line: the same pipeline from a shell.

Everything heavy is imported inside the commands, so that ``featlab --help`` answers at once.
"""

from __future__ import annotations

import logging
import os
import re
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featlab import __version__
from featlab._errors import FeatlabError

if TYPE_CHECKING:
    import pandas as pd

    from featlab.backbones import Backbone
    from featlab.store import MapStore

_INTERRUPTED = 130  # what typer makes of Ctrl-C
_LIBRARY_CHATTER = re.compile(r"[IW]\d{4} .*\.cc:\d+\]|WARNING: All log messages before absl")

app = typer.Typer(
    name="featlab",
    help="What a frozen, pretrained network already knows about your images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Images = Annotated[
    Path, typer.Argument(help="Folder of class folders, or a CSV with columns path and label.")
]
Store = Annotated[Path, typer.Argument(help="A store written by `featlab extract`.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")]
BackboneName = Annotated[
    str,
    typer.Option(
        "--backbone", help="efficientnet_lite0 … 2, a network of keras.applications, a .keras file."
    ),
]
Weights = Annotated[
    str, typer.Option(help="imagenet, none (random), or a weights file without the classifier.")
]
InputSize = Annotated[
    int | None, typer.Option(help="Side of the network's input in pixels. [default: its own]")
]
OutputStride = Annotated[
    int | None, typer.Option(help="16 for maps twice as fine. [default: the network's own]")
]
Layers = Annotated[
    str | None, typer.Option(help="Comma-separated layer names. [default: the last feature map]")
]
Preprocessing = Annotated[
    str | None, typer.Option(help="For a .keras file: none, tf, torch or caffe. [default: none]")
]
Resize = Annotated[str, typer.Option(help="stretch, or pad to keep the aspect ratio.")]
Dtype = Annotated[str, typer.Option(help="float16 or float32 for the stored maps.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures per forward pass.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of split, heads, bootstrap and examples.")]
OnError = Annotated[str, typer.Option(help="raise, or skip files that cannot be used.")]
GroupFrom = Annotated[
    str | None,
    typer.Option(help="Regular expression: its match in the path is the picture's group."),
]
BoxKind = Annotated[
    str | None, typer.Option(help="Which kind of box is the truth, where there are several.")
]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    logging.basicConfig(format="featlab: %(message)s", level=logging.INFO, stream=sys.stderr)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
    if version:
        print(f"featlab {__version__}")
        raise typer.Exit


@app.command()
def demo(
    output: Output = Path("featlab-demo"),
    n: Annotated[int, typer.Option("-n", min=40, help="Number of scenes.")] = 240,
    seed: Seed = 0,
) -> None:
    """Run everything on built-in scenes with the built-in network; needs no download."""
    from featlab import datasets

    scenes = datasets.write_scenes(
        output / "scenes", n, random_state=seed, progress=partial(_bar, label="scenes")
    )
    _run(scenes, output, partial(_load, "efficientnet_lite0"), seed=seed)


@app.command()
def run(
    images: Images,
    output: Output,
    backbone: BackboneName = "efficientnet_lite0",
    weights: Weights = "imagenet",
    input_size: InputSize = None,
    output_stride: OutputStride = None,
    layers: Layers = None,
    preprocessing: Preprocessing = None,
    resize: Resize = "stretch",
    dtype: Dtype = "float16",
    batch_size: BatchSize = 32,
    box_kind: BoxKind = None,
    group_from: GroupFrom = None,
    on_error: OnError = "raise",
    seed: Seed = 0,
) -> None:
    """From an image folder to a report: index, extract, heads, neurons, localisation."""
    _run(
        images,
        output,
        partial(_load, backbone, weights, input_size, layers, output_stride, preprocessing),
        resize=resize,
        dtype=dtype,
        batch_size=batch_size,
        box_kind=box_kind,
        group_from=group_from,
        on_error=on_error,
        seed=seed,
    )


@app.command()
def extract(
    images: Images,
    store: Annotated[Path, typer.Option("-o", "--output", help="The store to write (.h5).")],
    backbone: BackboneName = "efficientnet_lite0",
    weights: Weights = "imagenet",
    input_size: InputSize = None,
    output_stride: OutputStride = None,
    layers: Layers = None,
    preprocessing: Preprocessing = None,
    resize: Resize = "stretch",
    dtype: Dtype = "float16",
    batch_size: BatchSize = 32,
    group_from: GroupFrom = None,
    on_error: OnError = "raise",
) -> None:
    """Run the network once and keep its feature maps; goes on where it was interrupted."""
    load = partial(_load, backbone, weights, input_size, layers, output_stride, preprocessing)
    table, boxes = _index(images, group_from, on_error)
    print(_finished_store(table, boxes, store, load, resize, dtype, batch_size, {}))


@app.command()
def info(store: Store) -> None:
    """Say what a store holds."""
    from featlab.store import MapStore

    with MapStore(store) as opened:
        print(opened)
        for label, count in opened.images["label"].value_counts().sort_index().items():
            print(f"  class {label}: {count} images")
        for kind, count in opened.boxes["kind"].value_counts().sort_index().items():
            print(f"  boxes {kind or '(no kind)'}: {count}")
        print(f"  skipped files: {len(opened.images.attrs['skipped'])}")
        for key, value in sorted(opened.provenance.items()):
            if not key.startswith("probe_"):
                print(f"  {key}: {value}")


@app.command()
def verify(store: Store) -> None:
    """Read a store once and check it against itself."""
    from featlab.store import MapStore

    with MapStore(store) as opened:
        opened.verify()
        print(f"{store}: {len(opened)} images, layers {', '.join(opened.layers)}: all is well")


@app.command()
def neurons(
    store: Store,
    pooling: Annotated[
        str, typer.Option(help="Comma-separated: mean, max, softmax_mean, softmax_max.")
    ] = "mean",
    layer: Annotated[
        str | None,
        typer.Option(help="Comma-separated layers, or all. [default: the last stored]"),
    ] = None,
    test: Annotated[
        str,
        typer.Option(
            help="mannwhitneyu, welch, brunner_munzel, kolmogorov_smirnov, mutual_information or "
            "l1_logistic."
        ),
    ] = "mannwhitneyu",
    correction: Annotated[
        str,
        typer.Option(
            help="Any of statsmodels' multipletests, local_fdr, or max_t (permutes the labels, of "
            "whole groups where there are any)."
        ),
    ] = "fdr_bh",
    reference: Annotated[
        str, typer.Option(help="What a class is compared with: rest, pairs, or a class.")
    ] = "rest",
    alpha: Annotated[float, typer.Option(help="Bound of the corrected p.")] = 0.05,
    min_auroc: Annotated[float, typer.Option(help="Smallest AUROC of a detector.")] = 0.7,
    direction: Annotated[str, typer.Option(help="active, silent or both.")] = "active",
    shuffles: Annotated[
        int, typer.Option(min=0, help="Also run the procedure on so many sets of shuffled labels.")
    ] = 0,
    top: Annotated[int, typer.Option(min=1, help="Detectors shown per class.")] = 10,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the whole table here (.csv or .parquet)."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Rank the neurons on train rows, confirm the detectors on others, show the best."""
    from featlab import features, report, splits
    from featlab import neurons as room
    from featlab.pipeline import find_detectors
    from featlab.store import MapStore

    with MapStore(store) as opened:
        labels, groups = opened.images["label"], opened.images["group"]
        split = splits.make_split(opened.images, random_state=seed)
        named = opened.layers if layer == "all" else (layer or opened.layers[-1]).split(",")
        X = [features.feature_table(opened, p, layer=n) for n in named for p in pooling.split(",")]
    chosen: dict[str, Any] = {
        "test": test,
        "correction": correction,
        "reference": reference,
        "alpha": alpha,
        "min_auroc": min_auroc,
    }
    table = find_detectors(X, labels, split, groups, random_state=seed, **chosen)
    best = room.select_neurons(table, direction=direction, top=top)
    print(room.replication(table).to_string(index=False, float_format="{:.3g}".format))
    columns = ["class", "direction", "layer", "pooling", "neuron", "auroc", "auroc_confirmed"]
    columns += ["auroc_confirmed_low", "auroc_confirmed_high", "p_confirmed", "shrinkage"]
    print(f"confirmed detectors, at most {top} per class:")
    print(best[columns].to_string(index=False, float_format="{:.3g}".format))
    print(", ".join(f"{key}: {value}" for key, value in table.attrs.items()))
    if shuffles:
        null = room.null_selection(
            X, labels, split, groups=groups, n_repeats=shuffles, random_state=seed, **chosen
        )
        print(f"on {shuffles} sets of shuffled labels:")
        print(null.describe().loc[["mean", "max"]].to_string(float_format="{:.3g}".format))
    if output is not None:
        report.write_table(table, output)


@app.command(name="localise")
def localise_(
    store: Store,
    methods: Annotated[
        str | None,
        typer.Option(help="Comma-separated methods, or all. [default: those of the report]"),
    ] = None,
    layer: Annotated[str | None, typer.Option(help="[default: the last stored]")] = None,
    box_kind: BoxKind = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Write the whole table here (.csv or .parquet)."),
    ] = None,
    seed: Seed = 0,
) -> None:
    """Score the boxes that the stored maps give, beside the baselines."""
    from featlab import features, heads, localise, report, splits
    from featlab.pipeline import LOCALISERS, class_weights, find_detectors, predicted_classes
    from featlab.store import MapStore

    with MapStore(store) as opened:
        labels, groups = opened.images["label"], opened.images["group"]
        split = splits.make_split(opened.images, random_state=seed)
        X = features.feature_table(opened, layer=layer)
        scores = heads.evaluate_heads(X, labels, split, groups=groups, random_state=seed)
        found = localise.evaluate(
            opened,
            split,
            methods=_named_methods(methods, LOCALISERS),
            neurons=find_detectors(X, labels, split, groups, random_state=seed),
            weights=class_weights(scores),
            network=scores.models["mlp"],
            predicted=predicted_classes(scores, labels),
            layer=layer,
            box_kind=box_kind,
            random_state=seed,
            progress=_quiet_bar,
        )
    if found.table.empty:
        raise FeatlabError(f"{store} has no boxes on its test images, so nothing can be scored.")
    print(found.table.set_index("method").T.to_string(float_format="{:.3f}".format))
    if output is not None:
        report.write_table(found.table, output)


def _named_methods(asked: str | None, usual: Sequence[str]) -> Sequence[str] | None:
    if asked is None:
        return usual
    return None if asked == "all" else asked.split(",")


@app.command()
def report(store: Store, output: Output, box_kind: BoxKind = None, seed: Seed = 0) -> None:
    """Write report, tables and summary of a finished store."""
    from featlab.pipeline import analyse, write_results
    from featlab.store import MapStore

    with MapStore(store) as opened:
        results = analyse(
            opened,
            box_kind=box_kind,
            random_state=seed,
            command=_command(),
            seconds={"extract": 0.0},
            progress=_quiet_bar,
        )
        _tell(write_results(results, output), output)


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 1, never a traceback."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        app()
    except (FeatlabError, OSError) as error:
        print(f"featlab: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            print(
                "\nfeatlab: interrupted. Finished parts are kept; run the same command again to "
                "go on.",
                file=sys.stderr,
            )
        raise


def _run(
    images: Path,
    output: Path,
    load: Callable[[], Backbone],
    *,
    seed: int,
    resize: str = "stretch",
    dtype: str = "float16",
    batch_size: int = 32,
    box_kind: str | None = None,
    group_from: str | None = None,
    on_error: str = "raise",
) -> None:
    from featlab import localise, splits
    from featlab.pipeline import analyse, write_results

    seconds: dict[str, float] = {}
    start = time.perf_counter()
    table, boxes = _index(images, group_from, on_error)
    seconds["index"] = round(time.perf_counter() - start, 3)
    # What the later stages would refuse is refused before the pass, not after it.
    splits.make_split(table, random_state=seed)
    localise.boxes_of_kind(boxes, box_kind)
    output.mkdir(parents=True, exist_ok=True)
    path = output / "maps.h5"
    with _finished_store(table, boxes, path, load, resize, dtype, batch_size, seconds) as store:
        results = analyse(
            store,
            box_kind=box_kind,
            random_state=seed,
            command=_command(),
            seconds=seconds,
            progress=_quiet_bar,
        )
        _tell(write_results(results, output), output)


def _index(
    images: Path, group_from: str | None, on_error: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    from featlab.images import index_images

    return index_images(
        images, group_from=group_from, on_error=on_error, progress=partial(_bar, label="index")
    )


def _finished_store(
    table: pd.DataFrame,
    boxes: pd.DataFrame,
    path: Path,
    load: Callable[[], Backbone],
    resize: str,
    dtype: str,
    batch_size: int,
    seconds: dict[str, float],
) -> MapStore:
    """The finished store; `seconds` gets those of the pass, 0 when the store was there."""
    from featlab.extract import extract_maps, find_store

    seconds["extract"] = 0.0
    with _libraries_silenced():
        network = load()
        store = find_store(table, network, path, boxes=boxes, resize=resize, dtype=dtype)
        if store is None:
            network.probe()  # loads them
    if store is not None:
        logging.getLogger(__name__).info("%s is finished already: no forward pass", path)
        return store
    start = time.perf_counter()
    store = extract_maps(
        table,
        network,
        path,
        boxes=boxes,
        batch_size=batch_size,
        resize=resize,
        dtype=dtype,
        progress=_extract_bar,
    )
    seconds["extract"] = round(time.perf_counter() - start, 3)
    return store


def _load(
    name: str,
    weights: str = "imagenet",
    input_size: int | None = None,
    layers: str | None = None,
    output_stride: int | None = None,
    preprocessing: str | None = None,
) -> Backbone:
    from featlab.backbones import load_backbone

    return load_backbone(
        name,
        weights=None if weights.lower() == "none" else weights,
        input_size=input_size,
        layers=layers.split(",") if layers else None,
        output_stride=output_stride,
        preprocessing=preprocessing,
    )


@contextmanager
def _libraries_silenced() -> Iterator[None]:
    """Leave out what TensorFlow's C++ libraries print while they load.

    TensorFlow 2.21 tells of CUDA and oneDNN there whatever TF_CPP_MIN_LOG_LEVEL says. Everything
    else written to standard error meanwhile appears at the end.
    """
    sys.stderr.flush()
    own = os.dup(2)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(own, 2)
            os.close(own)
            held.seek(0)
            for line in held.read().decode(errors="replace").splitlines(keepends=True):
                if not _LIBRARY_CHATTER.match(line):
                    sys.stderr.write(line)


def _bar(items: Iterable[Any], *, label: str) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, desc=label, unit="img")


def _extract_bar(batches: Iterable[range]) -> Iterator[range]:
    """Rate and time left in images, though the pass goes batch by batch."""
    from tqdm import tqdm

    batches = list(batches)
    with tqdm(total=sum(map(len, batches)), desc="extract", unit="img") as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


def _quiet_bar(items: Iterable[Any]) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, desc="localise", unit="batch", leave=False)


def _tell(summary: dict[str, Any], output: Path) -> None:
    """The summary in a few lines."""
    height, width, n = summary["map_shape"]
    print(
        f"{summary['n_images']} images of {len(summary['classes'])} classes; "
        f"{summary['backbone']} gives {height} × {width} cells of {n} neurons"
    )
    for name, head in summary["heads"].items():
        print(
            f"  head {name}: accuracy {head['accuracy']:.3f} "
            f"[{head['low']:.3f}, {head['high']:.3f}] on {head['n']} unseen images"
        )
    for label, found in list(summary["detectors"].items())[:10]:
        best = ""
        if found["best_neuron"] is not None:
            best = (
                f"; best neuron {found['best_neuron']}: AUROC {found['auroc_selected']:.3f} "
                f"when chosen, {found['auroc_confirmed']:.3f} confirmed"
            )
        print(f"  detectors of {label}: {found['n']}{best}")
    for method, score in summary["localisation"].items():
        print(
            f"  boxes by {method}: {score['box_accuracy']:.3f} with IoU ≥ 0.5, "
            f"mean IoU {score['mean_iou']:.3f}, {score['n']} unseen images"
        )
    print(f"report: {output / 'report.html'}")


def _command() -> str:
    return shlex.join(["featlab", *sys.argv[1:]])
