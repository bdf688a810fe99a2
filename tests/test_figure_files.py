"""The figures of a report as files of their own."""

from __future__ import annotations

import errno
import io
import os
import pickle
import re
import time
from base64 import b64decode
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote, unquote
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from fake_results import HOSTILE, make_results
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import RendererSVG
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image
from planted_figures import FIGURES, Planted
from typer.testing import CliRunner

from featlab import plots, report
from featlab.cli import app
from featlab.errors import FeatlabError
from featlab.plots.style import (
    CLASS_COLOURS,
    DARK_SHEET,
    PREDICTED_BOX,
    TRUE_BOX,
    dark_colour,
    encode,
    themed,
)
from featlab.report._elements import _PLAIN, Options, Section, _address, drawn_beside
from featlab.report._elements import Figure as Drawn
from featlab.report.page import _sections
from featlab.system import processes


@pytest.fixture(scope="module")
def results() -> Any:
    return make_results([HOSTILE[0], HOSTILE[5], "raccoon"], n=90, c=16, pictures=False)


@pytest.fixture(scope="module")
def few() -> Any:
    """Results of fewer figures, none of them of photographs."""
    found = make_results(n=60, c=8, boxes=False, pictures=False, detectors=False)
    return replace(found, head_details=None)


@pytest.mark.slow
def test_every_figure_of_the_page_becomes_a_file(results, tmp_path):
    written = report.write_figures(results, tmp_path / "figures")
    assert sorted(written) == sorted((tmp_path / "figures").iterdir())  # and no litter
    assert all(path.read_bytes().startswith(b"<?xml") for path in written)
    names = [
        figure.file
        for section in _sections(results, Options())
        for figure in section.every_figure()
    ]
    assert sorted(names) == sorted(path.stem for path in written)
    assert len(set(names)) == len(names)
    assert {"network_output", "class_balance", "neuron_volcano"} <= set(names)


def test_the_page_holds_the_same_figures(few, tmp_path):
    figures = [figure for section in _sections(few, Options()) for figure in section.every_figure()]
    page = report.write_report(few, tmp_path / "report.html").read_text("utf-8")
    on_page = re.findall(r'<img src="(data:image/[^"]+)"', page)
    assert sorted(on_page) == sorted(figure.drawing().uri for figure in figures)


def test_figures_travel_without_the_results_that_they_are_of(results, monkeypatch):
    def refused(*_: Any) -> None:
        raise AssertionError("a figure takes all results along")

    monkeypatch.setattr(type(results), "__reduce_ex__", refused)
    for section in _sections(results, Options()):
        figures = section.every_figure()
        assert len(pickle.loads(pickle.dumps(figures))) == len(figures)


@given(st.text())
def test_an_svg_is_quoted_as_the_standard_library_does(text):
    known = "".join(map(chr, range(128)))
    for svg in (text, known + text, known):
        assert unquote(_address(svg)) == f"data:image/svg+xml,{svg}"
        assert _address(svg) == f"data:image/svg+xml,{quote(svg, safe=_PLAIN)}"


@pytest.mark.slow
def test_a_page_is_the_same_from_one_process_and_from_several(few, tmp_path, monkeypatch):
    here = report.write_report(few, tmp_path / "report.html").read_bytes()
    monkeypatch.setattr(processes, "usable_cores", lambda: 2)
    with processes.beside(int) as begun:
        begun()
    draw, here_drawn = Figure.draw, []
    monkeypatch.setattr(Figure, "draw", lambda *one: (here_drawn.append(one), draw(*one)))
    assert report.write_report(few, tmp_path / "report.html").read_bytes() == here
    assert len(here_drawn) < here.count(b"<figure")


@pytest.mark.slow
def test_a_figure_is_drawn_here_where_the_process_that_draws_it_dies(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "usable_cores", lambda: 2)

    def drawn_by(process, sign):
        from matplotlib.figure import Figure

        if os.getpid() != process:
            sign.touch()
            os._exit(1)
        return Figure()

    figure = Drawn(partial(drawn_by, os.getpid(), tmp_path / "begun"), "", "", "blank")
    with processes.beside(int) as begun:
        begun()
    with drawn_beside([Section("a", "A", "", figures={"blank": figure})]) as drawn:
        end = time.monotonic() + 120
        while not (tmp_path / "begun").exists():
            assert time.monotonic() < end, "no process draws"
            time.sleep(0.01)
        (section,) = drawn()
        assert section.drawings["blank"].uri.startswith("data:image/svg+xml,")


@pytest.mark.slow
def test_figures_are_written_as_pdf(few, tmp_path):
    written = report.write_figures(few, tmp_path, format="pdf")
    assert written
    assert all(path.read_bytes().startswith(b"%PDF") for path in written)


def test_a_figure_is_written_whole_or_not_at_all(few, tmp_path, monkeypatch):
    figures = (figure for section in _sections(few, Options()) for figure in section.every_figure())
    first = tmp_path / f"{next(figures).file}.svg"
    first.write_text("of an earlier run")

    def full_disk(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[:10])
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(FeatlabError, match="(?i)no space left"):
        report.write_figures(few, tmp_path)
    assert list(tmp_path.iterdir()) == [first]
    assert first.read_text() == "of an earlier run"


def test_another_format_is_refused(few, tmp_path):
    with pytest.raises(FeatlabError, match="one of svg, pdf, png, got 'gif'"):
        report.write_figures(few, tmp_path / "figures", format="gif")
    assert not (tmp_path / "figures").exists()
    with pytest.raises(FeatlabError, match=r"must end in .svg, .pdf, .png, got"):
        plots.style.save_figure(None, tmp_path / "figure.gif")


