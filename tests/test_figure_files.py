"""The figures of a report as files of their own."""

from __future__ import annotations

import errno
import re
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from fake_results import HOSTILE, make_results
from typer.testing import CliRunner

from featlab import plots, report
from featlab.cli import app
from featlab.errors import FeatlabError
from featlab.report._elements import Options
from featlab.report.page import _sections


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
    names = [figure.file for section in _sections(results, Options()) for figure in section.drawn()]
    assert sorted(names) == sorted(path.stem for path in written)
    assert len(set(names)) == len(names)
    assert {"network_output", "class_balance", "neuron_volcano"} <= set(names)


def test_the_page_holds_the_same_figures(few, tmp_path):
    figures = [figure for section in _sections(few, Options()) for figure in section.drawn()]
    page = report.write_report(few, tmp_path / "report.html").read_text("utf-8")
    on_page = re.findall(r'<img src="(data:image/[^"]+)"', page)
    assert sorted(on_page) == sorted(figure.uri for figure in figures)


@pytest.mark.slow
def test_figures_are_written_as_pdf(few, tmp_path):
    written = report.write_figures(few, tmp_path, format="pdf")
    assert written
    assert all(path.read_bytes().startswith(b"%PDF") for path in written)


def test_a_figure_is_written_whole_or_not_at_all(few, tmp_path, monkeypatch):
    figures = (figure for section in _sections(few, Options()) for figure in section.drawn())
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
