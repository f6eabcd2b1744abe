"""The encoder–decoders that the world knows, each as a choice of parts: see `architectures.py`."""

from __future__ import annotations

from functools import partial

import flax.linen as nn

from jaxgen.families.autoregressive.encoder_decoder import EncoderDecoder, Tower
from jaxgen.families.autoregressive.transformer import Scales
from jaxgen.nn.embedding import SinusoidalPositions
from jaxgen.nn.mlp import MLP, GatedMLP, gelu_tanh
from jaxgen.nn.norm import LayerNorm, RMSNorm
from jaxgen.nn.position_bias import RelativePositionBias
from jaxgen.nn.self_attention import CrossAttention, SelfAttention
from jaxgen.nn.transformer_blocks import post_norm


def transformer_2017(
    vocabulary: int,
    width: int = 512,
    layers: int = 6,
    heads: int = 8,
    hidden: int = 2048,
    *,
    dropout: float = 0.1,
    unroll: int = 1,
) -> EncoderDecoder:
    """The first transformer (Vaswani et al. 2017); the defaults are its base size.

    Post-norm, sinusoidal positions, vectors multiplied by √width and shared by both sides and the
    scores (sections 3.4 and 3.5). Kernels are initialized as in its authors' code, by fan average.
    """
    uniform = nn.initializers.glorot_uniform()
    tower = partial(
        Tower,
        layers,
        mlp=partial(MLP, hidden=hidden, activation=nn.relu),
        norm=LayerNorm,
        order=post_norm,
        dropout=dropout,
        unroll=unroll,
        initializer=uniform,
        output_initializer=uniform,
    )
    attention = partial(SelfAttention, heads=heads, bias=False)
    across = partial(CrossAttention, heads=heads, bias=False)
    return EncoderDecoder(
        vocabulary,
        width,
        encoder=partial(tower, attention=partial(attention, causal=False)),
        decoder=partial(tower, attention=attention, cross_attention=across),
        positions=SinusoidalPositions,
        dropout=dropout,
        scales=Scales(embedding=width**0.5),
        initializer=nn.initializers.normal(width**-0.5),
    )


def t5(
    vocabulary: int,
    width: int,
    layers: int,
    heads: int,
    depth: int,
    hidden: int,
    *,
    decoder_layers: int | None = None,
    buckets: int = 32,
    furthest: int = 128,
    gated: bool = False,
    tied: bool = True,
    dropout: float = 0.0,
    epsilon: float = 1e-6,
    query_key_norm: bool = False,
    unroll: int = 1,
) -> EncoderDecoder:
    """T5 (Raffel et al. 2020); `gated=True, tied=False` is T5 1.1 (Shazeer 2020's GeGLU).

    Distances as biases, RMSNorm, no biases elsewhere, attention without 1/√depth (its
    initialization makes up for it), scores multiplied by width^-1/2 where they are tied.

    query_key_norm: normalizes queries and keys (Henry et al. 2020) and scales their products as
        usual: those of T5 grow without bound under any optimizer but its own, Adafactor.
    """
    fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    # Queries begin smaller by 1/√depth, in place of the scale.
    queries = nn.initializers.variance_scaling(1.0 / depth, "fan_in", "normal")
    scale: float | None = 1.0
    normal = None
    if query_key_norm:
        queries, scale, normal = fan_in, None, partial(RMSNorm, epsilon=epsilon)
    mlp = partial(GatedMLP, activation=gelu_tanh) if gated else partial(MLP, activation=nn.relu)
    tower = partial(
        Tower,
        mlp=partial(mlp, hidden=hidden, bias=False, dropout=dropout),
        norm=partial(RMSNorm, epsilon=epsilon),
        dropout=dropout,
        unroll=unroll,
        initializer=fan_in,
        output_initializer=fan_in,
    )
    attention = partial(
        SelfAttention, heads=heads, depth=depth, bias=False, scale=scale, dropout=dropout,
        query_initializer=queries, query_key_norm=normal,
    )  # fmt: skip
    across = partial(
        CrossAttention, heads=heads, depth=depth, bias=False, scale=scale, dropout=dropout,
        query_initializer=queries, query_key_norm=normal,
    )  # fmt: skip
    distances = partial(
        RelativePositionBias, heads, buckets=buckets, furthest=furthest,
        initializer=nn.initializers.normal(width**-0.5),
    )  # fmt: skip
    return EncoderDecoder(
        vocabulary,
        width,
        encoder=partial(
            tower,
            layers,
            attention=partial(attention, causal=False),
            distances=partial(distances, both_ways=True),
        ),
        decoder=partial(
            tower,
            decoder_layers or layers,
            attention=attention,
            cross_attention=across,
            distances=partial(distances, both_ways=False),
        ),
        tied=tied,
        dropout=dropout,
        scales=Scales(logits=width**-0.5 if tied else 1.0),
        initializer=nn.initializers.normal(1.0),
    )
