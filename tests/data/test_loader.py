"""Threads, worker processes and the step to start from change no batch."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data.loader import load_batches
from jaxgen.data.sources import Arrays, Shuffled
from jaxgen.errors import UserError


def noisy(item: dict, generator: np.random.Generator) -> dict:
    return {**item, "noise": generator.random(3)}


SOURCE = Shuffled(Arrays({"index": np.arange(13)}), 5, 7, noisy)


@dataclass(frozen=True)
class Failing:
    """Steps up to 2 are there, the third raises."""

    batch_size: int = 4

    def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        if step == 3:
            raise UserError("record 3 is damaged")
        return {"step": np.full(rows.stop - rows.start, step)}


@dataclass(frozen=True)
class Worker:
    """What the process that makes the batch has touched."""

    batch_size: int = 1

    def batch(self, step: int, rows: slice) -> dict[str, np.ndarray]:
        bridge = sys.modules.get("jax._src.xla_bridge")
        started = bridge is not None and bridge.backends_are_initialized()
        ours = "jaxgen.experiment" in sys.modules
        return {"process": np.array([os.getpid()]), "touched": np.array([[started, ours]])}


def take(count: int, *arguments, **options) -> list[dict[str, np.ndarray]]:
    with load_batches(*arguments, **options) as batches:
        return [next(batches) for _ in range(count)]


def expected(first: int, count: int, rows: slice, repeats: int) -> list[dict[str, np.ndarray]]:
    steps = []
    for step in range(first, first + count):
        parts = [SOURCE.batch(step * repeats + r, rows) for r in range(repeats)]
        steps.append({name: np.stack([part[name] for part in parts]) for name in parts[0]})
    return steps


def assert_same(one, other) -> None:
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name])


@settings(max_examples=12, deadline=None)
@given(
    first=st.integers(0, 10**6),
    repeats=st.integers(1, 3),
    prefetch=st.integers(0, 5),
    start=st.integers(0, 2),
    stop=st.integers(3, 5),
)
def test_threads_change_nothing_and_any_step_resumes(first, repeats, prefetch, start, stop):
    rows = slice(start, stop)
    batches = take(4, SOURCE, first, rows, repeats, prefetch=prefetch)
    assert_same(batches, expected(first, 4, rows, repeats))


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_nothing_and_stop(workers):
    rows = slice(1, 4)
    batches = take(7, SOURCE, 1001, rows, 2, workers=workers)
    assert_same(batches, expected(1001, 7, rows, 2))
    assert not multiprocessing.active_children()


def test_workers_start_no_device_and_report_errors():
    with load_batches(Worker(), 0, slice(0, 1), 1, workers=1) as batches:
        batch = next(batches)
    assert batch["process"].item() != os.getpid()
    assert not batch["touched"].any()
    with load_batches(Failing(), 2, slice(0, 4), 1, workers=1) as batches:
        np.testing.assert_array_equal(next(batches)["step"], np.full((1, 4), 2))
        with pytest.raises(UserError, match="record 3 is damaged"):
            next(batches)


@pytest.mark.parametrize("prefetch", [0, 2])
def test_errors_come_out_of_threads(prefetch):
    with load_batches(Failing(), 2, slice(1, 3), 1, prefetch=prefetch) as batches:
        np.testing.assert_array_equal(next(batches)["step"], [[2, 2]])
        with pytest.raises(UserError, match="record 3 is damaged"):
            next(batches)


def test_close_stops_the_threads():
    before = set(threading.enumerate())
    batches = load_batches(SOURCE, 0, slice(0, 5), 1)
    next(batches)
    started = set(threading.enumerate()) - before
    assert started
    batches.close()
    batches.close()
    for thread in started:
        thread.join(5)
        assert not thread.is_alive()
    with pytest.raises(StopIteration):
        next(batches)


FORGOTTEN = """
import numpy as np
from jaxgen.data.loader import load_batches
from jaxgen.data.sources import Arrays, Shuffled
if __name__ == "__main__":
    source = Shuffled(Arrays({"i": np.arange(9)}), 2, 0)
    forgotten = load_batches(source, 0, slice(0, 2), 1, workers=1)
    closed = load_batches(source, 0, slice(0, 2), 1, workers=1)
    next(forgotten), next(closed)
    closed.close()
"""


def test_the_end_of_a_process_is_quiet(tmp_path):
    """Whether its batches were closed or forgotten."""
    script = tmp_path / "forgotten.py"
    script.write_text(FORGOTTEN)
    command = [sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


ORPHAN = """
import multiprocessing, os, signal, sys
import numpy as np
from jaxgen.data.loader import load_batches
from jaxgen.data.sources import Arrays, Shuffled
if __name__ == "__main__":
    source = Shuffled(Arrays({"i": np.arange(9)}), 2, 0)
    batches = load_batches(source, 0, slice(0, 2), 1, workers=1)
    next(batches)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid, signal.SIGINT)  # Ctrl-C reaches the whole group; the worker stays
    for _ in range(20):
        next(batches)
    print(worker.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_worker_outlives_ctrl_c_but_not_its_parent(tmp_path):
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    # A pipe would stay open as long as the orphan lives, and hide that it does.
    with open(tmp_path / "out", "w") as out, open(tmp_path / "err", "w") as err:
        done = subprocess.run([sys.executable, str(script)], stdout=out, stderr=err, timeout=120)
    assert done.returncode == -signal.SIGKILL, (tmp_path / "err").read_text()
    worker = int((tmp_path / "out").read_text())
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        try:
            with open(f"/proc/{worker}/stat") as stat:
                if stat.read().rsplit(")", 1)[1].split()[0] == "Z":
                    return  # ended, and nobody has asked how
        except FileNotFoundError:
            return
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    pytest.fail("the worker outlived its parent")


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        (slice(0, 6), {}, "no part of a batch of 5"),
        (slice(3, 3), {}, "no part of a batch of 5"),
        (slice(0, 5), {"workers": 1, "prefetch": 0}, "prefetch"),
        (slice(0, 5), {"workers": -1}, "workers"),
    ],
)
def test_mistakes_are_named(rows, options, message):
    with pytest.raises(UserError, match=message):
        load_batches(SOURCE, 0, rows, 1, **options)
