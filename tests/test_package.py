"""The house rules: who imports whom, and what a plain import loads."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

import featlab

PACKAGE = Path(featlab.__file__).parent

# What lies below all rooms, each floor resting on those before it.
GROUND = ("errors", "system", "arguments", "store", "results")
# A room may import the ground floor and the rooms named here; the command line everything.
ALLOWED = {
    "images": set(),
    "datasets": set(),
    "splits": set(),
    "backbones": set(),
    "intervals": set(),
    "features": set(),
    "boxes": set(),
    "extract": {"images"},
    "neurons": {"features", "intervals"},
    "heads": {"features", "intervals", "neurons"},
    "embed": {"features"},
    "audit": {"images", "splits", "intervals", "neurons", "heads", "features"},
    "localise": {"features", "boxes", "intervals"},
    "own": {"boxes", "intervals", "localise"},
    "boxheads": {"backbones", "boxes", "features", "finetune", "intervals"},
    "gradients": {"backbones", "boxes", "intervals"},
    "finetune": {"backbones", "images", "heads"},
    "predict": {
        *("images", "backbones", "extract", "intervals", "heads", "boxes", "localise"),
        *("boxheads", "finetune", "own", "embed"),
    },
    "plots": set(),
    "report": {"plots"},
    "pipeline": {
        *("images", "splits", "backbones", "features", "boxes", "extract", "neurons", "heads"),
        *("embed", "audit", "localise", "boxheads", "gradients", "finetune", "report", "own"),
        *("intervals", "predict"),
    },
}
TOP = ("cli", "__main__")


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


@cache
def imports_of(module: str) -> tuple[str, ...]:
    """Modules of featlab that a module names: anywhere, in functions and for types too."""
    named = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text("utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert not node.level, f"{module} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                named.add(inner if inner in MODULES else node.module)
        elif isinstance(node, ast.Import):
            named |= {alias.name for alias in node.names}
    return tuple(sorted(name for name in named - {module} if name.split(".")[0] == "featlab"))


def room_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


ROOMS = sorted({room_of(module) for module in MODULES} - {""})


@pytest.mark.parametrize("room", [room for room in ROOMS if room not in TOP])
def test_a_room_imports_only_what_the_design_allows(room):
    assert room in ALLOWED or room in GROUND, f"{room} is not a room of the design"
    below = GROUND[: GROUND.index(room)] if room in GROUND else GROUND
    allowed = {room, *below, *ALLOWED.get(room, ())}
    extra = {
        f"{module} → {name}"
        for module in MODULES
        if room_of(module) == room
        for name in imports_of(module)
        if room_of(name) not in allowed
    }
    assert not extra


def test_the_design_and_this_file_allow_the_same():
    told: dict[str, set[str]] = {}
    for line in (PACKAGE.parent / "docs" / "design.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("| ").split("|")]
        if len(cells) == 3 and cells[0].strip("`") in ALLOWED:
            named = set(re.findall(r"`(\w+)`", cells[2]))
            whole = cells[2].startswith("all of the above but ")
            told[cells[0].strip("`")] = {*told} - named if whole else named
    assert told == ALLOWED


def places_of_new_things() -> list[str]:
    """The rows of the design's table that says where something new goes."""
    text = (PACKAGE.parent / "docs" / "design.md").read_text("utf-8")
    table = text.partition("## Where something new goes")[2].partition("\n## ")[0]
    return [line for line in table.splitlines() if re.match(r"\| (an?|what) ", line)]


@pytest.mark.parametrize("row", places_of_new_things())
def test_the_design_says_where_new_things_go(row):
    """Every file it names is there, and holds the list that the row names."""
    root = PACKAGE.parent
    names = re.findall(r"`([\w/]+\.py)`", row)
    files = [place / name for name in names for place in (PACKAGE, root) if (place / name).exists()]
    assert len(files) == len(names)
    texts = [file.read_text("utf-8") for file in files]
    for listed in re.findall(r"`([A-Z_]{4,})`", row):
        assert any(re.search(rf"^{listed}\b.*=", text, re.M) for text in texts), listed
    for module in re.findall(r"`(_\w+)`", row):
        assert any(name.endswith(f".{module}") for name in MODULES), module


