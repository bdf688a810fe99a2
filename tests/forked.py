"""Work in children forked from one warm process: quick to start, safe to kill, free to fail.

A test module runs itself as a script, which calls :func:`serve`; its tests talk to that process
through :class:`ForkServer`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def serve(works: Mapping[str, Callable[..., Any]]) -> None:
    """Fork a child for every line ``{"work": name, …}``; answer with its process, then its end."""
    assert threading.active_count() == 1, "a thread may hold a lock that a child would wait for"
    _say("ready")
    for line in sys.stdin:
        task = json.loads(line)
        child = os.fork()
        if not child:
            _work(works, task)
        _say(child)
        _, status = os.waitpid(child, 0)
        _say(os.waitstatus_to_exitcode(status))


def _say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


def _work(works: Mapping[str, Callable[..., Any]], task: dict[str, Any]) -> None:
    """Do the work as a process of its own would: output, exit status, traceback."""
    os.setsid()
    # A shell starts what runs in its background deaf to this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    output = os.open(task.pop("output"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    code: Any = 0
    try:
        works[task.pop("work")](**task)
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class ForkServer:
    """Starts work in forked children, one at a time."""

    def __init__(self, script: str, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        assert self.stdout.readline() == "ready\n"

    def start(self, work: str, output: Path | str = os.devnull, **task: Any) -> int:
        """Start work; returns the child's process number."""
        self.stdin.write(json.dumps({"work": work, "output": str(output), **task}) + "\n")
        self.stdin.flush()
        return int(self.stdout.readline())

    def wait(self) -> int:
        """The exit status of the child, negative for a signal."""
        return int(self.stdout.readline())

    def run(self, work: str, output: Path | str = os.devnull, **task: Any) -> int:
        """Start work and wait for its end."""
        self.start(work, output, **task)
        return self.wait()

    def close(self) -> None:
        """End the process."""
        self.stdin.close()
        self.process.wait(20)
        self.stdout.close()
