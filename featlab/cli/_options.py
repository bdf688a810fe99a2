"""What commands share: arguments and options; bars, tables, figures, the summary."""

from __future__ import annotations

import functools
import inspect
import logging
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

import featlab
from featlab.errors import FeatlabError

if TYPE_CHECKING:
    import pandas as pd


def writable_folder(path: Path | None) -> Path | None:
    """A folder that is there or can be made; refused before hours are spent on what goes into it.

    Raises
    ------
    FeatlabError
        It is a file or lies below one, or the system lets nothing be written there.
    """
    if path is None:
        return None
    above = next(one for one in (path, *path.absolute().parents) if os.path.lexists(one))
    if not above.is_dir():
        raise FeatlabError(f"-o must be a folder, got {path}: {above} is a file.")
    if not os.access(above, os.W_OK | os.X_OK):
        raise FeatlabError(f"-o must be a folder to write into, got {path}: {above} is read-only.")
    return path


Store = Annotated[
    Path,
    typer.Argument(help="A store (.h5) of `featlab extract`, or the folder of a run with one."),
]
Output = Annotated[
    Path,
    typer.Option("-o", "--output", help="Folder for the results.", callback=writable_folder),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        help="Folder for the tables, figures and fitted heads.",
        callback=writable_folder,
    ),
]
Layer = Annotated[str | None, typer.Option(help="(default: the last stored)")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of split, heads, bootstrap and examples.")]
BoxKind = Annotated[
    str | None,
    typer.Option(help="Which kind of box is the truth, such as head, where there are several."),
]
Copies = Annotated[
    Literal["together", "split"],
    typer.Option(
        help="Copies of a picture (cropped, mirrored, brightened …) are one group, or images like "
        "all others."
    ),
]
CopiesOrDrop = Annotated[
    Literal["together", "split", "drop"],
    typer.Option(
        help="Copies of a picture (cropped, mirrored, brightened …) are one group, images like all "
        "others, or left out but for the first."
    ),
]
ModelBackbone = Annotated[
    str | None, typer.Option(help="A network or .keras file. (default: the one the model names)")
]
ModelWeights = Annotated[
    str | None,
    typer.Option(help="imagenet, none or a weights file. (default: those the model names)"),
]
ModelCustom = Annotated[
    list[str] | None,
    typer.Option(
        help="module:Name of a layer of your own in a .keras file; may be given several times."
    ),
]
Refit = Annotated[
    bool,
    typer.Option(
        "--refit",
        help="Fit head and box head of model.featlab again on all labelled images, those of the "
        "test too; the scores stay those of the model before that.",
    ),
]
Virtual = Annotated[
    bool,
    typer.Option(
        "--virtual", help="Leave the maps in their parts; the store refers to them, without a copy."
    ),
]


@dataclass(frozen=True)
class Pass:
    """The pictures, the network and how it is run: for every command that makes a store."""

    images: Annotated[
        Path,
        typer.Argument(
            help="Folder of class folders, or a CSV with columns path and label; without labels a "
            "folder of pictures, a CSV with a column path, or a text file of paths."
        ),
    ]
    backbone: Annotated[
        str,
        typer.Option(
            help="efficientnet_lite0 … 2, a network of keras.applications, a .keras or .onnx "
            "file, hub:PRESET of keras_hub."
        ),
    ] = "efficientnet_lite0"
    weights: Annotated[
        str, typer.Option(help="imagenet, none (random), or a weights file without the classifier.")
    ] = "imagenet"
    input_size: Annotated[
        int | None, typer.Option(help="Side of the network's input in pixels. (default: its own)")
    ] = None
    output_stride: Annotated[
        int | None, typer.Option(help="16 for maps twice as fine. (default: the network's own)")
    ] = None
    layers: Annotated[
        str | None,
        typer.Option(
            help="Comma-separated layer names, of a network inside by path (base/out_relu), of "
            "tokens with @1+14x14 or @cls behind where needed. "
            "(default: the last feature map)"
        ),
    ] = None
    preprocessing: Annotated[
        str | None,
        typer.Option(
            help="For a .keras or .onnx file: none, unit (0 … 1), tf, torch, caffe or mean:…;std:…"
            ". (default: none)"
        ),
    ] = None
    custom: ModelCustom = None
    resize: Annotated[str, typer.Option(help="stretch, or pad to keep the aspect.")] = "stretch"
    dtype: Annotated[str, typer.Option(help="float16 or float32 for the stored maps.")] = "float16"
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Pictures per forward pass. (default: the engine's, by memory)"),
    ] = None
    engine: Annotated[
        str, typer.Option(help="What runs the network: auto, openvino, tensorflow, jax or torch.")
    ] = "auto"
    precision: Annotated[
        str, typer.Option(help="float32, or bfloat16: faster, not exact, OpenVINO only.")
    ] = "float32"
    classifier: Annotated[
        bool,
        typer.Option(
            "--classifier",
            help="Load the classifier of a keras.applications network, too, and ask it.",
        ),
    ] = False
    own_logits: Annotated[
        str,
        typer.Option(
            help="Answers kept of the network's own classifier: top (10 a picture), or all."
        ),
    ] = "top"
    classes: Annotated[
        str | None, typer.Option(help="Comma-separated: only these. (default: every class)")
    ] = None
    columns: Annotated[
        str | None,
        typer.Option(help="Of a table: path=photo,label=kind; also split, group. (default: usual)"),
    ] = None
    group_from: Annotated[
        str | None,
        typer.Option(
            help="Regular expression: what it matches in a path is the picture's group, such as "
            "one animal; groups are never split."
        ),
    ] = None
    split_from: Annotated[
        str | None,
        typer.Option(help="Regular expression that finds train, val or test in a path."),
    ] = None
    label_from: Annotated[
        str | None, typer.Option(help="Regular expression that finds the class in a path.")
    ] = None
    label_from_boxes: Annotated[
        str | None,
        typer.Option(
            help="The boxes name the classes; where a picture has boxes of several: largest, "
            "the class of the largest box; only, such pictures are left out."
        ),
    ] = None
    box_units: Annotated[
        str | None, typer.Option(help="pixels, or shares of the sides. (default: pixels)")
    ] = None
    intensity: Annotated[
        str | None,
        typer.Option(help="Whose range becomes black to white: dtype, set, file. (default: dtype)"),
    ] = None
    on_error: Annotated[
        str,
        typer.Option(
            help="raise: stop where files cannot be used, and name them. skip: go on without them."
        ),
    ] = "raise"


def takes_pass(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the fields of `Pass` as options of its own, where it has one as `made`."""
    signature = inspect.signature(command)
    hints = get_type_hints(command, include_extras=True)
    shared = get_type_hints(Pass, include_extras=True)
    parameters = [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=getattr(Pass, field.name, inspect.Parameter.empty),
            annotation=shared[field.name],
        )
        for field in fields(Pass)
    ]
    own = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name])
        for name, parameter in signature.parameters.items()
        if name != "made"
    ]

    @functools.wraps(command)
    def spread(**options: object) -> None:
        made = Pass(**{field.name: options.pop(field.name) for field in fields(Pass)})  # type: ignore[arg-type]
        command(made=made, **options)

    spread.__signature__ = inspect.Signature([*parameters, *own])  # type: ignore[attr-defined]
    spread.__annotations__ = {one.name: one.annotation for one in (*parameters, *own)}
    return spread


def bar(items: Iterable[Any], *, label: str) -> Iterable[Any]:
    """A bar that counts images."""
    from tqdm import tqdm

    return tqdm(items, desc=label, unit="img")


def extract_bar(batches: Iterable[range]) -> Iterator[range]:
    """Rate and time left in images, though the pass goes batch by batch."""
    from tqdm import tqdm

    batches = list(batches)
    with tqdm(total=sum(map(len, batches)), desc="extract", unit="img") as images:
        for batch in batches:
            yield batch
            images.update(len(batch))


def picture_bar(left: Iterable[int]) -> Iterable[int]:
    """A bar over all pictures, of whose numbers some are left: it begins where these begin."""
    from tqdm import tqdm

    numbers = list(left)
    first, stop = numbers[0], numbers[-1] + 1
    return tqdm(numbers, desc="predict", total=stop, initial=first, unit="img")


def download_bar(blocks: Iterable[range]) -> Iterator[range]:
    """Rate and time left in bytes; a download that is gone on with begins where it was."""
    from tqdm import tqdm

    blocks = list(blocks)
    start, stop = blocks[0].start, blocks[-1].stop
    with tqdm(desc="download", total=stop, initial=start, unit="B", unit_scale=True) as received:
        for block in blocks:
            yield block
            received.update(len(block))


def quiet_bar(
    items: Iterable[Any], *, label: str = "localise", unit: str = "batch"
) -> Iterable[Any]:
    """A bar that leaves no line behind."""
    from tqdm import tqdm

    return tqdm(items, desc=label, unit=unit, leave=False)


def write_tables(folder: Path | None, tables: Mapping[str, pd.DataFrame]) -> None:
    """Each table as CSV and Parquet; nothing without a folder."""
    if folder is None:
        return
    from featlab.system.files import mark_results, write_table

    mark_results(folder)
    for name, table in tables.items():
        for suffix in (".csv", ".parquet"):
            write_table(table, folder / f"{name}{suffix}")


def write_figures(
    folder: Path | None, figures: Mapping[str, Any], kinds: Sequence[str] = ("svg", "png")
) -> None:
    """Each figure as SVG and PNG, or of the kinds named; nothing without a folder."""
    if folder is None:
        return
    from featlab.system.files import mark_results

    mark_results(folder)
    for name, figure in figures.items():
        for kind in kinds:
            featlab.plots.style.save_figure(figure, folder / f"{name}.{kind}")
    print(f"tables and figures: {folder}")


def show(
    table: pd.DataFrame, columns: Sequence[str] | None = None, decimals: str = "{:.3g}"
) -> None:
    """A table, or some of its columns, as text."""
    if table.empty:
        print("  none")
        return
    part = table if columns is None else table[list(columns)]
    print(part.to_string(index=False, float_format=decimals.format))


def tell(summary: Mapping[str, Any], output: Path) -> None:
    """The summary in a few lines."""
    height, width, n = summary["map_shape"]
    classes = len(summary["classes"])
    of = f"of {classes:,} class{'' if classes == 1 else 'es'}" if classes else "without labels"
    print(
        f"{summary['n_images']:,} image{'' if summary['n_images'] == 1 else 's'} {of}; "
        f"{summary['backbone']} gives {height} × {width} cells of {n} neurons"
    )
    for name, head in summary["heads"].items():
        print(
            f"  head {name}: accuracy {_number(head['accuracy'])} "
            f"[{_number(head['low'])}, {_number(head['high'])}] on {_unseen(head['n'])}"
        )
    for label, detectors in list(summary["detectors"].items())[:10]:
        best = ""
        if detectors["best_neuron"] is not None:
            best = (
                f"; best neuron {detectors['best_neuron']}: AUROC "
                f"{_number(detectors['auroc_selected'])} when chosen, "
                f"{_number(detectors['auroc_confirmed'])} "
                f"[{_number(detectors['auroc_confirmed_low'])}, "
                f"{_number(detectors['auroc_confirmed_high'])}] on unseen images"
            )
            if detectors["n"] < detectors["n_selected"]:
                middle = _number(detectors["auroc_unseen_of_selected"])
                best += f", which being confirmed flatters (median of all selected there {middle})"
        print(
            f"  detectors of {label}: {detectors['n']} confirmed of {detectors['n_selected']} "
            f"selected{best}"
        )
    if (more := len(summary["detectors"]) - 10) > 0:
        print(f"  … and of {more:,} more class{'' if more == 1 else 'es'}")
    _tell_reasons(summary["without_p"])
    if summary["clusters"]:
        sizes = ", ".join(map(str, summary["clusters"].values()))
        print(f"  no labels; {len(summary['clusters'])} clusters of {sizes} images")
    elif not summary["classes"] and "clusters" in summary["left_out"]:
        print(f"  no labels, and no clusters: {summary['left_out']['clusters']}")
    if summary["own_classes"]:
        called = ", ".join(f"{k} ({v['images']})" for k, v in summary["own_classes"].items())
        print(f"  the network itself calls pictures most often: {called}")
    for method, score in summary["localisation"].items():
        print(
            f"  boxes by {method}: {_number(score['box_accuracy'])} with IoU ≥ 0.5, "
            f"mean IoU {_number(score['mean_iou'])}, {_unseen(score['n'])}"
        )
    predicted = summary["predicted_boxes"]
    if "mean_iou" in predicted:
        # The others above are of the class that is right.
        of = " for the class predicted" if predicted["method"] in summary["localisation"] else ""
        print(
            f"  boxes of `featlab predict`, by {predicted['method']}{of}: "
            f"{_scored(predicted['box_accuracy'])} with IoU ≥ 0.5, "
            f"mean IoU {_scored(predicted['mean_iou'])}, {_unseen(predicted['mean_iou']['n'])}"
        )
    if summary["refitted_on"]:
        print(
            f"  model.featlab was fitted again on all {summary['refitted_on']:,} labelled images; "
            "every score is of the model before that"
        )
    print(f"report: {output / 'report.html'}")


def tell_boxes(images: pd.DataFrame, boxes: pd.DataFrame) -> None:
    """How many images of each class and side have boxes, where not all have."""
    has = images.index.to_series().isin(boxes["image"])
    if not len(boxes) or has.all():
        return
    parts = []
    for column in ("label", "split")[: 1 + images["split"].any()]:
        groups = list(has.groupby(images[column]))[:20]
        counts = [f"{name or 'none'} {one.sum():,} of {len(one):,}" for name, one in groups]
        parts.append(", ".join(counts))
    of = "; of each side: ".join(parts)
    logging.getLogger(__name__).warning("images with a box, of each class: %s", of)


def tell_skipped(skipped: pd.DataFrame, output: Path) -> None:
    """Where it is named what was left out or not read; a line of it may stand for many boxes."""
    if len(skipped):
        what = "1 line" if len(skipped) == 1 else f"{len(skipped):,} lines"
        print(f"left out, or not read: {what} with the reason in {output / 'skipped.csv'}")


def tell_without_p(neurons: pd.DataFrame) -> None:
    """How many rows of a neuron table have no p, and why; nothing where all have one."""
    _tell_reasons(neurons.loc[neurons["p"].isna(), "reason"].value_counts())


def _tell_reasons(counts: Mapping[str, int] | pd.Series) -> None:
    if len(counts):
        reasons = ", ".join(f"{n:,} {why}" for why, n in counts.items())
        print(f"  pairs of class and neuron without a p: {reasons}")


def _scored(score: Mapping[str, float | None]) -> str:
    """A score with its interval."""
    return f"{_number(score['value'])} [{_number(score['low'])}, {_number(score['high'])}]"


def _number(value: float | None) -> str:
    """With three decimals, or more where they would read as all or nothing; a dash for unknown."""
    return "–" if value is None else featlab.arguments.score_text(value, 3)


def _unseen(n: float) -> str:
    return f"{n:.0f} unseen image{'' if n == 1 else 's'}"


def command_line() -> str:
    """What the user typed."""
    return shlex.join(["featlab", *sys.argv[1:]])
