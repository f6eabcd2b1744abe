"""The transformers that the world knows, each as a choice of parts.

Each function gives a Linen module. What doesn't change the model is set by `clone`:
`llama(...).clone(remat=True, dtype=jnp.bfloat16)`.
"""

from __future__ import annotations

from functools import partial

import flax.linen as nn

from jaxgen.families.autoregressive.encoder import Encoder
from jaxgen.families.autoregressive.encoder_decoder import EncoderDecoder, Tower
from jaxgen.families.autoregressive.transformer import Scales, Transformer
from jaxgen.nn.embedding import PositionEmbedding, SinusoidalPositions
from jaxgen.nn.mlp import MLP, Activation, GatedMLP, gelu, gelu_tanh
from jaxgen.nn.norm import LayerNorm, RMSNorm
from jaxgen.nn.position_bias import RelativePositionBias
from jaxgen.nn.rotary import Scaling, rotary_angles
from jaxgen.nn.self_attention import CrossAttention, SelfAttention
from jaxgen.nn.transformer_blocks import PostNormBlock


def gpt2(
    vocabulary: int = 50257,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    context: int = 1024,
    *,
    dropout: float = 0.0,
    epsilon: float = 1e-5,
) -> Transformer:
    """GPT-2 (Radford et al. 2019); the defaults are its smallest, 124 million parameters."""
    return Transformer(
        vocabulary,
        width,
        layers,
        attention=partial(SelfAttention, heads=heads, dropout=dropout),
        mlp=partial(MLP, hidden=4 * width, activation=gelu_tanh),
        norm=partial(LayerNorm, epsilon=epsilon),
        positions=partial(PositionEmbedding, context),
        dropout=dropout,
    )


def gpt3(
    width: int,
    layers: int,
    heads: int,
    depth: int,
    *,
    vocabulary: int = 50257,
    context: int = 2048,
    band: int | None = 256,
) -> Transformer:
    """GPT-3 (Brown et al. 2020, section 2.1): GPT-2 whose layers are dense and banded in turn.

    depth: numbers a head, which aren't width/heads in two of its sizes (table 2.1).
    band: positions that a query of every second layer sees. The paper says "locally banded", after
        the Sparse Transformer (Child et al. 2019), and not how wide: 256 is ours. None: all layers
        are dense.
    """
    dense = partial(SelfAttention, heads=heads, depth=depth)
    return Transformer(
        vocabulary,
        width,
        layers,
        attention=dense if band is None else (dense, partial(dense, window=band)),
        mlp=partial(MLP, hidden=4 * width, activation=gelu_tanh),
        norm=LayerNorm,
        positions=partial(PositionEmbedding, context),
    )


def llama(
    vocabulary: int,
    width: int,
    layers: int,
    heads: int,
    groups: int,
    hidden: int,
    *,
    depth: int | None = None,
    rotary_base: float = 500000.0,
    rotary_scaling: Scaling | None = None,
    window: int | None = None,
    tied: bool = False,
    epsilon: float = 1e-5,
) -> Transformer:
    """Llama (Touvron et al. 2023; Llama Team 2024): rotary, RMSNorm, SwiGLU, no biases.

    groups: key and value heads, shared by `heads` query heads.
    hidden: width of the gated network.
    """
    return Transformer(
        vocabulary,
        width,
        layers,
        attention=partial(
            SelfAttention,
            heads=heads,
            groups=groups,
            depth=depth,
            bias=False,
            rotary=partial(rotary_angles, base=rotary_base, scaling=rotary_scaling),
            window=window,
        ),
        mlp=partial(GatedMLP, hidden=hidden),
        norm=partial(RMSNorm, epsilon=epsilon),
        tied=tied,
    )


def qwen2(
    vocabulary: int,
    width: int,
    layers: int,
    heads: int,
    groups: int,
    hidden: int,
    *,
    rotary_base: float = 1e6,
    rotary_scaling: Scaling | None = None,
    tied: bool = False,
    epsilon: float = 1e-6,
) -> Transformer:
    """Qwen 2 and 2.5 (Qwen Team 2024): Llama with biases on queries, keys and values."""
    network = llama(
        vocabulary, width, layers, heads, groups, hidden, rotary_base=rotary_base,
        rotary_scaling=rotary_scaling, tied=tied, epsilon=epsilon,
    )  # fmt: skip
    return network.clone(attention=partial(network.attention, bias=True, output_bias=False))


def qwen3(
    vocabulary: int,
    width: int,
    layers: int,
    heads: int,
    groups: int,
    hidden: int,
    *,
    depth: int = 128,
    rotary_base: float = 1e6,
    rotary_scaling: Scaling | None = None,
    tied: bool = False,
    epsilon: float = 1e-6,
) -> Transformer:
    """Qwen 3 (Qwen Team 2025): Llama with normalized queries and keys."""
    network = llama(
        vocabulary, width, layers, heads, groups, hidden, depth=depth, rotary_base=rotary_base,
        rotary_scaling=rotary_scaling, tied=tied, epsilon=epsilon,
    )  # fmt: skip
    norm = partial(RMSNorm, epsilon=epsilon)
    return network.clone(attention=partial(network.attention, query_key_norm=norm))


def bert(
    vocabulary: int = 30522,
    width: int = 768,
    layers: int = 12,
    heads: int = 12,
    hidden: int | None = None,
    context: int = 512,
    *,
    types: int = 2,
    dropout: float = 0.0,
    epsilon: float = 1e-12,
    activation: Activation = gelu,
) -> Encoder:
    """BERT (Devlin et al. 2019); the defaults are its base size."""
    return Encoder(
        vocabulary,
        width,
        layers,
        attention=partial(SelfAttention, heads=heads, causal=False, dropout=dropout),
        mlp=partial(MLP, hidden=hidden or 4 * width, activation=activation),
        norm=partial(LayerNorm, epsilon=epsilon),
        positions=partial(PositionEmbedding, context),
        types=types,
        activation=activation,
        pools=True,
        dropout=dropout,
    )


def transformer_2017(
    vocabulary: int,
    width: int = 512,
    layers: int = 6,
    heads: int = 8,
    hidden: int = 2048,
    *,
    dropout: float = 0.1,
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
        block=PostNormBlock,
        dropout=dropout,
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
) -> EncoderDecoder:
    """T5 (Raffel et al. 2020); `gated=True, tied=False` is T5 1.1 (Shazeer 2020's GeGLU).

    Distances as biases, RMSNorm, no biases elsewhere, attention without 1/√depth (its
    initialization makes up for it), scores multiplied by width^-1/2 where they are tied.
    """
    fan_in = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
    # Queries begin smaller by 1/√depth, in place of the scale.
    queries = nn.initializers.variance_scaling(1.0 / depth, "fan_in", "normal")
    mlp = partial(GatedMLP, activation=gelu_tanh) if gated else partial(MLP, activation=nn.relu)
    tower = partial(
        Tower,
        mlp=partial(mlp, hidden=hidden, bias=False),
        norm=partial(RMSNorm, epsilon=epsilon),
        dropout=dropout,
        initializer=fan_in,
        output_initializer=fan_in,
    )
    attention = partial(
        SelfAttention, heads=heads, depth=depth, bias=False, scale=1.0, dropout=dropout,
        query_initializer=queries,
    )  # fmt: skip
    across = partial(
        CrossAttention, heads=heads, depth=depth, bias=False, scale=1.0, dropout=dropout,
        query_initializer=queries,
    )  # fmt: skip
    distances = partial(RelativePositionBias, heads, buckets=buckets, furthest=furthest)
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
