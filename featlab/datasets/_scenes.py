"""How one built-in scene is drawn; :mod:`featlab.datasets` is the public face."""

from __future__ import annotations

import colorsys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter
from scipy import ndimage

SIZES = ((256, 256), (341, 256), (384, 256), (256, 341), (320, 320))
"""Picture sizes (width, height) in pixels, drawn with equal chance."""

TWO_OBJECTS = 0.15
"""Share of the scenes that hold two objects."""

_Array = npt.NDArray[np.floating[Any]]
_Mask = npt.NDArray[np.bool_]
_Rng = np.random.Generator
_Texture = Callable[[_Rng, _Array, _Array], _Array]
_Corner = tuple[int, int]


@dataclass(frozen=True)
class Scene:
    """One picture and its truth.

    Attributes
    ----------
    image : ndarray of uint8, shape (h, w, 3)
    label : str
        The texture of its objects.
    boxes : ndarray of float, shape (k, 4)
        One row per object: xmin, ymin, xmax, ymax in pixels, continuous (xmax is the index of the
        last pixel column plus 1), tight on the object's mask. The boxes do not overlap.
    mask : ndarray of bool, shape (h, w)
        The pixels that belong to an object.
    """

    image: npt.NDArray[np.uint8]
    label: str
    boxes: npt.NDArray[np.float64]
    mask: _Mask


def draw_scene(i: int, label: str, random_state: int) -> Scene:
    """Draw scene number `i` with the texture `label` (a key of :data:`TEXTURES`).

    Another `label` changes the texture of the objects and not one pixel elsewhere.
    """
    rng = np.random.default_rng([random_state, i])
    width, height = SIZES[rng.integers(len(SIZES))]
    canvas = _background(rng, height, width)
    for _ in range(rng.integers(2, 5)):
        shape = _blob(rng, rng.uniform(0.15, 0.45) * min(height, width))
        clutter = _CLUTTER[rng.integers(len(_CLUTTER))]
        _paint(rng, canvas, shape, _place(rng, shape, height, width), clutter)
    mask = np.zeros((height, width), dtype=bool)
    boxes = []
    for shape, (top, left) in _objects(rng, height, width):
        _paint(rng, canvas, shape, (top, left), TEXTURES[label])
        inside = shape >= 0.5
        mask[top : top + shape.shape[0], left : left + shape.shape[1]] |= inside
        boxes.append(_tight_box(inside, top, left))
    return Scene(_develop(rng, canvas), label, np.array(boxes, dtype=np.float64), mask)


# ---------------------------------------------------------------------------- shapes and places


def _objects(rng: _Rng, height: int, width: int) -> list[tuple[_Array, _Corner]]:
    """Outlines and places of one object, or of two whose boxes do not overlap."""
    short = min(height, width)
    two = rng.random() < TWO_OBJECTS
    first = _blob(rng, rng.uniform(0.25, 0.40 if two else 0.60) * short)
    corner = _place(rng, first, height, width)
    if not two:
        return [(first, corner)]
    second = _blob(rng, rng.uniform(0.25, 0.40) * short)
    while True:
        other = _place(rng, second, height, width)
        if any(
            other[k] >= corner[k] + first.shape[k] or corner[k] >= other[k] + second.shape[k]
            for k in (0, 1)
        ):
            return [(first, corner), (second, other)]


def _place(rng: _Rng, shape: _Array, height: int, width: int) -> _Corner:
    """Corner (top, left) of a place wholly inside; the border is likelier than the centre."""
    room_y, room_x = height - shape.shape[0], width - shape.shape[1]
    return round(room_y * rng.beta(0.6, 0.6)), round(room_x * rng.beta(0.6, 0.6))


def _tight_box(inside: _Mask, top: int, left: int) -> list[int]:
    rows = np.flatnonzero(inside.any(axis=1))
    columns = np.flatnonzero(inside.any(axis=0))
    return [left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1]


