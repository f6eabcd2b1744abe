"""Llama, and what differs from it by little: Mistral, Qwen 2 and Qwen 3.

As Hugging Face's transformers has them; their files have the same names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from jaxgen.errors import UserError
from jaxgen.families.autoregressive import architectures
from jaxgen.families.autoregressive.transformer import Transformer
from jaxgen.interop.comparison import fields_of
from jaxgen.interop.config_fields import (
    activation,
    groups,
    heads,
    name_of,
    number_in,
    refuse_others,
    size,
)
from jaxgen.interop.rotary_settings import base_of, scaling_of, settings_of
from jaxgen.interop.weights import Entry, Table, from_heads, heads_bias, linear, same, to_heads

LAYER = "model.layers.{layer}."
_BUFFER = re.compile(r"model\.(layers\.\d+\.self_attn\.)?rotary_emb\.inv_freq")
CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}


def network_of(config: Mapping[str, Any]) -> Transformer:
    """The network that a config.json describes.

    Raises:
        UserError: where it asks for parts that ours doesn't have.
    """
    kind = config["model_type"]
    refuse_others(config, use_sliding_window=False)
    if "sliding_attention" in (config.get("layer_types") or ()):
        raise UserError("config.json gives some layers a sliding window, which isn't read here.")
    network = attending(config)
    if kind == "qwen2":
        attention = partial(network.attention, bias=True, output_bias=False)
    else:
        attention = partial(network.attention, bias=config.get("attention_bias", False))
    if kind == "qwen3":
        attention = partial(attention, query_key_norm=network.norm)
    if kind == "mistral":
        attention = partial(attention, window=config.get("sliding_window"))
    mlp = partial(
        network.mlp,
        bias=config.get("mlp_bias", False),
        activation=activation(config, "hidden_act", "silu"),
    )
    return network.clone(attention=attention, mlp=mlp)


def attending(config: Mapping[str, Any], base: float = 10000.0) -> Transformer:
    """The plain Llama of a config.json's sizes, which others change in parts.

    base: of the rotary positions, where config.json doesn't say it.
    """
    width = size(config, "hidden_size")
    of_queries = heads(config, "num_attention_heads", width, "head_dim")
    base = base_of(config, base)
    network = architectures.llama(
        size(config, "vocab_size"),
        width,
        size(config, "num_hidden_layers"),
        of_queries,
        groups(config, "num_key_value_heads", of_queries),
        size(config, "intermediate_size"),
        depth=config.get("head_dim"),
        rotary_base=base,
        rotary_scaling=scaling_of(config, base),
        tied=config.get("tie_word_embeddings", False),
        epsilon=number_in(config, "rms_norm_eps", 1e-6),
    )
    dropout = number_in(config, "attention_dropout", 0.0)
    return network.clone(attention=partial(network.attention, dropout=dropout))


def config_of(network: Transformer) -> dict[str, Any]:
    """The config.json of a network, which has to be one that `network_of` gives.

    It doesn't say `max_position_embeddings`, of which the network knows nothing.
    """
    attention = fields_of(network.attention, network.width)
    mlp = fields_of(network.mlp)
    kind = "llama"
    if attention["query_key_norm"] is not None:
        kind = "qwen3"
    elif attention["bias"] and not attention["output_bias"]:
        kind = "qwen2"
    elif attention["window"] is not None:
        kind = "mistral"
    config = sizes_of(network) | {
        "model_type": kind,
        "architectures": [CLASSES[kind]],
        "hidden_act": name_of(mlp["activation"]),
        "intermediate_size": mlp["hidden"],
    }
    if kind == "mistral":
        config["sliding_window"] = attention["window"]
    if kind in ("llama", "qwen3"):
        config["attention_bias"] = attention["bias"]
    if kind == "llama":
        config["mlp_bias"] = mlp["bias"]
    return config


def sizes_of(network: Transformer) -> dict[str, Any]:
    """What config.json says of `attending`'s network."""
    attention = fields_of(network.attention, network.width)
    return {
        "vocab_size": network.vocabulary,
        "hidden_size": network.width,
        "num_hidden_layers": network.layers,
        "num_attention_heads": attention["heads"],
        "num_key_value_heads": attention["groups"],
        "head_dim": attention["depth"],
        "rms_norm_eps": fields_of(network.norm)["epsilon"],
        "attention_dropout": attention["dropout"],
        "tie_word_embeddings": network.tied,
        **settings_of(attention["rotary"]),
    }


def table(network: Transformer) -> Table:
    """Where its parameters lie in a file."""
    mlp = fields_of(network.mlp)
    entries = attention_entries(network)
    for ours in ("gate", "up", "down"):
        entries.append(linear(f"blocks/mlp/{ours}/kernel", f"{LAYER}mlp.{ours}_proj.weight"))
        if mlp["bias"]:
            entries.append(same(f"blocks/mlp/{ours}/bias", f"{LAYER}mlp.{ours}_proj.bias"))
    return with_head(network, entries)


def attention_entries(network: Transformer) -> list[Entry]:
    """Everything but the position-wise networks and the head."""
    fields = fields_of(network.attention, network.width)
    entries = [
        same("tokens/embedding", "model.embed_tokens.weight"),
        same("blocks/attention_norm/scale", LAYER + "input_layernorm.weight"),
        same("blocks/mlp_norm/scale", LAYER + "post_attention_layernorm.weight"),
        same("norm/scale", "model.norm.weight"),
        from_heads(
            "blocks/attention/out/kernel", LAYER + "self_attn.o_proj.weight", fields["heads"]
        ),
    ]
    for ours, number in (("query", "heads"), ("key", "groups"), ("value", "groups")):
        path, name = f"blocks/attention/{ours}", f"{LAYER}self_attn.{ours[0]}_proj"
        entries.append(to_heads(f"{path}/kernel", f"{name}.weight", fields[number]))
        if fields["bias"]:
            entries.append(heads_bias(f"{path}/bias", f"{name}.bias", fields[number]))
    if fields["output_bias"]:
        entries.append(same("blocks/attention/out/bias", LAYER + "self_attn.o_proj.bias"))
    if fields["query_key_norm"] is not None:
        for ours in ("query", "key"):
            path = f"blocks/attention/{ours}_norm/scale"
            entries.append(same(path, f"{LAYER}self_attn.{ours[0]}_norm.weight"))
    return entries


def with_head(network: Transformer, entries: list[Entry]) -> Table:
    """The entries, and the scores' by themselves where they aren't the tokens' vectors."""
    if network.tied:
        return Table(tuple(entries), _renamed, {"lm_head.weight": "model.embed_tokens.weight"})
    return Table((*entries, linear("head/kernel", "lm_head.weight")), _renamed)


def _renamed(name: str) -> str | None:
    """With the prefix that files of a bare model lack; None for rotary frequencies."""
    if not name.startswith(("model.", "lm_head.")):
        name = f"model.{name}"
    return None if _BUFFER.fullmatch(name) else name
