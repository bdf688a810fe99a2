"""The documentation does what it says: its code runs, its links lead somewhere, all is named.

Python blocks of a page run one after the other in one namespace, and the lines of its shell blocks
through the command line, in a folder that holds what a reader has after the tutorial's first
command: ``my_pictures`` (the built-in scenes) and ``results``, of the real network's fifth block,
which is quick. A comment before a block leaves it out, with the reason::

    <!-- skip: next "downloads 811 MB" -->
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import unittest
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone
from fake_results import make_results

pytest.importorskip("sybil", reason="sybil, of the test extra, is not installed")

from sybil import Document, Example, Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from featlab import report
from featlab.extract import extract_maps
from featlab.images import index_images
from featlab.report._elements import GLOSSARY
from featlab.system.files import write_table

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GENERATED = {"_build", "api"}
PAGES = [
    ROOT / "README.md",
    *sorted(
        page for page in DOCS.rglob("*.md") if not GENERATED & set(page.relative_to(DOCS).parts)
    ),
]
RUN = "featlab run my_pictures -o results"
N_SCENES = 100  # with fewer no detector is confirmed
BLOCK = ["--input-size", "96", "--layers", "block5_depthwise_relu"]

# Where a page leaves these options to their defaults, the test takes a smaller network.
SMALLER = {"run": BLOCK, "extract": BLOCK}

# They take longer than all others together: the fixture `written` runs them with a small network,
# and tests/test_cli.py those that write a whole report.
RUN_ELSEWHERE = ("compare", "demo", "finetune", "gradients", "report")


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def commands(text: str) -> list[str]:
    """The commands of a shell block: continued lines joined, comments left out."""
    joined = text.replace("\\\n", " ")
    lines = (re.sub(r"(^|\s)#.*", "", line).strip() for line in joined.splitlines())
    return [re.sub(r"\s+", " ", line) for line in lines if line]


def shell_commands() -> list[tuple[str, str]]:
    """Every command of every shell block, those left out included, with its page."""
    block = re.compile(r"^[ ]*```sh\n(.*?)^[ ]*```", re.MULTILINE | re.DOTALL)
    return [
        (name_of(page), command)
        for page in PAGES
        for text in block.findall(page.read_text("utf-8"))
        for command in commands(text)
    ]


def featlab(arguments: list[str]) -> None:
    """What the entry point does, in this process, with its output kept out of the way."""
    from featlab.cli import app

    quiet = io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(quiet),
        contextlib.redirect_stderr(quiet),
    ):
        patch.setattr(sys, "argv", ["featlab", *arguments])
        app(arguments, standalone_mode=False)


class Shell:
    """Runs the ``featlab`` lines of a page's shell blocks, each once."""

    def __init__(self, done: set[str]) -> None:
        self.done = set(done)

    def __call__(self, example: Example) -> None:
        for command in commands(example.parsed):
            program, *arguments = shlex.split(command)
            if program != "featlab" or command in self.done or arguments[0] in RUN_ELSEWHERE:
                continue
            self.done.add(command)
            options = SMALLER.get(arguments[0], [])
            own = {"--backbone", *options} & set(arguments)
            featlab([*arguments, *([] if own else options)])


def run_r(example: Example) -> None:
    in_r(example.parsed)


def in_r(code: str) -> None:
    """Run it; a test is skipped where R or a package of the code is missing."""
    if shutil.which("Rscript") is None:
        raise unittest.SkipTest("R is not on this machine")
    for package in re.findall(r"library\((\w+)\)", code):
        probe = f"quit(status = !requireNamespace('{package}', quietly = TRUE))"
        if subprocess.run(["Rscript", "-e", probe], capture_output=True, check=False).returncode:
            raise unittest.SkipTest(f"the R package {package} is not on this machine")
    environment = os.environ | {"LC_ALL": "C.UTF-8"}
    arguments = ["Rscript", "-e", code]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr


def examples(page: Path, done: set[str]) -> Document:
    parsers = [
        PythonCodeBlockParser(),
        CodeBlockParser(language="sh", evaluator=Shell(done)),
        CodeBlockParser(language="r", evaluator=run_r),
        SkipParser(),
    ]
    return Sybil(parsers=parsers).parse(page)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a reader has after the tutorial's first command, but for the page itself."""
    from featlab import datasets, pipeline, predict, store
    from featlab.cli._options import write_tables

    folder = tmp_path_factory.mktemp("reader")
    datasets.write_scenes(folder / "my_pictures", N_SCENES)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("featlab.pipeline._analysis.BOX_HEADS", ("ridge_pca",))
        featlab(["extract", "my_pictures", "-o", "results/maps.h5", *BLOCK])
        with store.MapStore("results/maps.h5") as opened:
            results = pipeline.analyse(opened)
            report.page.write_tables(results, "results")
            report.page.write_summary(results, "results/summary.json")
            predictor = predict.fit_predictor(results)
            predictor.save("results/model.featlab")
            write_tables(Path("results"), {"predictions": predictor.predict(opened)})
    (folder / "new").mkdir()
    for picture in sorted((folder / "my_pictures").glob("*/*.jpg"))[::8]:
        os.link(picture, folder / "new" / picture.name)
    (folder / "other").mkdir()
    os.link(folder / "results" / "maps.h5", folder / "other" / "maps.h5")
    return folder


