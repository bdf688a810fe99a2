"""Tests of featlab.images: layouts, pixels, boxes. Broken files: test_bad_files."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from featlab import FeatlabError
from featlab.images import decode_picture, index_images
from featlab.images.decode import decode_scaled
from featlab.images.pixels import colour_histogram, jpeg_factor, picture_frame, resize_picture

DATA = Path(__file__).parents[2] / "shared" / "data"
CORNERS = ["xmin", "ymin", "xmax", "ymax"]
TURN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].swapaxes(0, 1),
    8: lambda a: np.rot90(a, 1),
}


def encode(image: Image.Image | np.ndarray, format: str = "PNG", **options) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def put(path: Path, width: int = 24, height: int = 16, *, orientation: int = 1) -> Path:
    """A PNG or JPEG picture; its content depends on its name, so that no two are the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = int(hashlib.sha256(str(path).encode()).hexdigest()[:8], 16)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    suffix = "PNG" if path.suffix.lower() == ".png" else "JPEG"
    path.write_bytes(encode(pixels, suffix, exif=exif))
    return path


def put_csv(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def put_boxes(root: Path, *rows: str) -> None:
    put_csv(root / "boxes.csv", "image,label,kind,width,height,xmin,ymin,xmax,ymax", *rows)


def put_voc(path: Path, filename: str, size: tuple[int, int] | None, *boxes: tuple) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = "" if size is None else f"<width>{size[0]}</width><height>{size[1]}</height>"
    objects = "".join(
        f"<object><name>{label}</name><part><bndbox><xmin>0</xmin></bndbox></part><bndbox>"
        + "".join(f"<{name}>{value}</{name}>" for name, value in zip(CORNERS, corners, strict=True))
        + "</bndbox></object>"
        for label, *corners in boxes
    )
    path.write_text(
        f"<annotation><filename>{filename}</filename><size>{shape}</size>{objects}</annotation>"
    )


def put_coco(path: Path, images: list[dict], annotations: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = [{"id": 7, "name": "cat"}, {"id": 9, "name": "dog"}]
    content = {"images": images, "annotations": annotations, "categories": names}
    path.write_text(json.dumps(content))


def two_classes(root: Path) -> Path:
    for name in ("cat/a.png", "cat/b.png", "dog/c.png"):
        put(root / name)
    return root


# ---------------------------------------------------------------- layouts


def test_class_folders(tmp_path):
    put(tmp_path / "dog" / "B.JPG")
    put(tmp_path / "dog" / "a.png", 30, 20)
    put(tmp_path / "big cat" / "deep" / "er" / "löwe.jpeg", orientation=6)
    images, boxes, skipped = index_images(tmp_path)
    columns = ["path", "label", "split", "group", "width", "height", "sha256", "folder"]
    assert list(images.columns) == columns
    assert images["path"].tolist() == ["big cat/deep/er/löwe.jpeg", "dog/B.JPG", "dog/a.png"]
    assert images["label"].tolist() == ["big cat", "dog", "dog"]
    assert images["split"].tolist() == images["group"].tolist() == [""] * 3
    assert images[["width", "height"]].to_numpy().tolist() == [[16, 24], [24, 16], [30, 20]]
    expected = [hashlib.sha256((tmp_path / p).read_bytes()).hexdigest() for p in images["path"]]
    assert images["sha256"].tolist() == expected
    assert images.index.equals(pd.RangeIndex(3))
    assert set(images["folder"]) == {str(tmp_path)} and not images.attrs
    assert skipped.empty and list(skipped.columns) == ["path", "reason"]
    assert len(boxes) == 0 and boxes["image"].dtype == np.int64
    assert (boxes[CORNERS].dtypes == np.float64).all()


def test_other_files_are_ignored(tmp_path):
    two_classes(tmp_path)
    for name in ("cat/Thumbs.db", "cat/notes.txt", "cat/.hidden.jpg", "cat/map.h5", "x.pdf"):
        (tmp_path / name).write_bytes(b"not a picture")
    put(tmp_path / ".cache" / "x.png")
    put(tmp_path / "annotations" / "trimaps" / "a.png")
    assert len(index_images(tmp_path)[0]) == 3


def test_split_folders(tmp_path):
    for name in ("train/cat/a.png", "Valid/cat/b.png", "test/dog/deep/c.png"):
        put(tmp_path / name)
    images, _, _ = index_images(tmp_path)
    assert images["label"].tolist() == ["cat", "dog", "cat"]
    assert images["split"].tolist() == ["val", "test", "train"]


def test_a_class_may_be_called_train(tmp_path):
    put(tmp_path / "train" / "a.png")
    put(tmp_path / "bus" / "b.png")
    images, _, _ = index_images(tmp_path)
    assert images["label"].tolist() == ["bus", "train"]
    assert images["split"].tolist() == ["", ""]


def test_split_folders_beside_other_folders(tmp_path):
    for name in ("train/cat/a.png", "test/cat/b.png", "extra/c.png"):
        put(tmp_path / name)
    with pytest.raises(FeatlabError, match=r"split folders \(test, train\) beside .*\(extra\)"):
        index_images(tmp_path)


def test_split_folders_without_classes(tmp_path):
    put(tmp_path / "train" / "a.png")
    put(tmp_path / "test" / "b.png")
    images, _, _ = index_images(tmp_path)  # without labels, but with sides
    assert images["label"].tolist() == ["", ""] and images["split"].tolist() == ["test", "train"]


def test_pictures_in_no_class_folder_are_a_set_without_labels(tmp_path, caplog):
    for name in ("a.png", "b.png"):
        put(tmp_path / name)
    with caplog.at_level("INFO"):
        images, boxes, _ = index_images(tmp_path)
    assert images["path"].tolist() == ["a.png", "b.png"] and images["label"].eq("").all()
    assert "labels: none; 2 pictures without labels: they lie in no class" in caplog.text
    assert boxes.empty
    (tmp_path / "list.csv").write_text("path,group\na.png,g\n", "utf-8")
    images, _, _ = index_images(tmp_path / "list.csv")
    assert images[["label", "group"]].to_numpy().tolist() == [["", "g"]]
    (tmp_path / "list.csv").write_text("path,label\na.png,cat\nb.png,\n", "utf-8")
    with pytest.raises(FeatlabError, match="line 3: label is empty"):
        index_images(tmp_path / "list.csv")


def test_layout_errors_say_what_is_expected(tmp_path):
    with pytest.raises(FeatlabError, match="no folder or CSV file .*gone.*<class>"):
        index_images(tmp_path / "gone")
    with pytest.raises(FeatlabError, match="there is no picture in .*<class>"):
        index_images(tmp_path)
    with pytest.raises(FeatlabError, match="neither a folder nor a CSV"):
        index_images(put(tmp_path / "a.png"))


def test_a_picture_outside_the_class_folders_is_listed(tmp_path):
    put(two_classes(tmp_path) / "cover.png")
    told = r"cover.png: it lies in no class folder, others do, such as cat/\w+"
    with pytest.raises(FeatlabError, match=told):
        index_images(tmp_path)
    assert len(index_images(tmp_path, on_error="skip")[0]) == 3


def test_one_image_is_enough(tmp_path):
    put(tmp_path / "cat" / "a.png")
    assert index_images(tmp_path)[0]["label"].tolist() == ["cat"]


def test_links_are_followed_and_loops_end(tmp_path):
    put(tmp_path / "elsewhere" / "a.png")
    root = tmp_path / "root"
    put(root / "dog" / "b.png")
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    (root / "dog" / "up").symlink_to(root)
    (root / "dog" / "self").symlink_to(root / "dog" / "self")
    (root / "dog" / "again").symlink_to(root / "dog")
    assert index_images(root)[0]["path"].tolist() == ["cat/a.png", "dog/b.png"]


def test_progress_wraps_something_with_a_length(tmp_path):
    seen = []

    def progress(items):
        seen.append(len(items))
        return iter(items)

    index_images(two_classes(tmp_path), progress=progress)
    assert seen == [3]


@pytest.mark.parametrize(
    ("pattern", "groups"), [(r"([a-z])\.png", ["a", "b", "c"]), ("cat|dog", ["cat", "cat", "dog"])]
)
def test_group_from(tmp_path, pattern, groups):
    assert index_images(two_classes(tmp_path), group_from=pattern)[0]["group"].tolist() == groups


def test_group_from_errors(tmp_path):
    two_classes(tmp_path)
    with pytest.raises(FeatlabError, match="group_from 'cat' finds no group in 'dog/c.png'"):
        index_images(tmp_path, group_from="cat")
    with pytest.raises(FeatlabError, match=r"regular expression, got '\(': "):
        index_images(tmp_path, group_from="(")
    with pytest.raises(FeatlabError, match="on_error must be one of raise, skip, got 'ignore'"):
        index_images(tmp_path, on_error="ignore")


# ---------------------------------------------------------------- CSV


def test_csv(tmp_path):
    two_classes(tmp_path)
    table = put_csv(
        tmp_path / "list.csv",
        "\ufefflabel,Path,split,group,more",
        'NA,"dog/c.png",Validation,g1,1',
        "",
        r"none,.\cat\a.png,,g2",
    )
    images, _, _ = index_images(table)
    assert images["path"].tolist() == ["cat/a.png", "dog/c.png"]
    assert images["label"].tolist() == ["none", "NA"]
    assert images["split"].tolist() == ["", "val"]
    assert images["group"].tolist() == ["g2", "g1"]
    assert index_images(table, group_from="^...")[0]["group"].tolist() == ["cat", "dog"]


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["foto|label", "a|b"], r"needs the columns path, .* has foto\|label"),
        (["cat/a.png,x,1", "cat/b.png,y,2"], "needs the columns path, .* has cat/a.png, x"),
        (["one,other", "cat/a.png,cat/b.png"], "needs the columns path, .* has one, other"),
        ([""], "has none"),
        (["path,label"], "lists no pictures"),
        (["path,label", "../x.png,x"], r"line 2: path must be relative .* got '../x.png'"),
        (["path,label", "cat/../../x.png,x"], "path must be relative"),
        (["path,label", "/etc/x.png,x"], "path must be relative"),
        (["path,label", r"C:\x.png,x"], "path must be relative"),
        (["path,label", ",x"], "path must be relative"),
        (["path,label", "cat/a.png,"], "line 2: label is empty"),
        (["path,label", "cat/a.png,x", "./cat/a.png,y"], "line 3: cat/a.png is listed twice"),
        (["path,label,split", "cat/a.png,x,blind"], "split must be one of .* got 'blind'"),
        (["path,label", "cat/a.png,x,y"], "line 2 has 3 values for 2 columns"),
        (["path,label", 'cat/a.png,"x'], "cannot be read as CSV"),
    ],
)
def test_csv_errors(tmp_path, lines, message):
    two_classes(tmp_path)
    with pytest.raises(FeatlabError, match=message):
        index_images(put_csv(tmp_path / "list.csv", *lines))


