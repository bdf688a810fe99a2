"""Copies that are found of an augmented set, by kind, and pairs of different photos that are not.

    python benchmarks/copies.py PICTURES FOLDER            # five gentle copies of each photo
    python benchmarks/copies.py PICTURES FOLDER --heavy    # stronger crops, turns, strips, grey
    python benchmarks/copies.py --scale 100000             # time and memory of the neighbours

PICTURES is a folder of class folders; copies and store are written to FOLDER.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageEnhance

from featlab.audit import copies, duplicates
from featlab.backbones import load_backbone
from featlab.extract import extract_maps
from featlab.images import index_images


def cropped(picture: Image.Image, rng: np.random.Generator, most: float) -> Image.Image:
    """A part of the picture, each side up to `most` shorter."""
    width, height = (side * (1 - rng.uniform(0, most)) for side in picture.size)
    x, y = rng.uniform(0, picture.width - width), rng.uniform(0, picture.height - height)
    return picture.crop(tuple(round(v) for v in (x, y, x + width, y + height)))


def gentle(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Cropped by up to 12 %, half of them mirrored, brightness ± 20 %."""
    picture = cropped(picture, rng, 0.12)
    if rng.random() < 0.5:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return ImageEnhance.Brightness(picture).enhance(rng.uniform(0.8, 1.2))


def with_strip(picture: Image.Image) -> Image.Image:
    """A white strip of a tenth of the height below."""
    canvas = Image.new("RGB", (picture.width, round(1.1 * picture.height)), "white")
    canvas.paste(picture)
    return canvas


HEAVY = {
    "crop25": lambda p, rng: cropped(p, rng, 0.25),
    "turned15": lambda p, rng: p.rotate(rng.uniform(8, 15), Image.Resampling.BILINEAR),
    "strip": lambda p, rng: with_strip(p),
    "grey": lambda p, rng: p.convert("L").convert("RGB"),
    "third": lambda p, rng: p.resize((p.width // 3, p.height // 3)).resize(p.size),
}
GENTLE = {f"gentle{k}": gentle for k in range(4)}


def main() -> None:
    """Make the copies, run the network, print how many are found."""
    parser = argparse.ArgumentParser()
    parser.add_argument("pictures", nargs="?", type=Path)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--heavy", action="store_true")
    parser.add_argument("--scale", type=int)
    given = parser.parse_args()
    if given.scale is None and given.folder is None:
        parser.error("give the pictures and a folder for their copies, or --scale")
    if given.scale:
        X = np.random.default_rng(0).normal(size=(given.scale, 1280)).astype(np.float32)
        start = time.perf_counter()
        pairs = copies.neighbour_pairs(X)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        print(f"{len(pairs)} pairs, {time.perf_counter() - start:.0f} s, peak {peak:.1f} GB")
        return
    rng = np.random.default_rng(0)
    kinds = HEAVY if given.heavy else GENTLE
    for file in sorted(given.pictures.glob("*/*.jpg")):
        folder = given.folder / "pictures" / file.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.open(file).convert("RGB")
        for kind, change in {"itself": lambda p, rng: p, **kinds}.items():
            quality = int(rng.integers(70, 95))
            change(picture, rng).save(folder / f"{file.stem}__{kind}.jpg", quality=quality)
    images, _, _ = index_images(given.folder / "pictures")
    with extract_maps(images, load_backbone(), given.folder / "maps.h5") as store:
        start = time.perf_counter()
        pairs = duplicates(store)
        print(f"{len(store)} images, {time.perf_counter() - start:.0f} s")
    photo, kind = images["path"].str.split("__", expand=True).T.to_numpy()
    names = copies.joined_groups(np.full(len(images), ""), pairs)
    table = pd.DataFrame({"photo": photo, "kind": kind, "cluster": names})
    own = table[kind == "itself.jpg"].set_index("photo")["cluster"]
    table["hit"] = (names != "") & (names == own[photo].to_numpy())
    print(table.groupby("kind")["hit"].mean().round(3).to_string())
    between = pairs[photo[pairs["row_a"]] != photo[pairs["row_b"]]]
    print(f"{len(between)} pairs of different photos, to be looked at:")
    print(between[["path_a", "path_b", "similarity", "overlap"]].to_string(index=False))


if __name__ == "__main__":
    main()
