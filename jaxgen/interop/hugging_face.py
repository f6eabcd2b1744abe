"""Hugging Face's checkpoints in and out: one door for all architectures.

    network, params, tokenizer, config = load("Qwen3-0.6B", mesh)
    save("mine", network, params, tokenizer, config)

The network says what is computed, the parameters lie where the mesh says, and a directory that
`save` wrote opens in transformers: `AutoModelForCausalLM.from_pretrained("mine")`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.errors import UserError
from jaxgen.experiment import Params
from jaxgen.families.autoregressive.encoder import Encoder
from jaxgen.families.autoregressive.encoder_decoder import EncoderDecoder
from jaxgen.families.autoregressive.transformer import Transformer
from jaxgen.interop import bert, gpt2, llama, mixtral, t5, tokenizer_files, weights
from jaxgen.interop.checkpoint_files import read_config, read_tensors, write
from jaxgen.interop.comparison import difference, kind_of
from jaxgen.interop.weights import Table
from jaxgen.nn.low_rank import without_adapters
from jaxgen.nn.mixture_of_experts import MixtureOfExperts
from jaxgen.nn.mlp import GatedMLP
from jaxgen.parallel import sharding

Config = Mapping[str, Any]


class Loaded(NamedTuple):
    """A checkpoint: network and parameters, its tokenizer where it has one, its config.json."""

    network: Any
    params: Params
    tokenizer: SubwordTokenizer | None
    config: dict[str, Any]


class Architecture(NamedTuple):
    """How one of their architectures becomes one of ours, and back."""

    network_of: Callable[[Config, Collection[str]], Any]
    config_of: Callable[[Any], dict[str, Any]]
    table: Callable[[Any], Table]


_LLAMA = Architecture(lambda config, _: llama.network_of(config), llama.config_of, llama.table)
ARCHITECTURES: Mapping[str, Architecture] = {
    "gpt2": Architecture(lambda config, _: gpt2.network_of(config), gpt2.config_of, gpt2.table),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "mixtral": Architecture(
        lambda config, _: mixtral.network_of(config), mixtral.config_of, mixtral.table
    ),
    "bert": Architecture(bert.network_of, bert.config_of, bert.table),
    "t5": Architecture(t5.network_of, t5.config_of, t5.table),
}


def load(
    directory: str | os.PathLike[str], mesh: Mesh | None = None, dtype: Any = jnp.float32
) -> Loaded:
    """The model in a directory with config.json and safetensors files.

    The host holds no more than one or two tensors at a time, whatever the model's size.

    Args:
        mesh: over which the parameters are laid out, by the names of their axes; None puts them on
            the first device.
        dtype: of the parameters and of the computation.

    Raises:
        UserError: for files that are missing or damaged, tensors that don't fit, an architecture
            or a part of one that isn't known here, a tokenizer of another vocabulary.
    """
    config = read_config(directory)
    tensors = read_tensors(directory)
    architecture = _architecture_in(directory, config)
    network = architecture.network_of(config, tensors.keys()).clone(dtype=dtype)
    tokenizer = tokenizer_files.read_tokenizer(Path(directory), config, network.vocabulary)
    table = architecture.table(network)
    params = weights.load(tensors, table, abstract_params(network, mesh, dtype))
    return Loaded(network, params, tokenizer, config)


def load_into(directory: str | os.PathLike[str], network: nn.Module, shapes: Params) -> Params:
    """The parameters in a directory for a network that is there already, as `shapes` says.

    For `Experiment.pretrained`, whose shapes say where each leaf lies on the mesh. Adapters among
    them stay what they are.

    Raises:
        UserError: as `load`, and where the files are of another network.
    """
    config = read_config(directory)
    tensors = read_tensors(directory)
    architecture = _architecture_in(directory, config)
    differs = difference(network, architecture.network_of(config, tensors.keys()))
    if differs is not None:
        raise UserError(f"The model in {directory} isn't the one to be trained: {differs}.")
    return weights.load(tensors, architecture.table(network), without_adapters(shapes))


def save(
    directory: str | os.PathLike[str],
    network: nn.Module,
    params: Params,
    tokenizer: SubwordTokenizer | None = None,
    config: Config | None = None,
    dtype: Any = None,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Writes a new directory that transformers opens; all of it or nothing.

    Args:
        tokenizer: becomes tokenizer.json and tokenizer_config.json.
        config: what config.json is to say besides, which neither the network nor the tokenizer
            decides: `max_position_embeddings` of a rotary model, several tokens that end a text;
            such as the config that `load` gave.
        dtype: of the tensors; None leaves each as it is.
        shard_bytes: the most that a file holds.

    Raises:
        UserError: for a network that transformers doesn't have, a tokenizer of another vocabulary,
            a directory that exists or can't be written.
    """
    architecture = _architecture_of(network)
    decided = architecture.config_of(network)
    named = {} if tokenizer is None else tokenizer_files.special_numbers(tokenizer)
    described = {**_said_by_default(network), **named, **(config or {}), **decided}
    described.pop("transformers_version", None)
    table = architecture.table(network)
    again = architecture.network_of(described, [entry.theirs for entry in table.entries])
    differs = difference(network, again)
    if differs is not None:
        kind = decided["model_type"]
        raise UserError(f"Hugging Face's {kind} has no network like this one: {differs}.")
    tensors = weights.tensors_of(params, table, dtype)
    described["dtype"] = described["torch_dtype"] = tensors[0].dtype.name
    files = {}
    if tokenizer is not None:
        tokenizer_files.check(tokenizer, described, again.vocabulary, "this network")
        files = tokenizer.files()
    write(directory, described, tensors, files, shard_bytes)


def abstract_params(network: nn.Module, mesh: Mesh | None, dtype: Any) -> Params:
    """The shapes of a network's parameters, and where they lie on a mesh."""
    tokens = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    inputs = (tokens, tokens) if isinstance(network, EncoderDecoder) else (tokens,)
    boxed = jax.eval_shape(network.init, jax.random.key(0), *inputs)["params"]
    shapes = sharding.unbox(boxed)
    if mesh is None:
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=place),
        shapes,
        sharding.shardings(boxed, mesh),
    )


def _said_by_default(network: nn.Module) -> dict[str, Any]:
    """What config.json has to say where nobody does, because transformers' defaults don't fit."""
    if isinstance(network, EncoderDecoder):
        return {"decoder_start_token_id": 0}
    return {"bos_token_id": None, "eos_token_id": None} if isinstance(network, Transformer) else {}


def _architecture_in(directory: str | os.PathLike[str], config: Config) -> Architecture:
    kind = str(config.get("model_type"))
    if kind not in ARCHITECTURES:
        raise UserError(
            f"{directory} has a model of type {kind!r}; here there are {', '.join(ARCHITECTURES)}."
        )
    return ARCHITECTURES[kind]


def _architecture_of(network: nn.Module) -> Architecture:
    if isinstance(network, Encoder):
        return ARCHITECTURES["bert"]
    if isinstance(network, EncoderDecoder):
        return ARCHITECTURES["t5"]
    if not isinstance(network, Transformer):
        raise UserError(
            f"A {type(network).__name__} has no place in Hugging Face's transformers; a "
            "Transformer, Encoder or EncoderDecoder may have one."
        )
    if isinstance(network.attention, tuple) or isinstance(network.mlp, tuple):
        raise UserError(
            "Hugging Face's transformers have one kind of layer, and this network several in turn."
        )
    if kind_of(network.mlp) is MixtureOfExperts:
        return ARCHITECTURES["mixtral"]
    return ARCHITECTURES["llama" if kind_of(network.mlp) is GatedMLP else "gpt2"]
