"""Seconds until featlab is there: the import, and the help of the command line.

    python benchmarks/startup.py [--repeats 20]

Each in fresh processes, in turn with an empty one; the fastest counts, as other programs only add.
Limits: 0.3 s for `import featlab`, 0.6 s for `featlab --help`, both with Python's own start.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time

from limits import say

COMMANDS = {
    "python, nothing": ["-c", "pass"],
    "import featlab": ["-c", "import featlab"],
    "featlab --help": ["-m", "featlab", "--help"],
}


def seconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-P", *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main(repeats: int) -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(repeats + 1):
        for name, arguments in COMMANDS.items():
            taken = seconds(arguments)
            if turn:  # The first one writes bytecode.
                times[name].append(taken)
    fastest = {name: min(taken) for name, taken in times.items()}
    print(f"python, nothing: {fastest['python, nothing']:.3f} s")
    say("import featlab, s", fastest["import featlab"], "<=", 0.3)
    say("featlab --help, s", fastest["featlab --help"], "<=", 0.6)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20)
    main(parser.parse_args().repeats)
