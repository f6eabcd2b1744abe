"""The pairs that a ring's devices work on: everything visible once, and no key sent in vain."""

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxgen.nn.ring_schedule import Ring, from_zigzag, to_zigzag
from jaxgen.parallel.mesh import MeshShape, make_mesh


def seen(ring):
    """How often each query is worked out with each key, by the pairs of all devices and stops."""
    count = np.zeros((ring.size * ring.length,) * 2, int)
    half = ring.length // 2

    def places(device):
        if not ring.zigzag:
            return np.arange(device * ring.length, (device + 1) * ring.length)
        chunks = (device, 2 * ring.size - 1 - device)
        return np.concatenate([np.arange(chunk * half, (chunk + 1) * half) for chunk in chunks])

    for device in range(ring.size):
        for stop in ring.stops():
            pairs = ring.own() if stop == 0 else ring.others(stop)[device < stop]
            for pair in pairs:
                queries = places(device)[pair.queries]
                keys = places((device - stop) % ring.size)[pair.keys]
                ahead = queries[:, None] - keys
                if pair.offset is not None:
                    assert queries[0] - keys[0] == pair.offset
                visible = np.ones_like(ahead, bool)
                if pair.offset is not None and ring.causal:
                    visible &= ahead >= 0
                if ring.window is not None:
                    visible &= np.abs(ahead) < ring.window
                np.add.at(count, np.ix_(queries, keys), visible)
    return count


@pytest.mark.parametrize("size", [2, 3, 4, 8])
@pytest.mark.parametrize("causal", [False, True])
def test_every_visible_key_is_worked_out_once(size, causal):
    length = 6
    ahead = np.arange(size * length)[:, None] - np.arange(size * length)
    for window in (None, 1, 2, 6, 7, 8, 11):
        expected = np.ones_like(ahead)
        if causal:
            expected &= ahead >= 0
        if window is not None:
            expected &= np.abs(ahead) < window
        found = seen(Ring("sequence", size, length, causal, window))
        np.testing.assert_array_equal(found, expected)


def test_a_window_sends_keys_no_further_than_it_reaches():
    causal = Ring("sequence", 8, 10, causal=True, window=12)
    assert causal.stops() == [0, 1, 2]  # 11 places back from a stretch's first one is two stretches
    assert Ring("sequence", 8, 10, causal=True, window=11).stops() == [0, 1]
    assert Ring("sequence", 8, 10, causal=False, window=11).stops() == [0, 1, 7]
    assert Ring("sequence", 8, 10, causal=True, window=1).stops() == [0]


@pytest.mark.parametrize("size", [3, 8])
def test_zigzag_gives_each_device_an_early_and_a_late_chunk(size):
    ring = Ring("sequence", size, 4, causal=True, window=None)
    time = np.arange(4 * size)
    along = PartitionSpec("sequence")
    with jax.set_mesh(make_mesh(MeshShape(sequence=size, data=1), jax.devices()[:size])):
        there = jax.jit(
            jax.shard_map(lambda x: to_zigzag(ring, x, 0), in_specs=along, out_specs=along)
        )(time)
        back = jax.jit(
            jax.shard_map(lambda x: from_zigzag(ring, x, 0), in_specs=along, out_specs=along)
        )(there)
    chunks = time.reshape(2 * size, 2)
    expected = [chunks[chunk] for i in range(size) for chunk in (i, 2 * size - 1 - i)]
    np.testing.assert_array_equal(there, np.concatenate(expected))
    np.testing.assert_array_equal(back, time)
