"""What all figures share: axes, colours, names that fit, and the bytes of a file."""

from __future__ import annotations

import base64
import functools
import io
import os
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_mixed import MixedModeRenderer
from matplotlib.backends.backend_svg import FigureCanvasSVG, RendererSVG
from matplotlib.colors import Colormap, LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, get_font
from PIL import Image

from featlab.errors import FeatlabError
from featlab.system.files import write_whole

INK = "#1f2933"
BLUE = "#0173b2"
MUTED = "#6b7785"
FAINT = "#dfe3e8"
TRUE_BOX = "#ffffff"
PREDICTED_BOX = "#56b4e9"
REGRESSED_BOX = "#4be38a"
RIGHT = "#029e73"
WRONG = "#d55e00"
ORANGE = "#de8f05"
HEAT = "inferno"
COLD = (
    *("#000004", "#04143c", "#082d6e", "#0f4b9b", "#1e69be"),
    *("#3c8cdc", "#64b4f0", "#a0d7fa", "#e1f5ff"),
)
"""Of what is below the centre of signed values: as dark at 0, as bright at the end."""
# Eight colours that stay apart (CIE76 distance at least 24) for normal, protanopic and deuteranopic
# eyes, in light and (20) in dark; the first three and the fifth are seaborn's "colorblind".
CLASS_COLOURS = (
    *("#0173b2", "#de8f05", "#029e73", "#7777ff"),
    *("#56b4e9", "#b33f00", "#ddcc77", "#003344"),
)
MAX_COLOURED = len(CLASS_COLOURS)
_CLIP = 99.5  # percentile at which gradients are cut for drawing: few pixels are far above the rest
RULE_NAMES = {
    "plain": "gradient",
    "input": "gradient × input",
    "guided": "guided back-propagation",
}
GRADIENT_METHOD_NAMES = {
    "grad_cam": "Grad-CAM",
    "grad_cam_plus_plus": "Grad-CAM++",
    "hires_cam": "HiResCAM",
    "layer_cam": "LayerCAM",
    "plain_gradient": "gradient",
    "guided_gradient": "guided gradient",
    "random": "random cells",
    "centre_gaussian": "centred Gaussian",
    "dam_original": "DAM, original",
    "dam_variant": "DAM, variant",
}
"""What figures call the methods that run the network."""
FORMATS = ("svg", "pdf", "png")
_FONT = "DejaVu Sans"
ON_PICTURE = "on-picture"
"""The id (`gid`) of what is drawn over a picture, and keeps its colour on dark pages."""
DARK_SHEET = "#1b2027"
"""What a figure lies on in a dark page: what white becomes there."""
_UNKNOWN = "▯"
# A lightness turned over, its hue kept: of 1 less the colour, twice its luminance less itself.
_TURNED = 2 * np.tile([0.213, 0.715, 0.072], (3, 1)) - np.eye(3)
_COLOUR = re.compile(r"(?<=: )#([0-9a-f]{6})(?=[;\"])")
_NEEDLESS = re.compile(r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>", re.DOTALL)
_KEPT = re.compile(rf'(<g id="{ON_PICTURE}">.*?</g>)', re.DOTALL)
_IMAGE = re.compile(r'<image xlink:href="data:image/png;base64,([^"]*)"')
_STAND_IN = re.compile(r'<image xlink:href="data:image/png;base64,[^"]*" id="photograph(\d+)"')
_SHORTEST_NAME = 6
_QUALITY = 82  # of JPEG, 1-95


def new_axes(ax: Axes | None, width: float, height: float) -> Axes:
    """`ax`, or the axes of a new figure of `width` x `height` inches."""
    if ax is None:
        ax = Figure(figsize=(width, height), layout="constrained").add_subplot()
    return ax


def dress(ax: Axes, *, title: str, xlabel: str, ylabel: str, grid: str | None = None) -> Axes:
    """Title, labels, quiet spines; `grid` is the axis ("x", "y" or "both") with faint lines."""
    ax.set_title(title, loc="left", fontsize=10, color=INK, pad=8)
    ax.set_xlabel(xlabel, fontsize=9, color=INK)
    ax.set_ylabel(ylabel, fontsize=9, color=INK)
    ax.tick_params(labelsize=8.5, colors=INK, length=0)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#b6bec8")
    if grid is not None:
        ax.set_axisbelow(True)
        ax.grid(axis=grid, color=FAINT, linewidth=0.8)  # type: ignore[arg-type]
    return ax


def bare(ax: Axes) -> Axes:
    """Axes for a picture: no ticks, no spines."""
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
    return ax


def legend(ax: Axes, *, outside: bool = False, title: str | None = None) -> None:
    """A legend without a frame, inside or to the right of the axes."""
    place = {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if outside else {"loc": "best"}
    drawn = ax.legend(frameon=False, fontsize=8.5, title=title, title_fontsize=8.5, **place)
    for text in drawn.get_texts():
        text.set_color(INK)


def class_colours(classes: Sequence[str]) -> dict[str, str]:
    """A colour per class; with more than eight classes one colour for all of them."""
    if len(classes) > MAX_COLOURED:
        return dict.fromkeys(classes, CLASS_COLOURS[0])
    return dict(zip(classes, CLASS_COLOURS, strict=False))


def short_name(name: object, width: int = 22) -> str:
    """A name that a figure can hold: one line, at most `width` characters, no mathematics.

    Characters that the figures' font lacks become a placeholder box.
    """
    glyphs = _glyphs()
    kept = [
        character if ord(character) in glyphs else _UNKNOWN
        for character in " ".join(_visible(str(name)).split())
    ]
    text = "".join(kept)
    if len(text) > width:
        head = (width - 1) * 2 // 3
        text = f"{text[:head]}…{text[len(text) - (width - 1 - head) :]}"
    text = text.replace(r"\$", "$")  # a name that was shortened before
    # A leading underscore hides a legend entry; paired dollars start mathematics.
    text = f" {text}" if text.startswith("_") else text
    return text.replace("$", r"\$")


@functools.lru_cache(4096)
def text_width(text: str, size: float) -> float:
    """Inches that a line of text takes, set in `size` points."""
    font = get_font(findfont(_FONT))
    # Set large: at its own size each letter would be rounded to whole pixels.
    font.set_size(10 * size, 72)
    font.set_text(text.replace(r"\$", "$"), 0.0)
    return float(font.get_width_height()[0]) / 64 / 72 / 10


def fitted_name(name: object, inches: float, size: float, width: int = 22) -> str:
    """:func:`short_name`, shorter still where `inches` ask for it."""
    while width > _SHORTEST_NAME and text_width(short_name(name, width), size) > inches:
        width -= 1
    return short_name(name, width)


def short_names(names: Iterable[object], width: int = 22) -> list[str]:
    """:func:`short_name` of several names, told apart.

    A name that the font can hardly show becomes "class k", k being its place in `names`; a name
    that shortens to one already taken gets its place appended.
    """
    short: list[str] = []
    for place, name in enumerate(names, start=1):
        text = short_name(name, width)
        if text.count(_UNKNOWN) * 2 > len(text.strip()) or not text.strip():
            text = f"class {place}"
        short.append(text if text not in short else f"{text} ({place})")
    return short


def plural(count: int, noun: str) -> str:
    """`1 image`, `2,000 images`."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def readable(names: pd.Series) -> pd.Series:
    """Names of the code, ``top_20_detectors``, as words."""
    return names.astype(str).str.replace("_", " ")


def sample_size(table: pd.DataFrame) -> str:
    """`n` of a table of scores: `60 test images`, or from how few to how many."""
    if table.empty:
        return "0 test images"
    low, high = int(table["n"].min()), int(table["n"].max())
    return plural(high, "test image") if low == high else f"{low:,} to {high:,} test images"


def whiskers(table: pd.DataFrame, score: str) -> np.ndarray:
    """From a score to the ends of its interval, for ``errorbar``; shape (2, rows)."""
    centre = table[score].to_numpy(float)
    low, high = table[f"{score}_low"].to_numpy(float), table[f"{score}_high"].to_numpy(float)
    return np.clip(np.nan_to_num(np.vstack([centre - low, high - centre])), 0, None)


def encode(
    drawing: Axes | Figure,
    kind: str = "svg",
    *,
    dpi: int = 120,
    text: bool = False,
    photographs: bool = False,
) -> bytes:
    """The figure as bytes of an image file; nothing is written to disk.

    Parameters
    ----------
    drawing : Axes or Figure
        What a function of this module returned.
    kind : {"svg", "pdf", "png"}
        The same drawing always gives the same bytes.
    dpi : int
        Pixels per inch; in SVG and PDF, of the pictures and the rasterised point clouds.
    text : bool
        Text stays text in an SVG, to be searched and edited; it then looks the same only where its
        font is installed. By default letters become outlines. A PDF always keeps its text.
    photographs : bool
        Whether an SVG holds its opaque images as JPEG, which is small and quick; else they are PNG.
    """
    figure = drawing if isinstance(drawing, Figure) else cast(Figure, drawing.figure)
    fonts: dict[Any, Any] = {"svg.fonttype": "none" if text else "path", "pdf.fonttype": 42}
    if not text:  # else others stand in where it is not installed; to look for them takes long
        fonts["font.sans-serif"] = [_FONT]
    with mpl.rc_context({"svg.hashsalt": "featlab", **fonts}):
        if kind == "svg":
            return _svg(figure, dpi, photographs).encode()
        buffer = io.BytesIO()
        options: dict[str, Any] = {"metadata": {"CreationDate": None}} if kind == "pdf" else {}
        figure.savefig(buffer, format=kind, dpi=dpi, **options)
    return buffer.getvalue()


def _svg(figure: Figure, dpi: int, photographs: bool) -> str:
    """What ``savefig`` writes, drawn once: it draws twice, first for the layout alone."""
    (width, height), before, text = figure.get_size_inches(), figure.dpi, io.StringIO()
    figure.dpi = 72
    pages = _Renderer(72 * width, 72 * height, text, image_dpi=dpi, metadata={"Date": None})
    pages.photographs = [] if photographs else None
    canvas: Any = FigureCanvasSVG(figure)
    renderer = MixedModeRenderer(figure, width, height, dpi, pages)
    canvas.get_renderer = lambda: renderer  # the layout measures texts that it writes, and once
    figure.draw(renderer)
    pages.finalize()
    figure.dpi = before
    return _STAND_IN.sub(lambda match: _jpeg(pages.photographs[int(match[1])]), text.getvalue())


class _Renderer(RendererSVG):
    """Keeps photographs apart, black ones in their place: to make PNG of them takes long."""

    photographs: Any = None  # a list where they are kept

    def draw_image(self, gc: Any, x: Any, y: Any, im: np.ndarray, transform: Any = None) -> None:
        if self.photographs is not None and im.size and im[..., 3].min() == 255:
            gc.set_gid(f"photograph{len(self.photographs)}")
            self.photographs.append(im[..., :3])
            im = np.zeros_like(im)
        super().draw_image(gc, x, y, im, transform)


def _jpeg(pixels: np.ndarray) -> str:
    """The beginning of an SVG's image."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=_QUALITY, optimize=True)
    jpeg = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<image xlink:href="data:image/jpeg;base64,{jpeg}"'


def themed(svg: bytes) -> str:
    """A figure that is dark where the page around it is dark.

    Its colours are variables of its own style sheet, with a second value for readers who prefer
    dark: the same hue, its lightness turned over (white is :data:`DARK_SHEET`). What is drawn over
    pictures keeps its colours, and so do photographs; other images are clouds and cells of a
    drawing, which turn like it.

    Parameters
    ----------
    svg : bytes
        From :func:`encode`.
    """
    text = " ".join(_NEEDLESS.sub("", svg.decode()).split())
    text = _IMAGE.sub(_turning, text)
    parts = _KEPT.split(text)
    names = dict.fromkeys(name for part in parts[::2] for name in _COLOUR.findall(part))
    known = {name: dark_colour(f"#{name}") for name in names}
    parts[::2] = [_COLOUR.sub(r"var(--c\1)", part) for part in parts[::2]]
    light = "".join(f"--c{name}:#{name};" for name in known)
    dark = "".join(f"--c{name}:{turned};" for name, turned in known.items())
    # Black is what has no colour of its own.
    style = (
        f"<style>:root{{{light}}}@media (prefers-color-scheme:dark){{:root{{{dark}"
        f"fill:{dark_colour('#000000')}}}.drawn{{filter:url(#turned)}}}}</style>"
        '<filter id="turned" color-interpolation-filters="sRGB">'
        f'<feColorMatrix values="{_matrix()}"/></filter>'
    )
    head, end, rest = "".join(parts).partition(">")
    return f"{head}{end}{style}{rest}".strip()


def dark_colour(colour: str) -> str:
    """What a colour, ``#rrggbb``, becomes in a figure on a dark page."""
    sheet, light = (np.array(mpl.colors.to_rgb(one)) for one in (DARK_SHEET, colour))
    return mpl.colors.to_hex((sheet + (1 - sheet) * (_TURNED @ (1 - light))).clip(0, 1))


def _matrix() -> str:
    """:func:`dark_colour` as the matrix of an SVG filter."""
    sheet = np.array(mpl.colors.to_rgb(DARK_SHEET))
    rows = np.zeros((4, 5))
    rows[:3, :3] = -(1 - sheet)[:, None] * _TURNED
    rows[:3, 4] = sheet + (1 - sheet) * _TURNED.sum(axis=1)
    rows[3, 3] = 1
    return " ".join(f"{value:.4g}" for value in rows.ravel())


def _turning(match: re.Match[str]) -> str:
    """An image of a drawing, with the class that turns dark."""
    return f'<image class="drawn" xlink:href="data:image/png;base64,{match[1].replace(" ", "")}"'


def save_figure(drawing: Axes | Figure, path: str | os.PathLike[str], *, dpi: int = 150) -> Path:
    """Write one figure, completely or not at all; text stays text.

    Parameters
    ----------
    drawing : Axes or Figure
        What a function of this module returned.
    path : path-like
        Its suffix says which format: .svg, .pdf or .png.
    dpi : int
        Pixels per inch of what is not drawn as lines.

    Returns
    -------
    Path

    Raises
    ------
    FeatlabError
        Another suffix, or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.removeprefix(".")
    if kind not in FORMATS:
        raise FeatlabError(f"path must end in .{', .'.join(FORMATS)}, got {path}.")
    write_whole(path, encode(drawing, kind, dpi=dpi, text=True))
    return path


def _visible(name: str) -> str:
    # Format characters (joiners, direction marks, variation selectors) have no glyph of their own.
    return "".join(c for c in name if unicodedata.category(c) not in ("Cf", "Mn", "Cs"))


@functools.cache
def _glyphs() -> frozenset[int]:
    return frozenset(get_font(findfont(_FONT)).get_charmap())


def masked(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture where the mask is, grey elsewhere."""
    return np.where(mask[..., None], picture, np.uint8(127))


def grey_gradient(gradient: np.ndarray) -> np.ndarray:
    """A gradient ``(H, W)`` or ``(H, W, 3)`` from 0 to 1, its zero at 0.5: grey."""
    values = np.asarray(gradient, dtype=float)
    top = np.percentile(np.abs(values), _CLIP) or np.abs(values).max() or 1.0
    return np.clip(0.5 + values / (2 * top), 0, 1)


def heat_colours(signed: bool = False) -> Colormap:
    """The colours of heat, dark where there is none; of signed values blue below the centre."""
    if not signed:
        return mpl.colormaps[HEAT]
    levels = np.linspace(0, 1, 128)
    cold = LinearSegmentedColormap.from_list("cold", COLD)(levels[::-1])
    return ListedColormap(np.vstack([cold, mpl.colormaps[HEAT](levels)]), f"signed {HEAT}")


def heat_share(heat: np.ndarray, top: float, signed: bool = False) -> np.ndarray:
    """A heat map in units of its scale's end: from 0, or of signed values from -1, to 1."""
    heat = np.asarray(heat, dtype=float)
    return np.clip(heat / top, -1 if signed else 0, 1) if top > 0 else np.zeros(heat.shape)


def scale_bar(
    figure: Figure,
    place: tuple[float, float, float],
    ends: tuple[str, str],
    *,
    middle: str = "",
    colours: str | Colormap = HEAT,
) -> None:
    """A colour bar that lies: `place` is left, bottom and width in inches, the words are below it.

    Placed by hand like the pictures that it belongs to; `ends` and `middle` say what its values
    are.
    """
    width, height = figure.get_size_inches()
    left, bottom, length = place
    inside = (left / width, bottom / height, length / width, 0.09 / height)
    bar = bare(figure.add_axes(inside))
    # Pixels, which keep their colours on a dark page as the heat maps do.
    bar.imshow(np.linspace(0, 1, 256)[None], cmap=colours, aspect="auto", vmin=0, vmax=1)
    for x, text, side in ((0.0, ends[0], "left"), (0.5, middle, "center"), (1.0, ends[1], "right")):
        bar.text(x, -0.35, text, ha=side, va="top", fontsize=7.5, color=INK,
                 transform=bar.transAxes)  # fmt: skip


def glowing(picture: np.ndarray, heat: np.ndarray, top: float, signed: bool = False) -> np.ndarray:
    """The picture under a heat map, as pixels: what `detector_maps` draws.

    Parameters
    ----------
    picture : ndarray of shape (height, width, 3), uint8
    heat : ndarray of shape (height, width)
    top : float
        The value that is brightest; 0 is dark.
    signed : bool
        Whether `heat` has values below 0, which are as bright at ``-top``.

    Returns
    -------
    ndarray of shape (height, width, 3), uint8
    """
    share = heat_share(heat, top, signed)
    weight = (0.45 + 0.25 * abs(share))[..., None]
    levels = (share + 1) / 2 if signed else share
    colours = heat_colours(signed)(levels)[..., :3] * 255
    return np.asarray((1 - weight) * picture + weight * colours).round().astype(np.uint8)