def test_csv_that_is_not_utf8(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"path,label\nl\xf6we.png,x\n")
    with pytest.raises(FeatlabError, match="cannot be read as CSV in UTF-8"):
        index_images(tmp_path / "list.csv")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (b"l\xf6we.png", r"list\.txt cannot be read as text in UTF-8: .*0xf6"),
        (b"# nothing yet\n\n", r"list\.txt lists no pictures; expected <folder>"),
        (b"cat/a.png\0", r"list\.txt lists no pictures"),
        (b"cat/a.png x\ncat/gone\n", r"a\.png x: it cannot be read: No such file"),
        (b"gone.png x\nlost.png y\n", r"gone\.png x: it cannot be read: No such file"),
    ],
)
def test_list_errors(tmp_path, lines, message):
    two_classes(tmp_path)
    (tmp_path / "list.txt").write_bytes(lines)
    with pytest.raises(FeatlabError, match=message):
        index_images(tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "needs the column path, .* got no columns and 0 rows"),
        ({"path": [], "label": []}, "needs the column path, .* got path, label and 0 rows"),
        ({"path": ["a.png", "../t/a.png"]}, r"a\.png is listed twice; keep one row"),
        ({"path": ["a.png", np.nan]}, "row 1 of the table: path must be text .* got nan"),
        ({"path": [3]}, "row 0 of the table: path must be text .* got 3"),
        ({"path": ["a\0.png"]}, r"row 0 of the table: path must be text .* got 'a\\x00\.png'"),
        ({"path": ["a.png"], "split": ["blind"]}, "split must be train, .* test, got 'blind'"),
        ({"path": ["a.png", "b.png"], "label": ["x", None]}, "label is empty for some pictures"),
    ],
)
def test_data_frame_errors(table, message):
    table = pd.DataFrame(table)
    with pytest.raises(FeatlabError, match=message):
        index_images(table.assign(folder="/t") if len(table) else table)


