"""Places are counted from the prompt's end: what may stand there, and what must."""

import jax.numpy as jnp
import numpy as np

from jaxgen.families.autoregressive.policies import combined
from jaxgen.families.autoregressive.schedules import FREE, forced, in_turn

PROMPTS, LENGTHS = jnp.zeros((2, 5), jnp.int32), jnp.array([1, 5])
LOGITS = jnp.arange(8.0).reshape(2, 4)


def allowed_at(policy, places):
    """Which tokens each row may write, place by place."""
    memory = policy.begin(PROMPTS, LENGTHS, 4)
    seen = []
    for _ in range(places):
        scores = np.asarray(policy.scores(LOGITS, memory))
        seen.append([list(np.flatnonzero(np.isfinite(row))) for row in scores])
        memory, ended = policy.advance(memory, jnp.zeros(2, jnp.int32))
        assert not np.asarray(ended).any()
    return seen


def test_places_take_turns():
    turns = jnp.array([[True, False, True], [False, True, False]])
    # The fourth token is one that the network alone has.
    assert allowed_at(in_turn(turns), 3) == [[[0, 2], [0, 2]], [[1], [1]], [[0, 2], [0, 2]]]
    scores = in_turn(turns).scores(LOGITS, jnp.array([0, 1]))
    assert (scores[0, 2], scores[1, 1]) == (2.0, 5.0)


def test_what_is_given_is_written_and_the_rest_stays_free():
    every = [0, 1, 2, 3]
    policy = forced(jnp.array([[2, FREE], [FREE, 3]]))
    assert allowed_at(policy, 3) == [[[2], every], [every, [3]], [every, every]]
    # What another policy rules out is written all the same.
    both = combined(in_turn(jnp.array([[True, False, False, False]])), policy)
    assert allowed_at(both, 2) == [[[2], [0]], [[0], [3]]]
