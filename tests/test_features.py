from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.special import softmax as scipy_softmax

from featlab import FeatlabError
from featlab.features import feature_table, softmax


class FakeStore:
    """Maps in memory behind the reading side of a MapStore."""

    def __init__(self, n=7):
        rng = np.random.default_rng(0)
        self._maps = {
            "early": rng.random((n, 4, 3, 5), dtype=np.float32),
            "late": rng.random((n, 2, 2, 6), dtype=np.float32),
        }
        self.layers = ["early", "late"]
        self.images = pd.DataFrame({"path": [f"{i}.jpg" for i in range(n)]})

    def map_shape(self, layer=None):
        return self._maps[layer or "late"].shape[1:]

    def pooled(self, *, layer=None, pooling="mean"):
        return getattr(self._maps[layer or "late"], pooling)(axis=(1, 2))

    def iter_pooled(self, *, layer=None, pooling="mean", batch=3):
        for rows, maps in self.iter_maps(layer=layer, batch=batch):
            yield rows, getattr(maps, pooling)(axis=(1, 2))

    def iter_maps(self, rows=None, *, layer=None, batch=3):
        maps = self._maps[layer or "late"]
        for first in range(0, len(maps), batch):
            part = np.arange(first, min(first + batch, len(maps)))
            yield part, maps[part]


@pytest.mark.parametrize("how", ["mean", "max"])
def test_pooled(how):
    store = FakeStore()
    table = feature_table(store, how)
    np.testing.assert_array_equal(table, store.pooled(pooling=how))
    assert table.columns.tolist() == list(range(6))
    assert table.attrs == {"layer": "late", "pooling": how}
    assert (table.dtypes == np.float32).all()


def test_layer():
    table = feature_table(FakeStore(), layer="early")
    assert table.shape == (7, 5)
    assert table.attrs["layer"] == "early"


@pytest.mark.parametrize("how", ["mean", "max"])
def test_softmax_of_pooled(how):
    store = FakeStore()
    table = feature_table(store, f"softmax_{how}")
    np.testing.assert_allclose(table, scipy_softmax(store.pooled(pooling=how), axis=1), rtol=1e-6)
    assert table.attrs["pooling"] == f"softmax_{how}"


def test_flat_is_in_c_order():
    store = FakeStore()
    table = feature_table(store, "flat", layer="early")
    assert table.shape == (7, 60)
    for (i, j, k), column in [((0, 0, 0), 0), ((0, 0, 4), 4), ((2, 1, 3), (2 * 3 + 1) * 5 + 3)]:
        np.testing.assert_array_equal(table[column], store._maps["early"][:, i, j, k])


def test_attrs_survive_a_choice_of_rows():
    table = feature_table(FakeStore())
    assert table[np.arange(7) % 2 == 0].attrs == table.attrs


def test_softmax_is_stable():
    values = softmax([[1000.0, 999.0, -1000.0], [0.0, 0.0, 0.0]])
    np.testing.assert_allclose(values[0], [0.7310585786, 0.2689414214, 0.0], atol=1e-9)
    np.testing.assert_allclose(values[1], 1 / 3)


def test_errors():
    with pytest.raises(FeatlabError, match=r"how must be one of .* got 'median'"):
        feature_table(FakeStore(), "median")
    with pytest.raises(FeatlabError, match=r"layer must be one of .* got 'top'"):
        feature_table(FakeStore(), layer="top")
    with pytest.raises(FeatlabError, match="holds no image"):
        feature_table(FakeStore(n=0), "flat")
