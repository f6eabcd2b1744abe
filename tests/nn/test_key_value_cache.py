"""Caches: rings that stay small, numbers that stay near, and where they lie on a mesh."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta
from jax.sharding import NamedSharding

from jaxgen.families.autoregressive.decoder import transformer_decoder
from jaxgen.families.autoregressive.transformer import Transformer
from jaxgen.nn.key_value_cache import CacheRoom, new_cache, slot_positions, written
from jaxgen.nn.mlp import MLP
from jaxgen.nn.norm import LayerNorm
from jaxgen.nn.rotary import rotary_angles
from jaxgen.nn.self_attention import SelfAttention
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.sharding import shardings, unbox

CONTEXT, VOCABULARY = 40, 11
TOKENS = jax.random.randint(jax.random.key(7), (3, CONTEXT), 0, VOCABULARY)
LENGTHS = jnp.asarray([2, 5, 9])


def network(window=None, sink_tokens=0):
    attention = partial(
        SelfAttention, heads=4, groups=2, rotary=rotary_angles, window=window,
        sink_tokens=sink_tokens,
    )  # fmt: skip
    return Transformer(
        vocabulary=VOCABULARY, width=32, layers=2, attention=attention,
        mlp=partial(MLP, hidden=64), norm=LayerNorm,
    )  # fmt: skip


def parameters(network):
    params = meta.unbox(network.init(jax.random.key(0), TOKENS)["params"])
    return jax.tree.map(lambda leaf: 2 * leaf, params)


def test_slots_hold_the_sinks_and_the_newest_positions():
    """Each vector says its own position; a window of 4 and 2 read ahead make a ring of 6."""
    every = jnp.broadcast_to(jnp.arange(30.0)[None, :, None, None], (3, 30, 1, 2))
    lengths = jnp.asarray([1, 7, 12])
    room = CacheRoom(30, ahead=2)
    cache = new_cache(every[:, :12], every[:, :12], room, lengths, 4, 1)
    assert cache.slots == 1 + 6
    for _ in range(5):
        positions = np.asarray(slot_positions(cache, lengths))
        for row, end in enumerate(lengths.tolist()):
            there = positions[row][(positions[row] >= 0) & (positions[row] < end)]
            assert set(there) == {0} | set(range(max(1, end - 6), end))
            held = np.asarray(cache.key.numbers)[row, 0, :, 0]
            real = (positions[row] >= 0) & (positions[row] < end)
            np.testing.assert_array_equal(held[real], positions[row][real])
        more = jnp.take_along_axis(
            every, (lengths[:, None] + jnp.arange(2)[None, :])[:, :, None, None], axis=1
        )
        cache = written(cache, more, more, lengths)
        lengths = lengths + 2


@pytest.mark.parametrize("sink_tokens", [0, 2])
@pytest.mark.parametrize("at_once", [1, 3])
def test_a_ring_is_as_good_as_all_positions(sink_tokens, at_once):
    """In steps and in pieces of which a part is taken back, far beyond the ring's size."""
    net = network(window=5, sink_tokens=sink_tokens)
    params = parameters(net)
    whole = np.asarray(jax.jit(net.apply)({"params": params}, TOKENS))
    decoder = transformer_decoder(net, CONTEXT, ahead=at_once)
    params = decoder.ready(params)
    carry, logits = jax.jit(decoder.prefill)(params, TOKENS[:, :9], LENGTHS)
    assert carry.cache[0].slots == sink_tokens + 5 + at_once
    rows, held = np.arange(3)[:, None], np.asarray(LENGTHS)
    np.testing.assert_allclose(logits, whole[rows[:, 0], held - 1], atol=2e-4)
    extend = jax.jit(decoder.extend)
    for turn in range(12):
        places = held[:, None] + np.arange(at_once)[None, :]
        carry, logits = extend(params, carry, TOKENS[rows, places])
        np.testing.assert_allclose(logits, whole[rows, places], atol=2e-4)
        # All but one are kept in every second turn.
        held = held + at_once - (turn % 2 if at_once > 1 else 0)
        carry = decoder.rewind(carry, jnp.asarray(held))


# The largest difference of a log-probability, in nats, over 30 steps of a random network.
@pytest.mark.parametrize(
    ("dtype", "bytes_each", "drift"), [("bfloat16", 2, 0.005), ("int8", 1, 0.01)]
)
def test_small_numbers_stay_near(dtype, bytes_each, drift):
    net = network()
    params = parameters(net)
    whole = np.asarray(jax.nn.log_softmax(jax.jit(net.apply)({"params": params}, TOKENS)))
    exact, small = (
        transformer_decoder(net, CONTEXT, cache_dtype=kind) for kind in (None, jnp.dtype(dtype))
    )
    params = exact.ready(params)
    carry, _ = jax.jit(small.prefill)(params, TOKENS[:, :9], LENGTHS)
    plain, _ = jax.jit(exact.prefill)(params, TOKENS[:, :9], LENGTHS)
    numbers = carry.cache[0].key.numbers
    assert (
        numbers.dtype == dtype
        and numbers.nbytes * 4 == bytes_each * plain.cache[0].key.numbers.nbytes
    )
    step, held, worst = jax.jit(small.step), np.asarray(LENGTHS), 0.0
    for _ in range(30):
        carry, logits = step(params, carry, TOKENS[np.arange(3), held])
        likely = np.asarray(jax.nn.log_softmax(logits))
        worst = max(worst, np.abs(likely - whole[np.arange(3), held]).max())
        held = held + 1
    assert 1e-6 < worst < drift


def test_an_empty_vector_has_no_scale():
    zeros = jnp.zeros((1, 2, 1, 4))
    cache = new_cache(zeros, zeros, CacheRoom(4, dtype=jnp.int8), None, None, 0)
    np.testing.assert_array_equal(cache.key.read(jnp.float32), np.zeros((1, 4, 1, 4)))


@pytest.mark.parametrize("dtype", [None, jnp.int8])
def test_on_a_mesh_rows_lie_with_the_batch_and_heads_with_the_queries(dtype):
    net = network()
    boxed = net.init(jax.random.key(0), TOKENS)["params"]
    mesh = make_mesh(MeshShape(data=2, fsdp=2, tensor=2))
    tokens, lengths = jnp.tile(TOKENS[:1], (4, 1)), jnp.full(4, 5)
    decoder = transformer_decoder(net, CONTEXT, cache_dtype=dtype)

    def run(params):
        weights = decoder.ready(params)
        carry, _ = decoder.prefill(weights, tokens[:, :9], lengths)
        return decoder.step(weights, carry, tokens[:, 5])

    _, expected = jax.jit(run)(unbox(boxed))
    with jax.set_mesh(mesh):
        params = jax.device_put(unbox(boxed), shardings(boxed, mesh))
        carry, logits = jax.jit(run)(params)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    for leaf in jax.tree.leaves(carry.cache):
        assert isinstance(leaf.sharding, NamedSharding)
        # (batch, groups, slots, ...): rows over data and fsdp, groups over tensor.
        shard = leaf.sharding.shard_shape(leaf.shape)
        assert (shard[0] * 4, shard[1] * 2) == leaf.shape[:2]
