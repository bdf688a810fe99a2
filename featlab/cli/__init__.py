"""The command line: the same pipeline from a shell.

Everything heavy is imported inside the commands, so that ``featlab --help`` answers at once.
"""

from __future__ import annotations

import _thread
import gc
import logging
import os
import signal
import sys
import threading
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
    terminated = False

    def terminate(*_: object) -> None:
        nonlocal terminated
        terminated = True
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    before, sys.unraisablehook = sys.unraisablehook, _heed_interrupts
    try:
        app()
    except (FeatlabError, OSError) as error:
        _end_bars()
        print(f"featlab: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    except MemoryError:
        _end_bars()
        print(
            f"featlab: there is not enough memory for this. {_how_to_go_on()} A smaller "
            "--batch-size or --input-size needs less.",
            file=sys.stderr,
        )
        raise SystemExit(1) from None
    except SystemExit as end:
        if end.code != _INTERRUPTED:
            raise
        _end_bars()
        print(f"\nfeatlab: interrupted. {_how_to_go_on()}", file=sys.stderr)
        raise SystemExit(_TERMINATED if terminated else _INTERRUPTED) from None
    finally:
        sys.unraisablehook = before
        # Only if it was needed: importing it takes longer than `featlab --help`.
        if workers := sys.modules.get("featlab.system.processes"):
            workers.dismiss()
        # Looking for garbage that the end of the process frees anyway takes half a second.
        gc.freeze()


def _heed_interrupts(lost: Any) -> None:
    """Raise Ctrl-C anew that fell into a destructor or callback: Python tells it and goes on."""
    if issubclass(lost.exc_type, KeyboardInterrupt):
        # Not from within, where it would be lost in the same way.
        threading.Timer(0.05, _thread.interrupt_main).start()
    else:
        sys.__unraisablehook__(lost)


def _how_to_go_on() -> str:
    """What an interrupted command leaves behind."""
    if sys.argv[1:2] and sys.argv[1] in _KEEP_PARTS:
        return "Finished parts are kept; run the same command again to go on."
    return "Nothing was half written; run the same command again to start anew."
