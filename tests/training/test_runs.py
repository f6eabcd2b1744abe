"""A run from beginning to end: stopped, killed, damaged, resumed; always the same lines."""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from etils import epath

from jaxgen.errors import UserError
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.training import beginning, experiment_file, runs
from jaxgen.training.checkpoints import Checkpoints
from jaxgen.training.interruption import Interrupted
from jaxgen.training.pending import NotFinite
from jaxgen.training.prepared import first_row, prepare, prepare_state
from jaxgen.training.run_directory import locked, open_run

TOY = Path(__file__).parent / "toy.py"


def begin(path, **numbers):
    file = experiment_file.read(epath.Path(TOY))
    return beginning.begin(
        path, file, "default", file.config_type(**numbers), beginning.Options(), {}, []
    )


def lines(run):
    return (run.path / "metrics.jsonl").read_text().splitlines()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run = begin(tmp_path_factory.mktemp("whole") / "run")
    runs.carry_on(run)
    return run


def test_a_run_leaves_everything_behind(whole):
    steps = [json.loads(line)["step"] for line in lines(whole)]
    assert steps == sorted(steps) and steps[-1] == 60
    assert steps.count(20) == 1 and steps.count(60) == 2  # 20 scores only, 60 logs and scores
    scores = json.loads((whole.path / "scores.json").read_text())
    assert scores["step"] == 60
    assert scores["scores"] == {"weights/sum": json.loads(lines(whole)[-1])["weights/sum"]}
    for name in ("config.json", "environment.json", "experiment.py", "timing.jsonl", "tensorboard"):
        assert (whole.path / name).exists()
    assert (whole.samples(40) / "numbers.txt").exists()
    saved = sorted(int(p.name) for p in whole.checkpoints.iterdir() if p.name.isdigit())
    assert saved == [56, 60]  # the newest two; the best of three rising scores is the last


def test_loading_gives_the_averages_or_the_parameters(whole):
    loaded = runs.load(whole.path)
    raw = runs.load(whole.path, checkpoint=60, ema=False)
    assert loaded.step == 60 and loaded.config.width == 5
    assert loaded.variables["rows_seen"] == 60 * 16
    difference = loaded.params["linear"]["kernel"] - raw.params["linear"]["kernel"]
    assert np.abs(difference).max() > 1e-3
    with pytest.raises(UserError, match=r"no checkpoint 8; it has \[56, 60\]"):
        runs.load(whole.path, checkpoint=8)
    scores = runs.evaluate(loaded)
    assert scores == json.loads((whole.path / "scores.json").read_text())["scores"]


def test_a_signal_finishes_the_step_and_saves(whole, tmp_path):
    run = begin(tmp_path / "run", seconds=0.02)
    stop_soon(run)
    with pytest.raises(Interrupted) as stopped:
        runs.carry_on(run)
    assert stopped.value.signal_number == signal.SIGTERM and 0 < stopped.value.step < 60
    runs.carry_on(run)
    assert lines(run) == lines(whole)


def stop_soon(run):
    """SIGTERM to this process, once training has begun."""

    def wait_and_stop():
        while not (run.path / "metrics.jsonl").exists() or len(lines(run)) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait_and_stop, daemon=True).start()


def test_killed_at_once_and_resumed(whole, tmp_path):
    """`kill -9`, twice, at moments that nobody chose."""
    run = begin(tmp_path / "run", seconds=0.03)
    script = (
        "from jaxgen.training import runs, run_directory; "
        f"runs.carry_on(run_directory.open_run({str(run.path)!r}))"
    )
    for enough in (3, 12):
        process = subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL)
        deadline = time.time() + 120
        while len(lines(run) if (run.path / "metrics.jsonl").exists() else []) < enough:
            assert process.poll() is None and time.time() < deadline
            time.sleep(0.01)
        process.kill()
        process.wait()
    runs.carry_on(run)
    assert [json.loads(line)["step"] for line in lines(run)] == [
        json.loads(line)["step"] for line in lines(whole)
    ]
    # The killed processes had one device and this one has eight: equal but for rounding.
    for ours, theirs in zip(lines(run), lines(whole), strict=True):
        assert json.loads(ours) == pytest.approx(json.loads(theirs), rel=1e-4, abs=1e-5)


def test_damaged_and_half_written_checkpoints_are_named_and_skipped(whole, tmp_path, caplog):
    run = begin(tmp_path / "run", steps=28)
    runs.carry_on(run)
    newest = run.checkpoints / "28"
    data = max(Path(newest / "params").glob("**/d/*"), key=lambda file: file.stat().st_size)
    content = bytearray(data.read_bytes())
    content[-12] ^= 0x40
    data.write_bytes(bytes(content))
    (run.checkpoints / "29.orbax-checkpoint-tmp").mkdir()
    logging.getLogger("jaxgen").propagate = True
    with caplog.at_level(logging.INFO, "jaxgen"):
        runs.carry_on(run)
    assert "29.orbax-checkpoint-tmp is half-written" in caplog.text
    assert "Checkpoint 28" in caplog.text and "damaged" in caplog.text
    assert "after step 21" in caplog.text or "after step 20" in caplog.text
    assert (run.checkpoints / "damaged-28").exists() and newest.exists()
    assert lines(run) == [line for line in lines(whole) if json.loads(line)["step"] <= 27] + [
        line for line in lines(run) if json.loads(line)["step"] == 28
    ]