def _blob(rng: _Rng, side: float) -> _Array:
    """Coverage (0 to 1) of a smooth random outline whose longer side is `side` pixels."""
    angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    radius = np.ones_like(angle)
    for k in (2, 3, 4, 5):
        radius += rng.normal(0, 0.2 / k) * np.cos(k * angle + rng.uniform(0, 2 * np.pi))
    radius = radius.clip(0.4)
    x, y = radius * np.cos(angle), radius * np.sin(angle) * rng.uniform(0.6, 1.0)
    x, y = _turn(x, y, rng.uniform(0, 2 * np.pi))
    scale = side / max(np.ptp(x), np.ptp(y))
    x, y = (x - x.min()) * scale + 2, (y - y.min()) * scale + 2
    width, height = int(np.ceil(x.max())) + 2, int(np.ceil(y.max())) + 2
    fine = Image.new("L", (4 * width, 4 * height))
    ImageDraw.Draw(fine).polygon(
        list(zip((4 * x).tolist(), (4 * y).tolist(), strict=True)), fill=255
    )
    return np.asarray(fine.resize((width, height), Image.Resampling.BOX), dtype=np.float32) / 255


def _turn(x: npt.NDArray, y: npt.NDArray, angle: float) -> tuple[npt.NDArray, npt.NDArray]:
    cos, sin = float(np.cos(angle)), float(np.sin(angle))
    return x * cos - y * sin, x * sin + y * cos


# ---------------------------------------------------------------------------- colour and light


def _noise(
    rng: _Rng, height: int, width: int, cell: float, *, octaves: int = 9, stretch: float = 1.0
) -> _Array:
    """Clouds of mean 0 and standard deviation 1, amplitude proportional to wavelength.

    The longest waves are about `cell` pixels (times `stretch` in x); each octave halves them, down
    to 3 pixels.
    """
    total = np.zeros((height, width), dtype=np.float32)
    for octave in range(octaves):
        wave = cell / 2**octave
        if octave and wave < 3:
            break
        across, down = width / (wave * stretch), height / wave
        grid = rng.standard_normal((int(down) + 2, int(across) + 2), dtype=np.float32)
        x, y = rng.random(2)
        smooth = Image.fromarray(grid).resize(
            (width, height), Image.Resampling.BICUBIC, box=(x, y, x + across, y + down)
        )
        total += np.asarray(smooth) / np.float32(2**octave)
    total -= total.mean()
    total /= max(float(total.std()), 1e-6)
    return total


def _colours(rng: _Rng) -> tuple[_Array, _Array]:
    """Draw a dark and a light colour of related hues: RGB from 0 to 1, shape (3, 1, 1)."""
    hue = rng.random()
    dark = colorsys.hls_to_rgb(hue, rng.uniform(0.08, 0.32), rng.uniform(0.1, 0.7))
    hue = (hue + rng.normal(0, 0.15)) % 1
    light = colorsys.hls_to_rgb(hue, rng.uniform(0.55, 0.85), rng.uniform(0.1, 0.7))
    dark, light = np.array([dark, light], np.float32)[:, :, None, None]
    return dark, light


def _mix(low: _Array, high: _Array, share: npt.NDArray) -> _Array:
    """Blend two canvases (3, h, w) or colours (3, 1, 1) by `share` (h, w)."""
    mixed = (high - low) * share.astype(np.float32)
    mixed += low
    return mixed


def _to_picture(canvas: _Array) -> Image.Image:
    levels = (canvas * 255).clip(0, 255).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(levels.transpose(1, 2, 0)))


def _to_planes(picture: Image.Image) -> _Array:
    # One plane per colour: numpy is many times slower over a last axis of length 3.
    return np.asarray(picture).transpose(2, 0, 1).astype(np.float32, order="C")


def _background(rng: _Rng, height: int, width: int) -> _Array:
    """Two regions of coloured clouds (sky and ground, softly parted), strewn with small things."""
    y, x = _grid(height, width)
    regions = []
    for stretch in (1.0, rng.uniform(1.0, 4.0)):
        share = _noise(rng, height, width, rng.uniform(30, 120), stretch=stretch)
        share *= 0.16
        share += 0.5 + rng.uniform(-0.6, 0.6) * (y / height) + rng.uniform(-0.6, 0.6) * (x / width)
        regions.append(_mix(*_colours(rng), share.clip(0, 1, out=share)))
    horizon = height * (rng.uniform(0.2, 0.9) + rng.normal(0, 0.1) * x / width)
    horizon = horizon + rng.uniform(2, 12) * _noise(rng, 1, width, 60)
    ground = np.clip((y - horizon) / rng.uniform(2, 40) + 0.5, 0, 1)
    canvas = _mix(regions[0], regions[1], ground)
    picture = _to_picture(canvas)
    for _ in range(2):
        picture = _strew(rng, picture)
    return _to_planes(picture) / 255


