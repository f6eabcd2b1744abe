"""Notices: what each looks for, and that the loop warns once, goes on, and warns anew."""

import dataclasses
import json
import logging
import math
from pathlib import Path

import pytest
from etils import epath

from jaxgen.errors import UserError
from jaxgen.families.gan.notices import (
    classes_falling,
    discriminator_saturated,
    generator_stalled,
    variety_falling,
)
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.training import beginning, experiment_file, loop

TOY = Path(__file__).parent / "toy.py"


def test_a_saturated_discriminator_is_named_with_its_margin():
    notice = discriminator_saturated("judge", margin=4.0)
    assert notice({"judge/real": 2.0, "judge/made": -2.0}) == ""
    assert notice({"judge/real": -9.0, "judge/made": 9.0}) == ""  # the generator is winning
    warning = notice({"judge/real": 7.25, "judge/made": 1.0})
    assert "judge is saturated" in warning and "6.2 apart (more than 4)" in warning
    assert "learning rate of judge" in warning and "\n" not in warning
    assert notice({"judge/loss": 0.1}) is None and notice({"judge/real": 9.0}) is None


def test_a_stalled_generator_is_named_with_its_gradient():
    notice = generator_stalled("maker", least=1e-4)
    assert notice({"maker/gradient_norm": 1e-4}) == ""
    warning = notice({"maker/gradient_norm": 2e-6})
    assert "maker has stalled" in warning and "2.0e-06 (less than 0.0001)" in warning
    assert notice({"maker/loss": 0.1}) is None


def test_falling_classes_are_named_with_their_entropy():
    notice = classes_falling("classes/entropy", classes=10, share=0.75)
    assert notice({"classes/entropy": math.log(6)}) == ""
    warning = notice({"classes/entropy": math.log(5)})
    assert "1.61 nats, 70% of what 10 equally frequent classes have" in warning
    assert "learning rate" in warning
    assert notice({"frechet": 1.0}) is None


def test_lost_variety_is_named_with_what_is_left():
    notice = variety_falling("points/hinge_modes", full=25)
    assert notice({"points/hinge_modes": 19.0}) == ""
    warning = notice({"points/hinge_modes": 18.0})
    assert "points/hinge_modes is 18 of 25 (less than 75%)" in warning and "\n" not in warning
    assert variety_falling("variety/spread", share=0.5)({"variety/spread": 0.5}) == ""
    assert notice({"points/other_modes": 1.0}) is None


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: discriminator_saturated(margin=0.0), "margin above 0"),
        (lambda: generator_stalled(least=0.0), "norm above 0"),
        (lambda: classes_falling(classes=1), "2 classes or more"),
        (lambda: classes_falling(share=75.0), r"share in \(0, 1\]"),
        (lambda: variety_falling("modes", full=0.0), "something above 0"),
    ],
)
def test_notices_of_nothing_are_refused(make, message):
    with pytest.raises(UserError, match=message):
        make()


def high(values):
    """Says so where x is above 1, and nothing where there is no x."""
    if "x" not in values:
        return None
    return f"x is {values['x']}" if values["x"] > 1 else ""


@pytest.fixture
def heard(caplog):
    """The lines that the loop warned of."""
    caplog.set_level(logging.WARNING, "jaxgen")
    logger = logging.getLogger("jaxgen")
    before, logger.propagate = logger.propagate, True
    yield lambda: [record.getMessage() for record in caplog.records]
    logger.propagate = before


def test_a_trouble_is_told_once_until_all_was_well(heard):
    noticed = loop._Noticed([high, high])
    for step, values in enumerate([{"x": 1.0}, {"x": 2.0}, {"x": 3.0}, {"y": 0.0}, {"x": 4.0}]):
        noticed.look(step, values)
    # Two notices, each once; values that hold no x don't end the trouble.
    assert heard() == ["step 1  x is 2.0"] * 2
    noticed.look(5, {"x": 0.0})
    noticed.look(6, {"x": 5.0})
    assert heard()[2:] == ["step 6  x is 5.0"] * 2


def test_a_run_whose_notices_warn_goes_on_to_its_end(tmp_path, heard):
    """One looks at what is logged, the other at what is measured; both are always in trouble."""
    file = experiment_file.read(epath.Path(TOY))
    config = file.config_type(steps=12)
    run = beginning.begin(tmp_path / "run", file, "default", config, beginning.Options(), {}, [])
    experiment = dataclasses.replace(
        file.build(config, {}, {}),
        notices=[
            lambda values: "noisy" if "train/noise" in values else None,
            lambda values: "heavy" if "weights/sum" in values else None,
        ],
    )
    _, scores = loop.fit(experiment, run, make_mesh(MeshShape()))
    assert heard() == ["step 3  noisy", "step 12  heavy"] and "weights/sum" in scores
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [3, 6, 9, 12, 12]
