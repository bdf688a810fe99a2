from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from fake_store import FakeStore
from scipy.special import softmax

from featlab import FeatlabError
from featlab.arguments import LEVELS, neuron_ids, origin_of
from featlab.features import feature_table


def make_store(n=7):
    rng = np.random.default_rng(0)
    early = rng.random((n, 4, 3, 5), dtype=np.float32)
    late = rng.random((n, 2, 2, 6), dtype=np.float32)
    images = pd.DataFrame({"path": [f"{i}.jpg" for i in range(n)]})
    return FakeStore(images, array=late, layer="late", others={"early": early})


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_pooled(pooling):
    store = make_store()
    table = feature_table(store, pooling=pooling)
    np.testing.assert_array_equal(table, store.pooled(pooling=pooling))
    assert tuple(table.columns.names) == LEVELS
    assert neuron_ids(table).tolist() == list(range(6))
    assert origin_of(table) == ("late", pooling)
    assert (table.dtypes == np.float32).all()


def test_layer():
    table = feature_table(make_store(), layer="early")
    assert table.shape == (7, 5)
    assert origin_of(table) == ("early", "mean")


@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_softmax_of_pooled(pooling):
    store = make_store()
    table = feature_table(store, pooling=f"softmax_{pooling}")
    np.testing.assert_allclose(table, softmax(store.pooled(pooling=pooling), axis=1), rtol=1e-6)
    assert origin_of(table) == ("late", f"softmax_{pooling}")


def test_flat_is_in_c_order():
    store = make_store()
    table = feature_table(store, layer="early", pooling="flat")
    assert table.shape == (7, 60)
    for (i, j, k), column in [((0, 0, 0), 0), ((0, 0, 4), 4), ((2, 1, 3), (2 * 3 + 1) * 5 + 3)]:
        np.testing.assert_array_equal(
            table["early", "flat", column], store.others["early"][:, i, j, k]
        )


def test_layer_and_pooling_survive_a_choice_and_a_file(tmp_path):
    table = feature_table(make_store())
    assert origin_of(table[np.arange(7) % 2 == 0]) == origin_of(table)
    table.to_parquet(tmp_path / "table.parquet")
    assert origin_of(pd.read_parquet(tmp_path / "table.parquet")) == origin_of(table)


def test_several_layers_in_one_table_are_refused():
    both = feature_table(make_store()).join(feature_table(make_store(), layer="early"))
    with pytest.raises(FeatlabError, match="one layer and one pooling"):
        origin_of(both)


def test_softmax_is_stable():
    store = make_store()
    store.array *= 1000
    table = feature_table(store, pooling="softmax_max").to_numpy()
    np.testing.assert_allclose(table.sum(axis=1), 1, rtol=1e-6)


def test_errors():
    with pytest.raises(FeatlabError, match=r"pooling must be one of .* got 'median'"):
        feature_table(make_store(), pooling="median")
    with pytest.raises(FeatlabError, match=r"layer must be one of .* got 'top'"):
        feature_table(make_store(), layer="top")
    with pytest.raises(FeatlabError, match="holds no image"):
        feature_table(make_store(n=0), pooling="flat")
