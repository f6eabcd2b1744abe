"""Runs of several real processes: what they learn, and how they end."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from etils import epath
from several_processes import ROOT, TOY, Together, environment, free_port

from jaxgen.training import beginning, experiment_file, runs
from jaxgen.training.run_directory import open_run


def lines(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def close(ours, theirs):
    assert [line["step"] for line in ours] == [line["step"] for line in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        assert mine == pytest.approx(other, rel=1e-4, abs=1e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The toy by one process."""
    directory = tmp_path_factory.mktemp("alone") / "run"
    file = experiment_file.read(epath.Path(TOY))
    options = beginning.Options()
    runs.carry_on(beginning.begin(directory, file, "default", file.config_type(), options, {}, []))
    return directory


def test_two_processes_stop_together_and_one_goes_on(alone, tmp_path):
    """The signal comes to one of them only; then another number of devices resumes."""
    run = tmp_path / "run"
    train = ["train", str(TOY), "--run", str(run), "--seconds", "0.02", "--profile", "2:3"]
    both = Together([train, train])
    both.wait_for_lines(run / "metrics.jsonl", 3)
    both.processes[1].send_signal(signal.SIGTERM)
    statuses, said = both.ended()
    assert statuses == [143, 143], said
    assert "everything is saved" in said[0]
    stopped = lines(run)[-1]["step"]
    saved = [int(place.name) for place in (run / "checkpoints").iterdir()]
    assert stopped < 60 and 0 <= max(saved) - stopped < 3
    timing = json.loads((run / "timing.jsonl").read_text().splitlines()[-1])
    assert len(timing["step_seconds_median"]) == 2
    assert list((run / "profile").glob("**/*.xplane.pb"))
    runs.carry_on(open_run(run))
    close(lines(run), lines(alone))
    lives = {json.loads(line)["began"] for line in (run / "goodput.jsonl").read_text().splitlines()}
    assert len(lives) == 2


def test_processes_that_disagree_name_the_field(tmp_path):
    train = ["train", str(TOY), "--run", str(tmp_path / "run")]
    statuses, said = Together([train, [*train, "--width", "7"]], devices=1).ended()
    assert statuses == [1, 1]
    for text in said:
        assert "disagree on config.width: process 0 has 5, process 1 has 7" in text
        assert "Traceback" not in text


def test_nobody_at_the_coordinators_place():
    place = f"127.0.0.1:{free_port()}"
    flags = ["--coordinator", place, "--processes", "2", "--process", "1", "--patience", "1"]
    command = "from jaxgen.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", command, "train", str(TOY), *flags],
        capture_output=True,
        text=True,
        env=environment(1),
        cwd=ROOT,
    )
    assert done.returncode == 75
    assert f"No coordinator answers at {place} after 1 s" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_process_ends_the_others_with_a_sentence(victim, how, tmp_path):
    run = tmp_path / "run"
    train = ["train", str(TOY), "--run", str(run), "--steps", "5000", "--seconds", "0.02"]
    both = Together([train, train])
    both.wait_for_lines(run / "metrics.jsonl", 4)
    began = time.time()
    os.kill(both.processes[victim].pid, how)
    other = both.processes[1 - victim]
    text = other.communicate(timeout=60)[0]
    took = time.time() - began
    both.processes[victim].kill()
    assert other.returncode == 75 and took < 35
    assert "jaxgen: " in text.splitlines()[-1] and "started again" in text.splitlines()[-1]


@pytest.mark.slow
def test_eight_processes_then_four_then_another_mesh(alone, tmp_path):
    """Each time stopped half-way; global batches and losses stay the same."""
    run = tmp_path / "run"
    first = ["train", str(TOY), "--run", str(run), "--seconds", "0.05"]
    second = ["resume", str(run), "--mesh.fsdp", "2"]
    for command, count, enough in ((first, 8, 4), (second, 4, 10)):
        group = Together([command] * count, devices=1)
        group.wait_for_lines(run / "metrics.jsonl", enough)
        group.processes[count - 1].send_signal(signal.SIGTERM)
        statuses, said = group.ended(300)
        assert statuses == [143] * count, said
    assert lines(run)[-1]["step"] < 60
    runs.carry_on(open_run(run))
    close(lines(run), lines(alone))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["digits_flow", "shakespeare_gpt", "names_rnn", "mnist_vqvae", "gaussians_gan"]
)
def test_families_on_two_processes(name, tmp_path):
    """Trained, evaluated, sampled and saved by two processes as by one with as many devices."""
    train = ["train", f"experiments/{name}.py", "--setting", "tiny", "--run"]
    for place, count, devices in (("two", 2, 2), ("one", 1, 4)):
        group = Together([[*train, str(tmp_path / place)]] * count, devices)
        statuses, said = group.ended(400)
        assert statuses == [0] * count, said
    for ours, theirs in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-3)
