"""BERT as Hugging Face's transformers has it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from jaxgen.families.autoregressive import architectures
from jaxgen.families.autoregressive.encoder import Encoder
from jaxgen.interop.comparison import fields_of
from jaxgen.interop.config_fields import activation, heads, name_of, number_in, refuse_others, size
from jaxgen.interop.weights import Entry, Table, from_heads, heads_bias, linear, same, to_heads

_LAYER = "bert.encoder.layer.{layer}."
_TRANSFORM = "cls.predictions.transform."
_POOLER = "pooler.dense.weight"
_HEAD = "cls.predictions.bias"
# What the network has no use for: positions' numbers, and whether two sentences follow each other.
_ASIDE = re.compile(r"bert\.embeddings\.position_ids|cls\.seq_relationship\..*")


def network_of(config: Mapping[str, Any], stored: Collection[str] | None = None) -> Encoder:
    """The network that a config.json describes.

    stored: the names of its tensors, by which it has a pooler or a head for masked tokens; without
        them, by the class that config.json names.

    Raises:
        UserError: where it asks for parts that ours doesn't have.
    """
    refuse_others(
        config,
        position_embedding_type="absolute",
        is_decoder=False,
        add_cross_attention=False,
        tie_word_embeddings=True,
    )
    if stored is None:
        named = (config.get("architectures") or ["BertForPreTraining"])[0]
        pools, predicts = named != "BertForMaskedLM", named != "BertModel"
    else:
        pools = any(name.endswith(_POOLER) for name in stored)
        predicts = _HEAD in stored
    width = size(config, "hidden_size")
    network = architectures.bert(
        size(config, "vocab_size"),
        width,
        size(config, "num_hidden_layers"),
        heads(config, "num_attention_heads", width),
        size(config, "intermediate_size"),
        size(config, "max_position_embeddings"),
        types=size(config, "type_vocab_size", 2),
        dropout=number_in(config, "hidden_dropout_prob", 0.1),
        epsilon=number_in(config, "layer_norm_eps", 1e-12),
        activation=activation(config, "hidden_act", "gelu"),
    )
    dropout = number_in(config, "attention_probs_dropout_prob", 0.1)
    return network.clone(
        attention=partial(network.attention, dropout=dropout),
        pools=pools,
        transforms=predicts,
        biased=predicts,
    )


def config_of(network: Encoder) -> dict[str, Any]:
    """The config.json of a network, which has to be one that `network_of` gives."""
    attention = fields_of(network.attention, network.width)
    positions = fields_of(network.positions, called="table of positions")
    mlp = fields_of(network.mlp)
    return {
        "model_type": "bert",
        "architectures": ["BertForMaskedLM" if network.biased else "BertModel"],
        "vocab_size": network.vocabulary,
        "hidden_size": network.width,
        "num_hidden_layers": network.layers,
        "num_attention_heads": attention["heads"],
        "intermediate_size": mlp["hidden"],
        "max_position_embeddings": positions["length"],
        "type_vocab_size": network.types,
        "hidden_act": name_of(mlp["activation"]),
        "layer_norm_eps": fields_of(network.norm)["epsilon"],
        "hidden_dropout_prob": network.dropout,
        "attention_probs_dropout_prob": attention["dropout"],
        "position_embedding_type": "absolute",
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    }


def table(network: Encoder) -> Table:
    """Where its parameters lie in a file."""
    entries = [
        same("tokens/embedding", "bert.embeddings.word_embeddings.weight"),
        same("positions/embedding", "bert.embeddings.position_embeddings.weight"),
        same("types/embedding", "bert.embeddings.token_type_embeddings.weight"),
        *_norm("embedding_norm", "bert.embeddings.LayerNorm"),
        *_blocks(fields_of(network.attention)["heads"]),
    ]
    copies = {}
    if network.biased:
        entries += [
            *_dense("transform", _TRANSFORM + "dense"),
            *_norm("transform_norm", _TRANSFORM + "LayerNorm"),
            same("scores_bias", _HEAD),
        ]
        copies = {
            "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
            "cls.predictions.decoder.bias": _HEAD,
        }
    if network.pools:
        entries += _dense("pooler", "bert.pooler.dense")
    return Table(tuple(entries), _renamed, copies)


def _blocks(number: int) -> list[Entry]:
    attention = _LAYER + "attention."
    entries = []
    for name in ("query", "key", "value"):
        path, theirs = f"blocks/attention/{name}", f"{attention}self.{name}"
        entries.append(to_heads(f"{path}/kernel", f"{theirs}.weight", number))
        entries.append(heads_bias(f"{path}/bias", f"{theirs}.bias", number))
    return [
        *entries,
        from_heads("blocks/attention/out/kernel", f"{attention}output.dense.weight", number),
        same("blocks/attention/out/bias", f"{attention}output.dense.bias"),
        *_norm("blocks/attention_norm", f"{attention}output.LayerNorm"),
        *_dense("blocks/mlp/up", f"{_LAYER}intermediate.dense"),
        *_dense("blocks/mlp/down", f"{_LAYER}output.dense"),
        *_norm("blocks/mlp_norm", f"{_LAYER}output.LayerNorm"),
    ]


def _dense(ours: str, theirs: str) -> list[Entry]:
    return [linear(f"{ours}/kernel", f"{theirs}.weight"), same(f"{ours}/bias", f"{theirs}.bias")]


def _norm(ours: str, theirs: str) -> list[Entry]:
    return [same(f"{ours}/scale", f"{theirs}.weight"), same(f"{ours}/bias", f"{theirs}.bias")]


def _renamed(name: str) -> str | None:
    """With the prefix that files of a bare model lack, and with today's names for its norms'."""
    name = name.replace("LayerNorm.gamma", "LayerNorm.weight")
    name = name.replace("LayerNorm.beta", "LayerNorm.bias")
    if not name.startswith(("bert.", "cls.")):
        name = f"bert.{name}"
    return None if _ASIDE.fullmatch(name) else name
