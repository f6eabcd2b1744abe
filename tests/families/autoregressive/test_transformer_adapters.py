"""Adapters in a transformer, whose attention multiplies fused kernels."""

import jax
import numpy as np
from small_transformers import ROTARY, VOCABULARY, parameters

from jaxgen.nn.low_rank import adapted, adapters_only, merged

TOKENS = jax.random.randint(jax.random.key(5), (2, 9), 0, VOCABULARY)


def test_a_transformer_with_adapters_is_the_one_they_merge_into():
    """Fewer key and value heads than query heads, stacked layers, a head of its own."""
    params = parameters(ROTARY)
    picked = adapted(params, jax.random.key(0), rank=2, alpha=4, targets=lambda path: True)
    assert set(adapters_only(picked)["blocks"]["attention"]) == {"query", "key", "value", "out"}
    run = jax.jit(lambda params: ROTARY.apply({"params": params}, TOKENS))
    np.testing.assert_allclose(run(picked), run(params), rtol=1e-5, atol=2e-6)

    def fill(path, leaf):
        noise = 0.3 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)
        return noise if path[-1].key == "lora_b" else leaf

    moved = jax.tree_util.tree_map_with_path(fill, picked)
    found, whole = run(moved), run(jax.jit(merged)(moved))
    np.testing.assert_allclose(found, whole, rtol=1e-4, atol=1e-5)
    for layer in ("query", "key", "value", "out"):
        # Each of them has its say.
        without = jax.tree.map(lambda leaf: leaf, moved)
        without["blocks"]["attention"][layer]["lora_b"] *= 0
        assert np.abs(run(without) - found).max() > 1e-3
