"""Engines: whoever runs the network, the maps are the same, and the store says who it was."""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest

from featlab import FeatlabError
from featlab.backbones import Backbone, _backbone, _engines, load_backbone
from featlab.extract import _passing, _source, extract_maps
from featlab.images import index_images
from featlab.store import MapStore

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed"
)
SIDE = 32


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    """A small network with the operations of the large ones, random weights, two maps."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    inputs = x = keras.Input((SIDE, SIDE, 3))
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    x = shortcut = layers.ReLU(6.0, name="fine")(x)
    x = layers.DepthwiseConv2D(3, padding="same", activation="swish")(x)
    x = layers.Add()([x, shortcut])
    x = layers.Conv2D(16, 3, strides=2, padding="same", activation="relu", name="coarse")(x)
    path = tmp_path_factory.mktemp("network") / "small.keras"
    keras.Model(inputs, layers.GlobalAveragePooling2D()(x)).save(path)
    return path


@pytest.fixture
def load(network):
    def load(engine: str = "auto", precision: str = "float32") -> Backbone:
        return load_backbone(
            network,
            layers=["coarse", "fine"],
            preprocessing="torch",
            engine=engine,
            precision=precision,
        )

    return load


@pytest.fixture
def images(picture_folder) -> pd.DataFrame:
    return index_images(picture_folder({"cat": 13, "dog": 11}))[0]


def some_pixels(n: int, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def assert_agree(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert list(a) == list(b)
    for layer, values in a.items():
        assert values.dtype == b[layer].dtype == np.float32
        np.testing.assert_allclose(values, b[layer], rtol=0, atol=1e-4 * np.abs(values).max())
        assert values.max() > 0


def datasets_of(path: Path) -> dict[str, bytes]:
    found = {}

    def note(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith(("images/", "skipped/")):
            found[name] = item[()].tobytes()

    with h5py.File(path) as file:
        file.visititems(note)
    return found


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"engine": "onnx"}, "engine must be one of auto, tensorflow, openvino.*got 'onnx'"),
        ({"precision": "int8"}, "precision must be one of float32, bfloat16, got 'int8'"),
        (
            {"engine": "tensorflow", "precision": "bfloat16"},
            "precision='bfloat16' needs engine='openvino', got engine='tensorflow'",
        ),
    ],
)
def test_unknown_engines_and_precisions_are_told_before_anything_is_loaded(options, words):
    with pytest.raises(FeatlabError, match=words):
        load_backbone("efficientnet_lite0", **options)


@needs_openvino
def test_openvino_gives_tensorflows_maps_layer_by_layer_for_any_batch(load):
    ours, theirs = load("openvino"), load("tensorflow")
    assert (ours.engine.name, theirs.engine.name) == ("openvino", "tensorflow")
    for n in (1, 3, 8):
        assert_agree(theirs.forward(some_pixels(n)), ours.forward(some_pixels(n)))
    assert_agree(
        {k: v[None, None] for k, v in theirs.probe().items()},
        {k: v[None, None] for k, v in ours.probe().items()},
    )


@needs_openvino
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "weights", "size"),
    [
        ("efficientnet_lite0", "imagenet", 64),
        ("efficientnet_lite0", "imagenet", 224),
        ("efficientnet_lite1", "imagenet", 64),
        ("efficientnet_lite2", "imagenet", 64),
        ("VGG16", None, 64),
        ("ResNet50", None, 64),
        ("MobileNetV2", None, 64),
        ("EfficientNetB0", None, 64),
    ],
)
def test_openvino_agrees_with_tensorflow_on_whole_networks(name, weights, size):
    options = {"weights": weights, "input_size": size}
    try:
        theirs = load_backbone(name, engine="tensorflow", **options)
    except FeatlabError:
        # The weights are not installed: the same architecture with random ones.
        options["weights"] = None
        theirs = load_backbone(name, engine="tensorflow", **options)
    ours = load_backbone(name, engine="openvino", **options)
    pixels = some_pixels(3, size)
    assert_agree(theirs.forward(pixels), ours.forward(pixels))


@pytest.mark.parametrize("engine", ["tensorflow", pytest.param("openvino", marks=needs_openvino)])
def test_threads_may_call_forward_at_the_same_time(load, engine):
    backbone = load(engine)
    batches = [some_pixels(8)[k:] for k in range(8)] * 4
    alone = [backbone.forward(batch) for batch in batches] if backbone.engine else []
    with ThreadPoolExecutor(2 * backbone.engine.streams) as pool:
        together = list(pool.map(backbone.forward, batches))
    for a, b in zip(alone, together, strict=True):
        assert_agree(a, b)


@pytest.mark.parametrize("engine", ["tensorflow", pytest.param("openvino", marks=needs_openvino)])
def test_a_network_too_large_for_constants_gives_the_same_maps(load, monkeypatch, engine):
    made, traced = [], _engines._traced

    def keeping(*given):
        made.append(traced(*given))
        return made[-1]

    monkeypatch.setattr(_engines, "_traced", keeping)
    as_constants = load(engine).forward(some_pixels(5))
    monkeypatch.setattr(_engines, "_LARGEST_CONSTANTS", 0)
    as_variables = load(engine).forward(some_pixels(5))
    assert [bool(function.captured_inputs) for function in made] == [False, True]
    assert_agree(as_variables, as_constants)


@needs_openvino
def test_auto_is_openvino_without_a_graphics_card_and_tensorflow_with_one(load, monkeypatch):
    assert load().engine.name == "openvino"
    monkeypatch.setattr(_engines, "_has_gpu", lambda: True)
    chosen = load().engine
    assert (chosen.name, chosen.batch_size) == ("tensorflow", 32)


@needs_openvino
@pytest.mark.parametrize("fault", ["conversion", "output"])
def test_a_network_that_openvino_gets_wrong_runs_on_tensorflow(load, monkeypatch, caplog, fault):
    def fails(*_):
        raise RuntimeError("Check failed:\nno translator for operation Odd")

    infer = _engines._infer
    if fault == "conversion":
        monkeypatch.setattr(_engines, "_converted", fails)
        words = "OpenVINO cannot convert this network: no translator for operation Odd"
    else:
        monkeypatch.setattr(
            _engines, "_infer", lambda *given: [x + 0.01 * x.max() for x in infer(*given)]
        )
        words = "OpenVINO gives another output than TensorFlow"
    with caplog.at_level(logging.WARNING):
        backbone = load("auto")
        assert backbone.engine.name == "tensorflow"
    assert "the pass runs on TensorFlow: " + words in caplog.text
    assert backbone.forward(some_pixels(1))["coarse"].shape == (1, 8, 8, 16)
    with pytest.raises(FeatlabError, match=words):
        _ = load("openvino").engine


def test_without_openvino_auto_is_tensorflow_and_openvino_says_what_to_install(
    load, monkeypatch, caplog
):
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr(_engines, "find_spec", lambda name: None)
    assert load("auto").engine.name == "tensorflow"
    assert not caplog.records
    for asked in ({"engine": "openvino"}, {"precision": "bfloat16"}):
        with pytest.raises(FeatlabError, match=r"pip install 'featlab\[fast\]'"):
            _ = load(**asked).engine


@needs_openvino
def test_openvino_reports_its_use_to_nobody():
    _engines.openvino_core("float32")
    assert "openvino_telemetry.main" not in sys.modules


@needs_openvino
def test_bfloat16_is_near_and_is_refused_where_the_processor_has_none(load, monkeypatch):
    _engines.openvino_core("float32")
    import openvino

    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if "BF16" in capabilities:
        exact, rough = load("openvino").probe(), load("auto", "bfloat16").probe()
        for layer, values in exact.items():
            error = np.abs(rough[layer] - values).max() / np.abs(values).max()
            assert 1e-6 < error < 0.05
    monkeypatch.setattr(openvino.Core, "get_property", lambda *_: ["FP32"])
    with pytest.raises(FeatlabError, match="this processor has no bfloat16 arithmetic"):
        _ = load("openvino", "bfloat16").engine


@pytest.mark.parametrize("engine", ["tensorflow", pytest.param("openvino", marks=needs_openvino)])
def test_the_store_names_its_engine_and_is_the_same_each_time(load, images, tmp_path, engine):
    for name in ("a.h5", "b.h5"):
        with extract_maps(images, load(engine), tmp_path / name) as store:
            assert store.provenance["engine"] == engine
            assert store.provenance["precision"] == "float32"
            assert store.provenance["batch_size"] == {"openvino": 16, "tensorflow": 8}[engine]
            store.verify()
    assert datasets_of(tmp_path / "a.h5") == datasets_of(tmp_path / "b.h5")


@needs_openvino
def test_a_finished_store_is_taken_from_any_engine_of_the_same_precision(load, images, tmp_path):
    path = tmp_path / "maps.h5"
    extract_maps(images, load("tensorflow"), path).close()
    before = path.read_bytes()
    other = load("openvino")
    with extract_maps(images, other, path) as store:
        assert store.provenance["engine"] == "tensorflow"
    assert "engine" not in vars(other)  # nothing was built
    assert path.read_bytes() == before
    with pytest.raises(FeatlabError, match="another precision: float32 there, bfloat16 asked for"):
        extract_maps(images, load(precision="bfloat16"), path)


@needs_openvino
def test_an_interrupted_pass_goes_on_with_its_own_engine_only(load, images, tmp_path, monkeypatch):
    monkeypatch.setattr(_passing, "_PART_ROWS", 8)
    path = tmp_path / "maps.h5"
    seen = []

    def stop_at_third(tasks):
        for task in tasks:
            seen.append(task)
            if len(seen) == 3:
                raise KeyboardInterrupt
            yield task

    with pytest.raises(KeyboardInterrupt):
        extract_maps(images, load("tensorflow"), path, progress=stop_at_third)
    with pytest.raises(FeatlabError, match="another engine: tensorflow there, openvino asked for"):
        extract_maps(images, load("openvino"), path)
    with extract_maps(images, load("tensorflow"), path) as store:
        assert store.provenance["engine"] == "tensorflow"


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_keras_on_another_backend_runs_the_pass(load, network, tmp_path, backend):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    np.save(tmp_path / "pixels.npy", some_pixels(2))
    code = f"""
