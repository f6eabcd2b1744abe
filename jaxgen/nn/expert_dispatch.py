"""How tokens come to their experts and back: all of them, or as many as each expert has room for.

Both ways give every assignment of a token to an expert a slot in one array that is sorted by
expert. Each slot knows its assignment and each assignment its slot, so moving vectors there and
back, gradients included, is always a gather: scatters of vectors are slow on every platform.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from jaxgen.nn.grouped_product import GroupedProduct, grouped_product
from jaxgen.parallel.sharding import partition_spec

Vectors = Float[Array, "groups tokens width"]
Chosen = Int[Array, "groups tokens chosen"]
Weights = Float[Array, "groups tokens chosen"]
Kept = Bool[Array, "groups tokens chosen"]


@flax.struct.dataclass
class GatedExperts:
    """The weights of all experts: (experts, width, hidden) twice, and (experts, hidden, width)."""

    gate: Any
    up: Any
    down: Any
    activation: Callable[[Array], Array] = flax.struct.field(pytree_node=False)

    def __call__(self, x: Array, product: Callable[[Array, Array], Array]) -> Array:
        """SwiGLU (Shazeer 2020); `product(x, kernels)` takes each row to its expert's kernel."""
        return product(self.activation(product(x, self.gate)) * product(x, self.up), self.down)


# From (x, chosen, weights, experts): the weighted sum of the chosen experts' results, and which
# assignments weren't dropped. Padding is assigned to the expert after the last: none.
Dispatch = Callable[[Vectors, Chosen, Weights, GatedExperts], tuple[Vectors, Kept]]


def dropless(
    x: Vectors,
    chosen: Chosen,
    weights: Weights,
    experts: GatedExperts,
    product: GroupedProduct = grouped_product,
) -> tuple[Vectors, Kept]:
    """Every token goes to all experts that it chose (MegaBlocks, Gale et al. 2022).

    `product` multiplies rows that are sorted by expert, `jax.lax.ragged_dot` for example.
    """
    return _by_device(partial(_sorted_by_expert, product), x, chosen, weights, experts)


def within_capacity(
    x: Vectors,
    chosen: Chosen,
    weights: Weights,
    experts: GatedExperts,
    factor: float = 1.25,
) -> tuple[Vectors, Kept]:
    """Each expert takes so many tokens of each group and drops the rest (GShard, Lepikhin 2020).

    The capacity is ⌈factor · chosen · tokens / experts⌉ (Fedus et al. 2021, eq. 3). All first
    choices come before all second ones, and earlier tokens before later. What is dropped adds
    nothing; the weights of the token's other experts stay as they are.
    """
    return _by_device(partial(_first_come, factor), x, chosen, weights, experts)


def _first_come(
    factor: float, x: Vectors, chosen: Chosen, weights: Weights, experts: GatedExperts
) -> tuple[Vectors, Kept]:
    groups, tokens, _ = x.shape
    number, choices = experts.gate.shape[0], chosen.shape[-1]
    capacity = min(tokens, max(1, math.ceil(factor * choices * tokens / number)))
    # (groups, choices · tokens), so that counting takes first choices first.
    ordered = chosen.transpose(0, 2, 1).reshape(groups, -1)
    rank, _ = jax.vmap(_ranks, (0, None))(ordered, number)
    slot = jnp.where(
        (ordered < number) & (rank < capacity), ordered * capacity + rank, number * capacity
    )
    slot = slot.reshape(groups, choices, tokens).transpose(0, 2, 1)

    def product(x: Array, kernels: Array) -> Array:
        x = x.reshape(groups, number, capacity, -1)
        return jnp.einsum("gecw,ewh->gech", x, kernels).reshape(groups, number * capacity, -1)

    assignment = jax.vmap(_inverse, (0, None))(slot, number * capacity)
    out = experts(jax.vmap(_spread)(x, slot, assignment), product)
    back = jax.vmap(_collected)(out, slot, assignment)
    out = jnp.einsum("gtkw,gtk->gtw", back, weights, preferred_element_type=jnp.float32)
    return out.astype(x.dtype), slot < number * capacity


