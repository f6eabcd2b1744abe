"""How tokens come to their experts and back: all of them, or as many as each expert has room for.

Both ways give every assignment of a token to an expert a slot in one array that is sorted by
expert. Inside `jax.set_mesh`, each device does this for its own tokens. Experts that lie on
several devices stay there, and tokens travel to them. An axis of the mesh that doesn't divide the
experts holds none of them: each of its devices fetches all experts' weights.
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

from jaxgen.nn.expert_exchange import Axis, in_rounds, sent_back, sent_to_experts
from jaxgen.nn.expert_slots import collected, inverse, ranks, spread
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

    `product` multiplies rows that are sorted by expert, `jax.lax.ragged_dot` for example. Experts
    on several devices: `in_rounds` says what travels.
    """
    compute = partial(_sorted_by_expert, product)
    return _by_device(compute, ("batch", "time"), x, chosen, weights, experts)


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

    Experts on D devices: of each device's groups · experts · capacity vectors, used or not,
    (D - 1) / D leave it and as many come back, and as many again in the gradient.
    """
    compute = partial(_first_come, factor)
    return _by_device(compute, ("batch", None), x, chosen, weights, experts)


def _first_come(
    factor: float,
    axis: Axis | None,
    x: Vectors,
    chosen: Chosen,
    weights: Weights,
    experts: GatedExperts,
) -> tuple[Vectors, Kept]:
    groups, tokens, _ = x.shape
    number, choices = _number(experts, axis), chosen.shape[-1]
    capacity = min(tokens, max(1, math.ceil(factor * choices * tokens / number)))
    # (groups, choices · tokens), so that counting takes first choices first.
    ordered = chosen.transpose(0, 2, 1).reshape(groups, -1)
    rank, _ = jax.vmap(ranks, (0, None))(ordered, number)
    slot = jnp.where(
        (ordered < number) & (rank < capacity), ordered * capacity + rank, number * capacity
    )
    slot = slot.reshape(groups, choices, tokens).transpose(0, 2, 1)
    assignment = jax.vmap(inverse, (0, None))(slot, number * capacity)
    rows = jax.vmap(spread)(x, slot, assignment).reshape(groups, number, capacity, -1)
    if axis is not None:
        rows = sent_to_experts(rows, axis)
    out = experts(rows, lambda x, kernels: jnp.einsum("gecw,ewh->gech", x, kernels))
    if axis is not None:
        out = sent_back(out, axis)
    back = jax.vmap(collected)(out.reshape(groups, number * capacity, -1), slot, assignment)
    out = jnp.einsum("gtkw,gtk->gtw", back, weights, preferred_element_type=jnp.float32)
    return out.astype(x.dtype), slot < number * capacity


def _sorted_by_expert(
    product: GroupedProduct,
    axis: Axis | None,
    x: Vectors,
    chosen: Chosen,
    weights: Weights,
    experts: GatedExperts,
) -> tuple[Vectors, Kept]:
    rows, number = x.reshape(-1, x.shape[-1]), _number(experts, axis)
    by_row, weights = (each.reshape(len(rows), -1) for each in (chosen, weights))
    if axis is None:
        back = _products(product, rows, by_row, experts)
        out = jnp.einsum("tkw,tk->tw", back, weights, preferred_element_type=jnp.float32)
    else:
        out = in_rounds(
            lambda rows, own, experts: _products(product, rows, own[:, None], experts)[:, 0],
            axis, rows, by_row, weights, experts, len(experts.gate),
        )  # fmt: skip
    return out.reshape(x.shape).astype(x.dtype), chosen < number


def _products(
    product: GroupedProduct,
    x: Float[Array, "tokens width"],
    chosen: Int[Array, "tokens chosen"],
    experts: GatedExperts,
) -> Float[Array, "tokens chosen width"]:
    """What each token's experts make of it, all of them on this device; 0 for padding."""
    number = len(experts.gate)
    flat = chosen.reshape(-1)
    rank, sizes = ranks(flat, number)
    starts = jnp.cumsum(sizes) - sizes
    slot = jnp.where(flat < number, starts[flat] + rank, flat.size).reshape(chosen.shape)
    assignment = inverse(slot, flat.size)
    rows = spread(x, slot, assignment)
    return collected(experts(rows, lambda x, kernels: product(x, kernels, sizes)), slot, assignment)


def _number(experts: GatedExperts, axis: Axis | None) -> int:
    """How many experts there are on all devices of the axis."""
    here: int = len(experts.gate)
    return here if axis is None else here * jax.lax.axis_size(axis)


def _by_device(
    compute: Callable[..., tuple[Vectors, Kept]],
    apart: tuple[str | None, str | None],
    x: Vectors,
    chosen: Chosen,
    weights: Weights,
    experts: GatedExperts,
) -> tuple[Vectors, Kept]:
    """`compute` on each device for its own tokens, by its part of every expert's hidden width.

    Inside `jax.set_mesh`. Left alone, the compiler exchanges the vectors of all tokens to sort
    them, which took two to three times as long on simulated devices. `apart` names the axes of
    groups and tokens, None for one that `compute` needs whole. `compute` is told the axis of the
    mesh that holds the experts, if one does. Tokens that it doesn't split, the few rows of a sample
    for example, each of its devices sends to their experts: no more work than if each had all
    experts' weights, which are far larger.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return compute(None, x, chosen, weights, experts)
    number, _, hidden = experts.gate.shape
    (axis,) = partition_spec(("experts",), (number,), mesh)
    # Together, so that what splits the hidden width, over which results are summed, splits neither
    # tokens nor experts.
    *split, _, hidden_axis = partition_spec(
        (*apart, "experts", "mlp"), (*x.shape[:2], number, hidden), mesh
    )
    if split == [None, None] and axis is None and hidden_axis is None:
        return compute(None, x, chosen, weights, experts)

    def local(*arguments: Any) -> tuple[Vectors, Kept]:
        out, kept = compute(axis, *arguments)
        return out if hidden_axis is None else jax.lax.psum(out, hidden_axis), kept

    rows, into = PartitionSpec(*split), PartitionSpec(axis, None, hidden_axis)
    kernels = dataclasses.replace(
        experts, gate=into, up=into, down=PartitionSpec(axis, hidden_axis)
    )
    return jax.shard_map(
        local, in_specs=(rows, rows, rows, kernels), out_specs=rows, check_vma=False
    )(x, chosen, weights, experts)
