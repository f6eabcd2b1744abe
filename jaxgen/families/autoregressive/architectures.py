"""The transformers that the world knows, each as a choice of parts.

Each function gives a Linen module. What doesn't change the model is set by `clone`:
`llama(...).clone(remat=True, dtype=jnp.bfloat16)`. Encoder–decoders are in
`encoder_decoder_architectures.py`.
"""

from __future__ import annotations

from functools import partial

from jaxgen.families.autoregressive.encoder import Encoder
from jaxgen.families.autoregressive.transformer import Transformer
from jaxgen.nn.embedding import PositionEmbedding
from jaxgen.nn.expert_dispatch import Dispatch, dropless
from jaxgen.nn.mixture_of_experts import MixtureOfExperts
from jaxgen.nn.mlp import MLP, Activation, GatedMLP, gelu, gelu_tanh
from jaxgen.nn.norm import LayerNorm, RMSNorm
from jaxgen.nn.rotary import Scaling, rotary_angles
from jaxgen.nn.self_attention import SelfAttention


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


def mixtral(
    vocabulary: int = 32000,
    width: int = 4096,
    layers: int = 32,
    heads: int = 32,
    groups: int = 8,
    hidden: int = 14336,
    *,
    experts: int = 8,
    chosen: int = 2,
    depth: int | None = None,
    rotary_base: float = 1e6,
    window: int | None = None,
    tied: bool = False,
    epsilon: float = 1e-5,
    dispatch: Dispatch = dropless,
) -> Transformer:
    """Mixtral (Jiang et al. 2024): Llama with a mixture of experts; the defaults are its 8×7B.

    hidden: an expert's hidden width. dispatch: as in `MixtureOfExperts`.
    """
    network = llama(
        vocabulary, width, layers, heads, groups, hidden, depth=depth, rotary_base=rotary_base,
        window=window, tied=tied, epsilon=epsilon,
    )  # fmt: skip
    mixture = partial(
        MixtureOfExperts, experts=experts, chosen=chosen, hidden=hidden, dispatch=dispatch
    )
    return network.clone(mlp=mixture)


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
