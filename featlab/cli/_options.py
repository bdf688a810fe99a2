"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    int | None, typer.Option(help="Side of the network's input in pixels. (default: its own)")
]
OutputStride = Annotated[
    int | None, typer.Option(help="16 for maps twice as fine. (default: the network's own)")
]
Layers = Annotated[
    str | None, typer.Option(help="Comma-separated layer names. (default: the last feature map)")
]
Preprocessing = Annotated[
    str | None, typer.Option(help="For a .keras file: none, tf, torch or caffe. (default: none)")
]
Resize = Annotated[str, typer.Option(help="stretch, or pad to keep the aspect ratio.")]
Dtype = Annotated[str, typer.Option(help="float16 or float32 for the stored maps.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Pictures per forward pass.")]
PassBatchSize = Annotated[
    int | None,
    typer.Option(min=1, help="Pictures per forward pass. (default: the engine's, by memory)"),
]
Engine = Annotated[
    str, typer.Option(help="What runs the network: auto, openvino, tensorflow, jax or torch.")
]
Virtual = Annotated[
    bool,
    typer.Option(
        "--virtual", help="Leave the maps in their parts; the store refers to them, without a copy."
    ),
]
Precision = Annotated[
    str, typer.Option(help="float32, or bfloat16: faster, not exact, OpenVINO only.")
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of split, heads, bootstrap and examples.")]
OnError = Annotated[str, typer.Option(help="raise, or skip files that cannot be used.")]
GroupFrom = Annotated[
    str | None,
    typer.Option(help="Regular expression: its match in the path is the picture's group."),
]
BoxKind = Annotated[
    str | None, typer.Option(help="Which kind of box is the truth, where there are several.")
]
