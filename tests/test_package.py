"""The house rules: who imports whom, and what a plain import loads."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import featlab

PACKAGE = Path(featlab.__file__).parent

# A room may import the rooms named here, and the errors; the command line may import everything.
ALLOWED = {
    "audit": {"images", "intervals", "neurons", "heads", "features"},
    "backbones": set(),
    "boxes": set(),
    "boxheads": {"boxes", "features", "heads", "intervals", "splits"},
    "datasets": set(),
    "embed": {"features"},
    "extract": {"images", "backbones", "store", "features", "__version__"},
    "features": set(),
    "finetune": {"backbones", "heads", "images"},
    "gradients": {"backbones", "boxes", "intervals"},
    "heads": {"features", "intervals", "neurons"},
    "images": set(),
    "intervals": set(),
    "localise": {"boxes", "intervals"},
    "neurons": {"features", "intervals"},
    "pipeline": {
        "audit",
        "backbones",
        "boxes",
        "boxheads",
        "embed",
        "extract",
        "features",
        "finetune",
        "gradients",
        "heads",
        "images",
        "localise",
        "neurons",
        "plots",
        "report",
        "splits",
        "store",
    },
    "plots": set(),
    "report": {"plots"},
    "splits": set(),
    "store": set(),
}


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def is_type_checking(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imported_rooms(file: Path) -> set[str]:
    tree = ast.parse(file.read_text("utf-8"))
    tree.body = [node for node in tree.body if not is_type_checking(node)]
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module] + [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "featlab" and len(parts) > 1:
                found.add(parts[1])
    return found - {"_errors", "_html", "_machine", "_workers", "FeatlabError"}


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda f: f.name)
def test_rooms_import_only_what_the_design_allows(file):
    room = room_of(file)
    if room in ("cli", "__init__", "__main__", "_errors", "_html", "_machine", "_workers"):
        return
    assert room in ALLOWED, f"{room} is not a room of the design"
    extra = imported_rooms(file) - ALLOWED[room] - {room}
    assert not extra, f"{file.name} imports {extra}"


def test_there_are_no_relative_imports():
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            assert not (isinstance(node, ast.ImportFrom) and node.level), file


@pytest.mark.parametrize(
    ("code", "absent"),
    [
        ("import featlab", ["tensorflow", "keras", "matplotlib", "sklearn", "pandas", "typer"]),
        ("import featlab.cli", ["tensorflow", "keras", "matplotlib", "sklearn", "pandas"]),
        (
            "import featlab.neurons, featlab.localise, featlab.heads, featlab.boxheads",
            ["tensorflow", "keras", "matplotlib"],
        ),
        ("import featlab.backbones, featlab.extract, featlab.images", ["tensorflow", "keras"]),
        (
            "import featlab.embed, featlab.finetune, featlab.gradients",
            ["tensorflow", "keras", "matplotlib"],
        ),
    ],
)
def test_a_fresh_process_loads_nothing_heavy(code, absent):
    probe = f"{code}\nimport sys\nprint([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_room_is_reachable_from_the_package_and_documents_itself():
    for name in ALLOWED:
        module = getattr(featlab, name)
        assert module is importlib.import_module(f"featlab.{name}")
        assert module.__doc__
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = featlab.nothing
