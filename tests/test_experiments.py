"""Every experiment's `tiny` setting, from training to samples; once a family killed and resumed.

One of each family is trained on all devices, the others on one: compiling for many takes twice as
long. That eight devices learn what one learns is shown of each family's losses, beside them.
"""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import pytest
from etils import epath
from made_up_data import (
    python_speeches,
    write_chorales,
    write_dictionary,
    write_functions,
    write_names,
    write_speeches,
    write_verses,
)

from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.training import beginning, drawing, experiment_file, run_directory, runs

ROOT = Path(__file__).parent.parent
EXPERIMENTS = sorted(ROOT.glob("experiments/*.py"))
NEEDS = {"shakespeare_": "tiny_shakespeare", "mnist_": "mnist", "stacked_mnist_": "mnist"}
ONE_OF_EACH_FAMILY = ["digits_flow", "shakespeare_gpt", "mnist_vqvae", "gaussians_gan"]
# Of the likelihoods the cheapest: what is resumed is the loop.
KILLED = [
    pytest.param("digits_flow", marks=pytest.mark.slow),  # its classifier is trained first
    "names_rnn",
    "mnist_vqvae",
    "gaussians_gan",
]


MADE_UP = {
    "speeches": lambda directory: write_speeches(directory, python_speeches()),
    "cmudict": write_dictionary,
    "scripture": write_verses,
    "pydoc": write_functions,
    "chorales": write_chorales,
    "names": write_names,
}


@pytest.fixture(scope="module", autouse=True)
def data_sets(tmp_path_factory):
    """Made-up data where the real sets aren't prepared, beside whatever else is there."""
    there = Path(os.environ.get("TFDS_DATA_DIR", Path.home() / "tensorflow_datasets"))
    missing = [name for name in MADE_UP if not (there / name).is_dir()]
    if not missing:
        yield
        return
    directory = tmp_path_factory.mktemp("tfds")
    for name in missing:
        MADE_UP[name](directory)
    for prepared in there.glob("*"):
        if prepared.name != "downloads":
            (directory / prepared.name).symlink_to(prepared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(directory))
        yield


def begin(path, directory, checkpoint_every=3, required=None, **changes):
    needed = next((name for prefix, name in NEEDS.items() if path.stem.startswith(prefix)), None)
    where = os.environ.get("TFDS_DATA_DIR", Path.home() / "tensorflow_datasets")
    if needed and not Path(where, needed).is_dir():
        pytest.skip(f"{needed} is not here")
    file = experiment_file.read(epath.Path(path))
    config = dataclasses.replace(file.settings["tiny"], **changes)
    options = beginning.Options(checkpoint_every=checkpoint_every)
    return beginning.begin(directory, file, "tiny", config, options, required or {}, [])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A function of an experiment's path: its tiny run and the run's scores, trained once."""
    trained = {}

    def train(path):
        if path not in trained:
            requires = experiment_file.read(epath.Path(path)).requires
            required = {
                name: str(train(path.parent / needed)[0].path) for name, needed in requires.items()
            }
            run = begin(path, tmp_path_factory.mktemp(path.stem) / "run", required=required)
            trained[path] = run, runs.carry_on(run)
        return trained[path]

    return train


def quick(experiment, name):
    """The preview's request, which the run has compiled; else one with few steps: enough to see
    that something is drawn."""
    for preview in experiment.previews:
        if preview.sampler == name:
            return preview.request
    request = experiment.samplers[name].request()
    fields = {field.name for field in dataclasses.fields(request)} & {"steps", "starts", "beats"}
    return dataclasses.replace(request, **{name: min(getattr(request, name), 4) for name in fields})


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_trains_samples_and_scores(path, tiny, tmp_path, monkeypatch):
    alone = make_mesh(MeshShape(), jax.devices()[:1])
    if path.stem not in ONE_OF_EACH_FAMILY:
        monkeypatch.setattr(runs, "make_mesh", lambda shape, devices=None: alone)
    run, scores = tiny(path)
    with jax.set_mesh(alone):
        loaded = runs.load(run.path, checkpoint="last", mesh=alone)
        assert runs.evaluate(loaded) == pytest.approx(scores, rel=1e-3, abs=1e-3)
        for name, sampler in loaded.experiment.samplers.items():
            artifact = drawing.draw(sampler, quick(loaded.experiment, name), loaded.model)
            files = artifact.save(tmp_path / name)
            assert all(file.stat().length > 0 for file in files) and artifact.show()
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == loaded.experiment.steps


@pytest.mark.parametrize("name", KILLED)
def test_killed_and_resumed_is_bitwise_the_same(name, tiny, tmp_path):
    path = ROOT / "experiments" / f"{name}.py"
    required = {
        other: str(tiny(path.parent / needed)[0].path)
        for other, needed in experiment_file.read(epath.Path(path)).requires.items()
    }
    whole = begin(path, tmp_path / "whole", required=required, steps=24)
    runs.carry_on(whole)
    killed = begin(path, tmp_path / "killed", required=required, steps=24)
    process = subprocess.Popen([sys.executable, "-c", CARRY_ON, str(killed.path)])
    deadline = time.time() + 300
    while not list(Path(killed.checkpoints).glob("[0-9]")):  # a checkpoint before step 10
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    runs.carry_on(run_directory.open_run(killed.path))
    assert (killed.path / "metrics.jsonl").read_text() == (whole.path / "metrics.jsonl").read_text()


CARRY_ON = """
import sys
import jax
jax.config.update("jax_cpu_enable_async_dispatch", False)
from jaxgen.training import run_directory, runs
runs.carry_on(run_directory.open_run(sys.argv[1]))
"""


@pytest.mark.slow
def test_r3gan_learns_through_its_augmentation(tmp_path):
    """Slopes, and slopes of slopes, pass the whole pipeline; compiling that takes a minute."""
    path = ROOT / "experiments" / "cifar10_r3gan.py"
    run = begin(path, tmp_path / "run", augmented=0.55, pictures=48)
    runs.carry_on(run)
    last = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[-1])
    assert last["discriminator/augmentation_probability"] == pytest.approx(0.55)
    assert last["generator/gradient_norm"] > 0


@pytest.mark.slow
def test_killed_at_ten_random_moments(tmp_path):
    """`kill -9` at moments drawn anew each time, on one device; then on to the end."""
    path = ROOT / "experiments" / "digits_classifier.py"
    environment = os.environ | {"XLA_FLAGS": ""}

    def carry_on(run):
        return subprocess.Popen([sys.executable, "-c", CARRY_ON, str(run.path)], env=environment)

    whole = begin(path, tmp_path / "whole", 50, steps=6000)
    assert carry_on(whole).wait() == 0
    killed = begin(path, tmp_path / "killed", 50, steps=6000)
    for _ in range(10):
        process = carry_on(killed)
        time.sleep(random.uniform(3, 9))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the run ended before the tenth kill"
    assert carry_on(killed).wait() == 0
    assert (killed.path / "metrics.jsonl").read_text() == (whole.path / "metrics.jsonl").read_text()


def test_python_runs_an_experiment_too(tmp_path):
    flags = ["--setting", "tiny", "--run", tmp_path / "run"]
    done = subprocess.run(
        [sys.executable, ROOT / "experiments/digits_classifier.py", *flags],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "scores.json").exists()
