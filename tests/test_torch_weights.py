"""The reader of legacy torch files: exact on honest ones, closed to hostile ones."""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from featlab import FeatlabError
from featlab.backbones.efficientnet_lite import build, own_head, read_state_dict

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001


class _Global:
    """Pickles as the call of a function by name."""

    def __init__(self, module: str, name: str, *arguments: object) -> None:
        self.module, self.name, self.arguments = module, name, arguments


class _Storage:
    def __init__(self, key: str, size: int) -> None:
        self.key, self.size = key, size


class _Pickler(pickle._Pickler):
    """Writes the names of torch without having torch."""

    def persistent_id(self, item):
        if isinstance(item, _Storage):
            return ("storage", _Name("torch", "FloatStorage"), item.key, "cpu", item.size, None)
        return None

    def save(self, item, save_persistent_id=True):
        if isinstance(item, _Name):
            self.write(f"c{item.module}\n{item.name}\n".encode())
        elif isinstance(item, _Global):
            self.save(_Name(item.module, item.name))
            super().save(tuple(item.arguments))
            self.write(b"R")
        else:
            super().save(item, save_persistent_id)


class _Name:
    def __init__(self, module: str, name: str) -> None:
        self.module, self.name = module, name


def _tensor(key: str, size: int, offset: int, shape: tuple, strides: tuple) -> _Global:
    arguments = (_Storage(key, size), offset, shape, strides, False, OrderedDict())
    return _Global("torch._utils", "_rebuild_tensor_v2", *arguments)


def write_legacy(path: Path, state: dict, storages: dict[str, np.ndarray]) -> Path:
    return _write(path, state=state, storages=storages)


def _write(
    path: Path,
    *,
    magic: int = MAGIC,
    protocol: int = PROTOCOL,
    little: bool = True,
    state: object = None,
    keys: list[str] | None = None,
    storages: dict[str, np.ndarray] | None = None,
) -> Path:
    storages = {"0": np.arange(4.0)} if storages is None else storages
    state = {"weight": _tensor("0", 4, 0, (4,), (1,))} if state is None else state
    keys = list(storages) if keys is None else keys
    with path.open("wb") as file:
        for item in (magic, protocol, {"little_endian": little}, state, keys):
            _Pickler(file, protocol=2).dump(item)
        for values in storages.values():
            file.write(struct.pack("<q", len(values)))
            file.write(values.astype("<f4").tobytes())
    return path


@pytest.fixture
def honest(tmp_path) -> Path:
    state = {
        "plain": _tensor("0", 6, 0, (2, 3), (3, 1)),
        "transposed": _tensor("0", 6, 0, (3, 2), (1, 3)),
        "tail": _tensor("1", 4, 2, (2,), (1,)),
        "scalar": _tensor("1", 4, 3, (), ()),
    }
    storages = {"0": np.arange(6.0), "1": np.arange(4.0) * 10}
    return write_legacy(tmp_path / "weights.pth", state, storages)


def test_views_respect_offset_and_strides(honest):
    tensors = read_state_dict(honest)
    np.testing.assert_array_equal(tensors["plain"], np.arange(6.0).reshape(2, 3))
    np.testing.assert_array_equal(tensors["transposed"], np.arange(6.0).reshape(2, 3).T)
    np.testing.assert_array_equal(tensors["tail"], [20, 30])
    assert tensors["scalar"] == 30


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("builtins", "eval"),
        ("builtins", "getattr"),
        ("subprocess", "Popen"),
        ("torch", "load"),
        ("torch.serialization", "load"),
        ("collections", "namedtuple"),
        ("functools", "partial"),
        ("numpy.core.multiarray", "_reconstruct"),
    ],
)
def test_a_pickle_that_names_anything_else_is_refused_unrun(tmp_path, module, name):
    mark = tmp_path / "ran"
    call = _Global(module, name, f"touch {mark}")
    path = write_legacy(tmp_path / "hostile.pth", {"weight": call}, {})
    with pytest.raises(FeatlabError, match=f"hostile.pth: refused.*{module}.{name}"):
        read_state_dict(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    "tensor",
    [
        _tensor("0", 4, 0, (5,), (1,)),
        _tensor("0", 4, 2, (3,), (1,)),
        _tensor("0", 4, 0, (2,), (100,)),
        _tensor("0", 4, -1, (2,), (1,)),
        _tensor("0", 4, 0, (2, 2), (1,)),
    ],
)
def test_a_view_outside_its_storage_is_refused(tmp_path, tensor):
    path = write_legacy(tmp_path / "w.pth", {"weight": tensor}, {"0": np.arange(4.0)})
    with pytest.raises(FeatlabError, match="weight lies outside its storage"):
        read_state_dict(path)