def test_a_data_frame_without_a_folder_is_of_paths_from_here(tmp_path, monkeypatch):
    two_classes(tmp_path)
    monkeypatch.chdir(tmp_path)
    table = pd.DataFrame({"path": ["cat/a.png", Path("dog/c.png")], "folder": [None, None]})
    assert index_images(table)[0]["path"].tolist() == ["cat/a.png", "dog/c.png"]
    with pytest.raises(FeatlabError, match="row 1 of the table: folder must be text .* got 7"):
        index_images(table.assign(folder=[tmp_path, 7]))


def test_csv_takes_a_selection_of_boxes(tmp_path):
    two_classes(tmp_path)
    put_boxes(tmp_path, "cat/a.png,cat,head,,,1,2,3,4", "dog/c.png,dog,head,,,1,2,3,4")
    table = put_csv(tmp_path / "list.csv", "path,label", "dog/c.png,dog")
    assert index_images(table)[1][["image", "label"]].to_numpy().tolist() == [[0, "dog"]]
    put_boxes(tmp_path, "cat/gone.png,cat,head,,,1,2,3,4")
    with pytest.raises(FeatlabError, match="line 2: it names a picture that is not there"):
        index_images(table)


# ---------------------------------------------------------------- decoding


RAMP = np.add.outer(np.arange(16) * 4, np.arange(24) * 8).astype(np.uint8)


def test_plain_modes_are_exact():
    colour = np.stack([RAMP, RAMP[::-1], 255 - RAMP], axis=2)
    np.testing.assert_array_equal(decode_picture(encode(colour)), colour)
    np.testing.assert_array_equal(decode_picture(encode(RAMP)), np.dstack([RAMP] * 3))
    bits = Image.fromarray(RAMP > 100)
    np.testing.assert_array_equal(decode_picture(encode(bits))[..., 1], (RAMP > 100) * 255)
    palette = Image.fromarray(colour).quantize(16)
    np.testing.assert_array_equal(
        decode_picture(encode(palette)), np.asarray(palette.convert("RGB"))
    )
    result = decode_picture(encode(colour))
    assert result.dtype == np.uint8 and result.flags.writeable and result.flags.c_contiguous


