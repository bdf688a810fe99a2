"""Tests of featlab.images on files that cannot be used: found early, all at once, with a reason."""

from __future__ import annotations

import io
import logging
import os
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from featlab import FeatlabError
from featlab.images import decode_picture, index_images
from featlab.images.decode import MAX_PIXELS, decode_scaled, inspect_picture

NOISE = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)


def encode(pixels: np.ndarray, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format, **options)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def bomb(width: int, height: int) -> bytes:
    """A small PNG whose header claims a giant picture."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(100_000)))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


GOOD = encode(NOISE, "PNG")


def reason(data: bytes) -> str:
    """The error's text, which is the same whether the picture is only inspected or decoded."""
    with pytest.raises(FeatlabError) as decoded:
        decode_picture(data)
    with pytest.raises(FeatlabError) as inspected:
        inspect_picture(data)
    assert str(decoded.value) == str(inspected.value)
    return str(decoded.value)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9])
def test_truncated(format, share):
    data = encode(NOISE, format)
    assert "truncated or damaged" in (text := reason(data[: int(share * len(data))])) or (
        "its header is damaged" in text
    )


def test_truncated_progressive_jpeg():
    data = encode(NOISE, "JPEG", progressive=True)
    assert "truncated" in reason(data[: len(data) // 2])


@pytest.mark.parametrize(
    "data", [b"hello, I am text\n" * 40, b"%PDF-1.4", b"\0" * 500, b"%!PS-Adobe-3.0 EPSF-3.0\n"]
)
def test_not_an_image(data):
    assert "not an image that Pillow can read" in reason(data)


def test_empty_and_not_bytes():
    assert reason(b"") == "the file is empty"
    with pytest.raises(FeatlabError, match="data must be the bytes of a file, got str"):
        decode_picture("cat.jpg")


@pytest.mark.parametrize("size", [(60_000, 60_000), (2**31 - 1, 2**31 - 1), (14_000, 14_000)])
def test_a_bomb_is_refused_before_it_is_decoded(size, monkeypatch):
    def load(image):
        raise AssertionError("decoded")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    assert size[0] * size[1] > MAX_PIXELS
    assert "decompression bomb" in reason(bomb(*size))


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_is_ours_even_without_pillows(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert "claims 60000 x 60000 pixels, the limit is 178956970" in reason(bomb(60_000, 60_000))


JPEG, PNG = encode(NOISE[:16, :16], "JPEG"), encode(NOISE[:16, :16], "PNG")


@pytest.mark.filterwarnings("ignore")
@given(
    data=st.sampled_from([JPEG, PNG]),
    changes=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=8),
    length=st.integers(0, 2000),
)
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_give_pixels_or_our_error(data, changes, length):
    damaged = bytearray(data)
    for position, value in changes:
        damaged[position % len(damaged)] = value
    for use in (decode_picture, inspect_picture):
        try:
            result = use(bytes(damaged[:length] if length < 900 else damaged))
        except FeatlabError as error:
            assert 5 < len(str(error)) < 400
        else:
            if use is decode_picture:
                assert result.dtype == np.uint8 and result.shape[2] == 3


def bad_set(root: Path) -> Path:
    put(root / "cat" / "good.png", GOOD)
    put(root / "cat" / "empty.jpg", b"")
    put(root / "cat" / "text.jpg", b"hello")
    put(root / "dog" / "cut.png", GOOD[:900])
    put(root / "dog" / "phone.heic", b"\0\0\0\x18ftypheic" + bytes(50))
    put(root / "dog" / "fine.gif", encode(NOISE, "GIF"))
    (root / "dog" / "broken.jpg").symlink_to(root / "nowhere.jpg")
    return root


def test_one_error_lists_every_bad_file(tmp_path):
    with pytest.raises(FeatlabError) as caught:
        index_images(bad_set(tmp_path))
    text = str(caught.value)
    assert text.startswith(f"5 files or boxes in {tmp_path} cannot be used:\n")
    assert "\n  cat/empty.jpg: the file is empty\n" in text
    assert "\n  cat/text.jpg: not an image" in text
    assert "\n  dog/broken.jpg: it cannot be read: No such file" in text
    assert "\n  dog/cut.png: truncated" in text
    assert "\n  dog/phone.heic: a HEIC picture, which needs pillow-heif" in text
    assert text.endswith("leave them out with --on-error skip (in Python: on_error='skip').")
    assert "good.png" not in text and "more" not in text


def test_skip_leaves_them_out(tmp_path, caplog):
    bad_set(tmp_path)
    lines = [
        "image,label,xmin,ymin,xmax,ymax",
        "cat/text.jpg,cat,0,0,5,5",
        "dog/fine.gif,dog,1,1,9,9",
    ]
    put(tmp_path / "boxes.csv", "\n".join(lines).encode())
    with caplog.at_level(logging.WARNING):
        images, boxes, skipped = index_images(tmp_path, on_error="skip")
    assert images["path"].tolist() == ["cat/good.png", "dog/fine.gif"]
    assert boxes["image"].tolist() == [1]
    assert skipped["path"].tolist() == [
        "cat/empty.jpg",
        "cat/text.jpg",
        "dog/broken.jpg",
        "dog/cut.png",
        "dog/phone.heic",
    ]
    assert "5 files or boxes" in caplog.text and "dog/cut.png" in caplog.text


def test_a_long_list_is_cut(tmp_path):
    put(tmp_path / "cat" / "good.png", GOOD)
    for number in range(25):
        put(tmp_path / "cat" / f"{number:02}.jpg", b"")
    with pytest.raises(FeatlabError, match=r"19.jpg: the file is empty\n  and 5 more\n") as caught:
        index_images(tmp_path)
    assert "20.jpg" not in str(caught.value)


def test_nothing_left(tmp_path):
    put(tmp_path / "cat" / "a.jpg", b"")
    with pytest.raises(FeatlabError, match="no picture is left: .*\n.*a.jpg: the file is empty"):
        index_images(tmp_path, on_error="skip")


def test_csv_with_a_missing_file(tmp_path):
    put(tmp_path / "a.png", GOOD)
    put(tmp_path / "list.csv", b"path,label\na.png,x\nfolder/gone.png,y\n")
    with pytest.raises(FeatlabError, match=r"folder/gone.png: it cannot be read: No such file"):
        index_images(tmp_path / "list.csv")


def test_unreadable_files(tmp_path, monkeypatch):
    put(tmp_path / "cat" / "a.png", GOOD)
    put(tmp_path / "cat" / "secret.png", GOOD)
    read = Path.read_bytes

    def refuse(path):
        if path.name == "secret.png":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(FeatlabError, match="secret.png: it cannot be read: Permission denied"):
        index_images(tmp_path)


def test_unreadable_folder(tmp_path, monkeypatch):
    put(tmp_path / "cat" / "a.png", GOOD)
    put(tmp_path / "secret" / "b.png", GOOD)
    names = os.listdir

    def refuse(path):
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied")
        return names(path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(FeatlabError, match="secret: it cannot be read: Permission denied"):
        index_images(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    put(tmp_path / "cat" / "a.png", GOOD)
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    with pytest.raises(FeatlabError, match="pipe.png: it is not a file"):
        index_images(tmp_path)


def test_names_that_are_not_utf8(tmp_path):
    put(tmp_path / "cat" / "a.png", GOOD)
    try:
        put(Path(os.fsdecode(os.fsencode(tmp_path / "cat") + b"/l\xf6we.png")), GOOD)
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    with pytest.raises(FeatlabError, match=r"l\\udcf6we.png: its name is not valid UTF-8"):
        index_images(tmp_path)
    _, _, skipped = index_images(tmp_path, on_error="skip")
    skipped["path"][0].encode("utf-8")


def damaged_in_the_middle(format: str) -> bytes:
    """A whole header, and pixels that Pillow cannot read."""
    pixels = np.random.default_rng(5).integers(0, 256, (96, 96, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    data = bytearray(buffer.getvalue())
    data[len(data) // 2 : len(data) // 2 + 500] = bytes(500)
    return bytes(data)


def test_a_damaged_png_is_found_by_the_index(tmp_path):
    """Pillow reads a PNG's pixels to tell its orientation, and keeps the error to itself."""
    put(tmp_path / "cat" / "a.png", GOOD)
    put(tmp_path / "cat" / "zz.png", damaged_in_the_middle("PNG"))
    with pytest.raises(FeatlabError, match=r"zz.png: truncated or damaged"):
        index_images(tmp_path)
    images, _, skipped = index_images(tmp_path, on_error="skip")
    assert images["path"].tolist() == ["cat/a.png"] and skipped["path"].tolist() == ["cat/zz.png"]


@pytest.mark.parametrize("kind", ["text", "international", "profile"])
def test_a_png_with_much_beside_its_pixels_is_not_damaged(kind):
    options = {"pnginfo": PngImagePlugin.PngInfo()}
    if kind == "text":
        options["pnginfo"].add_text("a", "b" * 3_000_000, zip=True)
    elif kind == "international":
        options["pnginfo"].add_itxt("a", "b" * 3_000_000, zip=True)
    else:
        options["icc_profile"] = bytes(3_000_000)
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), "red").save(buffer, "PNG", **options)
    data = buffer.getvalue()
    assert decode_picture(data)[0, 0].tolist() == [255, 0, 0]
    assert (inspect_picture(data).width, inspect_picture(data).height) == (5, 4)


@pytest.mark.parametrize("place", ["before", "behind"])
def test_the_orientation_of_a_png_may_stand_behind_its_pixels(place):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4), "red").save(buffer, "PNG", exif=exif)
    data = buffer.getvalue()
    if place == "behind":
        start = data.index(b"eXIf") - 4
        stop = start + 12 + int.from_bytes(data[start : start + 4], "big")
        data = data[:start] + data[stop:-12] + data[start:stop] + data[-12:]
    seen = inspect_picture(data)
    assert (seen.width, seen.height, seen.orientation) == (4, 5, 6)
    assert decode_picture(data).shape == (5, 4, 3)


def originals() -> dict[str, list[bytes]]:
    """Small pictures of six formats, in the ways that tools write each."""
    smooth = np.linspace(0, 255, 40 * 56 * 3).reshape(40, 56, 3).astype(np.uint8)
    few, grey = Image.fromarray(NOISE).quantize(9), NOISE[..., 0].astype(np.uint16) * 256
    buffer = io.BytesIO()
    few.save(buffer, "PNG", transparency=3)
    return {
        "PNG": [GOOD, buffer.getvalue(), encode(grey, "PNG")],
        "JPEG": [encode(NOISE, "JPEG"), encode(smooth, "JPEG", progressive=True)],
        "WEBP": [encode(NOISE, "WEBP"), encode(NOISE, "WEBP", lossless=True)],
        "TIFF": [encode(NOISE, "TIFF"), encode(grey, "TIFF", compression="tiff_lzw")],
        "GIF": [encode(NOISE, "GIF"), encode(smooth, "GIF", interlace=0)],
        "BMP": [encode(NOISE, "BMP"), encode(NOISE[..., 0], "BMP")],
    }


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Bytes changed, blanked, taken out, cut off, or put in."""
    changed = bytearray(data)
    kind, place, n = rng.integers(5), int(rng.integers(len(data))), int(rng.integers(1, 40))
    if kind == 0:
        for where in rng.integers(len(data), size=1 + n // 8):
            changed[where] = int(rng.integers(256))
    elif kind == 1:
        changed[place : place + n] = bytes(len(changed[place : place + n]))
    elif kind == 2:
        del changed[place : place + n]
    elif kind == 3:
        del changed[place:]
    else:
        changed[place:place] = rng.bytes(n)
    return bytes(changed)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("n", [40, pytest.param(334, marks=pytest.mark.slow)])
@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP"])
def test_what_the_index_accepts_the_pass_decodes(format, n):
    """2,000 damaged pictures of six formats in the long form."""
    bases, accepted = originals()[format], 0
    for k in range(n):
        data = damaged(bases[k % len(bases)], np.random.default_rng([k, n]))
        try:
            seen = inspect_picture(data)
        except FeatlabError as error:
            with pytest.raises(FeatlabError, match=re.escape(str(error))):
                decode_picture(data)
            continue
        accepted += 1
        for factor in (1, 2, 4, 8):
            picture = decode_scaled(data, factor)
            assert (picture.width, picture.height) == (seen.width, seen.height)
        assert decode_picture(data).shape == (seen.height, seen.width, 3)
        assert inspect_picture(data, whole=True).width == seen.width
    assert (accepted > 0 or n < 100) and accepted < n
