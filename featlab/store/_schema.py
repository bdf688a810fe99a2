"""Names, versions and columns of the format; docs/file-format.md says it in full."""

from __future__ import annotations

import numpy as np

ENCODING_TYPE = "featlab-maps"
"""Root attribute ``encoding-type`` of every store."""
ENCODING_VERSION = "1.0"
"""Root attribute ``encoding-version`` of the stores that are written."""
POOLINGS = ("mean", "max")
"""How the maps are pooled over their cells."""

IMAGE_DTYPES = {
    "path": str,
    "label": str,
    "split": str,
    "group": str,
    "width": np.int64,
    "height": np.int64,
    "sha256": str,
}
"""Columns of the image table and their types on disk."""
BOX_DTYPES = {
    "image": np.int64,
    "kind": str,
    "label": str,
    "xmin": np.float64,
    "ymin": np.float64,
    "xmax": np.float64,
    "ymax": np.float64,
}
"""Columns of the box table and their types on disk."""
SKIPPED_DTYPES = {"path": str, "reason": str}
