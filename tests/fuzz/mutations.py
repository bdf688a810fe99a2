"""Damage of bytes and of numbers that formats keep in them."""

from __future__ import annotations

import struct
import zlib

import numpy as np

ODD_NUMBERS = (0, 1, 2, 127, 128, 255, 256, 32767, 32768, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1)


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four pieces of damage of any kind."""
    for _ in range(rng.integers(1, 5)):
        data = rng.choice(KINDS)(data, rng)
    return data


def flip(data: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        if changed:
            changed[rng.integers(len(changed))] = rng.integers(256)
    return bytes(changed)


def cut(data: bytes, rng: np.random.Generator) -> bytes:
    return data[: rng.integers(len(data) + 1)]


def repeat(data: bytes, rng: np.random.Generator) -> bytes:
    start, stop = sorted(rng.integers(0, len(data) + 1, 2))
    return data[:stop] + data[start:stop] * int(rng.integers(1, 5)) + data[stop:]


def remove(data: bytes, rng: np.random.Generator) -> bytes:
    start, stop = sorted(rng.integers(0, len(data) + 1, 2))
    return data[:start] + data[stop:]


def insert(data: bytes, rng: np.random.Generator) -> bytes:
    place = rng.integers(len(data) + 1)
    return data[:place] + rng.bytes(int(rng.integers(1, 40))) + data[place:]


def number(data: bytes, rng: np.random.Generator) -> bytes:
    """An odd number somewhere, most often near the start where headers are."""
    kind = rng.choice(["<H", ">H", "<I", ">I", "<Q"])
    value = ODD_NUMBERS[rng.integers(len(ODD_NUMBERS))]
    packed = struct.pack(kind, value % 2 ** (8 * struct.calcsize(kind)))
    reach = min(len(data), 200) if rng.random() < 0.6 else len(data)
    place = int(rng.integers(max(1, reach)))
    return data[:place] + packed + data[place + len(packed) :]


KINDS = np.array([flip, flip, cut, repeat, remove, insert, number, number, number], dtype=object)


def jpeg_segments(data: bytes, rng: np.random.Generator) -> bytes:
    """Another length, or other content, of some segment of a JPEG file."""
    places, place = [], 2
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != 0xDA:
        places.append(place)
        place += 2 + struct.unpack(">H", data[place + 2 : place + 4])[0]
    if not places:
        return flip(data, rng)
    chosen = int(rng.choice(places))
    (length,) = struct.unpack(">H", data[chosen + 2 : chosen + 4])
    if rng.random() < 0.5:
        new = int(rng.choice([0, 1, 2, 3, length - 1, length + 1, 65535]))
        return data[: chosen + 2] + struct.pack(">H", new % 65536) + data[chosen + 4 :]
    stop = chosen + 2 + length
    content = flip(data[chosen + 4 : stop], rng)
    return data[: chosen + 4] + content + data[stop:]


def png_chunks(data: bytes, rng: np.random.Generator) -> bytes:
    """Another size or content of a chunk of a PNG file, its check sum made right again."""
    chunks, place = [], 8
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunks.append((data[place + 4 : place + 8], data[place + 8 : place + 8 + length]))
        place += 12 + length
    if not chunks:
        return flip(data, rng)
    chosen = int(rng.integers(len(chunks)))
    name, content = chunks[chosen]
    choice = rng.integers(5)
    if choice == 0:
        content = number(content, rng)
    elif choice == 1:
        content = flip(content, rng)
    elif choice == 2:
        name = [b"zTXt", b"iTXt", b"iCCP", b"tRNS", b"PLTE", b"eXIf", b"acTL", b"IDAT"][
            rng.integers(8)
        ]
        content = b"a\0\0" + zlib.compress(bytes(int(rng.choice([10, 10**6, 10**8]))), 9)
    elif choice == 3:
        chunks.insert(int(rng.integers(len(chunks))), (name, content))
    made = [*chunks[:chosen], (name, content), *chunks[chosen + 1 :]]
    if choice == 4:
        del made[chosen]
    body = b"".join(
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
        for name, content in made
    )
    if rng.random() < 0.2:
        body = number(body, rng)
    return data[:8] + body
