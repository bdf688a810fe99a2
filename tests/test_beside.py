"""Stages in a process of their own: the same result, the order of events, errors, threads."""

from __future__ import annotations

import gc
import io
import logging
import os
import pickle
import platform
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, CancelledError

import numpy as np
import pytest
import threadpoolctl

from featlab import FeatlabError, cli
from featlab.extract import extract_maps
from featlab.images import index_images
from featlab.system import GARBAGE, processes
from featlab.system.processes import beside, each, ready


def made_here():
    """Functions that travel by value: the other process need not import this file."""

    def threads_and_process():
        found = threadpoolctl.threadpool_info()
        blas = [pool["num_threads"] for pool in found if pool["user_api"] == "blas"]
        return blas, os.getpid()

    def product(seed):
        a = np.random.default_rng(seed).normal(size=(200, 200))
        return a @ np.linalg.inv(a + 200 * np.eye(200))

    def failing():
        raise FeatlabError("no boxes here; draw some.")

    def slow(seconds):
        time.sleep(seconds)
        return time.monotonic()

    def warning(text):
        logging.getLogger("featlab.test").warning("%s of three", text)
        return 3

    return threads_and_process, product, failing, slow, warning


threads_and_process, product, failing, slow, warning = made_here()


@pytest.fixture(params=[1, 2])
def cores(request, monkeypatch):
    monkeypatch.setattr(processes, "usable_cores", lambda: request.param)
    return request.param


def test_it_runs_elsewhere_where_there_is_another_core_and_with_one_thread(cores):
    with beside(threads_and_process) as result:
        blas, process = result()
    assert blas and set(blas) == {1}
    assert (process == os.getpid()) == (cores == 1)


def test_the_result_is_the_same_to_the_last_bit_however_it_was_made(monkeypatch):
    found = []
    for cores in (1, 2):
        monkeypatch.setattr(processes, "usable_cores", lambda cores=cores: cores)
        with beside(product, 3) as result:
            found.append(result())
            assert result() is found[-1]  # asked twice, made once
    np.testing.assert_array_equal(*found)


@pytest.mark.slow
def test_it_is_begun_before_it_is_asked_for(monkeypatch):
    monkeypatch.setattr(processes, "usable_cores", lambda: 2)
    with beside(slow, 0.0) as result:
        time.sleep(3)
        asked = time.monotonic()
        assert result() < asked


@pytest.mark.slow
def test_what_has_not_begun_elsewhere_can_be_taken_over(monkeypatch):
    monkeypatch.setattr(processes, "usable_cores", lambda: 2)
    with beside(slow, 2) as first, beside(threads_and_process) as second:
        time.sleep(0.5)
        assert not first.is_ready and not first.take_over()
        assert not second.is_ready and second.take_over()
        blas, process = second()
        assert set(blas) == {1} and process == os.getpid() and second.is_ready
        assert first() and first.is_ready


def test_its_error_comes_where_the_result_is_asked_for(cores):
    with beside(failing) as result, pytest.raises(FeatlabError, match="draw some"):
        result()


def test_an_error_elsewhere_is_the_one_that_is_told(cores, recwarn):
    with pytest.raises(KeyError, match="elsewhere"), beside(slow, 0.1):
        raise KeyError("elsewhere")
    assert not recwarn.list


def test_each_item_has_its_result_and_its_messages(cores, monkeypatch, caplog):
    processes.dismiss()
    assert not processes.others_are_there()

    def process(text):
        warning(text)
        return text, os.getpid()

    with each(process, "abc") as results:
        time.sleep(0.3)  # so that the first has begun
        made = results()
    assert [text for text, _ in made] == list("abc")
    assert (made[0][1] == os.getpid()) == (cores == 1)
    assert processes.others_are_there() == (cores > 1)
    assert sorted(record.getMessage()[0] for record in caplog.records) == list("abc")
    with pytest.raises(FeatlabError, match="draw some"), each(lambda _: failing(), "f") as results:
        results()


def test_the_other_processes_are_ended_and_not_awaited(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "usable_cores", lambda: 2)

    def at_the_end(path):
        from multiprocessing.util import Finalize

        Finalize(None, path.touch, exitpriority=0)
        return os.getpid()

    with beside(at_the_end, tmp_path / "ended by itself") as result:
        process = result()
    processes.dismiss()
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)
    assert not list(tmp_path.iterdir())


def test_who_interrupts_waits_for_nothing_and_nothing_begins_any_more(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "usable_cores", lambda: 2)

    def begun(path):
        path.write_text(str(os.getpid()))
        time.sleep(20)

    first, second = tmp_path / "first", tmp_path / "second"
    asked = []

    def interrupted():
        with beside(begun, first), beside(begun, second) as waiting:
            asked.append(waiting)
            while not (first.exists() and first.read_text()):
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    with pytest.raises(ProcessLookupError):
        os.kill(int(first.read_text()), 0)
    with pytest.raises(CancelledError):
        asked[0]()
    assert not second.exists() and not processes.others_are_there()


