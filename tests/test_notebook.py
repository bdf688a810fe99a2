"""The notebook is what the scripts make of it, holds their outputs, and runs."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from featlab import datasets

nbformat = pytest.importorskip(
    "nbformat", reason="nbformat is not installed: pip install -e '.[notebook]'"
)

ANALYSIS = Path(__file__).resolve().parents[1] / "analysis"
LARGEST = 1_500_000  # bytes of the notebook with its pictures


@pytest.fixture(scope="module")
def built():
    spec = importlib.util.spec_from_file_location("build_notebook", ANALYSIS / "build_notebook.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.build()


@pytest.fixture(scope="module")
def committed():
    return nbformat.read(ANALYSIS / "featlab.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_it_is_up_to_date_with_the_scripts(built, committed):
    def sources(notebook):
        return [(cell.cell_type, cell.id, cell.source) for cell in notebook.cells]

    assert sources(committed) == sources(built), "run `make notebook`"


def test_every_script_is_in_it_whole(built):
    scripts = sorted(ANALYSIS.glob("[0-9]*.py"))
    assert len(scripts) >= 10
    every = "\n".join(cell.source for cell in built.cells)
    for script in scripts:
        code = script.read_text("utf-8").split('"""', 2)[2]
        for line in code.splitlines():
            assert line in every or line == "# %%", (script.name, line)
    titles = re.findall(r"^## (\d+)\. ", every, re.MULTILINE)
    assert titles == [str(k + 1) for k in range(len(scripts))]


def test_every_cell_shows_something_and_no_error(committed):
    nbformat.validate(committed)
    for cell in code_cells(committed)[1:]:
        assert cell.outputs, cell.source
        kinds = {output.output_type for output in cell.outputs}
        assert "error" not in kinds
        assert ("savefig(" in cell.source) == any(
            "image/jpeg" in o.get("data", {}) for o in cell.outputs
        )
        assert all(output.get("name") != "stderr" for output in cell.outputs)


def test_it_is_small_and_names_no_folder_of_whoever_made_it(committed):
    path = ANALYSIS / "featlab.ipynb"
    assert path.stat().st_size <= LARGEST
    for cell in code_cells(committed):
        for output in cell.outputs:
            told = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            assert not re.search(r"(?<![\w.])/(?:home|Users|root|tmp|work)/", told), told


@pytest.mark.slow
def test_its_cells_run(tmp_path):
    pytest.importorskip(
        "nbclient", reason="nbclient is not installed: pip install -e '.[notebook]'"
    )
    shutil.copytree(ANALYSIS, tmp_path / "analysis")
    (tmp_path / "analysis" / "featlab.ipynb").unlink()
    call = [sys.executable, "analysis/build_notebook.py"]
    subprocess.run(call, cwd=tmp_path, check=True, capture_output=True)
    made = nbformat.read(tmp_path / "analysis" / "featlab.ipynb", as_version=4)
    assert all(cell.execution_count for cell in code_cells(made))
    folder = tmp_path / "reports" / "analysis"
    assert (folder / "compare.html").is_file()
    made_of = {name: pd.read_csv(folder / "predict" / f"{name}.csv") for name in ("own", "foreign")}
    assert made_of["own"]["typicality"].median() > 0.05 > made_of["foreign"]["typicality"].median()
    for name, table in made_of.items():
        written = json.loads((folder / "predict" / name / "coco/instances.json").read_text("utf-8"))
        assert len(written["images"]) == len(table) >= len(written["annotations"]) > 0


@pytest.mark.slow
def test_the_scripts_run_where_there_is_no_box_and_no_detector(tmp_path):
    folder = datasets.write_scenes(tmp_path / "pictures", 24)
    (folder / "boxes.csv").unlink()
    for script in ("01_extract", "03_neurons", "04_localise", "09_compare"):
        call = [sys.executable, ANALYSIS / f"{script}.py", folder, "-o", tmp_path / "out"]
        done = subprocess.run(call, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert script != "04_localise" or "no test image has a box" in done.stdout
