"""Pictures on disk → image table and box table; bytes → pixels; pixels → the network's input.

Every picture is decoded once while it is indexed, so that a broken file is found before the
network is run and not in the middle of the night.
"""

from __future__ import annotations

from featlab.images.decode import MAX_PIXELS, ScaledPicture, decode_image, decode_scaled
from featlab.images.index import index_images
from featlab.images.pixels import (
    JPEG_MARGIN,
    colour_histogram,
    jpeg_factor,
    picture_frame,
    resize_image,
)

__all__ = [
    "JPEG_MARGIN",
    "MAX_PIXELS",
    "ScaledPicture",
    "colour_histogram",
    "decode_image",
    "decode_scaled",
    "index_images",
    "jpeg_factor",
    "picture_frame",
    "resize_image",
]
