"""What a network keeps of its forward pass for the backward one: all, some by name, or nothing.

The gradient of a block needs tensors of its forward pass. Kept, they take memory for as long as
all later blocks run; thrown away, they are computed again (Chen et al. 2016, "Training deep nets
with sublinear memory cost"). Between the two, a policy says which are kept: the `remat` of
`stacked`, `Transformer`, `Encoder` and `Tower` takes

    remat=False                                  everything is kept
    remat=saving(QUERY, KEY, VALUE, MLP_HIDDEN)  these are, the rest is computed again
    remat=offloading(BLOCK_INPUT)                these wait in the host's memory, the rest is
                                                 computed again
    remat=True                                   only each block's input is

or any policy of `jax.checkpoint_policies`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array

from jaxgen.errors import UserError

# Whether the result of an operation is kept: (primitive, *shapes, **parameters) -> decision.
Policy = Callable[..., Any]

# A name is given to what a matrix product makes, before norms, rotations and activations: those
# cost little to compute again, and their gradients ask for what they were given.

# The vectors that a block is given. A stack keeps them whatever the policy, unless it offloads
# them: the rest of the block is computed again from here.
BLOCK_INPUT = "block_input"
# The vectors that each later layer of a block is given: the sum of all that came before.
RESIDUAL = "residual"
# What attention compares, and what it averages, before its norms and rotations.
QUERY = "query"
KEY = "key"
VALUE = "value"
# The averages of the values, before the map out. To keep them spares that map's gradient the whole
# of attention; attention's own gradient computes its scores again all the same.
ATTENTION = "attention"
# What the first layer of a position-wise network makes, before its activation; of a gated one, the
# gate as well.
MLP_HIDDEN = "mlp_hidden"

NAMES = (BLOCK_INPUT, RESIDUAL, QUERY, KEY, VALUE, ATTENTION, MLP_HIDDEN)


def named(x: Array, name: str) -> Array:
    """x itself, under a name by which a policy finds it; without one, it costs nothing."""
    marked: Array = checkpoint_name(x, name)
    return marked


def saving(*names: str) -> Policy:
    """The policy that keeps the tensors of these names, and has the rest computed again.

    Raises:
        UserError: for a name that isn't among `NAMES`.
    """
    _check(names)
    return jax.checkpoint_policies.save_only_these_names(*names)


def offloading(*names: str, saved: tuple[str, ...] = ()) -> Policy:
    """The policy that moves the tensors of these names to the host's memory until they are needed.

    The accelerator copies them there and back beside its computations: that costs no time as long
    as a block computes for longer than its copies take. The rest is computed again.

    Args:
        saved: names of tensors that stay in the accelerator's own memory.

    Raises:
        UserError: for a name that isn't among `NAMES`, or that stands on both sides.
    """
    _check((*names, *saved))
    if both := [name for name in names if name in saved]:
        raise UserError(f"{both[0]!r} can't be both offloaded and saved: name it once.")
    return jax.checkpoint_policies.save_and_offload_only_these_names(
        names_which_can_be_saved=list(saved),
        names_which_can_be_offloaded=list(names),
        offload_src="device",
        offload_dst="pinned_host",
    )


def _check(names: tuple[str, ...]) -> None:
    for name in names:
        if name not in NAMES:
            raise UserError(f"No tensor is named {name!r}: the names are {', '.join(NAMES)}.")
