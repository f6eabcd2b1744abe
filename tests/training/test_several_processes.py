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
    both.processes[victim].communicate()
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
    ("name", "mesh"),
    [
        ("digits_flow", []),
        (
            "digits_flow",
            ["--mesh.data", "1", "--mesh.fsdp", "4"],
        ),  # what it builds on lies in parts
        ("shakespeare_gpt", []),
        ("names_rnn", []),
        ("mnist_vqvae", []),
        ("gaussians_gan", []),
    ],
)
def test_families_on_two_processes(name, mesh, tmp_path):
    """Trained, evaluated, sampled and saved by two processes as by one with as many devices."""
    train = ["train", f"experiments/{name}.py", "--setting", "tiny", *mesh, "--run"]
    for place, count, devices in (("two", 2, 2), ("one", 1, 4)):
        group = Together([[*train, str(tmp_path / place)]] * count, devices)
        statuses, said = group.ended(400)
        assert statuses == [0] * count, said
    for ours, theirs in zip(lines(tmp_path / "two"), lines(tmp_path / "one"), strict=True):
        assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-3)


BUILDS_ON = """
import sys
sys.path.insert(0, {folder!r})
import toy
Config, SETTINGS, REQUIRES = toy.Config, toy.SETTINGS, {requires!r}
def build(config, required):
    return toy.build(config)
"""


@pytest.mark.slow
def test_two_processes_go_on_from_an_older_checkpoint_of_a_run_that_builds_on_others(tmp_path):
    """What it builds on builds on a run in turn, and its newest checkpoint is damaged."""
    (tmp_path / "base.py").write_text(TOY.read_text())
    for name, requires in (("middle", {"base": "base.py"}), ("top", {"middle": "middle.py"})):
        source = BUILDS_ON.format(folder=str(TOY.parent), requires=requires)
        (tmp_path / f"{name}.py").write_text(source)
    run = tmp_path / "run"
    train = ["train", str(tmp_path / "top.py"), "--run", str(run), "--seconds", "0.02"]
    both = Together([train, train], devices=1)
    both.wait_for_lines(run / "metrics.jsonl", 6)
    both.processes[0].send_signal(signal.SIGTERM)
    statuses, said = both.ended()
    assert statuses == [143, 143], said
    newest = max(int(place.name) for place in (run / "checkpoints").iterdir())
    (run / "checkpoints" / str(newest) / "progress" / "metadata").write_text("{")
    statuses, said = Together([["resume", str(run)]] * 2, devices=1).ended()
    assert statuses == [0, 0], said
    assert (run / "checkpoints" / f"damaged-{newest}" / "params").exists()
    close(lines(run), lines(run / "requires" / "middle"))


@pytest.mark.slow
def test_a_checkpoint_that_one_process_cannot_read_ends_both(tmp_path):
    run = tmp_path / "run"
    train = ["train", str(TOY), "--run", str(run), "--steps", "20"]
    assert Together([train, train], devices=1).ended()[0] == [0, 0]
    unreadable = """
from jaxgen.training.checkpoints import Checkpoints
from jaxgen.training.verification import Damaged
read = Checkpoints.restore_step
def unread(self, step, *rest):
    if step == 20:
        raise Damaged(step, self._directory, "so it seems here")
    return read(self, step, *rest)
Checkpoints.restore_step = unread
"""
    both = Together([["resume", str(run)]] * 2, devices=1, before=["", unreadable])
    statuses, said = both.ended()
    assert statuses == [1, 1]
    assert all("and another process could not" in text for text in said), said
    assert (run / "checkpoints" / "20").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "where", ["checkpoints.Checkpoints.save", "checkpoints.Checkpoints.restore"]
)
def test_who_is_lost_while_another_reads_or_writes_damages_nothing(where, tmp_path):
    """The exchange fails at once, before the watch hears of it: also then, trying again helps."""
    run = tmp_path / "run"
    train = ["train", str(TOY), "--run", str(run), "--steps", "20"]
    assert Together([train, train], devices=1).ended()[0] == [0, 0]
    again = ["resume", str(run)]
    config = json.loads((run / "config.json").read_text())
    config["config"]["steps"] = 40
    (run / "config.json").write_text(json.dumps(config))
    dies = f"""
import os, signal
from jaxgen.training import checkpoints
{where} = lambda *rest: os.kill(os.getpid(), signal.SIGKILL)
"""
    both = Together([again, again], devices=1, before=["", dies])
    statuses, said = both.ended()
    assert statuses == [75, -9], said
    assert "Nothing was heard of process 1" in said[0] and "damaged" not in said[0]
    assert (run / "checkpoints" / "20").exists()