def _sorted_by_expert(
    product: GroupedProduct, x: Vectors, chosen: Chosen, weights: Weights, experts: GatedExperts
) -> tuple[Vectors, Kept]:
    width, choices, number = x.shape[-1], chosen.shape[-1], experts.gate.shape[0]
    flat = chosen.reshape(-1)
    rank, sizes = _ranks(flat, number)
    starts = jnp.cumsum(sizes) - sizes
    slot = jnp.where(flat < number, starts[flat] + rank, flat.size).reshape(-1, choices)
    assignment = _inverse(slot, flat.size)
    rows = _spread(x.reshape(-1, width), slot, assignment)
    back = _collected(
        experts(rows, lambda x, kernels: product(x, kernels, sizes)), slot, assignment
    )
    out = jnp.einsum(
        "tkw,tk->tw", back, weights.reshape(-1, choices), preferred_element_type=jnp.float32
    )
    return out.reshape(x.shape).astype(x.dtype), chosen < number


def _ranks(
    chosen: Int[Array, "assignments"], experts: int
) -> tuple[Int[Array, "assignments"], Int[Array, "experts"]]:
    """How many earlier assignments each one's expert has, and how many each expert has in all."""
    taken = jax.nn.one_hot(chosen, experts, dtype=jnp.int32)  # padding's are all 0
    so_far = jnp.cumsum(taken, axis=0)
    return (taken * so_far).sum(1) - 1, so_far[-1]


def _inverse(slot: Int[Array, "tokens chosen"], slots: int) -> Int[Array, "slots"]:
    """Each slot's assignment, or one after the last where the slot stays empty."""
    empty = jnp.full(slots, slot.size, jnp.int32)
    every = jnp.arange(slot.size, dtype=jnp.int32)
    return empty.at[slot.reshape(-1)].set(every, mode="drop", unique_indices=True)


def _rows(x: Float[Array, "rows width"], index: Int[Array, "*taken"]) -> Array:
    return x.at[index].get(mode="fill", fill_value=0)


@jax.custom_vjp
def _spread(
    x: Float[Array, "tokens width"],
    slot: Int[Array, "tokens chosen"],
    assignment: Int[Array, "slots"],
) -> Float[Array, "slots width"]:
    """Each token's vector in all of its slots, and 0 in empty ones."""
    return _rows(x, assignment // slot.shape[1])


@jax.custom_vjp
def _collected(
    x: Float[Array, "slots width"],
    slot: Int[Array, "tokens chosen"],
    assignment: Int[Array, "slots"],
) -> Float[Array, "tokens chosen width"]:
    """What lies in each assignment's slot, and 0 for those that have none."""
    return _rows(x, slot)


_spread.defvjp(
    lambda x, slot, assignment: (_spread(x, slot, assignment), slot),
    lambda slot, slope: (_rows(slope, slot).sum(1), None, None),
)
_collected.defvjp(
    lambda x, slot, assignment: (_rows(x, slot), assignment),
    lambda assignment, slope: (
        _rows(slope.reshape(-1, slope.shape[-1]), assignment),
        None,
        None,
    ),
)


def _by_device(
    compute: Dispatch, x: Vectors, chosen: Chosen, weights: Weights, experts: GatedExperts
) -> tuple[Vectors, Kept]:
    """`compute` on each device for its own groups, by its part of every expert's hidden width.

    Inside `jax.set_mesh`. Left alone, the compiler exchanges the vectors of all tokens to sort
    them, which took two to three times as long on simulated devices.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return compute(x, chosen, weights, experts)
    split = PartitionSpec(partition_spec(("batch", None, None), x.shape, mesh)[0])
    into = partition_spec((None, None, "mlp"), experts.gate.shape, mesh)
    hidden_axis = into[2]
    if split == PartitionSpec(None) and hidden_axis is None:
        return compute(x, chosen, weights, experts)

    def local(*arguments: Any) -> tuple[Vectors, Kept]:
        out, kept = compute(*arguments)
        return out if hidden_axis is None else jax.lax.psum(out, hidden_axis), kept

    kernels = dataclasses.replace(
        experts, gate=into, up=into, down=PartitionSpec(None, hidden_axis)
    )
    return jax.shard_map(
        local, in_specs=(split, split, split, kernels), out_specs=split, check_vma=False
    )(x, chosen, weights, experts)
