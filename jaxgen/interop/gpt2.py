"""GPT-2 as Hugging Face's transformers has it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgen.families.autoregressive import architectures
from jaxgen.families.autoregressive.transformer import Transformer
from jaxgen.interop.comparison import fields_of
from jaxgen.interop.config_fields import activation, heads, name_of, number_in, refuse_others, size
from jaxgen.interop.weights import Arrays, Entry, Table, linear, same

_LAYER = "transformer.h.{layer}."
_BUFFER = re.compile(r"h\.\d+\.attn\.(masked_)?bias")


def network_of(config: Mapping[str, Any]) -> Transformer:
    """The network that a config.json describes.

    Raises:
        UserError: where it asks for parts that ours doesn't have.
    """
    refuse_others(config, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    width = size(config, "n_embd")
    network = architectures.gpt2(
        size(config, "vocab_size"),
        width,
        size(config, "n_layer"),
        heads(config, "n_head", width),
        size(config, "n_positions"),
        dropout=number_in(config, "resid_pdrop", 0.1),
        epsilon=number_in(config, "layer_norm_epsilon", 1e-5),
    )
    return network.clone(
        attention=partial(
            network.attention,
            dropout=number_in(config, "attn_pdrop", 0.1),
            scale=None if config.get("scale_attn_weights", True) else 1.0,
        ),
        mlp=partial(
            network.mlp,
            hidden=size(config, "n_inner", 4 * width),
            activation=activation(config, "activation_function", "gelu_new"),
        ),
        tied=config.get("tie_word_embeddings", True),
    )


def config_of(network: Transformer) -> dict[str, Any]:
    """The config.json of a network, which has to be one that `network_of` gives."""
    attention = fields_of(network.attention, network.width)
    mlp = fields_of(network.mlp)
    return {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": network.vocabulary,
        "n_embd": network.width,
        "n_layer": network.layers,
        "n_head": attention["heads"],
        "n_positions": fields_of(network.positions)["length"],
        "n_inner": mlp["hidden"],
        "activation_function": name_of(mlp["activation"]),
        "layer_norm_epsilon": fields_of(network.norm)["epsilon"],
        "scale_attn_weights": attention["scale"] is None,
        "scale_attn_by_inverse_layer_idx": False,
        "add_cross_attention": False,
        "resid_pdrop": network.dropout,
        "embd_pdrop": network.dropout,
        "attn_pdrop": attention["dropout"],
        "tie_word_embeddings": network.tied,
    }


def table(network: Transformer) -> Table:
    """Where its parameters lie in a file."""
    number = fields_of(network.attention)["heads"]
    entries = [
        same("tokens/embedding", "transformer.wte.weight"),
        same("positions/embedding", "transformer.wpe.weight"),
        same("norm/scale", "transformer.ln_f.weight"),
        same("norm/bias", "transformer.ln_f.bias"),
        *_projected(number),
        Entry(
            ("blocks/attention/out/kernel",),
            _LAYER + "attn.c_proj.weight",
            lambda array: (array.reshape(number, -1, array.shape[-1]),),
            _rows_joined,
        ),
        same("blocks/attention/out/bias", _LAYER + "attn.c_proj.bias"),
    ]
    for ours, theirs in (("attention_norm", "ln_1"), ("mlp_norm", "ln_2")):
        entries.append(same(f"blocks/{ours}/scale", f"{_LAYER}{theirs}.weight"))
        entries.append(same(f"blocks/{ours}/bias", f"{_LAYER}{theirs}.bias"))
    for ours, theirs in (("up", "c_fc"), ("down", "c_proj")):
        # Its linear maps are (in, out), as ours.
        entries.append(same(f"blocks/mlp/{ours}/kernel", f"{_LAYER}mlp.{theirs}.weight"))
        entries.append(same(f"blocks/mlp/{ours}/bias", f"{_LAYER}mlp.{theirs}.bias"))
    if network.tied:
        return Table(tuple(entries), _renamed, {"lm_head.weight": "transformer.wte.weight"})
    return Table((*entries, linear("head/kernel", "lm_head.weight")), _renamed)


def _projected(number: int) -> list[Entry]:
    """Queries, keys and values: one tensor of theirs, one after the other on its last axis."""
    names = [f"blocks/attention/{name}" for name in ("query", "key", "value")]

    def to_ours(array: np.ndarray) -> Arrays:
        parts = np.split(array, 3, axis=-1)
        return tuple(part.reshape(*part.shape[:-1], number, -1) for part in parts)

    return [
        Entry(tuple(f"{name}/kernel" for name in names), f"{_LAYER}attn.c_attn.weight",
              to_ours, _joined),
        Entry(tuple(f"{name}/bias" for name in names), f"{_LAYER}attn.c_attn.bias",
              to_ours, _joined),
    ]  # fmt: skip


def _joined(arrays: Arrays) -> Any:
    return jnp.concatenate([each.reshape(*each.shape[:-2], -1) for each in arrays], axis=-1)


def _rows_joined(arrays: Arrays) -> Any:
    return arrays[0].reshape(-1, arrays[0].shape[-1])


def _renamed(name: str) -> str | None:
    """With the prefix that the first files lack; None for the causal mask, kept as a buffer."""
    bare = name.removeprefix("transformer.")
    if _BUFFER.fullmatch(bare):
        return None
    return bare if bare.startswith("lm_head.") else f"transformer.{bare}"
