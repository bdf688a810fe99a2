"""What a file from elsewhere cannot do: run code, reach other files, act in a spreadsheet."""

from __future__ import annotations

import ast
import io
import itertools
import json
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from conftest import FakeBackbone
from fake_results import HOSTILE, make_results
from test_torch_weights import MAGIC, PROTOCOL, _Global, _Name, _Pickler, _tensor, write_legacy

import featlab
from featlab import FeatlabError, cli, datasets, heads, report
from featlab.backbones.efficientnet_lite import read_state_dict
from featlab.cli._pages import file_name
from featlab.extract import extract_maps
from featlab.finetune._training import read_state
from featlab.images import index_images
from featlab.results import GradientResults, Transfer
from featlab.store import MapStore
from featlab.system.files import write_table

PACKAGE = Path(featlab.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

# --------------------------------------------------------------------- no code out of files

RUNS_CODE = {
    "pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib.load", "marshal", "shelve",
    "torch", "xml.dom", "xml.sax", "lxml", "code", "codeop", "runpy", "imp",
}  # fmt: skip
CALLS_CODE = {"joblib.load", "eval", "exec", "compile", "__import__", "execfile"}
UNSAFE_ATTRIBUTES = {
    "read_pickle", "to_pickle", "unsafe_load", "system", "popen", "enable_unsafe_deserialization",
}  # fmt: skip


def name_of(node: ast.AST) -> str:
    return ast.unparse(node) if isinstance(node, (ast.Name, ast.Attribute)) else ""


def imports_of(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_nothing_that_runs_what_it_reads(file):
    tree = ast.parse(file.read_text("utf-8"))
    bad = {one for one in imports_of(tree) if one in RUNS_CODE or one.split(".")[0] in RUNS_CODE}
    assert not bad
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        called = name_of(node.func)
        last = called.rpartition(".")[2]
        arguments = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        assert called not in CALLS_CODE and last not in UNSAFE_ATTRIBUTES, called
        if called.startswith("yaml.") and "yaml" in imports_of(tree):
            assert called == "yaml.safe_load"
        assert arguments.get("shell", "False") == "False"
        if called in ("np.load", "numpy.load", "np.savez", "np.save"):
            assert arguments.get("allow_pickle") == "False", f"line {node.lineno}"
        if last == "load_model":
            assert arguments.get("safe_mode") == "True", f"line {node.lineno}"
        if last in ("fromstring", "XML", "parse", "iterparse") and "ElementTree" in called:
            # Only with the parser that refuses a DOCTYPE, so that there are no entities.
            assert ast.unparse(node.args[-1]) == "parser"
            assert "XMLParser(target=_RefuseDoctype())" in file.read_text("utf-8")


@pytest.fixture
def no_pickles(monkeypatch):
    def refuse(*arguments: object, **options: object) -> None:
        raise AssertionError("a pickle was read")

    monkeypatch.setattr(pickle, "loads", refuse)
    monkeypatch.setattr(pickle, "load", refuse)
    monkeypatch.setattr(pickle, "Unpickler", refuse)


def object_array(payload: object) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([payload], dtype=object), allow_pickle=True)
    return buffer.getvalue()


class Touches:
    """Makes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def test_pickles_in_every_kind_of_file(picture_folder, tmp_path, no_pickles):
    """In heads, checkpoints, tables and stores: refused, and nothing has run."""
    mark = tmp_path / "ran"
    data = object_array(Touches(mark))
    for name in ("head.npz", "state.npz", "gradient_examples.npz"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            for member in ("format", "version", "classes", "about", "facts"):
                archive.writestr(f"{member}.npy", data)
    (tmp_path / "plain.npz").write_bytes(pickle.dumps(Touches(mark)))
    for name in ("head.npz", "plain.npz"):
        with pytest.raises(FeatlabError, match=name):
            heads.load_head(tmp_path / name)
    with pytest.raises(FeatlabError, match="state.npz"):
        read_state(tmp_path / "state.npz", {})
    with pytest.raises(FeatlabError, match="no finished results"):
        GradientResults.load(tmp_path)
    (tmp_path / "transfer.json").write_bytes(pickle.dumps(Touches(mark)))
    with pytest.raises(FeatlabError, match="transfer.json is damaged"):
        Transfer.load(tmp_path)
    images, _, _ = index_images(picture_folder({"a": 3, "b": 3}))
    path = tmp_path / "maps.h5"
    extract_maps(images, FakeBackbone(), path).close()
    with h5py.File(path, "r+") as file:
        del file["images/label"]
        file["images/label"] = np.frombuffer(pickle.dumps(Touches(mark)), np.uint8)[:6]
        file["provenance"].attrs["backbone"] = np.void(pickle.dumps(Touches(mark)))
    with pytest.raises(FeatlabError, match="damaged at /images/label"):
        MapStore(path)
    assert not mark.exists()


# ---------------------------------------------------------------------- hostile .pth files


def pth(tmp_path: Path, *opcodes: bytes) -> Path:
    """A legacy torch file whose state dict is these instructions."""
    path = tmp_path / "hostile.pth"
    head = b"".join(pickle.dumps(item, 2) for item in (MAGIC, PROTOCOL, {"little_endian": True}))
    path.write_bytes(head + b"\x80\x02" + b"".join(opcodes) + b"." + pickle.dumps([], 2))
    return path


def text(value: str) -> bytes:
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


DEEP = b"".join([b")", b"".join(b"q\x00h\x00\x86" for _ in range(200))])

HOSTILE_PICKLES = {
    "call by name": (b"cos\nsystem\n", text("touch {mark}"), b"\x85R"),
    "eval": (b"cbuiltins\neval\n", text("open('{mark}', 'w')"), b"\x85R"),
    "name from the stack": (text("os"), text("system"), b"\x93", text("touch {mark}"), b"\x85R"),
    "instance": (b"(", text("touch {mark}"), b"ios\nsystem\n"),
    "object": (b"(cos\nsystem\n", text("touch {mark}"), b"o"),
    "new object": (b"ccollections\nOrderedDict\n)\x81",),
    "new object with keywords": (b"ccollections\nOrderedDict\n)}\x92",),
    "call in a call": (
        b"ctorch._utils\n_rebuild_tensor_v2\n(cos\nsystem\n", text("touch {mark}"), b"\x85RtR",
    ),
    "call of a call": (b"ccollections\nOrderedDict\n)R)R",),
    "call of text": (b"ctorch\nFloatStorage\n)R",),
    "name hidden in the memo": (
        b"cos\nsystem\nq\x000ccollections\nOrderedDict\nq\x010h\x00",
        text("touch {mark}"), b"\x85R",
    ),
    "memo with a giant index": (b"}", b"r" + struct.pack("<I", 2**32 - 1)),
    "extension": (b"\x82\x01)R",),
    "out-of-band buffer": (b"\x97",),
    "read-only buffer": (b"\x97\x98",),
    "giant byte array": (b"\x96" + struct.pack("<Q", 2**40) + b"x",),
    "giant text": (b"\x8d" + struct.pack("<Q", 2**40) + b"x",),
    "giant number": (b"\x8b" + struct.pack("<I", 2**31 - 1) + b"x",),
    "frame": (b"\x95" + struct.pack("<Q", 2**40) + b"x",),
    "state": (b"ccollections\nOrderedDict\n)R}", text("__class__"), text("x"), b"sb"),
    "nested key": (b"}" + DEEP + b"K\x01s",),
    "set of nested tuples": (DEEP + b"\x8f",),
    "endless marks": (b"(" * 100_000,),
    "nothing on the stack": (b"R",),
    "attribute of a name": (b"cos.path\nos.system\n", text("touch {mark}"), b"\x85R"),
    "name with a line": (b"Vos\n", text("system"), b"\x93)R"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_PICKLES)
def test_hostile_weights_are_refused_unrun(tmp_path, name, no_pickles):
    mark = tmp_path / "ran"
    opcodes = [one.replace(b"{mark}", str(mark).encode()) for one in HOSTILE_PICKLES[name]]
    path = pth(tmp_path, *opcodes)
    if name in ("state", "endless marks", "memo with a giant index"):
        # Harmless: the state is left out, a memo's index is a key, marks are small.
        try:
            assert read_state_dict(path) == {}
        except FeatlabError as error:
            assert "hostile.pth" in str(error)
    else:
        with pytest.raises(FeatlabError, match="hostile.pth"):
            read_state_dict(path)
    assert not mark.exists()


def test_one_number_does_not_become_terabytes(tmp_path):
    tensor = _tensor("0", 4, 0, (10**7, 10**7), (0, 0))
    path = write_legacy(tmp_path / "w.pth", {"weight": tensor}, {"0": np.arange(4.0)})
    with pytest.raises(FeatlabError, match="weight lies outside its storage"):
        read_state_dict(path)


def test_honest_weights_need_no_pickle(tmp_path, no_pickles):
    state = OrderedDict(a=_tensor("0", 6, 0, (2, 3), (3, 1)))
    path = tmp_path / "w.pth"
    with path.open("wb") as file:
        for item in (MAGIC, PROTOCOL, {"little_endian": True, "sizes": {"int": 4}}):
            _Pickler(file, protocol=2).dump(item)
        _Pickler(file, protocol=2).dump(dict(state))
        _Pickler(file, protocol=2).dump(["0"])
        file.write(struct.pack("<q", 6) + np.arange(6.0).astype("<f4").tobytes())
    np.testing.assert_array_equal(read_state_dict(path)["a"], np.arange(6.0).reshape(2, 3))
    assert _Name and _Global


def test_a_hostile_keras_file_is_refused_unrun(tmp_path):
    """A Lambda layer is code; in safe mode Keras does not unpack it."""
    keras = pytest.importorskip("keras")
    mark = tmp_path / "ran"
    inputs = keras.Input((32, 32, 3))

    def touch(x, path=str(mark)):
        open(path, "w").close()
        return x

    outputs = keras.layers.Conv2D(4, 3)(keras.layers.Lambda(touch)(inputs))
    path = tmp_path / "hostile.keras"
    keras.Model(inputs, outputs).save(path)
    mark.unlink(missing_ok=True)
    from featlab.backbones import load_backbone

    with pytest.raises(FeatlabError, match="hostile.keras could not be loaded"):
        load_backbone(path, preprocessing="none").probe()
    assert not mark.exists()
    # A class or a function by its name is code, too.
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
        rest = {name: archive.read(name) for name in archive.namelist() if name != "config.json"}
    config |= {"module": "os", "class_name": "system", "registered_name": None}
    config["config"] = {"command": f"touch {mark}"}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        for name, data in rest.items():
            archive.writestr(name, data)
    with pytest.raises(FeatlabError, match="hostile.keras could not be loaded"):
        load_backbone(path, preprocessing="none").probe()
    assert not mark.exists()


# ---------------------------------------------------------------------------- spreadsheets

FORMULAS = [
    "=HYPERLINK(1)", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "＝1", "＋1", "－1", "＠1",
    "'=1", "''=1", "'", "'plain", "plain", "a=1", " =1", "", "-", "é",
]  # fmt: skip
NUMBER = re.compile(r"-[\d.]+(e-?\d+)?|-inf")
RUNS = re.compile("[=+@\\-＝＋－＠\t\r\n]")


@pytest.mark.parametrize("dtype", [object, "category", "string"])
def test_formulas_are_text_in_csv_and_exact_in_parquet(tmp_path, dtype):
    table = pd.DataFrame({"=column": pd.Series(FORMULAS, dtype=dtype), "number": -1.5})
    for suffix in (".csv", ".parquet"):
        write_table(table, tmp_path / f"table{suffix}")
    exact = pd.read_parquet(tmp_path / "table.parquet")
    assert exact["=column"].astype(str).tolist() == FORMULAS
    written = pd.read_csv(tmp_path / "table.csv", keep_default_na=False, lineterminator="\n")
    assert written.columns.tolist() == ["'=column", "number"]
    assert written["number"].eq(-1.5).all()  # numbers stay numbers
    cells = written["'=column"].tolist()
    assert not [cell for cell in cells if RUNS.match(cell)]
    # As the docstring of write_table tells how to read it.
    back = [cell[1:] if re.match("'+[=+@\\-＝＋－＠\t\r\n]", cell) else cell for cell in cells]
    assert back == FORMULAS


def test_every_table_of_a_report_is_harmless(tmp_path):
    report.page.write_tables(make_results(HOSTILE, n=400), tmp_path)
    found = 0
    for file in tmp_path.glob("*.csv"):
        table = pd.read_csv(file, dtype=str, keep_default_na=False)
        for cell in itertools.chain(table.columns, table.to_numpy().ravel()):
            assert not RUNS.match(cell) or re.fullmatch(r"-[\d.]+(e-?\d+)?|-inf", cell), (
                file,
                cell,
            )
            found += cell.startswith("'=HYPERLINK")
    assert found


def test_csv_for_people_is_written_in_one_place():
    allowed = {"system/tables.py"}  # what escapes
    allowed |= {"datasets/__init__.py", "datasets/_sets.py"}  # our own names
    for file in SOURCES:
        name = file.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and name_of(node.func).endswith(".to_csv"):
                # Without a file it is text for a digest.
                assert name in allowed or not node.args, f"{name} line {node.lineno}"


# ------------------------------------------------------------------------- names and places

BAD_NAMES = [
    "../up",
    "..",
    "/abs",
    "a/../../up",
    "CON",
    "a\\..\\b",
    "x" * 300,
    "图" * 120,
    ".hidden",
]


def everything_below(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.parametrize(
    "path", ["../x.png", "/etc/passwd", "a/../../x.png", "C:\\x", "a\0.png", ".."]
)
def test_an_index_cannot_name_pictures_elsewhere(tmp_path, path):
    (tmp_path / "index.csv").write_text(f"path,label\n{path},a\n")
    with pytest.raises(FeatlabError, match="must be relative to the CSV|NUL"):
        index_images(tmp_path / "index.csv")


def test_a_store_cannot_name_other_files(picture_folder, tmp_path):
    images, _, _ = index_images(picture_folder({"a": 3, "b": 3}))
    path = tmp_path / "maps.h5"
    extract_maps(images, FakeBackbone(), path).close()
    (tmp_path / "secret").write_bytes(b"secret" * 1000)
    with h5py.File(tmp_path / "other.h5", "w") as other:
        other["secret"] = np.array(["secret"] * 6, dtype=h5py.string_dtype())
    for number in range(2):
        copy = shutil.copy(path, tmp_path / f"copy{number}.h5")
        with h5py.File(copy, "r+") as file:
            del file["images/label"]
            if number:
                file["images/label"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "/secret")
            else:
                secret = [(str(tmp_path / "secret"), 0, 36)]
                file.create_dataset("images/label", (6,), "S6", external=secret)
        with pytest.raises(FeatlabError, match="/images/label lies in another file"):
            MapStore(copy)


@pytest.mark.slow
def test_layers_and_classes_of_any_name_stay_in_the_folder(tmp_path, blank_figures):
    """Layer names come from a user's network, class names from folders and CSV files."""
    folder, out = tmp_path / "data", tmp_path / "out"
    folder.mkdir()
    rng = np.random.default_rng(0)
    lines = ["path,label"]
    from PIL import Image

    for number in range(48):
        Image.fromarray(rng.integers(0, 256, (20, 20, 3)).astype(np.uint8)).save(
            folder / f"{number}.png"
        )
        lines.append(f'{number}.png,"{BAD_NAMES[number % 2 * 6]}"')
    (folder / "index.csv").write_text("\n".join(lines))
    images, _, _ = index_images(folder / "index.csv")
    layers = ("..conv", "top")
    extract_maps(images, FakeBackbone(layers=layers), out / "maps.h5").close()
    with MapStore(out / "maps.h5") as store:
        assert store.layers == list(layers)
        store.verify()
    assert everything_below(tmp_path) - everything_below(folder) >= {"out/maps.h5"}
    assert {path.name for path in tmp_path.iterdir()} == {"data", "out"}
    results = make_results(BAD_NAMES[:7], n=70, c=14)
    report.write_report(results, out / "page" / "report.html")
    report.write_figures(results, out / "figures")
    assert {path.name for path in tmp_path.iterdir()} == {"data", "out"}
    assert {path.name for path in out.iterdir()} == {"maps.h5", "page", "figures"}
    for path in out.rglob("*"):
        assert re.fullmatch(r"[\w.-]+", path.name), path


@pytest.mark.parametrize("label", BAD_NAMES)
def test_names_of_cards_lead_nowhere(label):
    """The rule by which `featlab neurons` names a card, for any class and layer."""
    name = file_name(f"../x_mean_3_{label}")
    assert re.fullmatch(r"[A-Za-z0-9._-]{1,120}", name) and name not in (".", "..")


def test_names_of_cards_are_short_and_differ():
    assert len(file_name("图" * 120).encode()) <= 255
    names = ["a b", "a+b", "a_b", "图", "圖", "x" * 200, "x" * 201, "conv_mean_3_cat"]
    assert len({file_name(name) for name in names}) == len(names)
    assert file_name("conv-1") == "conv-1"


# ------------------------------------------------------------------------------ the same twice

RUN = """
import sys
sys.path.insert(0, {tests!r})
from conftest import FakeBackbone
from featlab import cli
cli._pass.load_network = lambda *a, **k: FakeBackbone()
for command in {commands!r}:
    sys.argv = ["featlab", *command]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code, command
"""


def results_of(command: str, scenes: Path, out: Path) -> list[list[str]]:
    """The pass and what follows it, into a folder."""
    store = str(out / "maps.h5")
    if command == "run":
        return [["run", str(scenes), "-o", str(out)]]
    return [
        ["extract", str(scenes), "-o", store],
        ["neurons", store, "-o", str(out / "neurons.parquet")],
        *([] if command == "neurons" else others(store, out)),
    ]


def others(store: str, out: Path) -> list[list[str]]:
    return [
        ["heads", store, "--heads", "logistic,knn", "-o", str(out / "heads")],
        ["localise", store, "--methods", "cam,detectors", "-o", str(out / "boxes.csv")],
    ]


@pytest.mark.slow
@pytest.mark.parametrize("command", ["neurons", "tables", "run"])
def test_two_processes_give_the_same_bytes(tmp_path, command, monkeypatch):
    """Whatever order sets have: every table is the same, but for the columns that tell seconds.

    Python orders them by a seed, in this process by one of its own.
    """
    scenes = datasets.write_scenes(tmp_path / "scenes", 24, random_state=1)
    here, there = tmp_path / "here", tmp_path / "there"
    program = RUN.format(
        tests=str(Path(__file__).parent), commands=results_of(command, scenes, there)
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        stdout=subprocess.DEVNULL,
    ) as process:
        monkeypatch.setattr(sys, "argv", sys.argv)
        monkeypatch.setattr(cli._pass, "load_network", lambda *a, **k: FakeBackbone())
        for arguments in results_of(command, scenes, here):
            sys.argv = ["featlab", *arguments]
            with pytest.raises(SystemExit) as end:
                cli.main()
            assert not end.value.code
        assert process.wait(600) == 0
    found = []
    for out in (here, there):
        files: dict[str, object] = {}
        for path in sorted(out.rglob("*")):
            name = str(path.relative_to(out))
            if path.suffix in (".csv", ".parquet"):
                files[name] = without_seconds(path)
        with MapStore(out / "maps.h5") as store:
            files["maps"] = store.maps().tobytes() + store.pooled().tobytes()
            files["truth"] = store.boxes.to_csv(index=False)
        found.append(files)
    first, second = found
    least = 2 if command == "neurons" else 6
    assert first.keys() == second.keys() and len(first) > least, first.keys()
    assert not [name for name in first if first[name] != second[name]]


def without_seconds(path: Path) -> object:
    """The bytes of a table; of one that tells seconds, everything else as text."""
    table = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    timed = [column for column in table if "seconds" in str(column)]
    if not timed:
        return path.read_bytes()
    return table.drop(columns=timed).map(repr).to_csv(index=False)
