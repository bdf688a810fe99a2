"""The figures, looked at by a machine: against stored pictures, and for what makes them unreadable.

The stored pictures (``tests/figures``) are made by ``FEATLAB_RENEW_FIGURES=1 pytest -m ""
tests/test_figures.py -k as_it_was_stored``; look at each one that changes before it is committed.
They hold for one version of matplotlib (major.minor), whose text no other sets to the pixel.
"""

from __future__ import annotations

import inspect
import io
import os
import re
import warnings
from collections.abc import Container, Iterable
from functools import cache
from itertools import combinations, takewhile
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from fake_results import HOSTILE
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.testing.compare import compare_images
from matplotlib.text import Text
from PIL import Image
from planted_figures import BY_CLASS, CHARTS, FIGURES, GRIDS, Planted

from featlab import plots
from featlab.plots import curves, data, network, neurons, pictures, scores
from featlab.plots.style import CLASS_COLOURS, DARK_SHEET, dark_colour, encode

# Those that show names of classes, if only of a few.
NAMED = BY_CLASS | {"dam_steps", "gradient_maps", "method_strips", "sample_pictures-flagged"}
# Every figure of the room, of whatever module.
FUNCTIONS = {
    name: function
    for module in (curves, data, network, neurons, pictures, scores)
    for name, function in inspect.getmembers(module, inspect.isfunction)
    if function.__module__ == module.__name__ and not name.startswith("_")
}
STORED = Path(__file__).parent / "figures"
RENEW = "FEATLAB_RENEW_FIGURES" in os.environ
DPI = 60
# Root mean square of the difference in grey levels (0-255). Drawing twice gives 0; the small
# changes tested below (one colour, one letter, bars 5 % shorter) give 2.8 to 41.
TOLERANCE = 1.0
MOST_BYTES, MOST_BYTES_TOGETHER = 40_000, 1_000_000
LEAST_POINTS = 7  # the smallest letters
WIDEST, TALLEST = 14.0, 14.0  # inches, at 37 classes
LEAST_DISTANCE = 20.0  # of two class colours (CIE76); 2.3 is just noticeable

LONG = [f"a breed whose official name is rather long, of the variety {i:02}" for i in range(37)]
CLASSES = {
    "2": ["kangaroo", "raccoon"],
    "37": [f"breed_{i:02}" for i in range(37)],
    "2-long": LONG[:2],
    "37-long": LONG,
    "37-hostile": [*HOSTILE, *LONG[len(HOSTILE) :]],
}


@cache
def planted(kind: str) -> Planted:
    return Planted(CLASSES[kind])


def forbidden(*args: Any, **kwargs: Any) -> None:
    raise AssertionError("a figure was shown or saved")


@cache
def drawn(name: str, kind: str) -> Axes | Figure:
    """Drawn without a warning; no global state is touched and nothing written."""
    before = dict(mpl.rcParams)
    with pytest.MonkeyPatch.context() as patch:
        for target in (Figure, plt):
            patch.setattr(target, "savefig", forbidden)
            patch.setattr(target, "show", forbidden)
        figure = without_a_warning(name, kind)
    assert plt.get_fignums() == []
    assert dict(mpl.rcParams) == before
    return figure


def without_a_warning(name: str, kind: str) -> Axes | Figure:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # How an older matplotlib calls pyparsing, which is not ours to mend.
        warnings.filterwarnings(
            "ignore", "'(parseString|resetCache)' deprecated", DeprecationWarning
        )
        return FIGURES[name](planted(kind))


@cache
def rendered(name: str, kind: str) -> Any:
    """Its renderer, after the layout: knows where each text came to lie."""
    figure = figure_of(drawn(name, kind))
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()
    return canvas.get_renderer()


def function_of(name: str) -> Any:
    return FUNCTIONS[name.split("-")[0]]


def figure_of(drawing: Any) -> Figure:
    return drawing if isinstance(drawing, Figure) else drawing.figure


def with_many(names: Iterable[str], named: Container[str]) -> list[Any]:
    """Each figure with a kind: of those that show names, with many names."""
    slow = [pytest.param(n, "37-long", marks=pytest.mark.slow) for n in sorted(names) if n in named]
    return [(name, "37-hostile" if name in named else "2") for name in sorted(names)] + slow


def kinds(name: str) -> list[str]:
    return ["2", "37"] if name in BY_CLASS else ["2"]


# --- against stored pictures