def test_a_storage_longer_than_the_file_is_refused_before_memory_is_taken(tmp_path):
    huge = 2**40
    path = write_legacy(
        tmp_path / "w.pth", {"w": _tensor("0", huge, 0, (1,), (1,))}, {"0": np.zeros(0, "f4")}
    )
    data = path.read_bytes()
    path.write_bytes(data[:-8] + struct.pack("<q", huge))
    with pytest.raises(FeatlabError, match="truncated: storage 0"):
        read_state_dict(path)


def test_other_files_are_refused_by_name(tmp_path):
    with pytest.raises(FeatlabError, match="there is no weights file"):
        read_state_dict(tmp_path / "absent.pth")
    for name, content in {
        "empty.pth": b"",
        "text.pth": b"hello",
        "zip.pth": b"PK\3\4" + bytes(50),
        "magic.pth": pickle.dumps(1, 2),
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FeatlabError, match=name):
            read_state_dict(tmp_path / name)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"magic": MAGIC + 1}, "the magic number of a legacy torch file is missing"),
        ({"protocol": 1000}, "protocol 1001 of legacy torch files is expected"),
        ({"little": False}, "is big-endian; only little-endian files are read"),
        ({"keys": ["0", "9"]}, "storage '9' is not used by the state dict"),
        ({"storages": {"0": np.arange(3.0)}}, "storage 0 has 3 numbers, 4 declared"),
        (
            {"state": {"w": _Global("torch._utils", "_rebuild_tensor_v2", "0", 0, (), ())}},
            "a tensor without a storage",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, part, words):
    assert read_state_dict(_write(tmp_path / "w.pth"))["weight"].tolist() == [0, 1, 2, 3]
    with pytest.raises(FeatlabError, match=f"w.pth: .*{words}"):
        read_state_dict(_write(tmp_path / "w.pth", **part))


@pytest.mark.parametrize(
    ("opcodes", "words"),
    [
        (b"\x85.", "its pickle takes more than there is"),
        (b"}K\x01a.", "its pickle appends to what is no list"),
        (b"K\x01", "is not a legacy torch state dict: .*exhausted before seeing STOP"),
        (b"(X\x06\0\0\0moduleK\x00K\x00K\x00K\x00NtQ.", "a storage of an unknown kind: '0'"),
        (b"(X\x07\0\0\0storageK\x00K\x00K\x00K\x00NtQ.", "a storage of an unknown kind: '0'"),
    ],
)
def test_what_is_wrong_with_a_pickle_is_said(tmp_path, opcodes, words):
    (tmp_path / "w.pth").write_bytes(b"\x80\x02" + opcodes)
    with pytest.raises(FeatlabError, match=f"w.pth.* {words}"):
        read_state_dict(tmp_path / "w.pth")


def test_a_tensor_of_nothing_is_read_and_a_folder_is_no_damaged_file(tmp_path):
    state = {"nothing": _tensor("0", 4, 9, (2, 0, 3), (3, 3, 1))}
    assert read_state_dict(_write(tmp_path / "w.pth", state=state))["nothing"].shape == (2, 0, 3)
    with pytest.raises(IsADirectoryError):
        read_state_dict(tmp_path)


def test_weights_of_another_network_are_refused_by_its_first_layer(honest):
    assert own_head(honest) is None
    with pytest.raises(FeatlabError, match=r"weights.pth does not hold .* layer stem_conv"):
        build("efficientnet_lite0", (32, 32), honest)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_anywhere_is_a_featlab_error_or_harmless(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutated")
    state = {"w": _tensor("0", 6, 0, (2, 3), (3, 1)), "v": _tensor("0", 6, 1, (2,), (2,))}
    path = write_legacy(folder / "w.pth", state, {"0": np.arange(6.0)})
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    before = os.listdir(folder)
    try:
        tensors = read_state_dict(path)
    except FeatlabError as error:
        assert "w.pth" in str(error)
    else:
        assert all(isinstance(values, np.ndarray) for values in tensors.values())
    assert os.listdir(folder) == before
