"""µP's coordinate check: what a few steps change stays of one size as the width grows."""

import math
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.core import meta

from jaxgen.families.autoregressive.likelihood import cross_entropy
from jaxgen.families.autoregressive.transformer import Scales, Transformer
from jaxgen.nn.embedding import PositionEmbedding
from jaxgen.nn.maximal_update import maximal_update
from jaxgen.nn.mlp import MLP
from jaxgen.nn.norm import LayerNorm
from jaxgen.nn.self_attention import SelfAttention
from jaxgen.training.optimizers import scaled_rates

VOCABULARY, LAYERS, HEADS, TIME, BASE = 32, 2, 4, 12, 32
RATE, STEPS, SEEDS = 3e-3, 4, 2
TOKENS = jax.random.randint(jax.random.key(1), (8, TIME + 1), 0, VOCABULARY)
NORMAL = nn.initializers.normal


def test_at_its_base_width_it_is_the_usual_parametrization():
    up = maximal_update(256, 256, depth=64, base_depth=64, deviation=0.03)
    assert (up.deviation, up.embedding_deviation) == (0.03, 0.03)
    assert (up.attention_scale, up.logits_scale) == (1 / 8, 1.0)
    assert up.rate(("blocks", "mlp", "up", "kernel")) == 1.0


def test_what_grows_with_the_width():
    """Table 8 of the paper, for a width 4 times the base's."""
    up = maximal_update(256, 64, depth=64, base_depth=16, deviation=0.04)
    assert up.deviation == 0.02  # variance by 1/4
    assert up.embedding_deviation == 0.04
    assert up.attention_scale == 1 / 16  # at the base 1/4 = 1/√16, then by the depth itself
    assert up.logits_scale == 1 / 4
    rates = {
        ("blocks", "attention", "query", "kernel"): 1 / 4,
        ("blocks", "0", "mlp", "down", "kernel"): 1 / 4,
        ("blocks", "mlp", "down", "bias"): 1.0,
        ("blocks", "mlp_norm", "scale"): 1.0,
        ("tokens", "embedding"): 1.0,
        ("positions", "embedding"): 1.0,
        ("head", "kernel"): 1.0,
    }
    assert {path: up.rate(path) for path in rates} == rates


def usual(width):
    return maximal_update(BASE, BASE, depth=width // HEADS, base_depth=width // HEADS)


def maximal(width):
    return maximal_update(width, BASE, depth=width // HEADS, base_depth=BASE // HEADS)


class NoAttention(nn.Module):
    """Adds nothing: half of what there is to compile."""

    initializer: Any = None
    output_initializer: Any = None
    dtype: Any = None

    def __call__(self, x, places, cache, deterministic):
        return jnp.zeros_like(x), cache


def changes(width, parametrization, tied=True, attends=True):
    """How far a few of Adam's steps move the residual stream's last vectors, and the scores.

    Means of absolute values, over the batch that it trains on.
    """
    up = parametrization(width)
    attention = partial(SelfAttention, heads=HEADS, scale=up.attention_scale)
    network = Transformer(
        VOCABULARY,
        width,
        LAYERS,
        attention=attention if attends else NoAttention,
        mlp=partial(MLP, hidden=4 * width),
        norm=LayerNorm,
        positions=partial(PositionEmbedding, TIME),
        tied=tied,
        scales=Scales(logits=up.logits_scale),
        initializer=NORMAL(up.deviation),
        output_initializer=NORMAL(up.deviation / math.sqrt(2 * LAYERS)),
        embedding_initializer=NORMAL(up.embedding_deviation),
    )
    optimizer = scaled_rates(optax.adam(RATE), up.rate)

    def value(params):
        stream = []

        def note(layer, arguments, named, context):
            if context.module.path == ("norm",):
                stream.append(arguments[0])
            return layer(*arguments, **named)

        with nn.intercept_methods(note):
            scores = network.apply({"params": params}, TOKENS[:, :-1])
        return cross_entropy(scores, TOKENS[:, 1:]).mean(), (*stream, scores)

    def step(carry, _):
        params, state = carry
        slope, seen = jax.grad(value, has_aux=True)(params)
        moves, state = optimizer.update(slope, state, params)
        return (optax.apply_updates(params, moves), state), seen

    def run(key):
        params = meta.unbox(network.init(key, TOKENS[:, :-1])["params"])
        carry = params, optimizer.init(params)
        _, seen = jax.lax.scan(step, carry, None, length=STEPS + 1)
        return [jnp.abs(each[-1] - each[0]).mean() for each in seen]

    moved = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), SEEDS))
    return [float(each.mean()) for each in moved]


def exponents(widths, found):
    """With which powers of the width the stream's and the scores' changes grow."""
    return np.polyfit(np.log(widths), np.log(found), 1)[0]


def test_changes_keep_their_size():
    base = changes(BASE, maximal, attends=False)  # which is the usual parametrization as well
    stream, scores = exponents([BASE, 128], [base, changes(128, maximal, attends=False)])
    assert abs(stream) < 0.1
    # Scores by random vectors get less as the width grows, by the root of it; what is learned
    # keeps its size.
    assert -0.2 < scores < 0.05
    stream, scores = exponents([BASE, 128], [base, changes(128, usual, attends=False)])
    assert stream > 0.8 and scores > 0.7


@pytest.mark.slow
@pytest.mark.parametrize("tied", [True, False])
def test_changes_keep_their_size_over_an_eightfold_width(tied):
    widths = [32, 64, 128, 256]
    found = [changes(width, maximal, tied) for width in widths]
    stream, scores = exponents(widths, found)
    assert abs(stream) < 0.1
    # A head of its own begins with random scores that are larger than a step's change.
    assert (-0.2 if tied else -0.4) < scores < 0.05
    found = [changes(width, usual, tied) for width in widths]
    stream, scores = exponents(widths, found)
    assert stream > 0.8 and scores > 0.7
