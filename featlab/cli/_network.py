"""The network as the options name it, loaded without its libraries' chatter."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featlab.backbones import Backbone

_LIBRARY_CHATTER = re.compile(
    r"[IW]\d{4} .*\.cc:\d+\]|E\d{4} .*(cuda|oneDNN)|WARNING: All log messages before absl"
)


def load(
    name: str,
    weights: str = "imagenet",
    input_size: int | None = None,
    layers: str | None = None,
    output_stride: int | None = None,
    preprocessing: str | None = None,
    engine: str = "auto",
    precision: str = "float32",
) -> Backbone:
    """The network that the options name; "none" is no weights, layers are separated by commas."""
    from featlab.backbones import load_backbone

    return load_backbone(
        name,
        weights=None if weights.lower() == "none" else weights,
        input_size=input_size,
        layers=layers.split(",") if layers else None,
        output_stride=output_stride,
        preprocessing=preprocessing,
        engine=engine,
        precision=precision,
    )


@contextmanager
def libraries_silenced() -> Iterator[None]:
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
