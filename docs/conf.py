"""The site: pages in MyST Markdown, the reference from docstrings; nothing loads from a network."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import featlab  # noqa: E402

project = "featlab"
author = "The featlab developers"
project_copyright = f"2026, {author}"
version = release = featlab.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "dollarmath", "deflist"]
myst_heading_anchors = 3

default_role = "py:obj"
autosummary_generate = False
autodoc_typehints = "none"  # numpydoc sections say the types, with shapes and units
autodoc_member_order = "bysource"
numpydoc_class_members_toctree = False
numpydoc_show_class_members = False

html_theme = "pydata_sphinx_theme"
html_title = "featlab"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_copy_source = False
html_show_sourcelink = False
html_theme_options = {
    "navbar_align": "left",
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}

# Rooms in the order of the arrow on the design page; the command line has a page of its own.
ROOMS = re.findall(r"^\| `(\w+)` \|", (HERE / "design.md").read_text("utf-8"), re.MULTILINE)

HEADINGS = {"function": "Functions", "class": "Classes", "data": "Constants"}


def public_names(module: Any) -> list[str]:
    """The public names of a room: its ``__all__``, or what it defines itself."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    ]
    return own + [name for name in constant_docs(module.__name__.split(".")[1]) if name.isupper()]


def kind_of(value: Any) -> str:
    """How autodoc calls it."""
    if inspect.isclass(value):
        return "class"
    return "function" if callable(value) else "data"


def constant_docs(room: str) -> dict[str, str]:
    """What the string below each constant of a room says; autodoc would describe its type."""
    found: dict[str, str] = {}
    for name in sorted(n for n in sys.modules if f"{n}.".startswith(f"featlab.{room}.")):
        attributes = ModuleAnalyzer.for_module(name).find_attr_docs().items()
        found |= {key: " ".join(text).strip() for (owner, key), text in attributes if not owner}
    return found


def constant_entry(name: str, value: Any, text: str) -> list[str]:
    """A constant with its value, or with its keys where the values are objects."""
    shown = repr(list(value) if isinstance(value, dict) else value)
    lines = [f".. data:: {name}"]
    if len(shown) <= 200 and "\n" not in shown:
        lines.append(f"   :value: {shown}")
    return [*lines, "", f"   {text}", ""]


def room_page(room: str) -> str:
    """The page of one room: what it is for, tables of its names, every name in full."""
    module = importlib.import_module(f"featlab.{room}")
    kinds: dict[str, list[str]] = {"function": [], "class": [], "data": []}
    for name in sorted(public_names(module), key=str.lower):
        kinds[kind_of(getattr(module, name))].append(name)
    title = f"featlab.{room}"
    lines = [title, "=" * len(title), "", f".. automodule:: featlab.{room}", "   :no-members:", ""]
    lines += [f".. currentmodule:: featlab.{room}", ""]
    documented = constant_docs(room)
    for kind in ("function", "class"):
        if kinds[kind]:
            lines += [f".. rubric:: {HEADINGS[kind]}", "", ".. autosummary::", ""]
            lines += [f"   {name}" for name in kinds[kind]] + [""]
    for kind, names in kinds.items():
        if names:
            lines += [HEADINGS[kind], "-" * len(HEADINGS[kind]), ""]
        for name in names:
            if kind == "data":
                lines += constant_entry(name, getattr(module, name), documented[name])
                continue
            lines += [f".. auto{kind}:: {name}"]
            if kind == "class":
                lines += ["   :members:", "   :exclude-members: set_score_request, set_fit_request"]
            lines += [""]
    if room == "results":
        lines += other_results()
    return "\n".join(lines)


def other_results() -> list[str]:
    """The result classes that only functions make: what their fields hold."""
    results = importlib.import_module("featlab.results")
    classes = {
        name: value
        for module in vars(results).values()
        if inspect.ismodule(module) and module.__name__.startswith("featlab.results.")
        for name, value in vars(module).items()
        if kind_of(value) == "class" and value.__module__ == module.__name__ and name[0] != "_"
    }
    lines = ["Returned by functions", "---------------------", ""]
    for name in sorted(set(classes) - set(results.__all__)):
        lines += [f".. autoclass:: {classes[name].__module__}.{name}", "   :members:", ""]
    return lines


def command_page() -> str:
    """Every command of ``featlab`` with its arguments and options, as ``--help`` has them."""
    import typer

    from featlab.cli import app

    group: Any = typer.main.get_command(app)
    lines = ["# Commands", "", "Each command explains itself, too: `featlab COMMAND --help`.", ""]
    for name, command in group.commands.items():
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        usage = " ".join(["[OPTIONS]", *(p.name.upper() for p in arguments)])
        lines += [f"## {name}", "", command.help, "", "```text", f"featlab {name} {usage}", "```"]
        lines += ["", "| | default | |", "|---|---|---|"]
        for parameter in command.params:
            if parameter.name == "help":
                continue
            if parameter.param_type_name == "argument":
                label, default = f"`{parameter.name.upper()}`", ""
            else:
                names = [*parameter.opts, *parameter.secondary_opts]
                label = ", ".join(f"`{o}`" for o in sorted(names, key=len))
                default = "" if parameter.default is None else f"`{parameter.default}`"
            text = (getattr(parameter, "help", None) or "").replace("|", "\\|")
            lines.append(f"| {label} | {default} | {text} |")
        lines.append("")
    return "\n".join(lines)


def write_reference(_: Sphinx) -> None:
    """Write the generated pages; an unchanged page keeps its time, so it is not built again."""
    folder = HERE / "api"
    folder.mkdir(exist_ok=True)
    pages = {f"{room}.rst": room_page(room) for room in ROOMS if room != "cli"}
    pages["commands.md"] = command_page()
    for name, text in pages.items():
        file = folder / name
        if not file.exists() or file.read_text("utf-8") != text:
            file.write_text(text, "utf-8")


def inline_math(translator: Any, node: nodes.math) -> None:
    """A formula in the line, as MathML."""
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def display_math(translator: Any, node: nodes.math_block) -> None:
    """A formula of its own, as MathML."""
    mathml = tex2mathml(node.astext(), as_block=True)
    translator.body.append(f'<div class="formula">{mathml}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    """Formulas as MathML, which browsers draw themselves; the reference before the pages."""
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
    app.connect("builder-inited", write_reference)
