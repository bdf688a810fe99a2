"""The benchmarks say how they are run, and their common table is right."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[1] / "benchmarks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
HELPERS = {"limits.py", "scenes.py"}


@pytest.fixture
def run_all(monkeypatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    for name in ("limits", "run_all"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return importlib.import_module("run_all")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_every_script_says_what_it_does_and_its_command(script):
    told = script.read_text("utf-8").split('"""')[1]
    if script.name in HELPERS:
        assert "Not a benchmark itself." in told
    else:
        assert f"    python benchmarks/{script.name}" in told


def test_make_bench_leaves_no_script_out(run_all):
    run = {script.file for script in run_all.SCRIPTS}
    assert run == {script.name for script in SCRIPTS} - HELPERS - {"run_all.py"}
    names = [script.name for script in run_all.SCRIPTS]
    assert len(set(names)) == len(names)
    assert "benchmarks/run_all.py" in (FOLDER.parent / "Makefile").read_text("utf-8")


def test_a_store_s_network_is_loaded_with_its_own_input_size(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.delitem(sys.modules, "scenes", raising=False)
    scenes, asked = importlib.import_module("scenes"), []
    monkeypatch.setattr(
        scenes.backbones, "load_backbone", lambda name, **options: asked.append((name, options))
    )
    made = {"backbone": "small", "input_size": "96 x 128", "output_stride": "16"}
    store = SimpleNamespace(provenance=made, layers=["early", "late"])
    scenes.network_of(store, engine="tensorflow", layers="late")
    assert asked == [
        ("small", {"input_size": (96, 128), "layers": "late", "output_stride": 16,
                   "engine": "tensorflow"}),
    ]  # fmt: skip
    for script in ("box.py", "resolution.py"):
        text = (FOLDER / script).read_text("utf-8")
        assert "network_of(store" in text and "load_backbone" not in text


def test_a_figure_is_read_back_as_it_was_said(run_all, capsys):
    limits = importlib.import_module("limits")
    limits.say("a / b, ms = odd (name)", 0.51234, "<=", 0.5)
    limits.say("ratio", 15, ">=", 15)
    printed = capsys.readouterr().out
    assert printed.splitlines()[0] == "limit: a / b, ms = odd (name) = 0.5123 (<= 0.5): NO"
    first, second = run_all.rows_in(f"noise\n{printed}limit: half a line")
    assert (first.name, first.figure, first.reached) == ("a / b, ms = odd (name)", 0.5123, False)
    assert (second.sign, second.limit, second.reached) == (">=", 15, True)


def test_the_table_has_each_figure_its_limit_and_the_long_command(run_all, tmp_path, monkeypatch):
    fakes = {
        "two.py": "from limits import say\nsay('one', 1, '<=', 2)\nsay('two', 3, '<=', 2)",
        "none.py": "import sys\nprint('hello', sys.argv[1])",
        "bad.py": "raise SystemExit(3)",
    }
    for name, text in fakes.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "limits.py").write_text((FOLDER / "limits.py").read_text("utf-8"))
    monkeypatch.setattr(run_all, "HERE", tmp_path)
    scripts = (
        run_all.Script("two", "two.py", (), "FOLDER"),
        run_all.Script("none", "none.py", ("you",)),
        run_all.Script("bad", "bad.py"),
    )
    monkeypatch.setattr(run_all, "SCRIPTS", scripts)
    outcomes = [run_all.run(script) for script in scripts]
    header, rule, *lines = run_all.table(outcomes).splitlines()
    assert len({len(line) for line in (header, rule, *lines)}) == 1
    found = [[cell.strip() for cell in line.strip("| ").split("|")] for line in lines]
    assert found[0] == ["one", "1", "<= 2", "yes", "python benchmarks/two.py FOLDER"]
    assert found[1] == ["two", "3", "<= 2", "NO", "python benchmarks/two.py FOLDER"]
    assert found[2][0] == "none" and found[2][1].startswith("ran, ")
    assert found[3][:2] == ["bad", "failed (3)"] and found[3][3] == "NO"
    assert run_all.main(["two", "none"], None) == 0
    assert run_all.main([], None) == 1
