"""Mamba-2's layer: a selective state space with one decay a head (Dao & Gu 2024, section 7)."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.nn.causal_convolution import CausalConvolution
from jaxgen.nn.linear import Linear
from jaxgen.nn.linear_scan import added, kept
from jaxgen.nn.matrix_memory import matrix_memory
from jaxgen.nn.norm import RMSNorm
from jaxgen.nn.recurrence import Carry, Marks

Sequence = Float[Array, "batch time features"]
Outputs = Float[Array, "batch time width"]


class Mamba2(nn.Module):
    """S_t = exp(A·Δ_t)·S_{t-1} + Δ_t·x_t·B_tᵀ, y_t = S_t·C_t + D·x_t, in each head.

    One linear map makes z, x, B, C and Δ; x, B and C go through a causal convolution and SiLU,
    Δ = softplus(Δ + bias), A = -exp(a learned number a head). The answer is a linear map of
    RMSNorm(y·SiLU(z)). The carry is the convolution's window and S, float32 (batch, heads,
    head_dim, states).

    width: numbers in the output.
    heads: they divide width·expansion, the channels of x; else `UserError`.
    states: numbers in B and C (N).
    groups: of heads that share B and C; they divide the heads, else `UserError`.
    convolution: steps that it sees.
    chunk: steps that are read at once by products of matrices.
    dtype: of products; Δ, decays and S are float32.
    """

    width: int
    heads: int
    states: int = 128
    expansion: int = 2
    groups: int = 1
    convolution: int = 4
    chunk: int = 64
    dtype: Any = jnp.float32

    @property
    def _inner(self) -> int:
        return self.width * self.expansion

    @property
    def _convolved(self) -> int:
        return self._inner + 2 * self.groups * self.states

    def initial(self, batch: int) -> Carry:
        """Zeros."""
        window = CausalConvolution(self._convolved, self.convolution, dtype=self.dtype, parent=None)
        memory = jnp.zeros((batch, self.heads, self._inner // self.heads, self.states))
        return (*window.initial(batch), memory)

    @nn.compact
    def __call__(
        self,
        x: Sequence,
        carry: Carry | None = None,
        marks: Marks | None = None,
        deterministic: bool = True,
    ) -> tuple[Outputs, Carry]:
        """Every step's vector, and what to go on with."""
        self._check()
        window, memory = self.initial(len(x)) if carry is None else carry
        inner, groups, states = self._inner, self.groups, self.states
        members, depth = self.heads // groups, inner // self.heads
        sizes = (inner, self._convolved, self.heads)
        names = ("embed", "mlp")
        into = Linear((sum(sizes),), names, bias=False, dtype=self.dtype, name="input")
        gate, mixed, step = jnp.split(into(x), [inner, inner + self._convolved], axis=-1)
        convolution = CausalConvolution(
            self._convolved, self.convolution, dtype=self.dtype, name="convolution"
        )
        mixed, window = convolution(mixed, (window,), marks)
        inputs, keys, queries = jnp.split(
            jax.nn.silu(mixed), [inner, inner + groups * states], axis=-1
        )
        step_bias = self._of_heads("step_bias", _step_biases)
        step = jax.nn.softplus(step.astype(jnp.float32) + step_bias[None, None])
        log_decay = -jnp.exp(self._of_heads("log_rate", _log_rates))[None, None] * step

        rows = x.shape[:2]
        inputs = inputs.astype(jnp.float32).reshape(*rows, groups, members, depth)
        shaped = step.reshape(*rows, groups, members)
        y, memory = matrix_memory(
            added(shaped[..., None] * inputs, marks),
            keys.reshape(*rows, groups, states),
            queries.reshape(*rows, groups, states),
            kept(log_decay, marks, logarithm=True).reshape(*rows, groups, members),
            memory.reshape(len(x), groups, members, depth, states),
            self.chunk,
            self.dtype,
        )
        through = self._of_heads("through", nn.initializers.ones)  # D
        y = y + through.reshape(1, 1, groups, members, 1) * inputs
        y = y.reshape(*rows, inner) * jax.nn.silu(gate.astype(jnp.float32))
        y = RMSNorm(epsilon=1e-5, name="norm")(y).astype(self.dtype)
        out = Linear((self.width,), ("mlp", "embed"), bias=False, dtype=self.dtype, name="output")
        return out(y), (*window, memory.reshape(len(x), self.heads, depth, states))

    def _check(self) -> None:
        if self._inner % self.heads or self.heads % self.groups:
            raise UserError(
                f"{self.heads} heads have to divide {self._inner} channels, and be divided by "
                f"{self.groups} groups: take other numbers."
            )

    def _of_heads(self, name: str, initializer: Any) -> Float[Array, "heads"]:
        named = nn.with_logical_partitioning(initializer, ("heads",))
        vector: Any = self.param(name, named, (self.heads,))
        return vector


def _log_rates(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """log(-A), for -A evenly between 1 and 16."""
    return jnp.log(jax.random.uniform(key, shape, dtype, 1.0, 16.0))


def _step_biases(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """The inverse of softplus at steps whose logarithms lie evenly between 0.001's and 0.1's."""
    ends = math.log(0.001), math.log(0.1)
    steps = jnp.exp(jax.random.uniform(key, shape, dtype, *ends))
    return steps + jnp.log(-jnp.expm1(-steps))
