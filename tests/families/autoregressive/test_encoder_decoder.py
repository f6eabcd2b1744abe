"""The encoder–decoders: cached steps are the whole pass, padding and packing change nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from small_transformers import parameters

from jaxgen.experiment import Context
from jaxgen.families.autoregressive.decoder import encoder_decoder_decoder
from jaxgen.families.autoregressive.decoding import generate, sampled
from jaxgen.families.autoregressive.encoder_decoder import tower_matrices
from jaxgen.families.autoregressive.encoder_decoder_architectures import t5, transformer_2017
from jaxgen.families.autoregressive.language_model import sourced_language_model
from jaxgen.families.autoregressive.likelihood import next_token_loss
from jaxgen.families.autoregressive.logits import temperature
from jaxgen.parallel.layout import RULES

NETWORKS = {
    "2017": transformer_2017(11, width=32, layers=2, heads=4, hidden=64),
    "t5": t5(11, 32, 2, heads=4, depth=8, hidden=64, furthest=16, buckets=8),
    "t5_1.1": t5(11, 32, 2, 4, 8, 64, decoder_layers=1, gated=True, tied=False),
    "normalized": t5(11, 32, 2, 4, 8, 64, gated=True, query_key_norm=True),
}
SOURCE = jax.random.randint(jax.random.key(1), (2, 7), 0, 11)
PADDED = jnp.ones((2, 7), jnp.int32).at[0, 4:].set(0)
TARGET = jax.random.randint(jax.random.key(2), (2, 9), 0, 11)


@functools.cache
def made(name):
    network = NETWORKS[name]
    params = parameters(network, SOURCE, TARGET)
    return params, jax.jit(functools.partial(network.apply, {"params": params}))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_target_sees_what_came_before_and_the_whole_source(name):
    _, run = made(name)
    whole = run(SOURCE, TARGET, PADDED)
    later = run(SOURCE, TARGET.at[:, 5].set(TARGET[:, 5] % 10 + 1), PADDED)
    np.testing.assert_allclose(later[:, :5], whole[:, :5], atol=1e-5)
    assert np.abs(later[:, 5:] - whole[:, 5:]).max(-1).min() > 1e-4
    other = run(SOURCE.at[:, 3].set(SOURCE[:, 3] % 10 + 1), TARGET, PADDED)
    assert np.abs(other - whole).max(-1).min() > 1e-4
    padding = run(SOURCE.at[0, 5].set(SOURCE[0, 5] % 10 + 1), TARGET, PADDED)
    np.testing.assert_allclose(padding, whole, atol=1e-5)


@pytest.mark.parametrize("name", NETWORKS)
def test_cached_steps_are_the_whole_pass(name):
    params, run = made(name)
    whole = np.asarray(run(SOURCE, TARGET, PADDED))
    decoder = encoder_decoder_decoder(NETWORKS[name], 12, SOURCE, PADDED)
    lengths, rows = jnp.asarray([3, 1]), np.arange(2)
    params = decoder.ready(params)
    carry, logits = jax.jit(decoder.prefill)(params, TARGET[:, :4], lengths)
    np.testing.assert_allclose(logits, whole[rows, lengths - 1], atol=2e-4)
    step = jax.jit(decoder.step)
    for ahead in range(4):
        carry, logits = step(params, carry, TARGET[rows, lengths + ahead])
        np.testing.assert_allclose(logits, whole[rows, lengths + ahead], atol=2e-4)
    # Rows changed places, the last two tokens forgotten, and read again.
    carry = decoder.rewind(decoder.reorder(carry, jnp.asarray([1, 0])), lengths[::-1] + 2)
    carry, logits = step(params, carry, TARGET[rows[::-1], lengths[::-1] + 2])
    np.testing.assert_allclose(logits, whole[rows[::-1], lengths[::-1] + 2], atol=2e-4)


def test_the_decoding_loop_takes_it_as_it_is():
    params, run = made("t5")
    choice = sampled(temperature(0.0))

    @jax.jit
    def write(source, segments):
        decoder = encoder_decoder_decoder(NETWORKS["t5"], 8, source, segments)
        begin, lengths = jnp.zeros((2, 1), jnp.int32), jnp.ones(2, jnp.int32)
        return generate(decoder, params, jax.random.key(0), begin, lengths, choice, 6)[0]

    written = write(SOURCE, PADDED)
    seen = jnp.concatenate([jnp.zeros((2, 1), jnp.int32), written], axis=1)
    np.testing.assert_array_equal(written, run(SOURCE, seen, PADDED)[:, :-1].argmax(-1))


def test_packed_pairs_are_separate_pairs():
    """By segments alone: distances within a pair are the same wherever it stands."""
    _, run = made("t5")
    sources, targets = np.array([1, 1, 1, 2, 2, 2, 2]), np.array([1, 1, 1, 1, 2, 2, 2, 2, 2])
    one_packed = np.stack([sources, np.zeros(7)]), np.stack([targets, np.zeros(9)])
    packed = run(SOURCE[:1].repeat(2, 0), TARGET[:1].repeat(2, 0), *map(as_int, one_packed))
    # Each pair alone, moved to the front of a row and padded there.
    alone = run(
        jnp.stack([SOURCE[0], jnp.roll(SOURCE[0], -3)]),
        jnp.stack([TARGET[0], jnp.roll(TARGET[0], -4)]),
        as_int(np.stack([sources == 1, np.roll(sources == 2, -3)])),
        as_int(np.stack([targets == 1, np.roll(targets == 2, -4)])),
    )
    np.testing.assert_allclose(packed[0, :4], alone[0, :4], atol=1e-4)
    np.testing.assert_allclose(packed[0, 4:], alone[1, :5], atol=1e-4)


def as_int(segments):
    return jnp.asarray(segments, jnp.int32)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_parameter_names_its_axes(name):
    boxed = jax.eval_shape(NETWORKS[name].init, jax.random.key(0), SOURCE, TARGET)["params"]
    leaves = jax.tree.leaves(boxed, is_leaf=lambda leaf: isinstance(leaf, meta.AxisMetadata))
    for leaf in leaves:
        assert len(leaf.names) == leaf.value.ndim
        assert all(axis is None or axis in RULES for axis in leaf.names)


def test_the_loss_is_of_targets_given_their_sources():
    params, run = made("2017")
    model = sourced_language_model(NETWORKS["2017"])
    batch = {"tokens": TARGET, "source": SOURCE, "source_segments": PADDED}
    context = Context(batch, None, 0, {}, params)
    output = jax.jit(next_token_loss(model, chunk=4))(params, context)
    nats = -jax.nn.log_softmax(run(SOURCE, TARGET, PADDED)[:, :-1])
    expected = jnp.take_along_axis(nats, TARGET[:, 1:, None], axis=-1).mean()
    np.testing.assert_allclose(output.value, expected, rtol=1e-5)
    assert output.weight == TARGET[:, 1:].size


def test_muon_takes_both_towers_kernels_and_nothing_else():
    params, _ = made("t5_1.1")
    taken = set()
    for path, leaf in jax.tree.leaves_with_path(params):
        names = tuple(key.key for key in path)
        if (found := tower_matrices(names)) is None:
            continue
        taken.add(names)
        axes = (found.reduction_axis, found.output_axis)
        inputs, outputs = (np.prod(np.take(leaf.shape, axis)) for axis in axes)
        assert leaf.size == leaf.shape[0] * inputs * outputs  # a matrix a layer
        assert (inputs == 32) or names[-2] in ("out", "down"), names
    kernels = [path for path, _ in jax.tree.leaves_with_path(params) if path[-1].key == "kernel"]
    # All but the head's, which is no part of a tower.
    assert len(taken) == len(kernels) - 1 and {names[0] for names in taken} == {
        "encoder",
        "decoder",
    }
