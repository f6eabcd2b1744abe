"""A run of two processes under the supervisor, killed and hung at random, to its end."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from several_processes import ROOT, environment, free_port

EXPERIMENT = ROOT / "experiments" / "digits_classifier.py"
DISTURBANCES = 20


def supervised(run, steps, *flags):
    """The supervisor of a run with a checkpoint every 20 steps."""
    command = [sys.executable, "-m", "jaxgen"]
    train = ["train", str(EXPERIMENT), "--run", str(run), "--steps", str(steps)]
    train += ["--checkpoint-every", "20"]
    own = ["--port", str(free_port()), "--restarts", "40", "--backoff", "0"]
    patience = ["--silence", "12", "--grace", "4"]
    # It says much: for the eyes of whoever runs this with -s.
    return subprocess.Popen(
        [*command, "supervise", *own, *patience, *flags, "--", *command, *train],
        env=environment(2),
        cwd=ROOT,
    )


def children(process):
    there = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [child for child in map(int, there) if is_training(child)]


def is_training(child):
    try:
        return b"coordinator" in Path(f"/proc/{child}/environ").read_bytes().lower() and (
            b"-m\0jaxgen" in Path(f"/proc/{child}/cmdline").read_bytes()
        )
    except OSError:
        return False


def saved(run):
    """The newest whole checkpoint's step, 0 if there is none."""
    there = (run / "checkpoints").glob("[0-9]*")
    return max((int(place.name) for place in there if place.name.isdigit()), default=0)


def wait_for_progress(supervisor, run):
    before, deadline = saved(run), time.time() + 300
    while saved(run) <= before:
        assert supervisor.poll() is None and time.time() < deadline
        time.sleep(0.05)


def steps_done(run):
    file = run / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_twenty_kills_and_hangs_leave_no_trace(tmp_path):
    steps = 800
    whole, disturbed = tmp_path / "whole", tmp_path / "disturbed"
    assert supervised(whole, steps, "--processes", "2").wait() == 0
    supervisor = supervised(disturbed, steps, "--processes", "2")
    happened, lives = [], set()
    for number in range(DISTURBANCES):
        # Every second time at any moment of a life, while it starts or compiles; else once it has
        # come further than the life before, while it trains or saves.
        if number % 2:
            wait_for_progress(supervisor, disturbed)
        time.sleep(random.uniform(0, 8))
        deadline = time.time() + 120
        while len(there := children(supervisor)) < 2 or not set(there) - lives:
            assert supervisor.poll() is None, f"ended before disturbance {number}"
            assert time.time() < deadline
            time.sleep(0.1)
        lives |= set(there)
        how = random.choice([signal.SIGKILL, signal.SIGSTOP])
        os.kill(random.choice(there), how)
        happened.append((how.name, saved(disturbed)))
    assert supervisor.wait(timeout=1800) == 0
    print(happened)
    same = (disturbed / "metrics.jsonl").read_text() == (whole / "metrics.jsonl").read_text()
    assert same
    for place in (whole, disturbed):
        last = (place / "goodput.jsonl").read_text().splitlines()
        print(place.name, len({json.loads(line)["began"] for line in last}), "lives")


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_run_goes_on_with_fewer_hosts(tmp_path):
    """One line of the hosts' file is taken out while they train, and a process is killed."""
    steps = 500
    whole, shrunk, hosts = tmp_path / "whole", tmp_path / "shrunk", tmp_path / "hosts"
    hosts.write_text("127.0.0.1\n" * 2)
    assert supervised(whole, steps, "--hosts", str(hosts)).wait() == 0
    supervisor = supervised(shrunk, steps, "--hosts", str(hosts))
    deadline = time.time() + 300
    while steps_done(shrunk) < 5:
        assert supervisor.poll() is None and time.time() < deadline
        time.sleep(0.1)
    hosts.write_text("127.0.0.1\n")
    os.kill(children(supervisor)[-1], signal.SIGKILL)
    assert supervisor.wait(timeout=900) == 0
    ours, theirs = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (shrunk, whole)
    )
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-4, abs=1e-5)
    assert "processes 2 → 1" in (shrunk / "log.txt").read_text()