def _grid(height: int, width: int) -> tuple[_Array, _Array]:
    """Row numbers (height, 1) and column numbers (1, width)."""
    y, x = np.ogrid[:height, :width]
    return y.astype(np.float32), x.astype(np.float32)


def _strew(rng: _Rng, picture: Image.Image) -> Image.Image:
    """Scatter blades or pebbles, irregular in size, place and angle, more or less in focus."""
    pen = ImageDraw.Draw(picture)
    palette = [
        tuple((255 * c).astype(int).ravel().tolist()) for _ in range(2) for c in _colours(rng)
    ]
    blades, lean = rng.random() < 0.5, rng.uniform(0, np.pi)
    centre = rng.uniform((0, 0), picture.size)
    for _ in range(rng.integers(10, 60)):
        x, y = centre + rng.normal(0, 0.25, 2) * picture.size
        size, fill = 2 + rng.exponential(6), palette[rng.integers(4)]
        if blades:
            angle = lean + rng.normal(0, 0.6)
            dx, dy = 2.5 * size * np.cos(angle), 2.5 * size * np.sin(angle)
            pen.line((x - dx, y - dy, x + dx, y + dy), fill=fill, width=int(rng.integers(1, 5)))
        else:
            flat = size * rng.uniform(0.4, 1)
            pen.ellipse((x - size, y - flat, x + size, y + flat), fill=fill)
    return picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.5, 4)))


def _paint(rng: _Rng, canvas: _Array, shape: _Array, corner: _Corner, texture: _Texture) -> None:
    """Paint a lit, textured thing and its soft shadow onto the canvas, in place."""
    height, width = shape.shape
    period = rng.uniform(11, 20)
    y, x = _grid(height, width)
    bend = rng.uniform(0.1, 0.35)
    u = (x - width / 2) / period + bend * _noise(rng, height, width, 4 * period, octaves=2)
    v = (y - height / 2) / period + bend * _noise(rng, height, width, 4 * period, octaves=2)
    u, v = _turn(u, v, rng.uniform(0, 2 * np.pi))
    # Its own generator: another texture leaves all that is drawn afterwards as it was.
    field = texture(np.random.default_rng(rng.integers(2**63)), u, v)
    # The median makes every texture ink half of its object: its colour share tells no class.
    ink = field > np.median(field[shape >= 0.5])
    if rng.random() < 0.5:
        ink = ~ink
    colour = _mix(*_colours(rng), ink) * _light(rng, shape)
    _cast_shadow(rng, canvas, shape, corner)
    window = canvas[:, corner[0] : corner[0] + height, corner[1] : corner[1] + width]
    window += (colour - window) * shape


def _light(rng: _Rng, shape: _Array) -> _Array:
    """Brightness of a rounded thing lit from a random side, with a little mottle."""
    height, width = shape.shape
    relief = ndimage.gaussian_filter(shape, max(height, width) / 7, truncate=2, mode="constant")
    slope_y, slope_x = np.gradient(relief)
    angle = rng.uniform(0, 2 * np.pi)
    lit = np.cos(angle) * slope_x + np.sin(angle) * slope_y
    lit *= rng.uniform(0.15, 0.35) / max(float(np.abs(lit).max()), 1e-6)
    return 0.95 + lit + 0.05 * _noise(rng, height, width, 12)


def _cast_shadow(rng: _Rng, canvas: _Array, shape: _Array, corner: _Corner) -> None:
    height, width = canvas.shape[1:]
    soft = rng.uniform(2, 6)
    pad = int(2 * soft)
    shadow = ndimage.gaussian_filter(np.pad(shape, pad), soft, truncate=2)
    top = corner[0] - pad + int(rng.integers(0, 9))
    left = corner[1] - pad + int(rng.integers(-8, 9))
    y0, x0 = max(top, 0), max(left, 0)
    y1, x1 = min(top + shadow.shape[0], height), min(left + shadow.shape[1], width)
    part = shadow[y0 - top : y1 - top, x0 - left : x1 - left]
    canvas[:, y0:y1, x0:x1] *= 1 - rng.uniform(0.2, 0.6) * part


