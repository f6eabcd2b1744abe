import time

import jax
import pytest

from jaxgen.errors import UserError
from jaxgen.evaluation.timing import seconds_per_sample


def test_the_first_draw_is_not_counted_and_the_rest_is_shared_out():
    drawn = []

    def draw(key):
        time.sleep(0.5 if not drawn else 0.02)
        drawn.append(key)
        return key

    seconds = seconds_per_sample(draw, 10, jax.random.key(0), rounds=3)
    assert len({str(jax.random.key_data(key)) for key in drawn}) == 4
    assert 0.002 <= seconds < 0.05


def test_nothing_cannot_be_timed():
    with pytest.raises(UserError, match="0 samples in 3 rounds can't be timed"):
        seconds_per_sample(lambda key: key, 0, jax.random.key(0))
