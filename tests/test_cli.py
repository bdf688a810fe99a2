"""The command line: the same pipeline, one line for a mistake."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from conftest import FakeBackbone
from fake_results import make_results
from PIL import Image

from featlab import cli, datasets, predict
from featlab.cli import _pass, _questions
from featlab.cli._options import Pass
from featlab.features import feature_table
from featlab.neurons import compare_classes
from featlab.splits import make_split
from featlab.store import MapStore

pytestmark = pytest.mark.usefixtures("few_fits")


@pytest.fixture
def fake_network(monkeypatch):
    networks = []

    def load(*arguments, **options):
        networks.append(FakeBackbone())
        return networks[-1]

    monkeypatch.setattr(cli._pass, "load_network", load)
    return networks


def featlab(*arguments: object) -> int:
    """Run the command line in this process; returns the exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["featlab", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
    return int(end.value.code or 0)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    return datasets.write_scenes(tmp_path_factory.mktemp("data") / "scenes", 40, random_state=1)


def test_a_library_tells_nothing_of_itself():
    assert featlab("--version") == 0
    assert logging.getLogger("matplotlib").level > logging.INFO


def test_run_leaves_everything_and_a_second_run_makes_no_forward_pass(
    scenes, tmp_path, fake_network, capsys, blank_figures
):
    """A file that is no picture is skipped, counted and named."""
    out, pictures = tmp_path / "out", shutil.copytree(scenes, tmp_path / "scenes")
    (pictures / "striped" / "bad.png").write_bytes(b"not a picture")
    assert featlab("run", pictures, "-o", out, "--on-error", "skip") == 0
    printed = capsys.readouterr().out
    assert f"report: {out / 'report.html'}" in printed
    names = {file.name for file in out.iterdir()}
    assert names >= {
        "maps.h5", "heads.csv", "neurons.csv", "neurons.parquet", "detectors.csv",
        "localisation.csv", "report.html", "summary.json",
    }  # fmt: skip
    first = json.loads((out / "summary.json").read_text("utf-8"))
    assert first["n_images"] == 40
    assert first["map_shape"] == [7, 7, 10]
    assert {"logistic", "mlp", "dummy", "colour_histogram"} <= set(first["heads"])
    assert {"accuracy", "low", "high", "n"} <= set(first["heads"]["logistic"])
    assert {"centre_gaussian", "whole_image", "mean_box", "cam"} <= set(first["localisation"])
    assert {"box_accuracy", "mean_iou", "n"} <= set(first["localisation"]["cam"])
    assert set(first["detectors"]) == set(first["classes"])
    assert first["seconds"]["extract"] > 0
    table = pd.read_parquet(out / "neurons.parquet")
    assert (
        len(table) == len(pd.read_csv(out / "neurons.csv")) == 2 * 2 * 10
    )  # classes, poolings, neurons
    # Fitted again on all images: the file alone is another one, no score changes.
    assert predict.load_predictor(out).refitted == 0
    assert featlab("run", pictures, "-o", out, "--on-error", "skip", "--refit", "--brief") == 0
    assert predict.load_predictor(out).refitted == 40
    assert json.loads((out / "summary.json").read_text("utf-8"))["refitted_on"] == 40
    told = capsys.readouterr().out
    assert "fitted again on all 40 labelled images" in told and "in brief: " in told
    assert "The numbers behind the answers" in (out / "brief.html").read_text("utf-8")
    page = (out / "report.html").read_text("utf-8")
    assert "model.featlab was fitted again on all 40 labelled images" in page
    assert "striped/bad.png" in page
    with MapStore(out / "maps.h5") as store:
        assert store.skipped["path"].tolist() == ["striped/bad.png"]
    assert fake_network[0].calls == 2
    assert (fake_network[1].calls, fake_network[1].probes) == (0, 0)
    second = json.loads((out / "summary.json").read_text("utf-8"))
    assert "extract" not in second["seconds"]
    for key in ("heads", "detectors", "localisation"):
        assert second[key] == first[key]


def test_commands_on_a_store(scenes, tmp_path, fake_network, capsys, monkeypatch, blank_figures):
    made_up = make_results(n=60, c=8, boxes=False, pictures=False, detectors=False)
    store = tmp_path / "maps.h5"
    assert featlab("extract", scenes, "-o", store) == 0
    calls = fake_network[0].calls
    for command in ("info", "verify", "neurons", "localise"):
        assert featlab(command, tmp_path) == 0, command  # a folder with one store is that store
    out = capsys.readouterr().out
    for words in (
        "class striped: 20 images",
        "backbone: fake",
        "all is well",
        "confirmed detectors",
    ):
        assert words in out
    assert "centre_gaussian" in out
    fine = tmp_path / "fine.csv"
    assert featlab("localise", store, "--threshold-step", "0.001", "-o", fine) == 0
    assert (pd.read_csv(fine)["threshold"].dropna() * 1000 % 10).round(6).between(0.5, 9.5).any()
    capsys.readouterr()
    assert featlab("localise", store, "--threshold-step", "0.5") == 1
    assert "threshold_step must be one of (0.01, 0.001), got 0.5" in capsys.readouterr().err
    # The analysis itself is that of `run`, above, and of `report` in test_gradients_results.
    monkeypatch.setattr("featlab.pipeline.analyse", lambda store, **_: made_up)
    assert featlab("report", store, "-o", tmp_path / "report") == 0
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
    assert fake_network[0].calls == calls


@pytest.fixture(scope="module")
def stores(scenes, tmp_path_factory):
    """Two stores of the same scenes, the second with other weights."""
    folder = tmp_path_factory.mktemp("stores")
    for i in range(2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(cli._pass, "load_network", lambda *a, i=i, **k: FakeBackbone(gain=1 + i))
            assert featlab("extract", scenes, "-o", folder / f"net{i}.h5") == 0
    return folder / "net0.h5", folder / "net1.h5"


def written(folder):
    return {file.name for file in folder.iterdir() if not file.name.startswith(".")}


@pytest.mark.slow
def test_heads_of_one_store_and_of_two(stores, tmp_path, capsys):
    assert featlab("heads", stores[0], "--heads", "logistic,knn", "--curve", "-o", tmp_path) == 0
    out = capsys.readouterr().out
    assert "pairs of heads, on the same test images" in out
    assert "McNemar" in out
    assert "on fewer images per class" in out
    assert written(tmp_path) >= {
        "heads.csv", "head_pairs.parquet", "calibration.svg", "learning_curve.png",
        "logistic.npz",
    }  # fmt: skip
    assert set(pd.read_csv(tmp_path / "heads.csv")["head"]) >= {"logistic", "knn", "dummy"}
    assert featlab("heads", *stores, "--heads", "logistic", "-o", tmp_path / "two") == 0
    table = pd.read_csv(tmp_path / "two" / "backbones.csv", keep_default_na=False)
    assert set(table["backbone"]) == {"", "net0", "net1"}
    assert (tmp_path / "two" / "backbones.svg").stat().st_size > 1000
    assert featlab("heads", stores[0], "--heads", "logistic", "--folds", "3") == 0
    assert "corrected resampled t" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["info", "verify", "report", "compare", "localise", "neurons", "heads", "embed"]
)
def test_a_fresh_process_refuses_a_file_that_is_no_store_in_a_sentence(tmp_path, command):
    (tmp_path / "odd.h5").write_bytes(b"a thesis")
    asked = [command, "odd.h5", *(["-o", "out"] * (command in ("report", "compare", "embed")))]
    ended = subprocess.run(
        [sys.executable, "-m", "featlab", *asked], cwd=tmp_path, capture_output=True, text=True
    )
    assert ended.returncode == 1
    assert re.search("featlab: odd.h5 is not a featlab store", ended.stderr), ended.stderr[-500:]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a shell is needed")
@pytest.mark.slow
def test_a_store_of_another_is_read_by_a_process_that_may_die(
    stores, tmp_path, monkeypatch, capsys
):
    assert featlab("verify", stores[0], "--untrusted") == 0
    assert "all is well" in capsys.readouterr().out
    short = tmp_path / "short.h5"
    short.write_bytes(stores[0].read_bytes()[:5000])
    assert featlab("verify", short, "--untrusted") == 1
    assert re.search("featlab: .*short.h5 .*truncated", capsys.readouterr().err)
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -SEGV $$\n")
    dying.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(dying))
    monkeypatch.setattr("featlab.system.files.is_own", lambda path: False)
    for command in (("verify", stores[0], "--untrusted"), ("report", stores[0], "-o", tmp_path)):
        assert featlab(*command) == 1
        assert "net0.h5 was not opened: the process that read it died (SIGSEGV)" in (
            capsys.readouterr().err
        )