@pytest.fixture
def reader(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it to work in; files are linked, as featlab replaces and never writes into one."""
    from featlab import backbones, localise

    own = backbones.load_backbone

    def load(name: str = "efficientnet_lite0", **options: object) -> backbones.Backbone:
        if name == "efficientnet_lite0":
            options = {"input_size": int(BLOCK[1]), "layers": BLOCK[3]} | options
        return own(name, **options)

    monkeypatch.setattr(backbones, "load_backbone", load)
    matplotlib.use("agg")
    work = tmp_path / "work"
    shutil.copytree(finished, work, copy_function=os.link)
    monkeypatch.chdir(work)
    methods = dict(localise.METHODS)
    yield work
    localise.METHODS.clear()
    localise.METHODS.update(methods)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_runs(page: Path, reader: Path, record_property) -> None:
    for example in examples(page, {RUN}):
        try:
            example.evaluate()
        except unittest.SkipTest as reason:
            assert str(reason), f"line {example.line}: say why it is left out"
            record_property(f"left out, line {example.line}", str(reason))


@pytest.mark.slow
@pytest.mark.parametrize("virtual", [False, True])
def test_r_reads_what_python_reads(
    virtual: bool, picture_folder: Callable[..., Path], tmp_path: Path, monkeypatch
) -> None:
    """The documented reader, of one file and of a store that refers to its parts."""
    images, _, _ = index_images(picture_folder({"cat": 4, "é b": 3}))
    path = tmp_path / "results" / "maps.h5"
    network = FakeBackbone(layers=("early", "last"))
    with extract_maps(images, network, path, virtual=virtual) as store:
        maps, pooled, labels = store.maps([0])[0], store.pooled(), store.images["label"]
    best = {"layer": "last", "pooling": "mean", "neuron": 4}
    pd.DataFrame([{**best, "auroc": 0.9}, {**best, "neuron": 2, "auroc": 0.6}]).to_csv(
        path.with_name("neurons.csv"), index=False
    )
    reader, neuron = re.findall(r"```r\n(.*?)```", (DOCS / "file-format.md").read_text(), re.DOTALL)
    tell = """
        write(format(first, digits = 9), "first"); write(format(X, digits = 9), "X")
        write(images$label, "labels"); write(dim(first), "shape")
    """
    monkeypatch.chdir(tmp_path)
    in_r(reader + tell)
    in_r(neuron + 'write(format(X[, best$neuron + 1], digits = 9), "best")')
    assert [int(n) for n in Path("shape").read_text().split()] == list(maps.shape)
    for name, expected in (("first", maps), ("X", pooled), ("best", pooled[:, 4])):
        # R counts down the columns.
        numbers = np.loadtxt(name).ravel()
        np.testing.assert_allclose(numbers, expected.ravel(order="F"), rtol=1e-6, atol=1e-9)
    assert Path("labels").read_text("utf-8").split("\n")[:-1] == labels.tolist()


@pytest.mark.parametrize(("page", "command"), shell_commands())
def test_every_command_is_one(page: str, command: str) -> None:
    """Also of the blocks that are left out: names of commands, options, targets and extras."""
    program, *arguments = shlex.split(command)
    if program == "featlab":
        import typer

        from featlab.cli import app

        group = typer.main.get_command(app)
        name, *rest = arguments
        group.commands[name].make_context(name, list(rest))
    elif program == "make":
        makefile = (ROOT / "Makefile").read_text("utf-8")
        target = next(word for word in arguments if "=" not in word)
        assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
    elif program == "pip":
        extras = ",".join(re.findall(r"\[(.+?)\]", command)).split(",")
        known = re.findall(r'^        "(\w+)": \[', (ROOT / "setup.py").read_text("utf-8"), re.M)
        assert set(filter(None, extras)) <= set(known), extras
    elif program in ("python", ".venv/bin/python"):
        scripts = [word for word in arguments if word.endswith(".py")]
        assert all((ROOT / script).is_file() for script in scripts), scripts
        assert scripts or arguments[0] == "-m", command
    else:
        assert program in ("git", "sphinx-build"), f"{page} uses {program}"


def headings(page: Path) -> set[str]:
    """Anchors of a Markdown page, as GitHub and MyST make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", title.lower()) for title in titles)
    return {title.strip().replace(" ", "-") for title in plain}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"], ids=name_of
)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'(?:src|href)="([^"]+)"', text)
    for target in targets:
        if re.match(r"https?://|mailto:", target):
            continue
        file, _, anchor = target.partition("#")
        goal = page if not file else (page.parent / file).resolve()
        if goal.parent == DOCS / "api":  # made by the build, one page for each room
            rooms = (DOCS / "design.md").read_text("utf-8")
            assert goal.name == "commands.md" or f"| `{goal.stem}` |" in rooms, target
            continue
        assert goal.exists(), f"{target} is not there"
        assert goal.is_relative_to(ROOT), f"{target} leads out of the repository"
        if anchor and goal.suffix == ".md":
            assert anchor in headings(goal), f"{target}: no such heading"


