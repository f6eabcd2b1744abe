"""Tiny transformers for the tests, one for each kind of layer choice."""

from functools import partial

import jax
import jax.numpy as jnp
from flax.core import meta

from jaxgen.families.autoregressive.transformer import Transformer
from jaxgen.nn.embedding import PositionEmbedding
from jaxgen.nn.mlp import MLP, GatedMLP, squared_relu
from jaxgen.nn.norm import LayerNorm, RMSNorm
from jaxgen.nn.rotary import rotary_angles
from jaxgen.nn.self_attention import SelfAttention

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
NETWORKS = {"learned": LEARNED, "rotary": ROTARY, "gated": GATED}


def parameters(network, scale=5.0):
    """Initial parameters, enlarged so that the network has opinions; no boxes."""
    boxed = jax.jit(network.init)(jax.random.key(0), jnp.zeros((1, 4), jnp.int32))["params"]
    return jax.tree.map(lambda leaf: leaf * scale if leaf.ndim > 1 else leaf, meta.unbox(boxed))
