"""Build analysis/featlab.ipynb from the numbered scripts beside this file, and run it.

    python analysis/build_notebook.py [--no-run]

A script's docstring becomes a Markdown cell. Its code is cut at the lines ``# %%``; a cell that
saves a figure also shows it.
"""

import ast
import re
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

HERE = Path(__file__).parent
NOTEBOOK = HERE / "featlab.ipynb"
INTRODUCTION = """\
# featlab, step by step

A folder of pictures through the built-in network, once; everything after that works on the stored
maps. The next cell names the pictures: without any, the 240 built-in scenes, for which the whole
takes some ten minutes on two cores.

Made from the numbered scripts in `analysis/` by `make notebook`: change those, not this."""
SETUP = """\
%matplotlib inline
%config InlineBackend.figure_formats = ["jpeg"]
import os
import sys
from pathlib import Path

IMAGES = None  # such as "my_pictures", a folder of class folders; None: the built-in scenes
OPTIONS = []  # such as ["--classes", "cat,dog", "--box-kind", "head", "-o", "results"]

# As if each script were called with these, from the top of the project.
if Path.cwd().name == "analysis":
    os.chdir("..")
sys.path.insert(0, "analysis")
sys.argv = ["featlab.ipynb", *([str(IMAGES)] if IMAGES else []), *OPTIONS]"""


def scripts() -> list[Path]:
    """The numbered scripts, in order."""
    return sorted(HERE.glob("[0-9][0-9]_*.py"))


def build() -> nbformat.NotebookNode:
    """The notebook without outputs; the same scripts always give the same notebook."""
    cells = [new_markdown_cell(INTRODUCTION), new_code_cell(SETUP)]
    for script in scripts():
        text = script.read_text("utf-8")
        docstring = ast.get_docstring(ast.parse(text)) or script.stem
        cells.append(new_markdown_cell(_heading(docstring)))
        code = text.split('"""', 2)[2]
        cells += [new_code_cell(_cell_code(part.strip())) for part in re.split(r"(?m)^# %%$", code)]
    for place, cell in enumerate(cells):
        cell["id"] = f"cell-{place}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel})


def run(notebook: nbformat.NotebookNode) -> None:
    """Run every cell in place; progress bars and the libraries' notices are left out."""
    from nbclient import NotebookClient

    client = NotebookClient(
        notebook,
        timeout=None,
        record_timing=False,
        resources={"metadata": {"path": str(HERE)}},
    )
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if not _is_notice(output)]


def _is_notice(output: nbformat.NotebookNode) -> bool:
    """Whether a library speaks, on standard error or, as TensorFlow's log, on standard output."""
    return output.get("name") == "stderr" or output.get("text", "").startswith("WARNING:")


def _heading(docstring: str) -> str:
    title, *rest = docstring.splitlines()
    usage = [line.strip() for line in rest if line.strip().startswith("python ")]
    text = "\n".join(line for line in rest if line.strip() not in usage).strip()
    call = "\n".join(f"    {line}" for line in usage)
    return "\n\n".join(part for part in (f"## {title}", call, text) if part)


def _cell_code(code: str) -> str:
    return f"{code}\nfigure" if "figure.savefig(" in code else code


if __name__ == "__main__":
    made = build()
    if "--no-run" not in sys.argv:
        run(made)
    nbformat.validate(made)
    nbformat.write(made, NOTEBOOK)
    print(NOTEBOOK)