def test_a_checkpoint_of_another_shape_names_the_leaf(whole):
    file = experiment_file.read(epath.Path(TOY))
    wider = file.build(file.config_type(width=7), {}, {})
    mesh = make_mesh(MeshShape(), jax.devices()[:1])
    _, abstract = prepare_state(wider, mesh, first_row(wider))
    saved = Checkpoints(whole.checkpoints, read_only=True)
    with pytest.raises(UserError, match=r"params/linear/kernel is float32\[5\].*float32\[7\]"):
        saved.restore(abstract)
    saved.close()


def test_an_infinite_loss_stops_and_keeps_what_was_saved(tmp_path):
    run = begin(tmp_path / "run", infinite_at=17)
    with pytest.raises(NotFinite, match=r"Step 17 was not finite \(.*train/loss = inf"):
        runs.carry_on(run)
    saved = [int(p.name) for p in run.checkpoints.iterdir() if p.name.isdigit()]
    assert sorted(saved) == [7, 14]
    assert json.loads(lines(run)[-1])["step"] == 15


def test_a_second_process_is_refused(tmp_path):
    run = begin(tmp_path / "run", steps=2)
    with locked(run.path), pytest.raises(UserError, match="Another process is training"):
        runs.carry_on(run)
    runs.carry_on(run)  # let go, it works


def test_the_best_checkpoint_outlives_a_resume(tmp_path):
    from jaxgen.experiment import Best

    mesh = make_mesh(MeshShape(), jax.devices()[:1])
    file = experiment_file.read(epath.Path(TOY))
    toy = file.build(file.config_type(), {}, {})
    create, abstract = prepare_state(toy, mesh, first_row(toy))
    scores = {3: 5.0, 6: 1.0, 9: float("nan"), 12: 4.0, 15: 3.0, 18: 2.0}
    for step, score in scores.items():  # each opened anew, as by a resume
        saved = Checkpoints(tmp_path, keep=2, best=Best("held_out/loss"))
        saved.save(step, create(), {"held_out/loss": score})
        saved.wait()
        saved.close()
    saved = Checkpoints(tmp_path, best=Best("held_out/loss"), read_only=True)
    assert saved.steps() == [6, 15, 18] and saved.best_step() == 6
    assert saved.restore(abstract).step == 18
    saved.close()


def test_nothing_is_moved_where_nothing_can_be_read(tmp_path):
    run = begin(tmp_path / "run", steps=14)
    runs.carry_on(run)
    before = lines(run)
    for step in ("7", "14"):
        (run.checkpoints / step / "progress" / "metadata").write_text("{half")
    with pytest.raises(UserError, match=r"None of the checkpoints \[7, 14\].*can be read"):
        runs.carry_on(run)
    assert lines(run) == before and (run.checkpoints / "14").exists()


@pytest.mark.parametrize("numbers", [{"steps": 0}, {"steps": -3}])
def test_steps_below_one_are_refused(tmp_path, numbers):
    with pytest.raises(UserError, match=r"steps is .*at least 1"):
        runs.carry_on(begin(tmp_path / "run", **numbers))


def test_keeping_no_checkpoint_is_refused(tmp_path):
    file = experiment_file.read(epath.Path(TOY))
    options = beginning.Options(keep=0)
    with pytest.raises(UserError, match="would keep no checkpoint"):
        beginning.begin(tmp_path / "run", file, "tiny", file.settings["tiny"], options, {}, [])
    assert not (tmp_path / "run").exists()


def test_directories_that_are_no_runs(whole, tmp_path):
    with pytest.raises(UserError, match="already holds a run of 'toy'"):
        begin(whole.path)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="files that are no run"):
        begin(tmp_path)
    with pytest.raises(UserError, match="not a run directory"):
        open_run(tmp_path)
    with pytest.raises(UserError, match="no run directory"):
        open_run(tmp_path / "nothing")


def test_a_batch_that_does_not_divide(tmp_path):
    run = begin(tmp_path / "run", batch_size=12)
    with pytest.raises(UserError, match="batch of 12 rows does not divide over 8 devices"):
        runs.carry_on(run)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax's threads
@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is mounted as root")
def test_a_full_disk_is_said_and_loses_nothing(tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        run = begin(disk / "run", steps=20)
        runs.carry_on(run)
        (run.path / "config.json").write_text(
            (run.path / "config.json").read_text().replace('"steps": 20', '"steps": 60')
        )
        with open(disk / "ballast", "wb") as ballast:
            free = os.statvfs(disk)
            ballast.write(b"x" * (free.f_bavail * free.f_bsize - 24_000))
        with pytest.raises((UserError, OSError), match=r"(?i)full|no space"):
            runs.carry_on(run)
        (disk / "ballast").unlink()
        runs.carry_on(run)
        assert json.loads(lines(run)[-1])["step"] == 60
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_more_repeats_than_the_data_allows_are_refused():
    file = experiment_file.read(epath.Path(TOY))
    experiment = file.build(file.settings["tiny"], {}, {})
    mesh = make_mesh(MeshShape())
    often = dataclasses.replace(experiment.updates[0], repeats=6)  # 6 · 16 of 103 rows
    prepare(dataclasses.replace(experiment, updates=[often]), mesh)
    often = dataclasses.replace(often, repeats=7)
    with pytest.raises(UserError, match="7 updates a step on fresh batches of 16 take more than"):
        prepare(dataclasses.replace(experiment, updates=[often]), mesh)