def test_audit_says_pass_warn_or_fail(stores, tmp_path, capsys):
    assert featlab("audit", stores[0], "-o", tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    verdicts = [line.split()[0] for line in lines if ":" in line and not line.startswith("tables")]
    assert set(verdicts) <= {"pass", "warn", "fail", "not"}
    assert len(verdicts) >= 10
    assert written(tmp_path) >= {"audit.csv", "confounds.png", "duplicates.parquet"}


@pytest.mark.slow
def test_boxheads_of_scenes(stores, tmp_path, capsys):
    asked = ("--heads", "ridge_pca,gradient_boosting", "-o", tmp_path)
    assert featlab("boxheads", stores[0], *asked) == 0
    out = capsys.readouterr().out
    assert "mean_box" in out and "gradient_boosting is not written: its trees are objects" in out
    assert written(tmp_path) >= {"box_heads.csv", "boxes.parquet", "boxes.png"}
    assert [file for file in written(tmp_path) if file.endswith(".boxhead")] == [
        "ridge_pca.boxhead"
    ]
    assert featlab("boxheads", stores[0], "--heads", "odd") == 1
    assert "odd" in capsys.readouterr().err


@pytest.fixture(scope="module")
def coloured(tmp_path_factory):
    """A store of red and blue pictures, which the fake network tells apart."""
    folder, rng = tmp_path_factory.mktemp("coloured"), np.random.default_rng(0)
    for label, channel in (("blue", 2), ("red", 0)):
        (folder / "pictures" / label).mkdir(parents=True)
        for i in range(40):
            pixels = rng.integers(0, 150, (30, 30, 3), dtype=np.uint8)
            pixels[..., channel] += 80
            Image.fromarray(pixels).save(folder / "pictures" / label / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cli._pass, "load_network", lambda *a, **k: FakeBackbone())
        assert featlab("extract", folder / "pictures", "-o", folder / "maps.h5") == 0
    return folder / "maps.h5"


def test_neurons_that_are_needed(coloured, tmp_path, capsys):
    options = ("--needed", "--cards", tmp_path / "cards", "--top", "1")
    assert featlab("neurons", coloured, *options, "-o", tmp_path / "n.parquet") == 0
    shown = pd.read_parquet(tmp_path / "n.parquet")
    kept = shown[shown["confirmed"] & (shown["direction"] == "active")]
    assert len(written(tmp_path / "cards")) == kept["class"].nunique() > 0
    out = capsys.readouterr().out
    assert "confirmed detectors" in out
    assert "set to their training mean" in out
    assert "as good within one standard error" in out


def test_neurons_of_which_none_is_needed(stores, capsys):
    assert featlab("neurons", stores[0], "--needed", "--min-auroc", "1") == 0
    assert "nothing to take out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("run", "nowhere", "-o", "out"), 1, "nowhere"),
        (("info", "nowhere.h5"), 1, "there is no store nowhere.h5"),
        (("verify", "text.h5"), 1, "text.h5 is not a featlab store"),
        (("run", "pictures"), 2, "--output"),
        (("frobnicate",), 2, "No such command"),
        (("run", "pictures", "-o", "out", "--batch-size", "0"), 2, "batch-size"),
        (("run", "one_class", "-o", "out1"), 1, "class"),
        (("run", "single", "-o", "out2"), 1, "class 'b' has 1 image"),
        (("run", "bad", "-o", "out3"), 1, "bad.png.*--on-error skip"),
    ],
)
def test_a_mistake_is_told_without_a_traceback(
    arguments, code, words, tmp_path, picture_folder, monkeypatch, capsys
):
    monkeypatch.setattr(cli._pass, "load_network", lambda *a, **k: FakeBackbone())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.h5").write_text("text")
    picture_folder({"a": 5, "b": 5})
    picture_folder({"a": 5}, name="one_class")
    picture_folder({"a": 8, "b": 1}, name="single")
    picture_folder({"a": 8, "b": 8}, name="bad")
    (tmp_path / "bad" / "a" / "bad.png").write_bytes(b"not a picture")
    assert featlab(*arguments) == code
    printed = capsys.readouterr().err
    assert re.search(words, printed, re.DOTALL), printed
    assert "Traceback" not in printed


