"""The command line: the same pipeline from a shell.

Everything heavy is imported inside the commands, so that ``featlab --help`` answers at once.
"""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import warnings
from typing import Annotated, Any

import typer

from featlab.cli._pages import audit, compare, demo, embed, extract, info, join, report, verify
from featlab.cli._pass import predict, run
from featlab.cli._questions import boxheads, heads, localise, neurons
from featlab.cli._rerun import export, finetune, gradients, suggest
from featlab.errors import FeatlabError
from featlab.system import GARBAGE, __version__

_INTERRUPTED, _TERMINATED = 130, 143  # what typer makes of Ctrl-C; what a shell makes of SIGTERM
_PATIENCE = 2.0  # seconds that an interrupted command has to end
_KEEP_PARTS = ("demo", "run", "predict", "extract", "finetune")

app = typer.Typer(
    name="featlab",
    help="What a frozen, pretrained network already knows about your images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    demo,
    run,
    predict,
    suggest,
    export,
    extract,
    join,
    info,
    verify,
    audit,
    heads,
    neurons,
    localise,
    boxheads,
    compare,
    gradients,
    embed,
    finetune,
    report,
):
    app.command()(command)


class _AboveBars(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to standard error, above the progress bar that may be drawn there; the same once."""

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._before: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text in self._before:
            return
        self._before.add(text)
        bars = sys.modules.get("tqdm")
        if bars is None:
            super().emit(record)
        else:
            with bars.tqdm.external_write_mode(file=self.stream):
                super().emit(record)


def _end_bars() -> None:
    """End the line of every bar that an error has cut short."""
    bars = sys.modules.get("tqdm")
    if bars is not None:
        for bar in list(getattr(bars.tqdm, "_instances", ())):
            bar.close()


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    logging.basicConfig(
        format="featlab: %(message)s", level=logging.INFO, handlers=[_AboveBars(sys.stderr)]
    )
    for talkative in ("tensorflow", "tf2onnx", "matplotlib"):  # which tells of its new font list
        logging.getLogger(talkative).setLevel(logging.ERROR)
    if version:
        print(f"featlab {__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point: a user's mistake is one line and exit code 1, never a traceback."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    gc.set_threshold(*GARBAGE)
    # Pillow warns of pictures that it opens; those that it refuses are told as skipped.
    warnings.filterwarnings("ignore", message="Image size .* could be decompression bomb")
    interrupts = _Interrupts()
    try:
        app()
    except BaseException as error:
        ending = _ending(error, interrupts.end())
        if ending is None:
            raise
        _end_bars()
        print(ending[0], file=sys.stderr)
        raise SystemExit(ending[1]) from None
    finally:
        interrupts.end()
        # Only if it was needed: importing it takes longer than `featlab --help`.
        if workers := sys.modules.get("featlab.system.processes"):
            workers.dismiss()
        # Looking for garbage that the end of the process frees anyway takes half a second.
        gc.freeze()


class _Interrupts:
    """Ctrl-C and SIGTERM raise KeyboardInterrupt, and again until the command ends.

    Once is not enough: libraries make another exception of it, or go on as if nothing had been (a
    bare ``except``), and Python itself does where it falls into a destructor or a callback.
    """

    def __init__(self) -> None:
        self._first = 0
        self._before: dict[int, Any] = {}
        alarm = getattr(signal, "SIGALRM", None)  # Windows has none
        for number in (signal.SIGINT, signal.SIGTERM, alarm):
            if number and signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._before[number] = signal.signal(number, self._came)
        self._hook, sys.unraisablehook = sys.unraisablehook, self._lost

    def _came(self, number: int, _: object) -> None:
        self._first = self._first or number
        self._again(_PATIENCE)
        raise KeyboardInterrupt

    def _lost(self, lost: Any) -> None:
        if issubclass(lost.exc_type, KeyboardInterrupt):
            self._again(0.05)  # not from within, where it would be lost in the same way
        else:
            self._hook(lost)

    @staticmethod
    def _again(seconds: float) -> None:
        # No thread: the lock that starting one takes may be held where the signal fell.
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, seconds)

    def end(self) -> int:
        """Leave the signals as they were; the number of the one that came first, 0 if none did."""
        if self._first:
            self._again(0)
        while self._before:
            signal.signal(*self._before.popitem())
        sys.unraisablehook = self._hook
        return self._first


def _ending(error: BaseException, interrupt: int) -> tuple[str, int] | None:
    """Last words and exit code; None for the end of a command that was not cut short, and defects.

    After an interrupt every error is its doing.
    """
    code = error.code if isinstance(error, SystemExit) else 1
    if code == _INTERRUPTED or (interrupt and code):
        status = _TERMINATED if interrupt == signal.SIGTERM else _INTERRUPTED
        return f"\nfeatlab: interrupted. {_how_to_go_on()}", status
    if isinstance(error, MemoryError):
        return (
            f"featlab: there is not enough memory for this. {_how_to_go_on()} A smaller "
            "--batch-size or --input-size needs less."
        ), 1
    return (f"featlab: {error}", 1) if isinstance(error, (FeatlabError, OSError)) else None


def _how_to_go_on() -> str:
    """What an interrupted command leaves behind."""
    if sys.argv[1:2] and sys.argv[1] in _KEEP_PARTS:
        return "Finished parts are kept; run the same command again to go on."
    return "Nothing was half written; run the same command again to start anew."
