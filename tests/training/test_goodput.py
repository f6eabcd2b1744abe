import json
import logging
import time

import pytest
from etils import epath

from jaxgen.errors import UserError
from jaxgen.training.goodput import PHASES, Ledger, account, process_began, told
from jaxgen.training.pending import NotFinite, Pending
from jaxgen.training.profiling import steps_to_profile
from jaxgen.training.stalls import StallWatch


def line(began, first, step, at, steps, **seconds):
    spent = {**dict.fromkeys(PHASES, 0.0), **seconds, "steps": steps}
    return {"began": began, "first": first, "step": step, "at": at, "seconds": spent}


def test_shares_of_a_run_with_three_lives():
    """30 s of work in lives of 20, 10 and 10 steps, of which the first two lost 5 and 10."""
    lines = [
        line(0.0, 0, 10, 12.0, 10.0, start=2.0),
        line(0.0, 0, 20, 23.0, 20.0, start=2.0, checkpoint=1.0),  # this life's last word
        line(33.0, 15, 25, 48.0, 10.0, start=2.0, compile=3.0),
        line(50.0, 15, 25, 65.0, 10.0, start=5.0),
    ]
    shares = account(lines)
    whole = 65.0
    assert sum(shares.values()) == pytest.approx(1)
    assert shares["goodput"] == pytest.approx((20 * 15 / 20 + 0 + 10) / whole)
    assert shares["lost_steps"] == pytest.approx((5 + 10) / whole)
    assert shares["down"] == pytest.approx((10 + 2) / whole)
    assert shares["start"] == pytest.approx(9 / whole)
    assert shares["compile"] == pytest.approx(3 / whole)
    assert told(shares).startswith("Goodput 38.5% (lost steps 23.1%, down 18.5%, start 13.8%,")


def test_a_life_that_trained_nothing_counts_as_lost():
    shares = account([line(0.0, 5, 5, 4.0, 1.0, start=3.0)])
    assert shares["goodput"] == 0 and shares["lost_steps"] == pytest.approx(0.25)


def test_a_ledger_adds_up_to_the_clock():
    began = time.time() - 3
    ledger = Ledger(began, 7)
    with ledger.spent("checkpoint"):
        time.sleep(0.05)
    time.sleep(0.05)
    said = ledger.line(9)
    assert json.loads(json.dumps(said)) == said
    assert said["first"] == 7 and said["step"] == 9
    assert sum(said["seconds"].values()) == pytest.approx(said["at"] - began, abs=1e-3)
    assert said["seconds"]["start"] >= 3 and said["seconds"]["checkpoint"] >= 0.05
    assert 0.04 < said["seconds"]["steps"] < 1


def test_the_process_began_before_now():
    assert 0 < time.time() - process_began() < 3600


class Later:
    """A result that is ready when told."""

    def __init__(self, value=True, ready=False):
        self.value, self.ready = value, ready

    def is_ready(self):
        return self.ready

    def __bool__(self):
        return self.value


def test_seconds_of_steps_that_are_found_done_together_are_shared():
    pending = Pending(most=16)
    results = [Later() for _ in range(12)]
    for step, result in enumerate(results):
        pending.add(step, {}, result)
    pending.check()
    assert pending.median() is None and not pending.idle
    time.sleep(0.12)
    for result in results:
        result.ready = True
    pending.check()
    assert pending.idle
    median, high, longest = pending.percentiles()
    assert median == high == longest and 0.01 <= median < 0.05
    pending.skip_time()
    pending.add(12, {"loss": float("nan")}, Later(value=False, ready=True))
    with pytest.raises(NotFinite, match="Step 12 was not finite"):
        pending.check()


def test_a_stalled_step_shows_its_stacks_once(tmp_path, caplog):
    logging.getLogger("jaxgen").propagate = True
    watch = StallWatch(epath.Path(tmp_path), lambda: 0.01, process=3, at_least=0.2)
    with caplog.at_level(logging.WARNING, "jaxgen"), watch:
        watch.begins(4)
        time.sleep(0.1)
        watch.rests()  # an evaluation may take its time
        time.sleep(0.4)
        assert not list(tmp_path.iterdir())
        watch.begins(5)
        time.sleep(0.6)
    assert [file.name for file in tmp_path.iterdir()] == ["process_3_step_5.txt"]
    assert "test_a_stalled_step_shows_its_stacks_once" in next(tmp_path.iterdir()).read_text()
    assert caplog.text.count("Step 5 has taken more than 0.2 s") == 1


@pytest.mark.parametrize("said", ["10", "12:10", "0:3", "a:b", "3:"])
def test_steps_to_profile_are_told_when_they_are_none(said):
    with pytest.raises(UserError, match=f"--profile {said} is no START:STOP"):
        steps_to_profile(said)


def test_steps_to_profile():
    assert steps_to_profile("") is None and steps_to_profile("3:3") == (3, 3)