def test_ctrl_c_says_how_to_go_on(scenes, tmp_path, monkeypatch, capsys):
    broken = FakeBackbone(fail_at=1, error=KeyboardInterrupt())
    monkeypatch.setattr(cli._pass, "load_network", lambda *a, **k: broken)
    assert featlab("run", scenes, "-o", tmp_path / "out") == 130
    assert "run the same command again to go on" in capsys.readouterr().err


def test_a_command_that_keeps_no_parts_promises_none(monkeypatch, capsys):
    def interrupted():
        raise SystemExit(130)

    monkeypatch.setattr(cli, "app", interrupted)
    assert featlab("gradients", "maps.h5") == 130
    told = capsys.readouterr().err
    assert "interrupted" in told and "Finished parts" not in told


@pytest.mark.parametrize("place", ["destructor", "bare", "other"])
def test_an_interrupt_that_a_library_loses_is_not_lost(place):
    """After a destructor or a bare except the command ran on; others make a TypeError of it."""
    code = f"""
import os, signal, sys, time
from featlab import cli
cli._PATIENCE = 0.2
signal.signal(signal.SIGINT, signal.default_int_handler)
class Handle:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.1)
@cli.app.command()
def work():
    if "{place}" == "destructor":
        Handle()
    else:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)
        except:
            if "{place}" == "other":
                raise TypeError("Cannot find maximum value")
    time.sleep(60)
    print("done")
sys.argv = ["featlab", "work"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (143, ""), done.stderr
    assert "interrupted" in done.stderr and not {"ignored", "Traceback"} & {*done.stderr.split()}


def test_help_answers_without_tensorflow():
    code = (
        "import sys; sys.argv = ['featlab', '--help']\nfrom featlab.cli import main\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'pandas', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for command in ("demo", "run", "extract", "info", "verify", "neurons", "localise", "report"):
        assert command in done.stdout


def parameters(command):
    """Names, type, help and default of each of a command's parameters."""
    hints = inspect.signature(getattr(cli, command), eval_str=True).parameters
    built = {one.name: one for one in typer.main.get_command(cli.app).commands[command].params}
    return {
        name: (hint.annotation.__args__, hint.default, built[name].opts, built[name].help)
        for name, hint in hints.items()
    }