def test_what_waits_for_processes_that_were_ended_does_not_start_them_again():
    others = processes._Others(1)
    others.end()
    with pytest.raises(BrokenExecutor, match="ended"):
        others.submit(int)
    assert not others.are_there


def test_the_share_of_a_process_that_is_killed_is_done_here(monkeypatch, caplog):
    monkeypatch.setattr(processes, "usable_cores", lambda: 2)
    first = os.getpid()

    def killed_elsewhere():
        if os.getpid() != first:
            os.kill(os.getpid(), 9)
        return 3

    with beside(killed_elsewhere) as result, beside(os.getpid) as after:
        assert result() == 3
        assert after() != first
    assert [record.getMessage() for record in caplog.records] == [
        "a process that worked beside this one died; its share is done here"
    ]


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="no signal masks here")
def test_other_processes_do_not_see_what_interrupts_the_first(monkeypatch):
    monkeypatch.setattr(processes, "usable_cores", lambda: 2)
    processes.dismiss()

    def blocked():
        return signal.pthread_sigmask(signal.SIG_BLOCK, ())

    before = blocked()
    with beside(blocked) as result:
        assert signal.SIGINT in result()
    assert blocked() == before


def test_a_store_travels_as_its_path(picture_folder, fake_backbone, tmp_path):
    images, _, _ = index_images(picture_folder({"cat": 3, "dog": 2}))
    with extract_maps(images, fake_backbone, tmp_path / "maps.h5") as store:
        sent = pickle.dumps(store)
        assert len(sent) < 1000
        with pickle.loads(sent) as again:
            np.testing.assert_array_equal(again.maps(), store.maps())


@pytest.mark.slow
def test_a_process_that_has_grown_by_400_mb_is_kept(monkeypatch):
    monkeypatch.setattr(processes, "usable_cores", lambda: 2)

    def grown(size):
        import time

        import numpy as np

        before = getattr(np, "kept_here", None) is not None
        np.kept_here = np.ones(size, np.uint8) if size else None
        time.sleep(1.5)  # memory is measured a second after it was last
        return before

    processes.dismiss()
    for size, before in ((0, False), (400_000_000, False), (400_000_000, True), (0, True)):
        with beside(grown, size) as one:
            assert one() == before


@pytest.mark.slow
def test_workers_have_imported_what_they_were_told_to(monkeypatch):
    monkeypatch.setattr(processes, "usable_cores", lambda: 2)

    def imported():
        import sys
        import time

        time.sleep(1)  # so that both processes have one of the two calls
        return "xmlrpc.server" in sys.modules

    with beside(imported) as one, beside(imported) as other:
        assert not one() and not other()
    with ready("xmlrpc.server"), beside(imported) as one, beside(imported) as other:
        assert one() or other()


LOADS = """
import gc, sys
from featlab.system.processes import load
sys.path.insert(0, sys.argv[1])
before = gc.get_freeze_count()
load("many_objects")
assert gc.isenabled() and gc.get_freeze_count() > before + 50_000
ours = []
ours.append(ours)
del ours
load("many_objects")  # again: what is garbage by now must not be kept for ever
assert gc.collect() > 0
"""


def test_what_was_loaded_is_not_looked_through_for_garbage_and_new_garbage_is(tmp_path):
    (tmp_path / "many_objects.py").write_text("kept = [[k] for k in range(50_000)]")
    subprocess.run([sys.executable, "-c", LOADS, str(tmp_path)], check=True)


def test_other_processes_look_for_garbage_as_rarely_as_the_first(cores):
    usual = gc.get_threshold()
    gc.set_threshold(700, 10, 10)  # what no test session has, and no other process
    try:
        with beside(gc.get_threshold) as result:
            assert (result() == GARBAGE) == (cores == 2)
    finally:
        gc.set_threshold(*usual)


def test_a_single_core_gets_nothing_ready(monkeypatch):
    monkeypatch.setattr(processes, "usable_cores", lambda: 1)
    monkeypatch.setattr(processes, "_Others", None)
    with ready("featlab.boxheads"):
        pass


GROWS = """
import os
import numpy as np
from featlab.system.machine import give_back_large_blocks

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

give_back_large_blocks()
np.ones(3 * 2**20)  # the first large block that is freed
before, small, large = resident(), [], []
for _ in range(20):
    large.append(np.ones(2 * 2**20))
    small.append(bytes(100_000))
del large
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the allocator is that of glibc")
def test_freed_arrays_go_back_to_the_system_though_small_ones_lie_between():
    done = subprocess.run([sys.executable, "-c", GROWS], check=True, capture_output=True, text=True)
    assert float(done.stdout) < 50  # MB, of the 320 that were freed


def test_what_another_process_logs_is_said_here(cores, caplog):
    """There it would stand in the middle of a bar, and without the program's name."""
    with beside(warning, "one") as result:
        assert result() == 3
    assert [(one.name, one.getMessage()) for one in caplog.records] == [
        ("featlab.test", "one of three")
    ]
    stream = io.StringIO()
    handler = cli._AboveBars(stream)
    for _ in range(3):
        handler.handle(caplog.records[0])
    assert stream.getvalue() == "one of three\n"