def test_every_public_figure_is_planted():
    assert {name.split("-")[0] for name in FIGURES} == set(FUNCTIONS)
    assert set(plots.__all__) - {"save_figure"} <= set(FUNCTIONS)
    assert set(BY_CLASS) <= set(FIGURES)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (n, k) if k == "2" else pytest.param(n, k, marks=pytest.mark.slow)
        for n in sorted(FIGURES)
        for k in kinds(n)
    ],
)
def test_every_figure_looks_as_it_was_stored(name, kind, tmp_path):
    stored, now = STORED / f"{name}-{kind}.png", tmp_path / f"{name}.png"
    now.write_bytes(small_png(drawn(name, kind)))
    if RENEW:
        STORED.mkdir(exist_ok=True)
        stored.write_bytes(now.read_bytes())
        (STORED / "matplotlib.txt").write_text(f"{version()}\n")
        return
    assert stored.is_file(), "no stored picture; the first lines of this file say how to make it"
    made_with = (STORED / "matplotlib.txt").read_text().strip()
    if made_with != version():
        pytest.skip(f"the pictures were stored by matplotlib {made_with}, this is {version()}")
    difference = compare_images(str(stored), str(now), TOLERANCE)
    assert difference is None, difference


def test_stored_pictures_are_small_and_all_are_in_use():
    stored = {path.name: path.stat().st_size for path in STORED.glob("*.png")}
    assert set(stored) == {f"{name}-{kind}.png" for name in FIGURES for kind in kinds(name)}
    assert max(stored.values()) <= MOST_BYTES
    assert sum(stored.values()) <= MOST_BYTES_TOGETHER


def _recolour(figure: Figure) -> None:
    figure.axes[0].patches[0].set_facecolor("#d55e00")


def _reword(figure: Figure) -> None:
    figure.axes[0].set_xlabel(figure.axes[0].get_xlabel().replace("images", "image"))


def _shift(figure: Figure) -> None:
    patch = figure.axes[0].patches[0]
    patch.set_width(patch.get_width() * 0.95)


@pytest.mark.parametrize("change", [_recolour, _reword, _shift])
@pytest.mark.parametrize("kind", ["2", pytest.param("37", marks=pytest.mark.slow)])
def test_the_comparison_notices_a_small_change(change, kind, tmp_path):
    before, after = tmp_path / "before.png", tmp_path / "after.png"
    figure = figure_of(FIGURES["class_balance"](planted(kind)))
    before.write_bytes(small_png(figure))
    after.write_bytes(small_png(figure))
    assert compare_images(str(before), str(after), TOLERANCE) is None
    change(figure)
    after.write_bytes(small_png(figure))
    assert "Error: Image files did not match" in compare_images(str(before), str(after), TOLERANCE)


def small_png(drawing: Any) -> bytes:
    """As stored: few colours, so that even grids of photographs stay small."""
    with Image.open(io.BytesIO(encode(drawing, "png", dpi=DPI))) as picture:
        few = picture.convert("RGB").quantize(128, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, "png", optimize=True)
    return buffer.getvalue()


def version() -> str:
    return ".".join(mpl.__version__.split(".")[:2])


# --- what every figure keeps to


@pytest.mark.parametrize("name", sorted(CHARTS))
def test_charts_draw_on_the_axes_they_are_given(name):
    signature = inspect.signature(function_of(name))
    assert signature.return_annotation == "Axes"
    given = takewhile(lambda p: p.default is p.empty, signature.parameters.values())
    after = list(signature.parameters.values())[len(list(given)) :]
    assert (after[0].name, after[0].default) == ("ax", None)
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in after[1:])
    ax = Figure(figsize=(8, 6)).add_subplot()
    assert CHARTS[name](planted("2"), ax=ax) is ax
    assert ax.has_data()
    assert isinstance(drawn(name, "2"), Axes)


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_grids_return_a_figure_of_several_panels(name):
    signature = inspect.signature(function_of(name))
    assert "ax" not in signature.parameters
    assert signature.return_annotation == "Figure"
    figure = drawn(name, "2")
    assert isinstance(figure, Figure)
    assert len(figure.axes) > 1


@pytest.mark.parametrize("name", sorted(set(CHARTS) - {"output_shape"}))
def test_charts_are_labelled_with_units_and_n(name):
    ax = drawn(name, "2")
    assert ax.get_xlabel()
    names_its_rows = ax.get_ylabel() or ax.get_yticklabels()[0].get_text()[:1].isalnum()
    assert names_its_rows
    assert re.match(r"n = \d", ax.get_title(loc="left")), ax.get_title(loc="left")


@pytest.mark.parametrize("name", sorted(GRIDS))
def test_panels_with_numbers_are_labelled(name):
    for ax in drawn(name, "2").axes:
        if ax.axison and not ax.images and (ax.lines or ax.collections or len(ax.patches) > 2):
            assert ax.get_xlabel() or ax.get_ylabel(), ax.get_title(loc="left")