def test_what_makes_a_store_takes_the_same_options_everywhere():
    commands = {name: parameters(name) for name in ("run", "extract", "finetune")}
    shared = {field.name for field in dataclasses.fields(Pass)}
    assert {"images", "engine", "precision", "layers", "dtype", "batch_size"} <= shared
    for name, told in commands.items():
        assert shared <= set(told), name
        assert {key: told[key] for key in shared} == {
            key: commands["run"][key] for key in shared
        }, name
    for ours, theirs in itertools.combinations(commands.values(), 2):
        same = (set(ours) & set(theirs)) - {
            "output",
            "copies",
        }  # a folder or a file; dropped by run only
        assert {key: ours[key] for key in same} == {key: theirs[key] for key in same}


def test_what_a_command_takes_reaches_the_network(scenes, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        cli._pass, "load_network", lambda made: asked.append(made) or FakeBackbone()
    )
    options = ("--backbone", "some", "--engine", "jax", "--layers", "a,b", "--dtype", "float32")
    assert featlab("extract", scenes, "-o", tmp_path / "maps.h5", *options) == 0
    wanted = {"backbone": "some", "engine": "jax", "layers": "a,b", "dtype": "float32"}
    assert asked == [Pass(scenes, **wanted)]
    with MapStore(tmp_path / "maps.h5") as store:
        assert store.maps([0]).dtype == np.float32