def test_cmyk_jpeg_keeps_its_colours():
    red = Image.new("RGB", (16, 16), (200, 30, 40)).convert("CMYK")
    pixels = decode_picture(encode(red, "JPEG", quality=95)).astype(int)
    assert np.abs(pixels - (200, 30, 40)).max() < 6


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_is_scaled_not_clipped(format):
    deep = np.linspace(0, 65535, 16 * 24).reshape(16, 24).astype(np.uint16)
    pixels = decode_picture(encode(Image.fromarray(deep), format))
    np.testing.assert_array_equal(pixels[..., 0], np.rint(deep / 257))
    assert pixels.shape == (16, 24, 3)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 128, 255]),
        ([0.0, 100.0, 200.0], [0, 100, 200]),
        ([-10.0, 0.0, 10.0], [0, 128, 255]),
        ([700.0, 700.0, 700.0], [0, 0, 0]),
    ],
)
def test_floating_point(values, expected):
    data = encode(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert decode_picture(data)[0, :, 2].tolist() == expected


def test_floating_point_nan_is_refused():
    data = encode(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF")
    with pytest.raises(FeatlabError, match="not finite"):
        decode_picture(data)


def test_transparency_is_composited_on_white():
    rgba = np.zeros((2, 3, 4), np.uint8)
    rgba[:, :, 3] = [0, 128, 255]
    for format in ("PNG", "TIFF"):
        assert decode_picture(encode(rgba, format))[0, :, 0].tolist() == [255, 127, 0]
    lossless = decode_picture(encode(rgba, "WEBP", lossless=True, exact=True))
    assert lossless[0, :, 0].tolist() == [255, 127, 0]
    grey_alpha = Image.fromarray(rgba).convert("LA")
    assert decode_picture(encode(grey_alpha))[0, :, 0].tolist() == [255, 127, 0]


def test_transparent_palette_and_grey_entries_are_white():
    indices = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    indices.putpalette([10, 10, 10, 20, 20, 20, 30, 30, 30])
    for format in ("PNG", "GIF"):
        assert decode_picture(encode(indices, format, transparency=1))[0, :, 0].tolist() == [
            10,
            255,
            30,
        ]
    per_entry = encode(indices, transparency=bytes([0, 255, 255]))
    assert decode_picture(per_entry)[0, :, 0].tolist() == [255, 20, 30]
    grey = Image.fromarray(np.array([[5, 6]], np.uint8))
    assert decode_picture(encode(grey, transparency=6))[0, :, 0].tolist() == [5, 255]


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_and_pages_give_the_first(format):
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("black", "white", "white")]
    data = encode(frames[0], format, save_all=True, append_images=frames[1:])
    assert Image.open(io.BytesIO(data)).n_frames > 1
    assert decode_picture(data).max() < 5


def test_the_bytes_tell_the_format_not_the_name(tmp_path):
    put(tmp_path / "cat" / "a.jpg").write_bytes(encode(RAMP, "GIF"))
    put(tmp_path / "cat" / "b.png").write_bytes(encode(RAMP, "BMP"))
    assert index_images(tmp_path)[0]["width"].tolist() == [24, 24]


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "JPEG", "WEBP", "PPM", "TGA", "JPEG2000"])
def test_one_pixel(format, tmp_path):
    put(tmp_path / "cat" / "a.png").write_bytes(encode(np.full((1, 1, 3), 255, np.uint8), format))
    assert index_images(tmp_path)[0][["width", "height"]].to_numpy().tolist() == [[1, 1]]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_exif_orientation(orientation, format):
    raw = np.zeros((16, 24), np.uint8)
    raw[:8, :8] = 255  # one 8 x 8 block of a JPEG
    exif = Image.Exif()
    exif[0x0112] = orientation
    pixels = decode_picture(encode(np.dstack([raw] * 3), format, exif=exif))
    np.testing.assert_array_equal(pixels[..., 0] > 127, TURN[orientation](raw) > 127)


