"""Large JPEGs decoded at a part of their size: how much faster, and how much it changes.

    python benchmarks/decode.py [FOLDER] [--pictures 12]

Two kinds of pictures of 12 megapixels are made, at JPEG quality 92, from the pictures of the folder
(built-in scenes without one): mosaics of many of them at their own size, finer than any photo, and
one enlarged, with noise and texture added. For each margin (how many times the network's input is
left along the shorter side) the scaled decoding is set beside the whole one: pixels of the 224 px
input, mean-pooled outputs of EfficientNet-Lite0 and single cells as shares of the largest, and
the share of the pixels that the colour histogram counts elsewhere. Below them stands what saving
the picture at another JPEG quality, without colour subsampling, or resizing with another filter
does.
"""

from __future__ import annotations

import argparse
import io
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from limits import say
from PIL import Image

from featlab import backbones, datasets, images
from featlab.images import decode_picture, pixels
from featlab.images.decode import decode_scaled
from featlab.images.pixels import resize_picture

SIDE, WIDTH, HEIGHT = 224, 4000, 3000
MARGINS = (1, 1.5, 2, 2.5, 3, 3.3)
FACTORS = (2, 4)
# A file of this margin is the one that is saved and resized in other ways.
OTHER_WAYS = 2


def jpeg(picture: Image.Image, quality: int = 92, subsampling: int = 2) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    return buffer.getvalue()


def mosaic(files: list[Path], rng: np.random.Generator) -> Image.Image:
    """Strips of 200 px of many pictures beside and below each other."""
    canvas = Image.new("RGB", (WIDTH, HEIGHT))
    for top in range(0, HEIGHT, 200):
        left = 0
        while left < WIDTH:
            tile = Image.fromarray(decode_picture(files[rng.integers(len(files))].read_bytes()))
            canvas.paste(tile.crop((0, 0, tile.width, 200)), (left, top))
            left += tile.width
    return canvas


def enlarged(files: list[Path], rng: np.random.Generator) -> Image.Image:
    """One picture, with its own grey levels repeated over it as a fine texture, and noise."""
    whole = Image.fromarray(decode_picture(files[rng.integers(len(files))].read_bytes()))
    pixels = np.asarray(whole.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS), np.float32)
    grey = np.asarray(whole.convert("L"), np.float32)
    repeats = -(-HEIGHT // grey.shape[0]), -(-WIDTH // grey.shape[1])
    texture = np.tile(grey - grey.mean(), repeats)[:HEIGHT, :WIDTH, None]
    noisy = pixels + 0.3 * texture + rng.normal(0, 6, pixels.shape)
    return Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))


def variants(picture: Image.Image) -> Iterator[tuple[str, np.ndarray, np.ndarray, float]]:
    """Name, input from the whole picture, input from the variant, shift of the histogram."""
    for factor in FACTORS:
        for margin in MARGINS:
            # One pixel more than whole blocks, the worst case for the edge.
            sides = [round(factor * SIDE * margin * s / HEIGHT) + 1 for s in (WIDTH, HEIGHT)]
            if min(sides) > HEIGHT:
                continue
            small = picture.resize((sides[0], sides[1]), Image.Resampling.BOX)
            data = jpeg(small)
            whole, scaled = decode_picture(data), decode_scaled(data, factor)
            plain = resize_picture(whole, (SIDE, SIDE))
            moved = (
                np.abs(pixels.colour_histogram(whole) - pixels.colour_histogram(scaled.image)).sum()
                / 2
            )
            scaled_input = resize_picture(scaled.image, (SIDE, SIDE), box=scaled.box)
            yield f"1/{factor}, margin {margin}", plain, scaled_input, moved
            if factor == FACTORS[0] and margin == OTHER_WAYS:
                for name, other in {
                    "quality 95 for 92": jpeg(small, 95),
                    "no colour subsampling": jpeg(small, subsampling=0),
                }.items():
                    yield name, plain, resize_picture(decode_picture(other), (SIDE, SIDE)), np.nan
                bicubic = Image.fromarray(whole).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
                yield "bicubic for bilinear", plain, np.asarray(bicubic), np.nan


def milliseconds(work: Callable[[bytes], object], data: list[bytes]) -> float:
    """Of the processor, a picture; the fastest of three."""
    taken = []
    for _ in range(3):
        start = time.process_time()
        for one in data:
            work(one)
        taken.append(1000 * (time.process_time() - start) / len(data))
    return min(taken)


def to_input(factor: int) -> Callable[[bytes], object]:
    def work(data: bytes) -> object:
        picture = decode_scaled(data, factor)
        colours = pixels.colour_histogram(picture.image)
        return colours, resize_picture(picture.image, (SIDE, SIDE), box=picture.box)

    return work


def main(folder: Path, n: int) -> None:
    table, _, _ = images.index_images(folder)
    files = [Path(table["folder"].iloc[0], path) for path in table["path"]]
    rng = np.random.default_rng(0)
    backbone = backbones.load_backbone("efficientnet_lite0")
    whole_files, quality_row = [], {}
    for make in (mosaic, enlarged):
        differences: dict[str, list[tuple[float, ...]]] = {}
        for _ in range(-(-n // 2)):
            picture = make(files, rng)
            whole_files.append(jpeg(picture))
            for name, plain, other, moved in variants(picture):
                maps = backbone.forward(np.stack([plain, other]))[backbone.layers[-1]]
                a, b = maps
                pooled_a, pooled_b = a.mean(axis=(0, 1)), b.mean(axis=(0, 1))
                differences.setdefault(name, []).append(
                    (
                        np.abs(plain.astype(float) - other).mean(),
                        np.abs(pooled_a - pooled_b).max() / pooled_a.max(),
                        np.abs(a - b).max() / a.max(),
                        moved,
                    )
                )
        print(f"\n{make.__name__}: medians of {len(differences['quality 95 for 92'])} pictures")
        print(f"{'':24s} {'pixels, of 255':>14s} {'pooled':>8s} {'cells':>8s} {'histogram':>10s}")
        medians = {name: np.median(values, axis=0) for name, values in differences.items()}
        for name, values in medians.items():
            print("{:24s} {:14.2f} {:8.4f} {:8.4f} {:10.4f}".format(name, *values))
        quality_row[make.__name__] = medians["quality 95 for 92"][1]
        margin = [medians[f"1/{factor}, margin {pixels.JPEG_MARGIN}"][1] for factor in FACTORS]
        name = f"margin {pixels.JPEG_MARGIN} / quality 95 for 92, pooled, {make.__name__}"
        say(name, statistics.median(margin) / quality_row[make.__name__], "<=", 2)
    whole = milliseconds(to_input(1), whole_files)
    print(f"\n{WIDTH} x {HEIGHT} to the input, ms of processor: whole {whole:.1f}")
    for factor in (2, 4, 8):
        print(f"    1/{factor}: {milliseconds(to_input(factor), whole_files):.1f}")
    used = pixels.jpeg_factor("a.jpg", WIDTH, HEIGHT, (SIDE, SIDE))
    say("12 megapixels, whole / scaled", whole / milliseconds(to_input(used), whole_files), ">=", 2)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--pictures", type=int, default=12)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        main(given.folder or datasets.write_scenes(Path(work, "scenes"), 60), given.pictures)