def colourful(folder, n=12):
    """Pictures of three classes below folders that are no classes."""
    for k in range(n * 3):
        path = folder / "visit1" / "abc"[k % 3] / f"{k}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(k).integers(0, 90, (56, 56, 3)).astype(np.uint8)
        pixels[..., k % 3] += 120
        Image.fromarray(pixels).save(path)
    (folder / "boxes.csv").write_text(
        "image,xmin,ymin,xmax,ymax\n" + "visit1/a/0.png,0.1,0.1,0.9,0.9\n"
    )
    return folder


def test_how_pictures_are_read_is_asked_alike_and_kept(tmp_path, monkeypatch, caplog):
    """Options of reading reach the store, the page's own lines, and every command that reads."""
    folder = colourful(tmp_path / "set")
    monkeypatch.setattr(_pass, "load_network", lambda made: FakeBackbone())
    options = ["--classes", "a, b", "--label-from", "/([a-c])/", "--box-units", "shares"]
    assert featlab("extract", folder, "-o", tmp_path / "maps.h5", *options) == 0
    assert "images with a box, of each class: a 1 of 12, b 0 of 12" in caplog.text
    with MapStore(tmp_path / "maps.h5") as store:
        assert store.images["label"].value_counts().to_dict() == {"a": 12, "b": 12}
        assert store.boxes["xmax"].tolist() == [0.9 * 56]
        indexed = json.loads(store.provenance["indexed"])
    assert indexed["classes"] == ["a", "b"] and indexed["box_units"] == "shares"
    taken = [set(inspect.signature(command).parameters) for command in (cli.run, cli.extract,
                                                                       cli.finetune)]  # fmt: skip
    for names in taken:
        assert {"classes", "split_from", "label_from", "label_from_boxes", "box_units"} <= names


