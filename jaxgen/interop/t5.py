"""T5 as Hugging Face's transformers has it, 1.0 (ReLU, tied) and 1.1 (gated, untied)."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import jax

from jaxgen.errors import UserError
from jaxgen.families.autoregressive import encoder_decoder_architectures as architectures
from jaxgen.families.autoregressive.encoder_decoder import EncoderDecoder
from jaxgen.families.autoregressive.transformer import Scales
from jaxgen.interop.comparison import fields_of, kind_of
from jaxgen.interop.config_fields import name_of, number_in, size
from jaxgen.interop.weights import Entry, Table, from_heads, linear, same, to_heads
from jaxgen.nn.mlp import MLP, Activation, GatedMLP, gelu, gelu_tanh

# feed_forward_proj: their "gated-gelu" is the approximation by tanh, and their "gelu" is not.
_FORWARD: Mapping[str, tuple[Any, Activation]] = {
    "relu": (MLP, jax.nn.relu),
    "gelu": (MLP, gelu),
    "gelu_new": (MLP, gelu_tanh),
    "gated-gelu": (GatedMLP, gelu_tanh),
    "gated-silu": (GatedMLP, jax.nn.silu),
    "gated-relu": (GatedMLP, jax.nn.relu),
}
_HEAD = "lm_head.weight"


def network_of(config: Mapping[str, Any], stored: Collection[str] | None = None) -> EncoderDecoder:
    """The network that a config.json describes.

    stored: the names of its tensors. transformers 5 always writes tie_word_embeddings = true; by
        its file a model has a head of its own all the same.

    Raises:
        UserError: where it asks for parts that ours doesn't have.
    """
    forward = config.get("feed_forward_proj", "relu")
    if forward not in _FORWARD:
        raise UserError(
            f"config.json says feed_forward_proj = {forward!r}; here there are "
            f"{', '.join(_FORWARD)}."
        )
    tied = config.get("tie_word_embeddings", True)
    scaled = config.get("scale_decoder_outputs", tied)
    if stored is not None and not scaled:
        tied = _HEAD not in stored
    width = size(config, "d_model")
    layers = size(config, "num_layers")
    kind, function = _FORWARD[forward]
    network = architectures.t5(
        size(config, "vocab_size"),
        width,
        layers,
        size(config, "num_heads"),
        size(config, "d_kv"),
        size(config, "d_ff"),
        decoder_layers=size(config, "num_decoder_layers", layers),
        buckets=size(config, "relative_attention_num_buckets", 32),
        furthest=size(config, "relative_attention_max_distance", 128),
        gated=kind is GatedMLP,
        tied=tied,
        dropout=number_in(config, "dropout_rate", 0.1),
        epsilon=number_in(config, "layer_norm_epsilon", 1e-6),
    )
    mlp = partial(kind, hidden=size(config, "d_ff"), bias=False, activation=function)
    return network.clone(
        encoder=partial(network.encoder, mlp=mlp),
        decoder=partial(network.decoder, mlp=mlp),
        scales=Scales(logits=width**-0.5 if scaled else 1.0),
    )


def config_of(network: EncoderDecoder) -> dict[str, Any]:
    """The config.json of a network, which has to be one that `network_of` gives."""
    encoder, decoder = fields_of(network.encoder), fields_of(network.decoder)
    attention, distances = fields_of(encoder["attention"]), fields_of(encoder["distances"])
    mlp = fields_of(encoder["mlp"])
    made = (kind_of(encoder["mlp"]), mlp["activation"])
    forward = [name for name, known in _FORWARD.items() if known == made]
    if not forward:
        raise UserError(f"T5 has no {made[0].__name__} with {name_of(mlp['activation'])}.")
    config = {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "vocab_size": network.vocabulary,
        "d_model": network.width,
        "num_layers": encoder["layers"],
        "num_decoder_layers": decoder["layers"],
        "num_heads": attention["heads"],
        "d_kv": attention["depth"],
        "d_ff": mlp["hidden"],
        "relative_attention_num_buckets": distances["buckets"],
        "relative_attention_max_distance": distances["furthest"],
        "feed_forward_proj": forward[0],
        "dropout_rate": network.dropout,
        "layer_norm_epsilon": fields_of(encoder["norm"])["epsilon"],
        "is_encoder_decoder": True,
        "tie_word_embeddings": network.tied,
        "scale_decoder_outputs": network.scales.logits != 1,
    }
    return config


def table(network: EncoderDecoder) -> Table:
    """Where its parameters lie in a file."""
    entries = [same("tokens/embedding", "shared.weight"), *_tower(network, "encoder")]
    entries += _tower(network, "decoder")
    copies = {f"{tower}.embed_tokens.weight": "shared.weight" for tower in ("encoder", "decoder")}
    if network.tied:
        copies[_HEAD] = "shared.weight"
    else:
        entries.append(linear("head/kernel", _HEAD))
    return Table(tuple(entries), _renamed, copies)


def _tower(network: EncoderDecoder, tower: str) -> list[Entry]:
    fields = fields_of(getattr(network, tower))
    number = fields_of(fields["attention"])["heads"]
    mlp = fields["mlp"]
    blocks = f"{tower}/blocks"
    layers = {"attention": "SelfAttention", "cross_attention": "EncDecAttention"}
    if fields["cross_attention"] is None:
        del layers["cross_attention"]
    entries = [
        same(f"{tower}/norm/scale", f"{tower}.final_layer_norm.weight"),
        same(
            f"{tower}/distances/embedding",
            f"{tower}.block.0.layer.0.SelfAttention.relative_attention_bias.weight",
        ),
    ]
    for place, (ours, theirs) in enumerate(layers.items()):
        layer = f"{tower}.block.{{layer}}.layer.{place}."
        entries.append(same(f"{blocks}/{ours}_norm/scale", f"{layer}layer_norm.weight"))
        for name in ("query", "key", "value"):
            theirs_name = f"{layer}{theirs}.{name[0]}.weight"
            entries.append(to_heads(f"{blocks}/{ours}/{name}/kernel", theirs_name, number))
        entries.append(
            from_heads(f"{blocks}/{ours}/out/kernel", f"{layer}{theirs}.o.weight", number)
        )
    layer = f"{tower}.block.{{layer}}.layer.{len(layers)}."
    entries.append(same(f"{blocks}/mlp_norm/scale", f"{layer}layer_norm.weight"))
    names = {"up": "wi", "down": "wo"}
    if kind_of(mlp) is GatedMLP:
        names = {"gate": "wi_0", "up": "wi_1", "down": "wo"}
    for ours, theirs in names.items():
        name = f"{layer}DenseReluDense.{theirs}.weight"
        entries.append(linear(f"{blocks}/mlp/{ours}/kernel", name))
    return entries


def _renamed(name: str) -> str | None:
    """None for a table that the first files have and no model uses."""
    return None if name.endswith("EncDecAttention.relative_attention_bias.weight") else name
