"""Mutated files in batches: each batch in a process of its own, with a limit of memory and time.

    python tests/fuzz/batches.py KIND FIRST LAST     one batch, here
    python tests/fuzz/batches.py                     those it is asked for, each in a child

Case *n* of a kind depends on *n* only. The contract: a FeatlabError of one short text that names
the file, or a right result; never another exception, a crash, a hang or a blow-up of memory.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from forked import ForkServer, serve  # noqa: E402

SECONDS_PER_CASE = 10
"""Of the processor, which other programs do not take."""
ROOM = 1 << 30
"""Bytes that a batch may take beyond what it has when its libraries are loaded."""
LONGEST_MESSAGE = 5000
"""One sentence; or a list of 20 bad files with a reason each."""

Case = Callable[[int, Path], str]


def cases() -> dict[str, Case]:
    """Kind → what does one case in a folder of its own; it returns what became of it."""
    import annotation_cases
    import image_cases
    import predictor_cases
    import store_cases

    return {
        "images": image_cases.run,
        "common_images": image_cases.run_common,
        "annotations": annotation_cases.run,
        "stores": store_cases.run,
        "store_bytes": store_cases.run_bytes,
        "predictors": predictor_cases.run,
        "predictor_bytes": predictor_cases.run_bytes,
    }


def run_batches(
    server: ForkServer, kind: str, first: int, last: int, *, size: int = 400
) -> Counter[str]:
    """Run cases `first` to `last` in batches; what became of them, or AssertionError.

    The HDF5 library itself crashes or goes round in circles on some damaged heaps of text
    (SECURITY.md), so a case of damaged bytes may be "lost"; the caller says how many are too many.
    """
    found: Counter[str] = Counter()
    start = first
    while start < last:
        stop = min(start + size, last)
        end, errors, results = run_batch(server, kind, start, stop)
        bad = [one for one in results if one["end"] == "broken"]
        assert not bad, f"{len(bad)} broken, such as\n{json.dumps(bad[:3], indent=1)[:6000]}"
        found.update(one["end"] for one in results)
        start += len(results)
        if end:
            is_librarys = end in (-signal.SIGPROF, -signal.SIGSEGV) and kind.endswith("_bytes")
            assert is_librarys, f"{kind}, case {start}, ended with {end}\n{errors[-3000:]}"
            found["lost"] += 1
            start += 1
    return found


def run_batch(
    server: ForkServer, kind: str, start: int, stop: int
) -> tuple[int, str, list[dict[str, str]]]:
    """Exit status, what was printed, and the result of every case that came to an end."""
    with tempfile.TemporaryDirectory() as folder:
        log, output = Path(folder, "log"), Path(folder, "output")
        end = server.run("batch", output, kind=kind, first=start, last=stop, log=str(log))
        printed = output.read_text("utf-8", errors="replace")
        lines = log.read_text("utf-8").splitlines() if log.exists() else []
    return end, printed, [json.loads(line) for line in lines]


def one_case(case: Case, number: int, *, named: bool) -> dict[str, object]:
    """Run a case, with an alarm that no C library can swallow."""
    from featlab import FeatlabError

    with tempfile.TemporaryDirectory() as folder:
        signal.setitimer(signal.ITIMER_PROF, SECONDS_PER_CASE)
        try:
            return {"case": number, "end": case(number, Path(folder))}
        except FeatlabError as error:
            text = str(error)
            good = len(text) <= LONGEST_MESSAGE and (folder in text or not named)
            return {"case": number, "end": "refused" if good else "broken", "text": text[:2000]}
        except BaseException:
            return {"case": number, "end": "broken", "text": traceback.format_exc()[-1500:]}
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)


def limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def main(kind: str, first: int, last: int, log: str | None = None) -> None:
    warnings.simplefilter("ignore")
    case = cases()[kind]
    # What decodes bytes gives the reason; its caller puts it behind the name.
    named = "images" not in kind
    for number in range(8):  # loads everything, and takes what libraries reserve at first
        one_case(case, number, named=named)
    if Path("/proc/self/statm").exists():
        limit_memory()
    with open(log or os.devnull, "w", encoding="utf-8") as file:
        for number in range(first, last):
            result = one_case(case, number, named=named)
            file.write(json.dumps(result) + "\n")
            file.flush()
            if log is None and result["end"] != "right":
                text = re.sub(r"\s+", " ", str(result.get("text")))
                sys.stdout.write(f"{number} {result['end']}: {text[-400:]}\n")


if __name__ == "__main__":
    if sys.argv[1:]:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:])
    else:
        cases()  # loads the libraries once, for all batches
        serve({"batch": main})
