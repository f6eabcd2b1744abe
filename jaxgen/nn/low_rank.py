"""Low-rank adapters (LoRA, Hu et al. 2022) as pure functions on parameter trees.

Beside a kernel W that stays as it is lie A (inputs, rank) and B (rank, outputs), so that `Linear`
computes x·W + (x·A)·B·scale. Fine-tuning moves A and B alone:

    params = adapted(params, key, rank=8, alpha=16, targets=lambda path: "attention" in path)
    Update("adapters", loss, optimizer, moves=is_adapter)
    exported = merged(params)
"""

from __future__ import annotations

import math
import string
import zlib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.core import meta
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.experiment import Key, Params, Path
from jaxgen.parallel.sharding import unbox

_LEAVES = ("lora_a", "lora_b", "lora_scale")


def matrix_axes(path: Path) -> tuple[int, int]:
    """How many of a kernel's last axes are inputs, and how many outputs, by its layer's name.

    Attention has (width, heads, depth) for queries, keys and values, and (heads, depth, width) on
    the way out. Axes before those stack layers.
    """
    if path[-2] in ("query", "key", "value"):
        return 1, 2
    return (2, 1) if path[-2] in ("out", "output") else (1, 1)


def adapted(
    params: Params,
    key: Key,
    *,
    rank: int,
    alpha: float,
    targets: Callable[[Path], bool],
    axes: Callable[[Path], tuple[int, int]] = matrix_axes,
) -> Params:
    """The parameters with an adapter beside each kernel of a `Linear` that `targets` picks.

    Nothing changes by that yet: A is normal with deviation 1/√inputs, B zero. A kernel stacked over
    layers gets as many adapters. Axis names, where leaves are boxed with them, are the kernel's.

    alpha: the adapter is scaled by alpha / rank.
    targets: asked for the path of each "kernel".
    axes: as `matrix_axes`, for kernels of another shape.

    Raises:
        UserError: if the rank is below 1, no kernel is picked, or one has an adapter already or is
            of experts, which read none.
    """
    if rank < 1:
        raise UserError(f"An adapter's rank must be at least 1, not {rank}.")
    flat = traverse_util.flatten_dict(params)
    chosen = [path for path in flat if path[-1] == "kernel" and targets(path)]
    if not chosen:
        raise UserError(
            "There is nothing to adapt: `targets` picks none of the kernels, among them "
            f"{', '.join('/'.join(path) for path in flat if path[-1] == 'kernel')[:200]}."
        )
    added: dict[Path, Any] = {}
    for path in chosen:
        if path[-2] in ("gate", "up", "down") and (*path[:-2], "router", "kernel") in flat:
            raise UserError(
                f"{'/'.join(path)} is of experts, which read no adapter: leave it out of `targets`."
            )
        if (*path[:-1], "lora_a") in flat:
            raise UserError(f"{'/'.join(path)} has an adapter already: merge it first.")
        # By the kernel's name, so that adapting one more leaves the others as they are.
        own = jax.random.fold_in(key, zlib.crc32("/".join(path).encode()))
        for name, leaf in _adapter(flat[path], own, rank, alpha / rank, *axes(path)).items():
            added[(*path[:-1], name)] = leaf
    return traverse_util.unflatten_dict(flat | added)


def is_adapter(path: Path) -> bool:
    """Whether a leaf is one that fine-tuning moves, for `Update(moves=is_adapter)`."""
    return path[-1] in ("lora_a", "lora_b")


def merged(params: Params) -> Params:
    """The parameters with each adapter added to its kernel and taken out: W + A·B·scale."""
    flat = traverse_util.flatten_dict(params)
    kept = traverse_util.flatten_dict(without_adapters(params))
    for path in flat:
        if path[-1] != "lora_a":
            continue
        kernel = (*path[:-1], "kernel")
        a, b, scale = (unbox(flat[(*path[:-1], name)]) for name in _LEAVES)
        whole = unbox(kept[kernel])
        whole = whole + _product(a, b, scale).astype(whole.dtype)
        kept[kernel] = _like(kept[kernel], whole)
    return traverse_util.unflatten_dict(kept)


def adapters_only(params: Params) -> Params:
    """The adapters without the rest of the tree: all that a fine-tuning has to hand on."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
        {path: leaf for path, leaf in flat.items() if path[-1] in _LEAVES}
    )


def without_adapters(params: Params) -> Params:
    """The parameters as they were before `adapted`."""
    flat = traverse_util.flatten_dict(params)
    return traverse_util.unflatten_dict(
        {path: leaf for path, leaf in flat.items() if path[-1] not in _LEAVES}
    )


def with_adapters(params: Params, adapters: Params) -> Params:
    """`params`, which have none, with those that `adapters_only` took from others."""
    flat = traverse_util.flatten_dict(params)
    added = traverse_util.flatten_dict(adapters)
    for path in added:
        if (*path[:-1], "kernel") not in flat:
            raise UserError(f"There is an adapter for {'/'.join(path[:-1])}, but no such kernel.")
    return traverse_util.unflatten_dict(flat | added)


def _adapter(
    kernel: Any, key: Key, rank: int, scale: float, inputs: int, outputs: int
) -> dict[str, Any]:
    value = unbox(kernel)
    if value.ndim < inputs + outputs:
        raise UserError(
            f"A kernel of shape {value.shape} hasn't {inputs} axes in and {outputs} out."
        )
    stacked = value.ndim - inputs - outputs
    layers, taken, made = (
        value.shape[:stacked],
        value.shape[stacked : stacked + inputs],
        value.shape[stacked + inputs :],
    )
    a = jax.random.normal(key, (*layers, *taken, rank)) / math.sqrt(math.prod(taken))
    leaves = {
        "lora_a": a,
        "lora_b": jnp.zeros((*layers, rank, *made)),
        "lora_scale": jnp.full(layers, scale, jnp.float32),
    }
    names = getattr(kernel, "names", None)
    if names is None:
        return leaves
    named = {
        "lora_a": (*names[: stacked + inputs], None),
        "lora_b": (*names[:stacked], None, *names[stacked + inputs :]),
        "lora_scale": names[:stacked],
    }
    return {name: kernel.replace(value=leaf, names=named[name]) for name, leaf in leaves.items()}


def _product(
    a: Float[Array, "*layers_inputs_rank"],
    b: Float[Array, "*layers_rank_outputs"],
    scale: Float[Array, "*layers"],
) -> Float[Array, "*layers_inputs_outputs"]:
    letters = iter(string.ascii_lowercase)
    layers, inputs, outputs = (
        "".join(next(letters) for _ in range(count))
        for count in (scale.ndim, a.ndim - scale.ndim - 1, b.ndim - scale.ndim - 1)
    )
    equation = f"{layers}{inputs}R,{layers}R{outputs},{layers}->{layers}{inputs}{outputs}"
    return jnp.einsum(equation, a, b, scale)


def _like(leaf: Any, value: Any) -> Any:
    return leaf.replace_boxed(value) if isinstance(leaf, meta.AxisMetadata) else value