def test_quoted_messages_are_messages() -> None:
    """The troubleshooting page quotes what featlab says, with … for what varies."""
    said = "\n".join(
        "".join(part.value for part in ast.iter_child_nodes(node) if isinstance(part, ast.Constant))
        if isinstance(node, ast.JoinedStr)
        else str(node.value)
        for file in (ROOT / "featlab").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(node, (ast.JoinedStr, ast.Constant))
    )
    page = (DOCS / "troubleshooting.md").read_text("utf-8")
    cells = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    quoted = [text for cell in cells for text in re.findall(r"`(.+?)`", cell)]
    assert len(quoted) >= 8
    for text in quoted:
        for piece in filter(None, (part.strip() for part in text.split("…"))):
            assert piece in said, f"featlab never says {piece!r}"


def documented_tables() -> tuple[dict[str, set[str]], dict[str, str]]:
    """The dictionary's tables with their own columns, and the tables whose columns they share."""
    text = (DOCS / "tables.md").read_text("utf-8")
    own: dict[str, set[str]] = {}
    shared: dict[str, str] = {}
    for section in re.split(r"^#{2,3} ", text, flags=re.MULTILINE)[1:]:
        name, _, body = section.partition("\n")
        if not re.fullmatch(r"[a-z_]+", name):
            continue
        own[name] = set()
        if found := re.search(r"All\s+columns\s+of\s+`(\w+)`", body):
            shared[name] = found[1]
        for line in body.splitlines():
            if not line.startswith("| `"):
                continue
            for column, interval in re.findall(r"`([^`]+)`( ±)?", line.split("|")[1]):
                ends = ("", "_low", "_high") if interval else ("",)
                own[name] |= {column + end for end in ends}
    return own, shared


def small_network(path: Path, side: int) -> None:
    """A rectified network that every command runs in a moment."""
    import keras

    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((side, side, 3)),
        keras.layers.Rescaling(1 / 255),
        keras.layers.Conv2D(6, 3, strides=4, padding="same", activation="relu", name="early"),
        keras.layers.Conv2D(12, 3, strides=2, padding="same", activation="relu", name="late"),
        keras.layers.GlobalAveragePooling2D(),
        keras.layers.Dense(2, activation="softmax"),
    ]
    keras.Sequential(layers).save(path)