def test_exif_orientation_of_16_bit():
    deep = np.arange(6, dtype=np.uint16).reshape(2, 3) * 257
    exif = Image.Exif()
    exif[0x0112] = 6
    np.testing.assert_array_equal(
        decode_picture(encode(Image.fromarray(deep), exif=exif))[..., 0], TURN[6](deep // 257)
    )


def test_a_broken_exif_block_does_not_spoil_the_picture():
    data = encode(RAMP, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert decode_picture(data).shape == (16, 24, 3)


# ---------------------------------------------------------------- the network's input


def test_stretch_and_pad():
    pixels = np.zeros((10, 20, 3), np.uint8)
    stretched = resize_picture(pixels, (8, 6))
    assert stretched.shape == (8, 6, 3) and stretched.max() == 0
    padded = resize_picture(pixels, (8, 8), "pad")
    assert padded[:, 3, 1].tolist() == [127, 127, 0, 0, 0, 0, 127, 127]


def test_stretch_is_pillow_bilinear():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(pixels).resize((9, 7), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(resize_picture(pixels, (7, 9)), expected)


@given(
    width=st.integers(1, 60),
    height=st.integers(1, 60),
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    mode=st.sampled_from(["stretch", "pad"]),
)
@settings(max_examples=80, deadline=None)
def test_the_frame_is_where_the_picture_is(width, height, rows, columns, mode):
    black = np.zeros((height, width, 3), np.uint8)
    shown = resize_picture(black, (rows, columns), mode)[..., 0] == 0
    left, top, right, bottom = picture_frame(width, height, (rows, columns), mode)
    expected = np.zeros((rows, columns), bool)
    expected[
        round(top * rows) : round(bottom * rows), round(left * columns) : round(right * columns)
    ] = True
    np.testing.assert_array_equal(shown, expected)
    assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1


def test_pad_keeps_the_aspect_ratio():
    left, top, right, bottom = picture_frame(400, 300, (224, 224), "pad")
    assert (left, right) == (0, 1) and bottom - top == pytest.approx(0.75)
    assert top == pytest.approx(1 - bottom)
    assert picture_frame(400, 300, (224, 224)) == (0, 0, 1, 1)


def test_resize_errors():
    pixels = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(FeatlabError, match="mode must be one of stretch, pad, got 'crop'"):
        resize_picture(pixels, (8, 8), "crop")
    with pytest.raises(FeatlabError, match="size must be"):
        picture_frame(4, 4, (0, 8))
    with pytest.raises(FeatlabError, match="at least 1 x 1"):
        picture_frame(0, 4, (8, 8))
    for wrong in (pixels[..., 0], pixels.astype(float), pixels[:0]):
        with pytest.raises(FeatlabError, match="pixels must be uint8"):
            resize_picture(wrong, (8, 8))


@given(
    width=st.integers(1, 6000),
    height=st.integers(1, 6000),
    mode=st.sampled_from(["stretch", "pad"]),
)
def test_the_jpeg_factor_is_the_largest_that_keeps_the_margin(width, height, mode):
    size = (192, 224)
    left, top, right, bottom = picture_frame(width, height, size, mode)
    columns, rows = round((right - left) * size[1]), round((bottom - top) * size[0])
    factor = jpeg_factor("a/b.JPG", width, height, size, mode)
    assert factor in (1, 2, 4, 8)
    if factor > 1:
        assert width / factor >= 3 * columns and height / factor >= 3 * rows
    if factor < 8:
        assert width / (2 * factor) < 3 * columns or height / (2 * factor) < 3 * rows
    assert jpeg_factor("a/b.jpg.png", width, height, size, mode) == 1


def smooth_picture(width: int, height: int) -> np.ndarray:
    """Nothing in it is finer than an eighth of its size shows; no symmetry."""
    coarse = np.random.default_rng(3).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("factor", [1, 2, 4, 8])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_scaled_jpeg_is_the_picture_in_its_box(orientation, factor):
    exif = Image.Exif()
    exif[0x0112] = orientation
    # One pixel more than whole blocks: libjpeg adds the most.
    whole = smooth_picture(1025, 769)
    data = encode(whole, "JPEG", quality=95, subsampling=0, exif=exif)
    upright = TURN[orientation](whole)
    picture = decode_scaled(data, factor)
    assert (picture.height, picture.width) == upright.shape[:2]
    assert picture.pixels.shape[:2] == tuple(-(-side // factor) for side in upright.shape[:2])
    left, top, right, bottom = picture.box
    assert (right - left, bottom - top) == (picture.width / factor, picture.height / factor)
    found = resize_picture(picture.pixels, (24, 32), box=picture.box).astype(int)
    difference = np.abs(found - resize_picture(decode_picture(data), (24, 32)))
    assert difference.max() <= 2
    if factor == 8:  # the box matters: without it the picture is shifted
        shifted = np.abs(resize_picture(picture.pixels, (24, 32)) - found)
        assert shifted.mean() > 2 * difference.mean()


def test_only_jpegs_are_scaled():
    pixels = smooth_picture(64, 48)
    for format in ("PNG", "BMP", "TIFF"):
        picture = decode_scaled(encode(pixels, format), 4)
        np.testing.assert_array_equal(picture.pixels, pixels)
        assert picture.box == (0, 0, 64, 48)
    with pytest.raises(FeatlabError, match=r"factor must be 1, 2, 4 or 8, got 3\."):
        decode_scaled(encode(pixels), 3)
    assert decode_scaled(encode(pixels[:1, :1], "JPEG"), 8).pixels.shape == (1, 1, 3)


def test_a_scaled_cmyk_jpeg_keeps_its_colours():
    cmyk = Image.fromarray(smooth_picture(640, 480)).convert("CMYK")
    data = encode(cmyk, "JPEG", quality=95)
    scaled = decode_scaled(data, 4).pixels.mean(axis=(0, 1))
    np.testing.assert_allclose(scaled, decode_picture(data).mean(axis=(0, 1)), atol=1)


def test_colour_histogram():
    pixels = np.random.default_rng(1).integers(0, 256, (31, 17, 3), dtype=np.uint8)
    expected, _ = np.histogramdd(pixels.reshape(-1, 3), bins=[[0, 64, 128, 192, 256]] * 3)
    result = colour_histogram(pixels)
    assert result.dtype == np.float32 and result.shape == (64,)
    np.testing.assert_allclose(result, expected.ravel() / expected.sum(), rtol=1e-6)
    np.testing.assert_array_equal(colour_histogram(Image.fromarray(pixels)), result)


def test_of_a_large_picture_colours_are_counted_on_a_grid():
    large = smooth_picture(1200, 900)
    expected, _ = np.histogramdd(large.reshape(-1, 3), bins=[[0, 64, 128, 192, 256]] * 3)
    result = colour_histogram(large)
    assert result.sum() == pytest.approx(1)
    assert np.abs(result - expected.ravel() / expected.sum()).sum() / 2 < 0.005
    # A thin picture keeps a pixel along its short side.
    assert colour_histogram(large[:1].repeat(90, 1)).sum() == pytest.approx(1)


def test_only_rgb_images_of_pillow_are_taken():
    for call in (colour_histogram, lambda image: resize_picture(image, (8, 8))):
        with pytest.raises(FeatlabError, match="an image of Pillow must be in mode RGB, got L"):
            call(Image.new("L", (9, 9)))


# ---------------------------------------------------------------- boxes

BOXES = [(0, "cat", 1.5, 2, 10, 12), (0, "dog", 0, 0, 24, 16), (2, "dog", 3, 4, 5, 6)]
NAMES = ["cat/a.png", "cat/b.png", "dog/c.png"]


def expected_boxes(kind: str = "object") -> pd.DataFrame:
    table = pd.DataFrame(BOXES, columns=["image", "label", *CORNERS]).astype(
        dict.fromkeys(CORNERS, float)
    )
    table.insert(1, "kind", kind)
    return table


def test_boxes_csv(tmp_path):
    two_classes(tmp_path)
    rows = [f"{NAMES[n]},{label},object,24,16,{a},{b},{c},{d}" for n, label, a, b, c, d in BOXES]
    put_boxes(tmp_path, *reversed(rows))
    _, boxes, _ = index_images(tmp_path)
    order = [1, 0, 2]  # within a picture as in the file
    pd.testing.assert_frame_equal(boxes, expected_boxes().iloc[order].reset_index(drop=True))


@pytest.mark.parametrize(
    "folder", ["cat", "annotations/cat", "annotations/xmls", "cat/Annotations"]
)
def test_voc(tmp_path, folder):
    two_classes(tmp_path)
    put_voc(tmp_path / folder / "a.xml", "a.png", (24, 16), *(box[1:] for box in BOXES[:2]))
    put_voc(tmp_path / folder.replace("cat", "dog") / "c.xml", "", None, BOXES[2][1:])
    pd.testing.assert_frame_equal(index_images(tmp_path)[1], expected_boxes())


def coco(root: Path, path: str, *, names: list[str]) -> None:
    images = [
        {"id": number, "file_name": name, "width": 24, "height": 16}
        for number, name in enumerate(names)
    ]
    annotations = [
        {"image_id": n, "category_id": 7 if label == "cat" else 9, "bbox": [a, b, c - a, d - b]}
        for n, label, a, b, c, d in BOXES
    ]
    put_coco(root / path, images, annotations)


@pytest.mark.parametrize("path", ["boxes.json", "annotations/train.json"])
@pytest.mark.parametrize("names", [NAMES, ["a.png", "b.png", "c.png"]])
def test_coco(tmp_path, path, names):
    two_classes(tmp_path)
    (tmp_path / "settings.json").write_text('{"images": 3}')
    coco(tmp_path, path, names=names)
    pd.testing.assert_frame_equal(index_images(tmp_path)[1], expected_boxes())


def test_coco_repeats_and_crowds(tmp_path):
    two_classes(tmp_path)
    image = [{"id": "x", "file_name": "cat/a.png"}]
    box = {"image_id": "x", "category_id": 7, "bbox": [1, 1, 2, 2]}
    put_coco(tmp_path / "instances.json", image, [box, {**box, "iscrowd": 1}])
    put_coco(tmp_path / "keypoints.json", image, [box])
    assert index_images(tmp_path)[1]["kind"].tolist() == ["object", "crowd"]


def test_boxes_csv_comes_first_and_kind_is_kept(tmp_path):
    two_classes(tmp_path)
    put_voc(tmp_path / "cat" / "a.xml", "a.png", None, ("cat", 0, 0, 1, 1))
    put_boxes(tmp_path, "cat/b.png,cat,head,0,0,1,2,3,4")
    _, boxes, _ = index_images(tmp_path)
    assert boxes[["image", "kind", "label"]].to_numpy().tolist() == [[1, "head", "cat"]]


def test_a_boxes_csv_without_boxes_leaves_the_word_to_the_next_format(tmp_path):
    two_classes(tmp_path)
    put_boxes(tmp_path)
    put_voc(tmp_path / "cat" / "a.xml", "a.png", None, ("cat", 0, 0, 1, 1))
    assert index_images(tmp_path)[1]["image"].tolist() == [0]


def test_voc_folders_keep_equal_names_apart(tmp_path):
    for name in ("cat/1.png", "dog/1.png"):
        put(tmp_path / name)
        put_voc((tmp_path / name).with_suffix(".xml"), "1.png", None, (name[:3], 0, 0, 4, 4))
    images, boxes, _ = index_images(tmp_path)
    assert images["label"][boxes["image"]].tolist() == boxes["label"].tolist() == ["cat", "dog"]


def test_a_name_that_fits_two_pictures_is_a_problem(tmp_path):
    for name in ("cat/1.png", "dog/1.png"):
        put(tmp_path / name)
    put_voc(tmp_path / "annotations" / "1.xml", "1.png", None, ("cat", 0, 0, 4, 4))
    with pytest.raises(FeatlabError, match="1.xml object 1: it could mean cat/1.png or dog/1.png"):
        index_images(tmp_path)


def test_a_box_does_not_move_to_a_namesake_in_another_folder(tmp_path):
    put(tmp_path / "cat" / "1.png")
    put(tmp_path / "dog" / "2.png")
    put_boxes(tmp_path, "cat/2.png,cat,object,,,0,0,4,4")
    with pytest.raises(FeatlabError, match=r"not there \('cat/2.png'\)"):
        index_images(tmp_path)
    (tmp_path / "boxes.csv").unlink()
    put_voc(tmp_path / "annotations" / "cat" / "2.xml", "2.png", None, ("cat", 0, 0, 4, 4))
    with pytest.raises(FeatlabError, match="2.xml object 1: .*not there"):
        index_images(tmp_path)


def test_accents_match_however_they_are_written(tmp_path):
    put(tmp_path / "cat" / "lo\u0308we.png")
    put_boxes(tmp_path, "cat/l\u00f6we.png,cat,object,,,0,0,4,4")
    assert len(index_images(tmp_path)[1]) == 1


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
def test_boxes_turn_with_the_picture(tmp_path, orientation, format):
    raw = np.zeros((64, 96, 3), np.uint8)
    raw[8:24, 32:80] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = put(tmp_path / "cat" / "a.png")
    path.write_bytes(encode(raw, format, exif=exif))
    shown = decode_picture(path.read_bytes())[..., 0] > 127
    ys, xs = np.nonzero(shown)
    seen = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]
    # Orientations 2 to 4 do not change the size: there the boxes are those of the shown picture.
    drawn = [32, 8, 80, 24] if orientation >= 5 else seen
    put_boxes(tmp_path, "cat/a.png,cat,object,96,64," + ",".join(map(str, drawn)))
    assert index_images(tmp_path)[1][CORNERS].to_numpy().tolist() == [seen]
    width, height = shown.shape[::-1]
    for size in (f"{width},{height}", ","):
        put_boxes(tmp_path, f"cat/a.png,cat,object,{size}," + ",".join(map(str, seen)))
        assert index_images(tmp_path)[1][CORNERS].to_numpy().tolist() == [seen]


def test_boxes_of_another_size_are_scaled(tmp_path):
    put(tmp_path / "cat" / "a.png", 48, 32)
    put_boxes(tmp_path, "cat/a.png,cat,object,480,320,100,50,200,300")
    assert index_images(tmp_path)[1][CORNERS].to_numpy().tolist() == [[10, 5, 20, 30]]
    put_boxes(tmp_path, "cat/a.png,cat,object,500,333,0,0,500,333")  # rounded when resized
    np.testing.assert_allclose(index_images(tmp_path)[1][CORNERS], [[0, 0, 48, 32]])
    put_boxes(tmp_path, "cat/a.png,cat,object,480,480,100,50,200,300")
    with pytest.raises(FeatlabError, match="480 x 480 pixels, this one has 48 x 32, another shape"):
        index_images(tmp_path)


def test_boxes_slightly_outside_are_clipped(tmp_path):
    two_classes(tmp_path)
    put_boxes(tmp_path, "cat/a.png,cat,object,24,16,-0.9,-1,25,16.5")
    assert index_images(tmp_path)[1][CORNERS].to_numpy().tolist() == [[0, 0, 24, 16]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("cat/a.png,cat,object,,,5,0,5,1", "is empty"),
        ("cat/a.png,cat,object,,,5,3,6,2", "is empty"),
        ("cat/a.png,cat,object,,,nan,0,1,1", "is not finite"),
        ("cat/a.png,cat,object,,,0,0,inf,1", "is not finite"),
        ("cat/a.png,cat,object,,,0,0,,1", "'' is not a number"),
        ("cat/a.png,cat,object,x,5,0,0,1,1", "'x' is not a number"),
        ("cat/a.png,cat,object,,,0,0,26,1", "lies outside its picture of 24 x 16"),
        ("cat/a.png,cat,object,,,0,-2,1,1", "lies outside"),
        ("cat/a.png,cat,object,,,24.2,0,24.8,1", "on the edge"),
        ("cat/a.png,cat,object,-24,-16,0,0,1,1", "outside"),
    ],
)
def test_bad_boxes_are_problems(tmp_path, row, reason, caplog):
    two_classes(tmp_path)
    put_boxes(tmp_path, "cat/b.png,cat,object,,,0,0,2,2", row)
    with pytest.raises(FeatlabError, match=f"boxes.csv line 3: .*{reason}"):
        index_images(tmp_path)
    images, boxes, skipped = index_images(tmp_path, on_error="skip")
    assert len(images) == 3 and len(boxes) == 1
    assert skipped["path"].tolist() == ["boxes.csv line 3"]
    assert "boxes.csv line 3" in caplog.text


def test_boxes_csv_without_its_columns(tmp_path):
    put_csv(two_classes(tmp_path) / "boxes.csv", "image,x,y")
    with pytest.raises(FeatlabError, match="boxes.csv needs the columns image, xmin"):
        index_images(tmp_path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_xml_entities_are_refused(tmp_path, encoding):
    two_classes(tmp_path)
    text = (
        f'<?xml version="1.0" encoding="{encoding}"?><!DOCTYPE annotation [<!ENTITY a "aaaa">'
        '<!ENTITY b "&a;&a;&a;">]><annotation><filename>&b;</filename></annotation>'
    )
    (tmp_path / "cat" / "a.xml").write_bytes(text.encode(encoding))
    with pytest.raises(FeatlabError, match="cat/a.xml: it has a DOCTYPE"):
        index_images(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("cat/a.xml", "<annotation>", "cat/a.xml: it is not valid XML"),
        ("cat/a.xml", '<?xml version="1.0" encoding="klingon"?><a/>', "not valid XML"),
        ("cat/a.xml", "<annotation><object/></annotation>", "object 1: it has no bndbox"),
        ("x.json", '{"images": [', "x.json: it is not valid JSON"),
        ("x.json", "[" * 100_000, "x.json: it is not valid JSON"),
    ],
)
def test_damaged_annotations(tmp_path, name, text, reason):
    (two_classes(tmp_path) / name).write_text(text)
    with pytest.raises(FeatlabError, match=reason):
        index_images(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image_id": 5}, "image_id 5, which is not in images"),
        ({"category_id": 5}, "category_id 5, not in categories"),
        ({"bbox": []}, r"bbox must be \[x, y, width, height\], got \[\]"),
        ({"bbox": [1, 1, 0, 3]}, "is empty"),
        ({"bbox": [1, 1, None, 3]}, "None is not a number"),
        ({"image_id": []}, r"image_id \[\], which is not in images"),
    ],
)
def test_bad_coco_annotations(tmp_path, change, reason):
    two_classes(tmp_path)
    annotation = {"image_id": 1, "category_id": 7, "bbox": [0, 0, 3, 3]} | change
    put_coco(tmp_path / "x.json", [{"id": 1, "file_name": "a.png"}], [annotation])
    with pytest.raises(FeatlabError, match=rf"x.json annotations\[0\]: .*{reason}"):
        index_images(tmp_path)


# ---------------------------------------------------------------- real pictures


@pytest.mark.parametrize("name", ["kangaroo_raccoon", "fruit3"])
def test_real_sets(name):
    if not (DATA / name).is_dir():
        pytest.skip(f"real pictures are not here: {DATA / name}")
    images, boxes, _ = index_images(DATA / name)
    written = pd.read_csv(DATA / name / "boxes.csv")
    files = sorted(
        path.relative_to(DATA / name).as_posix() for path in (DATA / name).rglob("*.jpg")
    )
    assert images["path"].tolist() == files
    assert len(boxes) == len(written)
    key = ["path", *CORNERS]
    found = boxes.assign(path=images["path"].to_numpy()[boxes["image"]])[key]
    expected = written.rename(columns={"image": "path"})[key]
    pd.testing.assert_frame_equal(
        found.sort_values(key, ignore_index=True),
        expected.sort_values(key, ignore_index=True),
        check_dtype=False,
        atol=1,  # boxes written up to a pixel outside are clipped
        rtol=0,
    )


def test_real_csv_groups_species_by_breed(tmp_path):
    source = DATA / "pets_breeds"
    if not source.is_dir():
        pytest.skip(f"real pictures are not here: {source}")
    table = pd.read_csv(source / "species.csv").groupby("group").head(2)
    for name in {*table["group"]}:
        (tmp_path / name).symlink_to(source / name)
    table.to_csv(tmp_path / "few.csv", index=False)
    (tmp_path / "boxes.csv").write_bytes((source / "boxes.csv").read_bytes())
    images, boxes, _ = index_images(tmp_path / "few.csv")
    assert set(images["label"]) == {"cat", "dog"} and images["group"].nunique() == 18
    assert (images["path"].str.split("/").str[0] == images["group"]).all()
    assert set(boxes["kind"]) == {"head"} and boxes["image"].max() < len(images) == 36
