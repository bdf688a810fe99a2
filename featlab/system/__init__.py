"""What featlab needs of the machine: files, memory, cores, other processes, notebooks, silence.

`files` writes files that appear whole or not at all, and the HTML of notebooks; `machine` says how
many cores and how much memory there are, and holds matrices that may be larger than it; `processes`
runs stages in other processes. Nothing here knows of images or neurons.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator

__version__ = "0.1.0"

GARBAGE = (50_000, 20, 20)
"""How rarely processes of featlab look for garbage (`gc.set_threshold`): libraries leave a million
objects that stay, and to look through them again and again took a tenth of the time."""

_LIBRARY_CHATTER = re.compile(
    r"[IW]\d{4} .*\.cc:\d+\]|E\d{4} .*(cuda|oneDNN)|WARNING: All log messages before absl"
)


@contextlib.contextmanager
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
