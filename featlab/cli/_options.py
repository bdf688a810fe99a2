"""Arguments and options that several commands share, each told once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, get_type_hints

import typer

Store = Annotated[Path, typer.Argument(help="A store written by `featlab extract`.")]
Output = Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")]
Folder = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Folder for the tables, figures and fitted heads."),
]
Layer = Annotated[str | None, typer.Option(help="(default: the last stored)")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of split, heads, bootstrap and examples.")]
BoxKind = Annotated[
    str | None, typer.Option(help="Which kind of box is the truth, where there are several.")
]
Copies = Annotated[
    Literal["together", "split", "drop"],
    typer.Option(
        help="Copies of a picture (cropped, mirrored, brightened …) are one group, images like all "
        "others, or (`featlab run`) left out but for the first."
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
        Path, typer.Argument(help="Folder of class folders, or a CSV with columns path and label.")
    ]
    backbone: Annotated[
        str,
        typer.Option(
            help="efficientnet_lite0 … 2, a network of keras.applications, a .keras file."
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
        typer.Option(help="Comma-separated layer names. (default: the last feature map)"),
    ] = None
    preprocessing: Annotated[
        str | None,
        typer.Option(help="For a .keras file: none, tf, torch or caffe. (default: none)"),
    ] = None
    resize: Annotated[str, typer.Option(help="stretch, or pad to keep the aspect ratio.")] = (
        "stretch"
    )
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
    group_from: Annotated[
        str | None,
        typer.Option(help="Regular expression: its match in the path is the picture's group."),
    ] = None
    on_error: Annotated[str, typer.Option(help="raise, or skip files that cannot be used.")] = (
        "raise"
    )


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