def _develop(rng: _Rng, canvas: _Array) -> npt.NDArray[np.uint8]:
    """Lens blur, vignette, exposure and grain, as a camera would add them."""
    height, width = canvas.shape[1:]
    lens = ImageFilter.GaussianBlur(rng.uniform(0.4, 0.9))
    film = _to_planes(_to_picture(canvas).filter(lens))
    y, x = _grid(height, width)
    off_axis = (2 * x / width - 1) ** 2 + (2 * y / height - 1) ** 2
    film *= rng.uniform(0.85, 1.15) * (1 - rng.uniform(0, 0.2) * off_axis)
    film += rng.uniform(2, 8) * rng.standard_normal(film.shape, dtype=np.float32)
    levels = film.clip(0, 255, out=film).astype(np.uint8)
    return np.ascontiguousarray(levels.transpose(1, 2, 0))


# ---------------------------------------------------------------------------- textures
#
# A texture is a field over (u, v), the place on the object in periods from its middle.


def _striped(rng: _Rng, u: _Array, v: _Array) -> _Array:
    return np.sin(2 * np.pi * u)


def _spotted(rng: _Rng, u: _Array, v: _Array) -> _Array:
    return -_nearest(rng, u, v, 0.25)[0]


def _chequered(rng: _Rng, u: _Array, v: _Array) -> _Array:
    return np.sin(np.pi * u) * np.sin(np.pi * v)


def _ringed(rng: _Rng, u: _Array, v: _Array) -> _Array:
    return np.sin(2 * np.pi * np.hypot(u, v))


def _bricked(rng: _Rng, u: _Array, v: _Array) -> _Array:
    row = np.floor(v)
    along = (u / 2 + 0.5 * (row % 2)) % 1
    return np.minimum(np.minimum(along, 1 - along) * 2, np.minimum(v - row, row + 1 - v))


def _zigzag(rng: _Rng, u: _Array, v: _Array) -> _Array:
    return np.sin(2 * np.pi * (v + np.abs(u % 2 - 1)))


def _scaled(rng: _Rng, u: _Array, v: _Array) -> _Array:
    """Rows of overlapping discs, each row laid over the one above."""
    distance = np.full_like(u, 2)
    for step in range(3):
        row = np.floor(2 * v) - step + 1
        shift = 0.5 * (row % 2)
        across = (u - shift + 0.5) % 1 - 0.5
        own = np.hypot(across, v - row / 2)
        distance = np.where((distance > 0.6) & (own <= 0.6), own, distance)
    return distance


def _netted(rng: _Rng, u: _Array, v: _Array) -> _Array:
    nearest, second = _nearest(rng, u / 1.5, v / 1.5, 0.8)
    return second - nearest


def _nearest(rng: _Rng, u: _Array, v: _Array, disorder: float) -> tuple[_Array, _Array]:
    """Distances to the nearest and the second of points on a shaken brick-like lattice."""
    shake = rng.uniform(-disorder / 2, disorder / 2, size=(64, 64, 2)).astype(np.float32)
    row = np.floor(v).astype(int)
    first = np.full_like(u, 9)
    second = np.full_like(u, 9)
    for dy in (-1, 0, 1):
        shift = 0.5 * ((row + dy) % 2)
        column = np.floor(u - shift).astype(int)
        for dx in (-1, 0, 1):
            moved = shake[(row + dy) % 64, (column + dx) % 64]
            x = column + dx + shift + 0.5 + moved[..., 0]
            y = row + dy + 0.5 + moved[..., 1]
            distance = np.hypot(u - x, v - y)
            second = np.minimum(second, np.maximum(first, distance))
            first = np.minimum(first, distance)
    return first, second


def _plain(rng: _Rng, u: _Array, v: _Array) -> _Array:
    """One soft edge across the thing: a light and a dark half."""
    return u


def _blotched(rng: _Rng, u: _Array, v: _Array) -> _Array:
    return _noise(rng, u.shape[0], u.shape[1], rng.uniform(20, 60))


def _speckled(rng: _Rng, u: _Array, v: _Array) -> _Array:
    return _noise(rng, u.shape[0], u.shape[1], rng.uniform(3, 6))


TEXTURES: dict[str, _Texture] = {
    "striped": _striped,
    "spotted": _spotted,
    "chequered": _chequered,
    "ringed": _ringed,
    "bricked": _bricked,
    "zigzag": _zigzag,
    "scaled": _scaled,
    "netted": _netted,
}
_CLUTTER: tuple[_Texture, ...] = (_plain, _blotched, _speckled)
