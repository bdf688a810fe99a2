"""All benchmarks in a short form, and one table of figures, limits and commands.

    python benchmarks/run_all.py [NAME ...] [--python-with-thingsvision PYTHON]

`make bench` runs this. The short forms take a few pictures and rounds, on built-in scenes: they
show that a limit is within reach, not more. What is paid once for a store weighs heavily there: of
a pass over 128 pictures it is a quarter. The last column is the command of the long form.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from limits import Row, rows_in

HERE = Path(__file__).parent
HEADER = ("figure with its unit", "found in short", "limit", "reached in short", "long form")


@dataclass(frozen=True)
class Script:
    """A benchmark.

    Attributes
    ----------
    name : str
        For choosing some on the command line.
    file : str
        In this folder.
    short : tuple of str
        Arguments of the short form.
    long : str
        Arguments of the long form, as they are shown.
    """

    name: str
    file: str
    short: tuple[str, ...] = ()
    long: str = ""


SCRIPTS = (
    Script("startup", "startup.py", ("--repeats", "5")),
    Script("extract", "extract.py", ("--limit", "128", "--rounds", "1"), "FOLDER --rounds 4"),
    Script("memory", "extract.py", ("--memory", "500", "5000"), "--memory"),
    Script("predict", "predict.py", ("--pictures", "256", "--rounds", "1"), "FOLDER --rounds 3"),
    Script("box", "box.py", ("--rounds", "3", "--images", "4"), "STORE"),
    Script("warm_run", "warm_run.py", ("--images", "240"), "FOLDER"),
    Script("cold_run", "warm_run.py", ("--cold",), "--cold FOLDER"),
    Script(
        "thingsvision", "thingsvision.py", ("--rounds", "1", "--limit", "64"), "--python PYTHON"
    ),
    Script("decode", "decode.py", ("--pictures", "2"), "FOLDER"),
    Script("networks", "networks.py", ("MobileNetV3Small", "InceptionV3", "--size", "96")),
    Script("precision", "precision.py", ("--images", "80"), "FOLDER"),
    Script("resolution", "resolution.py", ("--images", "80"), "STORE ..."),
    Script("localise", "localise.py", ("40",)),
    Script("neurons", "neurons.py", ("600", "200")),
    Script("calibration", "calibration.py", ("20",)),
    Script("coverage", "interval_coverage.py", ("20",)),
    Script("labels", "labels.py", ("1",)),
    Script("typicality", "typicality.py", ("--draws", "2"), "NAME=STORE ..."),
    Script("predictions", "predictions.py", ("--draws", "5"), "NAME=STORE[:KIND] ..."),
    Script("untuned", "untuned.py", long="NAME=STORE[:KIND] ..."),
    Script("student", "student.py", long="NAME=STORE[:KIND] ... --seeds 0,1,2,3,4"),
    Script("suggest", "suggest.py", ("--draws", "1"), "NAME=STORE[:KIND] ..."),
    Script("copies", "copies.py", ("--scale", "20000")),
    Script("pooled", "pooled.py", ("20000", "64")),
    Script("scale", "scale.py", ("1000", "64", "4")),
)


@dataclass(frozen=True)
class Outcome:
    """What came of a script."""

    script: Script
    code: int
    seconds: float
    rows: list[Row] = field(default_factory=list)


def run(script: Script, more: Sequence[str] = ()) -> Outcome:
    """Run the short form; its output is shown as it comes."""
    command = [sys.executable, "-u", str(HERE / script.file), *script.short, *more]
    print(f"\n=== {script.name}: {' '.join(command[2:])}", flush=True)
    start, lines = time.perf_counter(), []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout
        for line in child.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    seconds = time.perf_counter() - start
    return Outcome(script, child.returncode, seconds, rows_in("".join(lines)))


def cells(outcome: Outcome) -> list[tuple[str, ...]]:
    """The rows of the table that a script gives: one where it has no limits."""
    command = f"python benchmarks/{outcome.script.file} {outcome.script.long}".rstrip()
    if outcome.code:
        return [(outcome.script.name, f"failed ({outcome.code})", "", "NO", command)]
    if not outcome.rows:
        return [(outcome.script.name, f"ran, {outcome.seconds:.0f} s", "", "", command)]
    return [
        (
            row.name,
            f"{row.figure:.4g}",
            f"{row.sign} {row.limit:g}",
            "yes" if row.reached else "NO",
            command,
        )
        for row in outcome.rows
    ]


def table(outcomes: Sequence[Outcome]) -> str:
    """All figures with their limits, aligned, as Markdown."""
    lines = [HEADER, *(line for outcome in outcomes for line in cells(outcome))]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = [
        "| " + " | ".join(map(str.ljust, line, widths)) + " |"
        for line in (lines[0], tuple("-" * width for width in widths), *lines[1:])
    ]
    return "\n".join(rows)


def main(names: Sequence[str], thingsvision: str | None) -> int:
    """Status: 0 if every script ran; a limit that is missed is for the reader to judge."""
    scripts = [script for script in SCRIPTS if not names or script.name in names]
    outcomes = []
    for script in scripts:
        more = ["--python", thingsvision] if script.name == "thingsvision" and thingsvision else []
        outcomes.append(run(script, more))
    print(f"\n{table(outcomes)}")
    return int(any(outcome.code for outcome in outcomes))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = [script.name for script in SCRIPTS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(known)}")
    parser.add_argument("--python-with-thingsvision")
    given = parser.parse_args()
    if unknown := set(given.names) - set(known):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    sys.exit(main(given.names, given.python_with_thingsvision))
