"""Tiny transformers for the tests, one for each kind of layer choice."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta

from jaxgen.families.autoregressive.transformer import Scales, Transformer
from jaxgen.nn.embedding import PositionEmbedding
from jaxgen.nn.mlp import MLP, GatedMLP, squared_relu
from jaxgen.nn.norm import LayerNorm, RMSNorm
from jaxgen.nn.position_bias import alibi
from jaxgen.nn.rotary import rotary_angles, yarn
from jaxgen.nn.self_attention import SelfAttention
from jaxgen.nn.transformer_blocks import post_norm

VOCABULARY = 11
CONTEXT = 16

LEARNED = Transformer(
    vocabulary=VOCABULARY,
    width=32,
    layers=2,
    attention=partial(SelfAttention, heads=4),
    mlp=partial(MLP, hidden=64),
    norm=LayerNorm,
    positions=partial(PositionEmbedding, CONTEXT),
)
ROTARY = Transformer(
    vocabulary=VOCABULARY,
    width=32,
    layers=2,
    attention=partial(
        SelfAttention, heads=4, groups=2, rotary=rotary_angles, query_key_norm=RMSNorm, bias=False
    ),
    mlp=partial(MLP, hidden=64, activation=squared_relu, bias=False),
    norm=partial(RMSNorm, scale=False),
    tied=False,
    unroll=2,
)
GATED = LEARNED.clone(mlp=partial(GatedMLP, hidden=48), remat=True, dropout=0.3)
# Two kinds of layer in turn, which between them have all that attention knows.
TURNS = Transformer(
    vocabulary=VOCABULARY,
    width=32,
    layers=4,
    attention=(
        partial(SelfAttention, heads=4, position_bias=alibi, soft_cap=5.0, sinks=True, scale=0.5),
        partial(
            SelfAttention,
            heads=4,
            groups=1,
            window=3,
            sink_tokens=1,
            rotary=partial(rotary_angles, scaling=yarn(4.0, 8), share=0.5),
            output_bias=False,
        ),
    ),
    mlp=partial(MLP, hidden=64),
    norm=LayerNorm,
    order=post_norm,
    scales=Scales(embedding=32**0.5, logits=0.5, soft_cap=20.0),
)
NETWORKS = {"learned": LEARNED, "rotary": ROTARY, "gated": GATED, "turns": TURNS}


def parameters(network, *inputs):
    """Random parameters with opinions, no boxes; drawn by numpy, since that compiles nothing."""
    inputs = inputs or (jnp.zeros((1, 4), jnp.int32),)
    shapes = meta.unbox(jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"])
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        kind = path[-1].key
        noise = 0.1 * rng.standard_normal(leaf.shape)
        return jnp.asarray(noise + (kind == "scale"), jnp.float32)

    return jax.tree.map_with_path(draw, shapes)
