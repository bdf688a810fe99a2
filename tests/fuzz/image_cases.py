"""Mutated picture files of every format that Pillow writes."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mutations
import numpy as np
from PIL import Image, PngImagePlugin

from featlab import FeatlabError
from featlab.images import decode_picture, index_images
from featlab.images.decode import decode_scaled, inspect_picture

FORMATS = (
    ("JPEG", "RGB", {}),
    ("JPEG", "RGB", {"progressive": True, "quality": 40}),
    ("JPEG", "CMYK", {}),
    ("JPEG", "L", {"exif": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"}),
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "P", {"transparency": 3}),
    ("PNG", "1", {}),
    ("PNG", "I;16", {}),
    ("PNG", "LA", {"pnginfo": "text", "icc_profile": bytes(300)}),
    ("PNG", "RGB", {"save_all": True}),
    ("GIF", "P", {}),
    ("GIF", "P", {"save_all": True}),
    ("BMP", "RGB", {}),
    ("BMP", "P", {}),
    ("TIFF", "RGB", {}),
    ("TIFF", "RGB", {"compression": "tiff_lzw"}),
    ("TIFF", "L", {"compression": "jpeg"}),
    ("TIFF", "F", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", "1", {"compression": "group4"}),
    ("TIFF", "I;16", {}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("WEBP", "RGB", {"save_all": True}),
    ("PPM", "RGB", {}),
    ("PPM", "1", {}),
    ("TGA", "RGB", {"compression": "tga_rle"}),
    ("ICO", "RGBA", {}),
    ("ICNS", "RGBA", {}),
    ("JPEG2000", "RGB", {}),
    ("PCX", "L", {}),
    ("SGI", "RGB", {}),
    ("DDS", "RGBA", {}),
    ("IM", "RGB", {}),
    ("MPO", "RGB", {}),
    ("XBM", "1", {}),
    ("AVIF", "RGB", {}),
    ("QOI", "RGB", {}),
)
STRUCTURES = {"JPEG": mutations.jpeg_segments, "MPO": mutations.jpeg_segments,
              "PNG": mutations.png_chunks}  # fmt: skip


@functools.cache
def whole(which: int) -> bytes:
    """A small picture in one of the formats; empty where this Pillow cannot write it."""
    format, mode, options = FORMATS[which]
    rng = np.random.default_rng(which)
    pixels = Image.fromarray(rng.integers(0, 256, (17, 23, 3)).astype(np.uint8)).resize((46, 34))
    if mode == "I;16":
        picture = Image.fromarray(rng.integers(0, 65536, (17, 23)).astype(np.uint16))
    else:
        picture = pixels.convert(mode)
    options = dict(options)
    if "pnginfo" in options:
        options["pnginfo"] = PngImagePlugin.PngInfo()
        options["pnginfo"].add_text("a", "b" * 500, zip=True)
    if options.get("save_all"):
        options["append_images"] = [picture.rotate(90), picture.rotate(180)]
    buffer = io.BytesIO()
    try:
        picture.save(buffer, format, **options)
    except (OSError, KeyError, ValueError):
        return b""
    return buffer.getvalue()


def mutated(which: int, number: int) -> bytes:
    """A damaged file of one of the formats."""
    rng = np.random.default_rng([7, number])
    data, structure = whole(which), STRUCTURES.get(FORMATS[which][0])
    if structure is not None and rng.random() < 0.6:
        for _ in range(rng.integers(1, 4)):
            data = structure(data, rng)
        return data
    return mutations.damage(data, rng)


COMMON = [k for k, one in enumerate(FORMATS)
          if one[0] in ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP")]  # fmt: skip


def run(number: int, folder: Path) -> str:
    """Inspect and decode a file; every tenth is indexed from the disk beside a good one."""
    data = mutated(number % len(FORMATS), number)
    return indexed(data, folder) if number % 10 == 0 else agreed(data)


def run_common(number: int, _: Path) -> str:
    """Inspect and decode a file of one of the six formats that people have most."""
    return agreed(mutated(COMMON[number % len(COMMON)], number))


def agreed(data: bytes) -> str:
    """What the index accepts, the pass decodes, whole or at a part of its size; nothing else."""
    whole, eighth, seen = (
        outcome(read, data)
        for read in (decode_picture, lambda data: decode_scaled(data, 8), inspect_picture)
    )
    assert isinstance(seen, FeatlabError) == isinstance(whole, FeatlabError), (seen, whole)
    assert isinstance(eighth, FeatlabError) == isinstance(whole, FeatlabError), (eighth, whole)
    if isinstance(whole, FeatlabError):
        raise whole
    assert whole.dtype == np.uint8 and whole.shape == (seen.height, seen.width, 3)
    assert (eighth.height, eighth.width) == whole.shape[:2]
    return "right"


def outcome(read: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return read(data)
    except FeatlabError as error:
        return error


def indexed(data: bytes, folder: Path) -> str:
    (folder / "cat").mkdir()
    (folder / "cat" / "bad.png").write_bytes(data)
    (folder / "cat" / "good.png").write_bytes(whole(4))
    images, _, skipped = index_images(folder, on_error="skip")
    assert sorted([*images["path"], *skipped["path"]]) == ["cat/bad.png", "cat/good.png"]
    assert "cat/good.png" in set(images["path"])
    return "skipped" if len(skipped) else "right"
