"""Runs that build on others: shared where two ask for the same, and held to what they were."""

import json
import shutil

import pytest
from etils import epath

from jaxgen.errors import UserError
from jaxgen.training import beginning, experiment_file, runs

TOY = epath.Path(__file__).parent / "toy.py"
BUILDS_ON = """
import dataclasses
import sys
sys.path.insert(0, {folder!r})
import toy
Config, SETTINGS, REQUIRES = toy.Config, toy.SETTINGS, {requires!r}
def build(config, required):
    assert set(required) == set(REQUIRES)
    return toy.build(config)
"""


@pytest.fixture
def top(tmp_path):
    """top.py builds on middle.py and base.py, middle.py on base.py."""
    (tmp_path / "base.py").write_text(TOY.read_text())
    for name, requires in (
        ("middle", {"base": "base.py"}),
        ("top", {"middle": "middle.py", "base": "base.py"}),
    ):
        source = BUILDS_ON.format(folder=str(TOY.parent), requires=requires)
        (tmp_path / f"{name}.py").write_text(source)
    return experiment_file.read(epath.Path(tmp_path / "top.py"))


def begin(file, path, required=None):
    return beginning.begin(
        path, file, "default", file.settings["default"], beginning.Options(), required or {}, []
    )


def test_what_two_build_on_is_trained_once(top, tmp_path):
    run = begin(top, tmp_path / "run")
    runs.carry_on(run)
    assert run.read("config.json")["requires"] == {
        "middle": "requires/middle",
        "base": "requires/base",
    }
    inner = json.loads((run.path / "requires/middle/config.json").read_text())
    assert inner["requires"] == {"base": "../../requires/base"}
    assert not (run.path / "requires/middle/requires").exists()
    moved = tmp_path / "elsewhere"
    shutil.move(run.path, moved)
    assert runs.load(moved).step == 60


def test_a_model_that_was_replaced_is_refused(top, tmp_path):
    run = begin(top, tmp_path / "run")
    runs.carry_on(run)
    other = experiment_file.read(epath.Path(tmp_path / "base.py"))
    shutil.rmtree(run.path / "requires/base")
    config = other.config_type(seed=7)
    runs.carry_on(
        beginning.begin(
            run.path / "requires/base", other, "default", config, beginning.Options(), {}, []
        )
    )
    with pytest.raises(UserError, match="was trained on another base than the one that is now"):
        runs.load(run.path)


def test_a_run_of_another_experiment_is_refused_before_anything_is_made(top, tmp_path):
    base = begin(experiment_file.read(epath.Path(tmp_path / "base.py")), tmp_path / "base_run")
    with pytest.raises(UserError, match="is a run of 'base'; top needs one of 'middle'"):
        begin(top, tmp_path / "run", {"middle": str(base.path), "base": str(base.path)})
    assert not (tmp_path / "run").exists()


def test_a_taken_directory_is_named_before_what_it_builds_on(top, tmp_path):
    begin(top, tmp_path / "run")
    with pytest.raises(UserError, match="run already holds a run of 'top'"):
        begin(top, tmp_path / "run")