def test_the_command_writes_figures_where_asked(few, tmp_path, monkeypatch):
    store = SimpleNamespace(skipped=pd.DataFrame({"path": [], "reason": []}))
    monkeypatch.setattr("featlab.store.MapStore", lambda path: nullcontext(store))
    monkeypatch.setattr("featlab.pipeline.analyse", lambda *args, **options: few)
    monkeypatch.setattr("featlab.pipeline.write_results", lambda r, folder: [])
    command = ["report", "maps.h5", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert not (tmp_path / "out" / "figures").exists()
    done = CliRunner().invoke(app, [*command, "--figures", "svg"])
    assert done.exit_code == 0, done.output
    written = list((tmp_path / "out" / "figures").glob("*.svg"))
    assert f"({len(written)} files)" in done.output
    assert CliRunner().invoke(app, [*command, "--figures", "gif"]).exit_code == 2


@pytest.mark.parametrize("name", ["box_statistics", "confusion_matrix", "localisation_examples"])
def test_an_svg_is_drawn_once_and_is_what_matplotlib_writes(name, monkeypatch):
    planted = Planted(["cat", "dog"])
    drawing, again = (FIGURES[name](planted) for _ in range(2))
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.hashsalt": "featlab"}):
        getattr(again, "figure", again).savefig(
            buffer, format="svg", dpi=110, metadata={"Date": None}
        )
    counted, measured = [], []
    draw, measure = Axes.draw, RendererSVG.get_text_width_height_descent
    monkeypatch.setattr(Axes, "draw", lambda *given: (counted.append(given[0]), draw(*given)))
    monkeypatch.setattr(
        RendererSVG,
        "get_text_width_height_descent",
        lambda *given: (measured.append(given[1:]), measure(*given))[1],
    )
    assert encode(drawing, dpi=110) == buffer.getvalue()
    assert len(counted) == len(getattr(drawing, "figure", drawing).axes)
    assert len(measured) == len(set(measured)) > 0  # the layout knows what is written


def test_photographs_are_the_jpeg_of_what_was_a_png():
    drawing, again = (FIGURES["localisation_examples"](Planted(["cat", "dog"])) for _ in range(2))
    kept = encode(again, dpi=110).decode()
    small = encode(drawing, dpi=110, photographs=True).decode()
    png = re.findall(r"data:image/png;base64,([^\"]*)", kept)
    jpeg = re.findall(r"data:image/jpeg;base64,([^\"]*)", small)
    assert len(png) == len(jpeg) > 1
    for one, other in zip(png, jpeg, strict=True):
        expected = io.BytesIO()
        with Image.open(io.BytesIO(b64decode(one))) as picture:
            picture.convert("RGB").save(expected, "JPEG", quality=82, optimize=True)
        assert b64decode(other) == expected.getvalue()
    image = r"<image [^>]*?(?= transform)"
    assert re.sub(image, "", kept) == re.sub(image, "", small)


# ---------------------------------------------------------------------------- figures on dark pages


def test_a_figure_has_two_values_of_each_colour_and_keeps_what_lies_on_pictures():
    photo = np.random.default_rng(0).integers(0, 255, (40, 60, 3)).astype(np.uint8)
    box = np.array([[5.0, 5, 30, 30]])
    drawing = plots.localisation_examples(
        [photo], [np.eye(7)], [box], [box[0] + 4], [0.6], labels=["a"]
    )
    svg = themed(encode(drawing, photographs=True))
    colours, sheet = (
        re.findall(r'style="([^"]*)"', svg),
        re.search(r"<style>:root.*?</style>", svg)[0],
    )
    assert ElementTree.fromstring(svg).tag.endswith("svg")
    # The boxes and their dark edges alone have colours of their own.
    own = [re.search(r"stroke: (#\w+)", style)[1] for style in colours if ": #" in style]
    assert own == ["#000000", TRUE_BOX, "#000000", PREDICTED_BOX]
    assert "--cffffff:#ffffff;" in sheet
    assert f"--cffffff:{DARK_SHEET};" in sheet.partition("prefers-color-scheme:dark")[2]
    assert set(re.findall(r"var\((--c\w+)\)", svg)) == set(re.findall(r"(--c\w+):", sheet))
    assert "data:image/jpeg;base64," in svg
    assert "data:image/png" not in svg


def test_pixels_of_a_drawing_turn_as_its_lines_do():
    figure = Figure()
    figure.add_axes((0, 0, 1, 1)).imshow(np.eye(3), cmap="Blues")
    svg = themed(encode(figure))
    assert '<image class="drawn" xlink:href="data:image/png;base64,' in svg
    values = re.search(r'feColorMatrix values="([^"]*)"', svg)[1].split()
    matrix = np.array(values, dtype=float).reshape(4, 5)
    for colour in ("#ffffff", "#1f2933", "#0173b2", "#de8f05"):
        turned = (matrix @ [*to_rgb(colour), 1, 1])[:3].clip(0, 1)
        np.testing.assert_allclose(turned, to_rgb(dark_colour(colour)), atol=0.005)


def test_the_page_lays_dark_figures_on_their_own_colour():
    folder = Path(report.__file__).parents[1] / "templates"
    sheets = [
        re.findall(r"--sheet: (#\w+)", (folder / name).read_text("utf-8"))
        for name in ("style.css", "interactive.css")
    ]
    assert sheets == [["#ffffff", DARK_SHEET, "#fff"], ["#ffffff", DARK_SHEET]]
    script = (folder / "embedding.js").read_text("utf-8")
    palette = re.findall(r'\["(#\w+)", "(#\w+)"\]', script)
    assert palette == [(colour, dark_colour(colour)) for colour in CLASS_COLOURS]
