"""The arguments that the numbered scripts share, so that one line serves each of them. No script.

    python analysis/02_heads.py [IMAGES] [--classes A,B] [--box-kind KIND] [-o FOLDER]

IMAGES is a folder of class folders, or what else `featlab run` takes; without it the built-in
scenes. FOLDER holds the store that the first script makes, and what all of them write. Without -o
it is one of its own in reports/ for each IMAGES and each choice of classes.
"""

from __future__ import annotations

import logging
import os
import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType

from featlab.errors import FeatlabError
from featlab.system import libraries_silenced

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
logging.getLogger("tensorflow").setLevel(logging.ERROR)


def parser(about: str | None) -> ArgumentParser:
    """The shared arguments; a script may add its own."""
    made = ArgumentParser(description=about, formatter_class=RawDescriptionHelpFormatter)
    made.add_argument("images", nargs="?", type=Path, help="(default: the built-in scenes)")
    made.add_argument("--classes", help="comma-separated: only these")
    made.add_argument("--box-kind", help="which kind of box is the truth, where there are several")
    made.add_argument("-o", "--output", type=Path, help="folder of the store and the results")
    return made


def read(made: ArgumentParser, *, network: bool = False) -> Namespace:
    """What was given; ``classes`` as a list or None, and ``folder`` and ``store`` as paths.

    Of a script that runs a `network`, what TensorFlow says while it wakes is left out.
    """
    sys.excepthook = _say
    if network:
        with libraries_silenced():
            import keras

            keras.ops.zeros(1)
    given = made.parse_args()
    given.classes = given.classes.split(",") if given.classes else None
    name = given.images.resolve().stem if given.images else "analysis"
    given.folder = given.output or Path("reports", "-".join([name, *(given.classes or [])]))
    given.folder.mkdir(parents=True, exist_ok=True)
    given.store = given.folder / "maps.h5"
    return given


def counted(batches: Iterable[range]) -> Iterator[range]:
    """A progress bar that counts images, though the pass goes batch by batch."""
    from tqdm import tqdm

    batches = list(batches)
    with tqdm(total=sum(map(len, batches)), desc="extract", unit="img") as bar:
        for batch in batches:
            yield batch
            bar.update(len(batch))


def _say(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """One line where the request was wrong, such as scripts before the first one."""
    if isinstance(error, FeatlabError):
        print(error, file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)
