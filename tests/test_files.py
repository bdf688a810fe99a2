"""Files appear whole, and on the disk, or not at all."""

from __future__ import annotations

import os

import pytest

from featlab import FeatlabError
from featlab.system import libraries_silenced
from featlab.system.files import whole_folder, write_whole


@pytest.mark.parametrize("content", [b"new", "new", lambda path: path.write_text("new", "utf-8")])
def test_a_file_is_flushed_before_it_gets_its_name(content, tmp_path, monkeypatch):
    path, order = tmp_path / "sub" / "table.csv", []
    fsync, replace = os.fsync, os.replace
    path.parent.mkdir()
    monkeypatch.setattr(os, "fsync", lambda file: (order.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), replace(a, b)))
    write_whole(path, content)
    assert order[:2] == ["fsync", "replace"]
    assert path.read_text("utf-8") == "new" and list(path.parent.iterdir()) == [path]


def test_an_interrupted_writing_leaves_the_earlier_file(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def interrupted(part):
        assert part.suffix == path.suffix and part.parent == path.parent
        part.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, interrupted)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_what_the_system_refuses_names_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FeatlabError, match=r"table.csv could not be written: .*; make room"):
        write_whole(tmp_path / "file" / "table.csv", "new")


def test_only_a_folder_of_our_own_is_replaced(tmp_path, monkeypatch):
    """`featlab export results -o results` once removed the run."""
    results = tmp_path / "results"
    for content in ("old", "new"):
        with whole_folder(results) as new:
            (new / "file").write_text(content)
    assert (results / "file").read_text() == "new"
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    with whole_folder(theirs):
        pass  # an empty folder may be filled
    (tmp_path / "file").write_text("")
    monkeypatch.chdir(results)
    for path, why in (
        (tmp_path, "holds the folder that this runs in"),
        (results / "..", "holds the folder that this runs in"),
        (results.relative_to(results), "holds the folder that this runs in"),
        (tmp_path / "file", "was not written by featlab in one piece"),
    ):
        with pytest.raises(FeatlabError, match=why), whole_folder(path):
            raise AssertionError("filled")
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "a.jpg").write_text("a photo")
    refused = pytest.raises(FeatlabError, match="photos is there, was not written")
    with refused, whole_folder(photos):
        raise AssertionError("filled")
    assert (photos / "a.jpg").read_text() == "a photo"


def test_libraries_are_silenced_and_nobody_else(capfd):
    with libraries_silenced():
        os.write(2, b"I0000 00:00:1 1 port.cc:153] oneDNN custom operations are on.\n")
        os.write(2, b"E0000 00:00:1 1 cuda_dnn.cc:8310] Unable to register cuDNN: cuda\n")
        os.write(2, b"E0000 00:00:1 1 disk.cc:1] the disk is full\n\xff is no text\n")
    assert capfd.readouterr().err == (
        "E0000 00:00:1 1 disk.cc:1] the disk is full\n\N{REPLACEMENT CHARACTER} is no text\n"
    )