def test_three_classes_are_told_one_by_one_and_together(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(_pass, "load_network", lambda made: FakeBackbone())
    folder, path = colourful(tmp_path / "set", n=24), tmp_path / "maps.h5"
    reading = ("--label-from", "/([a-c])/", "--box-units", "shares")
    assert featlab("extract", folder, *reading, "-o", path) == 0
    with MapStore(path) as store:
        split = make_split(store.images)
        X, labels = feature_table(store)[split == "confirm"], store.images["label"]
    differ = compare_classes(X, labels[split == "confirm"])
    capsys.readouterr()

    assert featlab("heads", path, "--heads", "logistic") == 0
    told = capsys.readouterr().out.partition("the logistic head, class by class:\n")[2]
    rows = {line.split()[0]: line.split()[1] for line in told.splitlines()[1:]}
    tested = labels[split == "test"].value_counts()
    assert rows == {name: str(n) for name, n in tested.items()} and len(rows) == 3

    assert featlab("neurons", path) == 0
    told = f"{differ['reject'].sum()} of {differ['p'].notna().sum()} neurons differ between\nany of"
    assert f"on the confirm images {told} the classes" in capsys.readouterr().out

    few = pd.Series(np.resize(["g", "h"], len(X)), X.index)
    _questions._tell_omnibus([X], labels[split == "confirm"], few)
    assert "was not tested: images come in\ngroups" in capsys.readouterr().out

    seed = next(k for k in range(9) if make_split(store.images, random_state=k)[0] != "test")
    assert featlab("localise", path, "--seed", seed) == 1
    assert "maps.h5 has no boxes on its test images" in capsys.readouterr().err


def test_stores_are_called_by_the_least_that_tells_them_apart():
    for given, names in (
        ("a/x.h5 b/y.h5", ["x", "y"]),
        ("a/x.h5 b/x.h5", ["a", "b"]),
        ("c/a/x.h5 b/a/x.h5", ["c/a/x.h5", "b/a/x.h5"]),
    ):
        paths = [Path(path) for path in given.split()]
        assert _questions._store_names(paths) == dict(zip(names, paths, strict=True))


@pytest.mark.parametrize("columns", ["photo", "path=", "path=photo,class=kind"])
def test_columns_that_say_nothing_are_one_sentence(tmp_path, capsys, columns):
    folder = colourful(tmp_path / "set")
    assert featlab("extract", folder, "-o", tmp_path / "maps.h5", "--columns", columns) == 1
    assert "columns must be" in capsys.readouterr().err


def test_an_error_never_shares_a_line_with_a_bar(tmp_path):
    """Nor does what is told meanwhile."""
    code = """
import logging, sys
from featlab import FeatlabError, cli
from featlab.cli._options import bar
@cli.app.command()
def broken():
    for k in bar(range(5), label="index"):
        logging.getLogger("x").warning("told of %d", k)
        if k == 2:
            raise FeatlabError("it broke.")
sys.argv = ["featlab", "broken"]
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    lines = [line.rsplit("\r", 1)[-1] for line in done.stderr.split("\n")]
    assert done.returncode == 1
    for line in ("featlab: told of 0", "featlab: told of 2", "featlab: it broke."):
        assert line in lines


@pytest.mark.slow
def test_boxes_are_drawn_where_they_are_suggested_and_the_next_run_makes_no_pass(
    scenes, tmp_path, fake_network, capsys, blank_figures
):
    """A set of which test images alone have boxes; ten are suggested, drawn, and learnt from."""
    out, pictures = tmp_path / "out", shutil.copytree(scenes, tmp_path / "scenes")
    every = pd.read_csv(pictures / "boxes.csv")
    (pictures / "boxes.csv").unlink()
    assert featlab("run", pictures, "-o", out) == 0
    assert featlab("suggest", out, "-n", 40, "--side", "test", "--formats", "csv") == 0
    assert "test images are drawn at random" in capsys.readouterr().out
    test = pd.read_csv(out / "suggested" / "suggested.csv")
    assert featlab("suggest", out, "-n", 10, "-o", tmp_path / "first") == 0
    assert "none of test: nothing is scored" in capsys.readouterr().out
    first = pd.read_csv(tmp_path / "first" / "suggested.csv")
    assert not set(first["path"]) & set(test["path"])
    drawn = every[every["image"].isin({*first["path"], *test["path"]})]
    drawn.to_csv(pictures / "boxes.csv", index=False)
    passes = fake_network[0].calls
    assert featlab("run", pictures, "-o", out) == 0
    assert sum(network.calls for network in fake_network) == passes
    table = pd.read_csv(out / "localisation.csv").set_index("method")
    assert {"cell_boxes", "mean_box"} <= set(table.index)
    assert pd.read_csv(out / "box_curve.csv")["boxed"].tolist() == [5, 10]
    assert featlab("suggest", out, "-n", 3, "-o", tmp_path / "second") == 0
    assert f"test {len(test)} of {len(test)}" in capsys.readouterr().out
    second = pd.read_csv(tmp_path / "second" / "suggested.csv")
    assert not set(second["path"]) & {*first["path"], *test["path"]}


def test_a_picture_that_is_gone_when_the_pass_comes_is_skipped_there(tmp_path, monkeypatch):
    """The index has read it; under `skip` it is left out, counted, and all others are there."""
    folder = colourful(tmp_path / "set")

    def load(made):
        (folder / "visit1" / "a" / "0.png").unlink(missing_ok=True)
        return FakeBackbone()

    monkeypatch.setattr(_pass, "load_network", load)
    options = ["--box-units", "shares"]
    assert featlab("extract", folder, "-o", tmp_path / "raise.h5", *options) == 1
    colourful(tmp_path / "set")
    skip = [*options, "--on-error", "skip"]
    assert featlab("extract", folder, "-o", tmp_path / "maps.h5", *skip) == 0
    with MapStore(tmp_path / "maps.h5") as store:
        assert len(store) == 35 and "visit1/a/0.png" not in set(store.images["path"])
    assert not (tmp_path / "maps.h5.parts").exists()
    assert featlab("extract", folder, "-o", tmp_path / "maps.h5", *skip) == 0


def test_results_do_not_go_into_the_folder_of_the_pictures_itself(tmp_path, capsys):
    folder = colourful(tmp_path / "set")
    assert featlab("run", folder, "-o", folder) == 1
    assert "is the folder of the pictures; give -o another" in capsys.readouterr().err
