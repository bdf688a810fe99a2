"""Mutants: small faults put into modules on purpose, each of which their tests should see.

`make mutants` draws some at random for every area (an operator, a number, a comparison changed),
runs the area's tests on each until the first failure, and prints what no test saw. Those that
change nothing, or nothing that is promised, are listed with the reason in `mutants.toml`; any other
survivor ends the run with status 1. Other parts of an area are seen with another seed.

The package is mutated in a copy; children forked from one warm process run the tests there.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import tomllib
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parents[1]
AREAS = {
    "neurons": ("neurons/*.py", ("test_neurons", "test_neuron_tests", "test_neuron_lab")),
    "boxes": ("boxes/*.py", ("test_boxes", "test_box_metrics")),
    "intervals": ("intervals.py", ("test_intervals",)),
    "splits": ("splits.py", ("test_splits", "test_example_rows")),
}
"""The modules of an area, in featlab, and the files of tests that are about them."""
PATIENCE = 3
"""A mutant that takes so many times as long as the tests do without it is one that they see."""


LOG = "log.txt"
WARM = (
    *("hypothesis", "pandas", "pytest", "scipy.cluster.hierarchy", "scipy.sparse.csgraph"),
    *("scipy.stats", "sklearn.linear_model", "sklearn.model_selection", "numba", "h5py"),
    *("statsmodels.stats.multitest", "jinja2", "filelock"),
)


@dataclass(frozen=True)
class Mutant:
    """A module with one change."""

    path: Path
    line: int
    before: str
    after: str
    code: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}\n    - {self.before}\n    + {self.after}"


class _Bare(ast.NodeTransformer):
    """Without annotations, which nobody evaluates, and what only a defect trips: `strict`, `*`."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_arguments(self, node: ast.arguments) -> ast.AST:
        every = [*node.posonlyargs, *node.args, *node.kwonlyargs]
        defaults = [one for one in [*node.defaults, *node.kw_defaults] if one is not None]
        node.posonlyargs, node.args, node.kwonlyargs = [], every, []
        node.defaults, node.kw_defaults = defaults, []
        return self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        node.keywords = [keyword for keyword in node.keywords if keyword.arg != "strict"]
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant("")
        return self.generic_visit(node)


def places_of(path: Path) -> list[tuple[Path, list[tuple[type, int]]]]:
    """Where a module (relative to ROOT) can be changed: for each place all ways to do it."""
    tree = get_ast((ROOT / path).read_text("utf-8"))
    at: dict[tuple[int, int], list[tuple[type, int]]] = {}
    for name in operator_names():
        operator = get_operator(name)
        if operator.arguments():
            continue
        places = (p for node in ast_nodes(tree) for p in operator().mutation_positions(node))
        for occurrence, (start, _) in enumerate(places):
            at.setdefault(start, []).append((operator, occurrence))
    return [(path, ways) for _, ways in sorted(at.items())]


def mutants(
    places: list[tuple[Path, list[tuple[type, int]]]], rng: random.Random
) -> Iterator[Mutant]:
    """One mutant of each place, in random order; what is none, or does nothing, is passed over."""
    for path, ways in rng.sample(places, len(places)):
        source = (ROOT / path).read_text("utf-8")
        operator, occurrence = rng.choice(ways)
        code = mutate_code(source, operator(), occurrence)
        with suppress(SyntaxError):
            if _bare(code) != _bare(source):
                yield Mutant(path, *_changed(source, code), code)


def _bare(source: str) -> str:
    return ast.dump(_Bare().visit(ast.parse(source)))


def _changed(source: str, code: str) -> tuple[int, str, str]:
    """Number of the first line that differs, that line, and what it has become."""
    pairs = zip(source.splitlines(), code.splitlines(), strict=False)
    return next((i, a.strip(), b.strip()) for i, (a, b) in enumerate(pairs, 1) if a != b)


def tested(tree: Path, tests: tuple[str, ...], limit: float) -> str:
    """What tests say of the package in a folder: "killed", "late" or "survived"."""
    started = time.monotonic()
    child = os.fork()
    if not child:
        os.setsid()
        os.dup2(os.open(tree / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        files = [f"tests/{name}.py" for name in tests]
        import pytest

        os._exit(pytest.main(["-x", "-p", "no:cacheprovider", "--hypothesis-seed=0", *files]))
    while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if time.monotonic() - started > limit:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return "late"
        time.sleep(0.02)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return "killed" if status else "survived"


def warm() -> None:
    """Load what the tests load, but for the package itself; nothing that starts threads."""
    for module in WARM:
        importlib.import_module(module)


def explanations() -> list[dict[str, str]]:
    """Survivors that are known: path, line, reason; `mutant`, where it is not any of the line."""
    known = tomllib.loads((ROOT / "tests/mutants.toml").read_text("utf-8"))["survivor"]
    for entry in known:
        lines = (ROOT / entry["path"]).read_text("utf-8").splitlines()
        if entry["line"] not in (line.strip() for line in lines):
            sys.exit(f"tests/mutants.toml explains what {entry['path']} no longer says: {entry}")
    return known


def is_explained(mutant: Mutant, known: list[dict[str, str]]) -> bool:
    """Whether a survivor is listed."""
    return any(
        entry["path"] == str(mutant.path)
        and entry["line"] == mutant.before
        and entry.get("mutant", mutant.after) == mutant.after
        for entry in known
    )


def run(area: str, most: int, seed: int, tree: Path) -> Iterator[tuple[Mutant, str]]:
    """Mutants of an area, and what its tests say of them."""
    modules, tests = AREAS[area]
    rng = random.Random(f"{area} {seed}")
    paths = sorted(path.relative_to(ROOT) for path in (ROOT / "featlab").glob(modules))
    places = [place for path in paths for place in places_of(path)]
    drawn = list(islice(mutants(places, rng), most))
    started = time.monotonic()
    if tested(tree, tests, 600) != "survived":
        sys.exit(f"{area}: the tests fail without a mutant\n{(tree / LOG).read_text()}")
    seconds = time.monotonic() - started
    print(f"{area}: {len(drawn)} of {len(places)} places, tests of {seconds:.0f} s", flush=True)
    # What is compiled of a mutant must not be taken for the module, nor the other way round.
    os.environ["PYTHONDONTWRITEBYTECODE"], sys.dont_write_bytecode = "1", True
    for mutant in drawn:
        whole = (tree / mutant.path).read_text("utf-8")
        (tree / mutant.path).write_text(mutant.code, "utf-8")
        said = tested(tree, tests, 10 + PATIENCE * seconds)
        (tree / mutant.path).write_text(whole, "utf-8")
        yield mutant, said


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("areas", nargs="*", default=list(AREAS), help="default: all")
    parser.add_argument("-n", type=int, default=60, help="mutants of an area (60)")
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
    warm()
    known, unseen = explanations(), 0
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for part in ("featlab", "tests", "analysis", "benchmarks"):
            shutil.copytree(ROOT / part, tree / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy2(ROOT / "pyproject.toml", tree)
        os.environ["PYTHONPATH"] = str(tree)
        for area in asked.areas:
            count: Counter[str] = Counter()
            for mutant, said in run(area, asked.n, asked.seed, tree):
                if said == "survived":
                    said = "explained" if is_explained(mutant, known) else "not seen"
                if said == "not seen":
                    print(mutant, flush=True)
                count[said] += 1
            unseen += count["not seen"]
            print(area, dict(count), flush=True)
    return min(unseen, 1)


if __name__ == "__main__":
    sys.exit(main())
