"""A mixture of experts in the place of a block's position-wise network."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxgen.errors import UserError
from jaxgen.nn import routing
from jaxgen.nn.expert_dispatch import Dispatch, GatedExperts, dropless
from jaxgen.nn.linear import Linear
from jaxgen.nn.mlp import Activation

_INTO = ("experts", "embed", "mlp")
_OUT_OF = ("experts", "mlp", "embed")


class MixtureOfExperts(nn.Module):
    """Each token goes through the gated networks that a router chose for it (Shazeer et al. 2017).

    experts, chosen: how many there are, and how many each token goes through.
    hidden: an expert's hidden width.
    renormalize: whether the weights of a token's experts sum to 1 (Mixtral) or stay their
        probabilities (Switch Transformer).
    dispatch: `dropless`, or `within_capacity` with its factor.

    With mutable=["router"], `apply` also returns the collection "router", of scalars: the losses
    "load_balance" and "router_z" of `routing.py`, to be weighed by `next_token_loss`'s penalties;
    "dropped", the share of assignments that found no room, and "load_entropy" in nats, to be
    watched.
    """

    experts: int
    chosen: int
    hidden: int
    activation: Activation = jax.nn.silu
    renormalize: bool = True
    dispatch: Dispatch = dropless
    initializer: Any = nn.initializers.normal(0.02)
    output_initializer: Any = nn.initializers.normal(0.02)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*rows width"],
        real: Bool[Array, "*rows"] | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "*rows width"]:
        """Maps each position by itself, as far as capacity allows.

        Args:
            x: the last axis of the rows is a group that shares the experts' capacity.
            real: False for padding, which goes to no expert, gets 0 and isn't counted.
            deterministic: as every position-wise network has it; nothing is drawn here.

        Raises:
            UserError: if there are fewer experts than each token is to go through.
        """
        if not 1 <= self.chosen <= self.experts:
            raise UserError(f"A token can't go through {self.chosen} of {self.experts} experts.")
        width = x.shape[-1]
        # In float32, whatever the rest is in: a router in bfloat16 is unstable (Fedus et al. 2021).
        router = Linear(
            (self.experts,), ("embed", "experts"), 1, False, self.initializer, name="router"
        )
        logits = router(x)
        chosen, weights = routing.top_experts(logits, self.chosen, self.renormalize)
        gate, up, down = (
            ExpertKernels(self.experts, *sizes, names, initializer, name=name)().astype(self.dtype)
            for name, sizes, names, initializer in (
                ("gate", (width, self.hidden), _INTO, self.initializer),
                ("up", (width, self.hidden), _INTO, self.initializer),
                ("down", (self.hidden, width), _OUT_OF, self.output_initializer),
            )
        )
        seen = chosen if real is None else jnp.where(real[..., None], chosen, self.experts)
        experts = GatedExperts(gate=gate, up=up, down=down, activation=self.activation)
        x_by_group, seen, weights = (
            rows.reshape(-1, x.shape[-2], rows.shape[-1])
            for rows in (x.astype(self.dtype), seen, weights)
        )
        out, kept = self.dispatch(x_by_group, seen, weights, experts)
        self._report(logits, chosen, kept.reshape(chosen.shape), real)
        return out.reshape(x.shape)

    def _report(self, logits: Array, chosen: Array, kept: Array, real: Array | None) -> None:
        if self.is_initializing():
            return  # what is left at initialization would be taken for variables of the model
        there = jnp.ones(kept.shape[:-1], bool) if real is None else real
        dropped = (there[..., None] & ~kept).sum() / jnp.maximum(there.sum() * self.chosen, 1)
        values = {
            "load_balance": routing.load_balance_loss(logits, chosen, real),
            "router_z": routing.z_loss(logits, real),
            "dropped": dropped,
            "load_entropy": routing.entropy(routing.load(chosen, self.experts, real)),
        }
        for name, value in values.items():
            # One value a call, not Linen's growing tuple.
            self.sow("router", name, value, lambda _, new: new, lambda: None)


class ExpertKernels(nn.Module):
    """A matrix for each expert, (experts, inputs, outputs), each initialized by itself."""

    experts: int
    inputs: int
    outputs: int
    names: tuple[str, str, str]
    initializer: Any

    @nn.compact
    def __call__(self) -> Float[Array, "experts inputs outputs"]:
        """The parameter."""

        def initialize(key: Array, shape: tuple[int, int, int], dtype: Any) -> Array:
            keys = jax.random.split(key, shape[0])
            return jax.vmap(lambda key: self.initializer(key, shape[1:], dtype))(keys)

        named = nn.with_logical_partitioning(initialize, self.names)
        shape = (self.experts, self.inputs, self.outputs)
        kernel: Any = self.param("kernel", named, shape, jnp.float32)
        return kernel