def test_no_room_imports_another_ones_private_module():
    private = [
        f"{module} → {name}"
        for module in MODULES
        for name in imports_of(module)
        if room_of(name) != room_of(module) and any(part[0] == "_" for part in name.split(".")[2:])
    ]
    assert not private


def test_there_is_no_import_circle():
    above: dict[str, set[str]] = {module: set(imports_of(module)) for module in MODULES}
    while leaves := [module for module, names in above.items() if not names & set(above)]:
        for module in leaves:
            del above[module]
    assert not above, f"these import each other, or what does: {sorted(above)}"


def test_a_fresh_process_loads_nothing_heavy():
    """Step by step: what an import may not load is still absent after it."""
    networks = ["tensorflow", "keras", "numba"]
    tables = [*networks, "matplotlib", "sklearn", "pandas"]
    fitting = ["sklearn", "statsmodels", "scipy.stats", "matplotlib", "seaborn"]
    steps = [
        ("import featlab", [*tables, "typer"]),
        ("import featlab.cli", tables),
        ("import featlab.predict", [*networks, *fitting]),
        (
            "import featlab.neurons, featlab.localise, featlab.heads, featlab.boxheads",
            [*networks, "matplotlib"],
        ),
        (
            "import featlab.embed, featlab.finetune, featlab.gradients, featlab.results",
            [*networks, "matplotlib"],
        ),
        ("import featlab.pipeline, featlab.report", [*networks, "seaborn", "matplotlib.pyplot"]),
        ("import featlab.backbones, featlab.extract, featlab.images", networks),
        ("featlab.backbones.load_backbone('EfficientNet_Lite0').identity()", networks),
    ]
    probe = "import sys\n" + "\n".join(
        f"{code}\nprint({code!r}, [m for m in {absent!r} if m in sys.modules])"
        for code, absent in steps
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"{code} []" for code, _ in steps]


def test_no_name_of_a_room_hides_a_module():
    hidden = [
        f"{room}: {alias.name} of {node.module}"
        for room, file in MODULES.items()
        if file.name == "__init__.py"
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if f"{room}.{alias.asname or alias.name}" in MODULES
        and f"{node.module}.{alias.name}" not in MODULES
    ]
    assert not hidden


def test_every_room_is_reachable_from_the_package_and_documents_itself():
    for name in [*ALLOWED, *GROUND[1:], "cli"]:
        module = getattr(featlab, name)
        assert module is importlib.import_module(f"featlab.{name}")
        assert module.__doc__
    with pytest.raises(AttributeError, match="nothing"):
        _ = featlab.nothing


def body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    docstring = ast.get_docstring(function, clean=False)
    lines = function.end_lineno - function.body[0].lineno + 1
    return lines - (docstring.count("\n") + 1 if docstring else 0)


def parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    known = function.args
    named = [*known.posonlyargs, *known.args, *known.kwonlyargs]
    return len([one for one in named if one.arg not in ("self", "cls")])


def test_the_house_stays_small():
    assert len(MODULES) <= 160
    too_large = [
        name for name, file in MODULES.items() if file.read_text("utf-8").count("\n") > 450
    ]
    assert not too_large
    for module, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                assert body_lines(node) <= 60, f"{module}.{node.name}"
                assert room_of(module) == "cli" or parameters(node) <= 10, f"{module}.{node.name}"


PARTICIPLES = {"found", "chosen", "shown", "told", "looked"}


def stored_names(tree: ast.AST) -> list[str]:
    """Names that a module gives: of variables, attributes, arguments, functions and columns."""
    names = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.Name, ast.Attribute)) and isinstance(node.ctx, ast.Store):
            names.append(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, (ast.arg, ast.keyword)):
            names.append(node.arg or "")
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            names.append(node.name)
    return names


@pytest.mark.parametrize("code", ["found = 1", "a.chosen = 1", "def n_shown(): ...", "f(told=1)"])
def test_stored_names_are_seen_wherever_they_are_given(code):
    assert {*stored_names(ast.parse(code))[0].split("_")} & PARTICIPLES


def test_names_say_what_a_thing_is_not_what_was_done_to_it():
    named = [
        f"{module}: {name}"
        for module, file in MODULES.items()
        for name in stored_names(ast.parse(file.read_text("utf-8")))
        if PARTICIPLES & {*name.lower().split("_")}
    ]
    assert not named
