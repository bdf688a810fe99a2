"""A fake backbone and small picture folders: they keep most tests free of TensorFlow."""

from __future__ import annotations

import gc
import os
import re
import shutil
import sys
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

# Two workers with two BLAS threads each would wait for each other most of the time.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from PIL import Image

from featlab import FeatlabError

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def _in_plain_words(error: FeatlabError, *words: object) -> None:
    """A sentence for a person names no type of a library, in any test that meets it."""
    assert not re.search(r"\bnp\.\w+\(", str(words)), words
    ValueError.__init__(error, *words)


FeatlabError.__init__ = _in_plain_words  # type: ignore[method-assign]

SHARED = Path(__file__).resolve().parents[2] / "shared"


class FakeBackbone:
    """Maps by arithmetic on pixels, 7 x 7 cells; counts its forward passes."""

    weights = "fake"

    def __init__(
        self,
        size: int = 56,
        layers: tuple[str, ...] = ("last",),
        *,
        gain: float = 1.0,
        fail_at: int | None = None,
        error: BaseException | None = None,
    ) -> None:
        self.input_size = (size, size)
        self.layers, self.gain = layers, gain
        self.fail_at, self.error = fail_at, error
        self.calls = self.probes = 0

    def identity(self) -> dict[str, str]:
        return {
            "backbone": "fake",
            "weights_sha256": f"gain {self.gain}",
            "input_size": f"{self.input_size[0]} x {self.input_size[1]}",
            "layers": '["' + '", "'.join(self.layers) + '"]',
            "output_stride": "network's own",
            "preprocessing": "pixels 0 … 1",
        }

    def probe(self) -> dict[str, np.ndarray]:
        self.probes += 1
        picture = np.arange(np.prod(self.input_size) * 3) % 251
        maps = self._maps(picture.reshape(1, *self.input_size, 3).astype(np.uint8))
        return {layer: values[0].mean(axis=(0, 1)) for layer, values in maps.items()}

    def forward(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        if self.calls == self.fail_at and self.error is not None:
            raise self.error
        self.calls += 1
        assert pixels.dtype == np.uint8 and pixels.shape[1:] == (*self.input_size, 3)
        return self._maps(pixels)

    def describe(self) -> str:
        return "a fake network"

    def _maps(self, pixels: np.ndarray) -> dict[str, np.ndarray]:
        side = self.input_size[0] // 7
        cells = pixels.astype(np.float32).reshape(len(pixels), 7, side, 7, side, 3) / 255
        mean, spread = cells.mean(axis=(2, 4)), cells.std(axis=(2, 4))
        dead = np.zeros((*mean.shape[:3], 1), np.float32)
        maps = self.gain * np.concatenate([mean, spread, mean[..., ::-1] * spread, dead], axis=-1)
        return {layer: (maps * (k + 1)).astype(np.float32) for k, layer in enumerate(self.layers)}


# The longest files: two processes take whole files in this order, and so end together.
LONGEST = (
    "figures", "cli", "localise", "audit", "report_browser", "growing", "pipeline", "compare",
    "gradients", "finetune", "kill", "predict", "report", "engines", "boxheads", "backbones",
    "neuron_tests", "fuzz", "claims", "neurons", "datasets", "heads_compare", "security",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.fixture(autouse=True, scope="session")
def one_core() -> Iterator[None]:
    """Each process of the tests has a core; others are started where they are the point."""
    with pytest.MonkeyPatch.context() as patch:
        for module in ("featlab.system.processes", "featlab.localise.matching"):
            patch.setattr(f"{module}.usable_cores", lambda: 1)
        yield


@contextmanager
def no_drawing(but: str = " ") -> Iterator[None]:
    """The figures of a page stay blank, for tests of what else a command or a page holds.

    They are drawn in the tests of the figures, of the report and of the pipeline. `but` is a
    regular expression: figures whose file has such a name are drawn all the same.
    """
    from featlab.report import _elements

    drawing = _elements.Figure.drawing
    blank = b64encode(b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 2 1"/>').decode()

    def draw(figure: Any) -> _elements.Drawing:
        if re.search(but, figure.file):
            return drawing(figure)
        uri, width = f"data:image/svg+xml;base64,{blank}", 1344  # the widest there is
        return _elements.Drawing(uri, width, figure.alt, figure.caption, figure.pictures)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_elements.Figure, "drawing", draw)
        yield


@pytest.fixture
def blank_figures() -> Iterator[None]:
    """As :func:`no_drawing`."""
    with no_drawing():
        yield


@pytest.fixture
def few_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    """One box head, two draws of the learning curve and two random neurons; all that there are
    is fitted in test_pipeline."""
    monkeypatch.setattr("featlab.localise.fitting._DRAWS", 2)
    monkeypatch.setattr("featlab.pipeline._analysis.BOX_HEADS", ("ridge_pca",))
    monkeypatch.setattr("featlab.pipeline._analysis._REPEATS", 2)


@pytest.fixture(autouse=True)
def no_open_figures() -> Iterator[None]:
    """Close what a test drew with pandas or pyplot, which keep every figure."""
    yield
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close("all")


@pytest.fixture
def fake_backbone() -> FakeBackbone:
    return FakeBackbone()


@pytest.fixture(scope="session")
def pictures_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """As `draw_pictures`: folders to copy from, each drawn once in a session."""

    @cache
    def draw(counts: tuple[tuple[str, int], ...], seed: int) -> Path:
        return draw_pictures(tmp_path_factory.mktemp("pictures"), dict(counts), seed)

    return draw


@pytest.fixture
def picture_folder(tmp_path: Path, pictures_once: Callable[..., Path]) -> Callable[..., Path]:
    """Make a folder of class folders with small random pictures."""

    def make(counts: dict[str, int], name: str = "pictures", seed: int = 0) -> Path:
        drawn = pictures_once(tuple(counts.items()), seed)
        return Path(shutil.copytree(drawn, tmp_path / name, dirs_exist_ok=True))

    return make


def draw_pictures(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """As `picture_folder`, anywhere; the same pictures for the same seed."""
    rng = np.random.default_rng(seed)
    for k, (label, count) in enumerate(counts.items()):
        folder = root / label
        folder.mkdir(parents=True)
        for i in range(count):
            height, width = rng.integers(40, 90, 2)
            pixels = rng.integers(0, 256, (height, width, 3)) // (1 + k)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:03d}.png")
    return root


DRAWN = "^(class_balance|neuron_volcano|detector_examples)$"


@pytest.fixture(scope="session")
def drawn_report(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Any, Path, str]]:
    """A report of made-up results: those, its file, its text. Each is drawn once in a session.

    "two" classes with everything; "many" classes with hostile names; "bare" without boxes,
    detectors or pictures. A few of their figures are drawn; all are in test_figure_files.
    """
    from fake_results import HOSTILE, make_results

    from featlab import report

    breeds = [f"breed_{i:02}" for i in range(30)]
    make = {
        "two": lambda: make_results(c=1280),
        "many": lambda: make_results(HOSTILE + breeds, n=500, c=40),
        "bare": lambda: make_results(boxes=False, detectors=False, pictures=False),
    }

    @cache
    def draw(name: str) -> tuple[Any, Path, str]:
        results = make[name]()
        with no_drawing(but=DRAWN):
            path = report.write_report(results, tmp_path_factory.mktemp(name) / "report.html")
        return results, path, path.read_text("utf-8")

    return draw


@pytest.fixture
def shared_data() -> Path:
    """Folder of the real picture sets."""
    if not (SHARED / "data").is_dir():
        pytest.skip("the real picture sets (../shared/data) are not here")
    return SHARED / "data"


@pytest.fixture
def shared_weights() -> Path:
    """Folder of real weights for networks of keras.applications."""
    if not (SHARED / "weights").is_dir():
        pytest.skip("the real weights (../shared/weights) are not here")
    return SHARED / "weights"


@pytest.fixture(autouse=True, scope="module")
def light_collections():
    """What stands so far is not searched for garbage again, and what is new not so often."""
    gc.set_threshold(50_000, 20, 20)
    gc.collect()
    gc.freeze()
