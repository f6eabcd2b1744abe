"""Mixtral as Hugging Face's transformers has it: Llama with a mixture of experts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from jaxgen.families.autoregressive.transformer import Transformer
from jaxgen.interop.comparison import fields_of
from jaxgen.interop.config_fields import activation, name_of, size
from jaxgen.interop.llama import LAYER, attending, attention_entries, sizes_of, with_head
from jaxgen.interop.weights import Table, linear
from jaxgen.nn.mixture_of_experts import MixtureOfExperts

_MOE = LAYER + "block_sparse_moe."


def network_of(config: Mapping[str, Any]) -> Transformer:
    """The network that a config.json describes; no token is dropped.

    Raises:
        UserError: where it asks for parts that ours doesn't have.
    """
    network = attending({"rms_norm_eps": 1e-5} | dict(config), base=1e6)
    return network.clone(
        attention=partial(network.attention, window=config.get("sliding_window")),
        mlp=partial(
            MixtureOfExperts,
            experts=size(config, "num_local_experts"),
            chosen=size(config, "num_experts_per_tok"),
            hidden=size(config, "intermediate_size"),
            activation=activation(config, "hidden_act", "silu"),
        ),
    )


def config_of(network: Transformer) -> dict[str, Any]:
    """The config.json of a network, which has to be one that `network_of` gives.

    It doesn't say `max_position_embeddings`, of which the network knows nothing.
    """
    mixture = fields_of(network.mlp)
    return sizes_of(network) | {
        "model_type": "mixtral",
        "architectures": ["MixtralForCausalLM"],
        "sliding_window": fields_of(network.attention)["window"],
        "num_local_experts": mixture["experts"],
        "num_experts_per_tok": mixture["chosen"],
        "intermediate_size": mixture["hidden"],
        "hidden_act": name_of(mixture["activation"]),
    }


def table(network: Transformer) -> Table:
    """Where its parameters lie in a file."""
    entries = [
        *attention_entries(network),
        linear("blocks/mlp/router/kernel", _MOE + "gate.weight"),
    ]
    for ours, theirs in (("gate", "w1"), ("up", "w3"), ("down", "w2")):
        name = f"{_MOE}experts.{{expert}}.{theirs}.weight"
        entries.append(linear(f"blocks/mlp/{ours}/kernel", name))
    return with_head(network, entries)