import json, numpy as np
from featlab import FeatlabError
from featlab.backbones import load_backbone
pixels = np.load("pixels.npy")
options = {{"layers": ["coarse", "fine"], "preprocessing": "torch"}}
backbone = load_backbone({str(network)!r}, **options)
np.savez("maps.npz", **backbone.forward(pixels))
refused = []
for asked in ({{"engine": "openvino"}}, {{"engine": "tensorflow"}}, {{"precision": "bfloat16"}}):
    try:
        load_backbone({str(network)!r}, **options, **asked).engine
    except FeatlabError as error:
        refused.append(str(error))
print(json.dumps([backbone.engine.name, refused]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    name, refused = json.loads(done.stdout.splitlines()[-1])
    assert name == backend
    assert len(refused) == 3
    assert all(f"Keras runs on {backend} here" in words for words in refused)
    maps = dict(np.load(tmp_path / "maps.npz"))
    assert_agree(load("tensorflow").forward(some_pixels(2)), maps)


def test_jax_and_torch_say_how_to_get_them(load):
    with pytest.raises(FeatlabError, match="set KERAS_BACKEND=jax before the start"):
        _ = load("jax").engine


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """Loads the built-in network, small, with a cache of its own; and the folder of that."""
    # Not the folder itself: a process that runs there would take "featlab" for the package.
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def load():
        return load_backbone("efficientnet_lite0", input_size=32, layers="stem_relu")

    return load, tmp_path / "cache" / "featlab" / "networks"


@needs_openvino
@pytest.mark.slow
def test_a_converted_network_is_kept_and_read_without_building_it(kept, monkeypatch):
    load, folder = kept
    first = load()
    made, told = first.probe()["stem_relu"], str(first.describe())
    (file,) = folder.iterdir()
    with monkeypatch.context() as patch:
        patch.setattr(Backbone, "network", property(lambda _: pytest.fail("it was built")))
        second = load()
        np.testing.assert_array_equal(second.probe()["stem_relu"], made)
        assert str(second.describe()) == told
    whole = file.read_bytes()
    for damage in (whole[:1000], b"", whole[:5000] + bytes(9) + whole[5009:]):
        file.write_bytes(damage)
        np.testing.assert_array_equal(load().probe()["stem_relu"], made)
        assert np.load(file)["parameters"] == np.load(io.BytesIO(whole))["parameters"]
    other = load_backbone("efficientnet_lite0", input_size=64, layers="stem_relu")
    assert other.probe() and len({*folder.iterdir()}) == 2


@needs_openvino
@pytest.mark.slow
def test_a_pass_over_a_network_that_is_kept_loads_no_tensorflow(kept, picture_folder, tmp_path):
    load, _ = kept
    _ = load().engine  # which keeps it
    command = ["extract", str(picture_folder({"cat": 3, "dog": 3})), "-o", "maps.h5"]
    command += ["--input-size", "32", "--layers", "stem_relu"]
    code = f"""
import sys
from featlab.cli import main
sys.argv[1:] = {command}
try:
    main()
except SystemExit as end:
    assert not end.code
print([name for name in ("tensorflow", "keras", "matplotlib", "sklearn") if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "maps.h5").exists()


@needs_openvino
@pytest.mark.slow
def test_two_writers_leave_a_whole_file_and_what_is_kept_stays_small(kept):
    load, folder = kept
    _ = load().engine
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    with ThreadPoolExecutor(2) as threads:
        for _ in range(4):
            list(threads.map(lambda _: _engines.write_whole(file, whole), range(2)))
            assert file.read_bytes() == whole
    assert [one.name for one in folder.iterdir()] == [file.name]
    for k in range(_engines._MOST_KEPT + 2):
        (folder / f"{k}.npz").write_bytes(b"older")
        os.utime(folder / f"{k}.npz", (k, k))
    file.unlink()
    _ = load().engine
    assert file.exists() and len([*folder.iterdir()]) == _engines._MOST_KEPT


@needs_openvino
@pytest.mark.slow
def test_no_room_for_temporary_files_or_the_cache_ends_no_pass(kept, monkeypatch, caplog):
    load, folder = kept
    folder.parent.mkdir(parents=True)
    folder.write_text("a file in the folder's place")
    assert load().engine.name == "openvino" and folder.is_file()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_engines.tempfile, "TemporaryDirectory", full)
    assert load().engine.name == "tensorflow"
    assert "folder for temporary files (TMPDIR): [Errno 28] No space left" in caplog.text
    with pytest.raises(FeatlabError, match="TMPDIR"):
        _ = load_backbone("efficientnet_lite0", input_size=32, engine="openvino").engine


@needs_openvino
def test_a_network_that_is_kept_is_not_taken_for_another_engine(kept, monkeypatch):
    load, folder = kept
    backbone = load()
    _ = backbone.engine
    (file,) = folder.iterdir()
    probe = np.zeros((1, 32, 32, 3), np.uint8)
    monkeypatch.setattr(_engines, "_has_gpu_device", lambda: True)
    assert _engines.kept_engine("auto", "float32", file, probe) is None
    monkeypatch.setattr(_engines, "_has_gpu_device", lambda: False)
    assert _engines.kept_engine("tensorflow", "float32", file, probe) is None
    monkeypatch.setattr(_engines, "_other_backend", lambda: True)
    assert _engines.kept_engine("auto", "float32", file, probe) is None


@needs_openvino
@pytest.mark.parametrize("quickest", [1, 2, 4])
def test_a_long_pass_takes_pictures_by_the_number_that_was_quickest(
    load, images, tmp_path, monkeypatch, quickest
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_source, "_LONG_PASS", len(images))
    asked: list[int] = []

    def measured(run, sized, picture):
        asked.append(1)
        return {1: 1.0, 2: 1.0, 4: 1.02, 8: 2.0} | ({quickest: 0.5} if quickest != 4 else {})

    monkeypatch.setattr(_backbone, "_milliseconds", measured)
    usual = load("openvino")
    expected = usual.forward(some_pixels(7))
    for name in ("first", "second"):
        backbone = load("openvino")
        extract_maps(images, backbone, tmp_path / f"{name}.h5").close()
        with MapStore(tmp_path / f"{name}.h5") as store:
            # A fiftieth is no reason to take another than the usual one.
            assert store.provenance["engine_details"] == f"{quickest} at once"
        for layer, maps in backbone.forward(some_pixels(7)).items():
            assert np.array_equal(maps, expected[layer])
    assert asked == [1]  # and kept for the second
    (kept,) = (tmp_path / "cache").rglob("*.txt")
    for damage in (b"", b"3", b"1 ", b"\xff", b"8" * 5000):
        kept.write_bytes(damage)
        load("openvino").settle()
    assert len(asked) == 6 and kept.read_text() == str(quickest)
    # A store of few pictures tells of no choice, and is the same.
    monkeypatch.setattr(_source, "_LONG_PASS", len(images) + 1)
    extract_maps(images, load("openvino"), tmp_path / "few.h5").close()
    with MapStore(tmp_path / "few.h5") as store:
        assert "engine_details" not in store.provenance
    assert datasets_of(tmp_path / "few.h5") == datasets_of(tmp_path / "first.h5")


@needs_openvino
def test_what_gives_other_bits_or_cannot_be_taken_is_not_measured(load):
    engine = load("openvino").engine

    def sized(size):
        if size == 8:
            raise RuntimeError("no such shape")
        run = engine.sized(size)
        return run if size == 1 else lambda pixels: [np.nextafter(m, 9) for m in run(pixels)]

    taken = _backbone._milliseconds(engine.run, sized, some_pixels(1)[0])
    assert taken.keys() == {1, 4} and min(taken.values()) > 0
