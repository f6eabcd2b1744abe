"""A trained network goes out with adapters merged, context said and tokenizer beside it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import meta

from jaxgen.data.subword_training import train_byte_pairs
from jaxgen.errors import UserError
from jaxgen.families.autoregressive.architectures import gpt3, qwen3
from jaxgen.interop.exporting import export
from jaxgen.interop.hugging_face import abstract_params, load, load_into
from jaxgen.nn.low_rank import adapted

NETWORK = qwen3(300, 16, 2, 2, 1, 24, depth=8, tied=True)
TOKENS = jax.random.randint(jax.random.key(0), (2, 6), 0, 300)


def parameters(network):
    shapes = meta.unbox(jax.eval_shape(network.init, jax.random.key(0), TOKENS)["params"])
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.standard_normal(leaf.shape, np.float32)), shapes
    )


def test_what_comes_back_computes_the_same(tmp_path):
    params = adapted(
        parameters(NETWORK), jax.random.key(1), rank=2, alpha=4.0, targets=lambda path: True
    )
    rng = np.random.default_rng(1)
    params = jax.tree.map_with_path(
        lambda path, leaf: (
            jnp.asarray(rng.standard_normal(leaf.shape), jnp.float32)
            if path[-1].key == "lora_b"
            else leaf
        ),
        params,
    )
    tokenizer = train_byte_pairs(["one two three"] * 3, 300)
    export(tmp_path / "out", NETWORK, params, tokenizer.files(), context=77)
    loaded = load(tmp_path / "out")
    run = jax.jit(
        lambda network, params: network.apply({"params": params}, TOKENS), static_argnums=0
    )
    np.testing.assert_allclose(
        run(loaded.network, loaded.params), run(NETWORK, params), rtol=1e-3, atol=1e-3
    )
    assert loaded.tokenizer.fingerprint == tokenizer.fingerprint
    said = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (said["max_position_embeddings"], said["model_type"]) == (77, "qwen3")


def test_what_transformers_does_not_have_is_refused(tmp_path):
    bands = gpt3(16, 2, 2, 8, vocabulary=300, context=8, band=2)
    with pytest.raises(UserError, match="several in turn"):
        export(tmp_path / "bands", bands, parameters(bands), {})
    with pytest.raises(UserError, match="Only single networks can be exported, not dict"):
        export(tmp_path / "pair", {"generator": NETWORK}, {}, {})
    assert not list(tmp_path.iterdir())


def test_a_training_takes_up_the_weights_of_its_own_network_and_no_other(tmp_path):
    params = parameters(NETWORK)
    export(tmp_path / "out", NETWORK, params, {})
    shapes = abstract_params(NETWORK, None, jnp.float32)
    loaded = load_into(tmp_path / "out", NETWORK.clone(remat=True, dropout=0.1), shapes)
    jax.tree.map(np.testing.assert_array_equal, loaded, params)
    deeper = NETWORK.clone(layers=4)
    with pytest.raises(UserError, match=r"isn't the one to be trained: layers \(4 instead of 2\)"):
        load_into(tmp_path / "out", deeper, abstract_params(deeper, None, jnp.float32))