@pytest.mark.parametrize(
    ("name", "kind"),
    [(name, "2") for name in sorted(set(FIGURES) - NAMED)]
    + [(name, "37-hostile") for name in sorted(NAMED)]
    + [
        pytest.param(name, kind, marks=pytest.mark.slow)
        for kind, some in (("2", NAMED), ("2-long", BY_CLASS & set(CHARTS)), ("37-long", NAMED))
        for name in sorted(some)
    ],
)
def test_text_is_inside_legible_and_apart(name, kind):
    figure, renderer = figure_of(drawn(name, kind)), rendered(name, kind)
    width, height = figure.bbox.size
    placed = [(text, text.get_window_extent(renderer)) for text in shown_texts(figure)]
    assert placed
    for text, box in placed:
        inside = min(box.x0, box.y0) > -1 and box.x1 < width + 1 and box.y1 < height + 1
        assert inside, f"{text.get_text()!r} is cut: {box.extents} of {(width, height)}"
        assert text.get_fontsize() >= LEAST_POINTS, text.get_text()
    for (one, a), (other, b) in combinations(placed, 2):
        if is_number_on_a_plane(one, name) or is_number_on_a_plane(other, name):
            continue
        across, down = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        assert min(across, down) <= 3, f"{one.get_text()!r} covers {other.get_text()!r}"


@pytest.mark.parametrize(("name", "kind"), with_many(FIGURES, NAMED))
def test_no_figure_grows_absurdly(name, kind):
    width, height = figure_of(drawn(name, kind)).get_size_inches()
    assert 4 <= width <= WIDEST
    assert 1.5 <= height <= TALLEST


@pytest.mark.parametrize("name", sorted(CHARTS))
def test_names_leave_room_for_the_data(name):
    kind = "2-long" if name in BY_CLASS else "2"
    rendered(name, kind)
    ax = drawn(name, kind)
    width, height = ax.get_window_extent().size / figure_of(ax).dpi
    assert width >= 1.4
    assert height >= 0.8


@pytest.mark.parametrize(("name", "kind"), with_many(CHARTS, BY_CLASS))
def test_no_legend_covers_the_data(name, kind):
    ax = drawn(name, kind)
    if ax.get_legend() is None:
        return
    legend = ax.get_legend().get_window_extent(rendered(name, kind))
    inside = ax.get_window_extent()
    across = min(legend.x1, inside.x1) - max(legend.x0, inside.x0)
    down = min(legend.y1, inside.y1) - max(legend.y0, inside.y0)
    assert min(across, down) <= 6


def shown_texts(figure: Figure) -> list[Text]:
    """Every text that is drawn: ticks beyond the limits of their axis are not."""
    hidden: set[int] = set()
    for ax in figure.findobj(Axes):
        for axis in ax.findobj(Axis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            slack = 1e-6 * (high - low)
            hidden |= {
                id(text)
                for tick in ticks
                for text in (tick.label1, tick.label2)
                if not low - slack <= tick.get_loc() <= high + slack or not ax.axison
            }
            if not ax.axison:
                hidden.add(id(axis.label))
    texts = figure.findobj(Text)
    return [t for t in texts if t.get_visible() and t.get_text().strip() and id(t) not in hidden]


def is_number_on_a_plane(text: Text, name: str) -> bool:
    """The numbers of classes among the points: pushed apart, but not for ever."""
    return name.startswith("embedding") and text.axes is not None and text in text.axes.texts


# --- names and colours


@pytest.mark.parametrize("name", sorted(BY_CLASS))
def test_hostile_names_are_text_in_the_file_and_nothing_else(name):
    svg = encode(drawn(name, "37-hostile"), "svg", text=True).decode("utf-8")
    assert "<script" not in svg
    assert "<text" in svg
    assert "\\$" not in svg


def test_a_pdf_holds_truetype_and_the_same_drawing_gives_the_same_bytes():
    drawing = drawn("class_balance", "2")
    for kind in ("svg", "pdf"):
        one, other = (encode(drawing, kind, text=True) for _ in range(2))
        assert one == other
    assert b"/FontFile2" in one
    assert b"/Type3" not in one


def simulated(colours: np.ndarray, matrix: list[list[float]]) -> np.ndarray:
    """CIE L*a*b* of sRGB colours as an eye with this matrix (linear RGB) sees them."""
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    linear = np.clip(linear @ np.array(matrix).T, 0, 1)
    to_xyz = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    xyz = linear @ to_xyz.T / np.array([0.9505, 1.0, 1.0890])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.stack([116 * f[:, 1] - 16, *(np.array([500, 200])[:, None] * -np.diff(f).T)], axis=1)


# Machado, Oliveira and Fernandes (2009), severity 1.
EYES = {
    "normal": [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
}


@pytest.mark.parametrize("eye", EYES)
def test_class_colours_stay_apart_for_colour_blind_eyes(eye):
    def least(colours: list[str]) -> float:
        seen = simulated(np.array([to_rgb(colour) for colour in colours]), EYES[eye])
        distances = np.linalg.norm(seen[:, None] - seen[None], axis=-1)
        return float(distances[~np.eye(len(seen), dtype=bool)].min())

    assert least([*CLASS_COLOURS, "white"]) >= LEAST_DISTANCE
    assert least([*map(dark_colour, CLASS_COLOURS), DARK_SHEET]) >= LEAST_DISTANCE
    # The measure is no rubber stamp: red and green of equal lightness fail for such eyes.
    assert (least(["#c00000", "#007000"]) >= LEAST_DISTANCE) == (eye == "normal")