@pytest.fixture(scope="session")
def written(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Every table that a command writes, with its columns."""
    from featlab import backbones, neurons

    folder = tmp_path_factory.mktemp("tables")
    small_network(folder / "mine.keras", 56)
    small_network(folder / "small.keras", 32)
    lines = [
        "extract pictures -o mine.h5 --backbone mine.keras",
        "extract pictures -o other.h5 --backbone mine.keras --layers early",
        "neurons mine.h5 -o neurons/neurons.csv",
        "heads mine.h5 -o heads --curve --heads nearest_centroid",
        "heads mine.h5 -o folds --folds 2 --heads nearest_centroid",
        "heads mine.h5 other.h5 -o several --heads nearest_centroid",
        "localise mine.h5 -o localise/localisation.csv --methods sum",
        "boxheads mine.h5 -o boxheads --heads ridge_pca",
        "audit mine.h5 -o audit",
        "embed mine.h5 -o embed",
        "gradients mine.h5 -o gradients --backbone mine.keras --images 2",
        "finetune pictures -o finetune --backbone mine.keras --epochs 1 --small-images 32",
        "compare mine.h5 other.h5 -o compare",
        "report mine.h5 -o reported",
        "run loose -o unlabelled --backbone mine.keras",
    ]

    def load(name: str, weights: object = None, input_size: int = 56) -> backbones.Backbone:
        return backbones.load_backbone("small.keras" if input_size == 32 else name)

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("featlab.pipeline._analysis.BOX_HEADS", ("ridge_pca",))
        patch.setattr("featlab.pipeline.transfer.load_backbone", load)
        os.symlink(finished / "my_pictures", "pictures")
        Path("loose").mkdir()  # in no class folder: a set without labels
        for k, picture in enumerate(sorted(Path("pictures").glob("*/*.jpg"))[:60]):
            os.symlink(picture.resolve(), f"loose/{k}.jpg")
        for made in ("neurons", "localise"):
            Path(made).mkdir()
        for line in lines:
            featlab(line.split())
        # As if nobody had drawn a box.
        patch.setattr("featlab.predict.true_boxes", lambda _, boxes, kind=None: boxes.iloc[:0])
        featlab(["suggest", str(finished / "results"), "-n", "3", "-o", "suggest"])
    # What takes detectors on the object, or three classes.
    report.page.write_tables(make_results(), folder / "made-up")
    rng = np.random.default_rng(0)
    several = neurons.compare_classes(rng.random((30, 4)), np.repeat(["a", "b", "c"], 10))
    write_table(several, folder / "made-up" / "omnibus.csv")
    tables: dict[str, set[str]] = {}
    for file in [*folder.glob("*/*.csv"), *finished.glob("results/*.csv")]:
        # Columns of predictions are described where they are made: docs/predict.md.
        if file.parent.name != "pictures" and file.stem != "predictions":
            columns = pd.read_csv(file, nrows=0).columns
            named = {re.sub(r"^p:.*", "p:<class>", column) for column in columns}
            tables.setdefault(file.stem, set()).update(named)
    return tables


@pytest.mark.slow
def test_the_dictionary_names_every_table_that_is_written(written: dict[str, set[str]]) -> None:
    assert set(documented_tables()[0]) == set(written)


@pytest.mark.slow
def test_the_dictionary_names_every_column_and_no_other(written: dict[str, set[str]]) -> None:
    own, shared = documented_tables()
    for name in own.keys() & written.keys():
        described = own[name] | own.get(shared.get(name, ""), set())
        assert written[name] <= described, f"{name}: not described: {written[name] - described}"
        assert own[name] <= written[name], f"{name}: not written: {own[name] - written[name]}"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_asks_for_nothing(tmp_path: Path) -> None:
    for needed in ("sphinx", "myst_parser", "numpydoc", "pydata_sphinx_theme", "sphinx_design"):
        pytest.importorskip(needed, reason=f"{needed}, of the docs extra, is not installed")
    # The reference is written beside the pages, so the build works on a copy of them.
    shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns(*GENERATED))
    for file in ("CONTRIBUTING.md", "CHANGELOG.md"):
        shutil.copy(ROOT / file, tmp_path)
    site = tmp_path / "site"
    arguments = ["-m", "sphinx", "-W", "--keep-going", "-q", tmp_path / "docs", site]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pages = {
        file.relative_to(site).as_posix(): file.read_text("utf-8") for file in site.rglob("*.html")
    }
    for room in re.findall(r"^\| `(\w+)` \|", (DOCS / "design.md").read_text("utf-8"), re.M):
        if room == "cli":
            continue
        module = __import__(f"featlab.{room}", fromlist=["__all__"])
        for name in getattr(module, "__all__", []):
            assert f'id="featlab.{room}.{name}"' in pages[f"api/{room}.html"], f"{room}.{name}"
    loaded = re.compile(r'<(?:script|link|img)[^>]+(?:src|href)="((?:https?:)?//[^"]+)"')
    for name, text in pages.items():
        assert not loaded.findall(text), f"{name} loads {loaded.findall(text)}"


def test_the_glossary_of_the_page_is_that_of_the_documentation() -> None:
    text = " ".join((DOCS / "glossary.md").read_text("utf-8").split())
    places = [text.index(f"- **{term.name}**: {term.text}") for term in GLOSSARY.values()]
    assert places == sorted(places) and text.count("- **") == len(places)


def test_the_citation_file_is_valid() -> None:
    """Citation File Format 1.2: the required keys, and no address that is made up."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert citation["version"] == __import__("featlab").__version__
    assert citation["license"] == "BSD-3-Clause"
    assert not {"doi", "url", "repository-code"} & set(citation)


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name
)
def test_lines_are_short(page):
    """A difference of two versions is read line by line; tables and formulas cannot be broken."""
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text("utf-8"), flags=re.M | re.S)
    whole = ("|", "![", "$$", "<")
    lines = [line for line in prose.splitlines() if not line.lstrip().startswith(whole)]
    assert not [line for line in lines if len(line) > 100 and " " in line.strip("` -")[:99]]
