"""Progress bars of the commands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any


def bar(items: Iterable[Any], *, label: str) -> Iterable[Any]:
    """A bar that counts images."""
    from tqdm import tqdm

    return tqdm(items, desc=label, unit="img")


def extract_bar(batches: Iterable[range]) -> Iterator[range]:
    """Rate and time left in images, though the pass goes batch by batch."""
    from tqdm import tqdm

    batches = list(batches)
    with tqdm(total=sum(map(len, batches)), desc="extract", unit="img") as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


def quiet_bar(
    items: Iterable[Any], *, label: str = "localise", unit: str = "batch"
) -> Iterable[Any]:
    """A bar that leaves no line behind."""
    from tqdm import tqdm

    return tqdm(items, desc=label, unit=unit, leave=False)
