"""The LSTM with exponential gates: of numbers (sLSTM) and of matrices (mLSTM), Beck et al. 2024.

"xLSTM: Extended Long Short-Term Memory", section 2. Exponentials of gates grow beyond all bounds,
so memories are kept divided by exp(m), m the stabilizer (equations 15 to 17). It is a scale and no
more: what a layer writes doesn't depend on it, and no gradient goes through it.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.nn.linear import Linear
from jaxgen.nn.linear_scan import added, kept
from jaxgen.nn.matrix_memory import matrix_memory
from jaxgen.nn.recurrence import Carry, Marks, Small, recur, time_major

Sequence = Float[Array, "batch time features"]
Outputs = Float[Array, "batch time width"]
Gates = Float[Array, "batch time heads"]


class _Extended(nn.Module):
    """What both have in common.

    width: numbers in the output.
    heads: which don't see one another's memories; `UserError` unless they divide the width.
    exponential_forget: makes forget gates exp instead of σ (the paper has both).
    dtype: of products; gates and memories are float32.
    """

    width: int
    heads: int = 1
    exponential_forget: bool = False
    dtype: Any = jnp.float32

    def depth(self) -> int:
        """Numbers in each head."""
        if self.width % self.heads:
            raise UserError(
                f"A width of {self.width} can't be cut into {self.heads} heads: take another "
                "width or another number of heads."
            )
        return self.width // self.heads

    def log_forget(self, forget: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """log f of the gate's product."""
        return forget if self.exponential_forget else jax.nn.log_sigmoid(forget)


class MatrixLSTM(_Extended):
    """The mLSTM: C_t = f_t·C_{t-1} + i_t·v_t·k_tᵀ, n_t = f_t·n_{t-1} + i_t·k_t, equations 19 to 27.

    h_t = o_t·(C_t·q_t / max(|n_tᵀ·q_t|, 1)). Input and forget gates are one number a head. The
    carry is C, n and m, float32 (batch, heads, depth, depth), (batch, heads, depth) and (batch,
    heads).

    chunk: steps that are read at once by products of matrices.
    """

    chunk: int = 64

    def initial(self, batch: int) -> Carry:
        """Zeros."""
        shape = batch, self.heads, self.depth()
        return (jnp.zeros((*shape, shape[-1])), jnp.zeros(shape), jnp.zeros(shape[:2]))

    @nn.compact
    def __call__(
        self,
        x: Sequence,
        carry: Carry | None = None,
        marks: Marks | None = None,
        deterministic: bool = True,
    ) -> tuple[Outputs, Carry]:
        """Every step's output, and the last memory."""
        memory, normalizer, scale = self.initial(len(x)) if carry is None else carry
        shape = self.heads, self.depth()
        names = ("embed", "heads", "head_dim")
        queries, values = (
            Linear(shape, names, dtype=self.dtype, name=name)(x) for name in ("query", "value")
        )
        keys = self._keys(x, shape)
        gates = Linear(
            (2, self.heads), ("embed", None, "heads"), bias=False, dtype=self.dtype, name="gates"
        )
        start = nn.with_logical_partitioning(_forgetting(1), (None, "heads"))
        bias: Any = self.param("gates_bias", start, (2, self.heads))
        products = gates(x).astype(jnp.float32) + bias[None, None]
        enter, log_forget = products[:, :, 0], self.log_forget(products[:, :, 1])

        scale = jax.lax.stop_gradient(scale)
        scales = _scales(*jax.lax.stop_gradient((log_forget, enter)), scale, marks)
        before = jnp.concatenate([scale[:, None], scales[:, :-1]], axis=1)
        log_decay = kept(log_forget + before - scales, marks, logarithm=True)
        entered = jnp.exp(added(enter - scales, marks, logarithm=True))
        # The normalizer is the memory of a value that is always 1.
        widened = jnp.concatenate([values, jnp.ones_like(values[..., :1])], axis=-1)
        widened = entered[..., None] * widened.astype(jnp.float32)
        both = jnp.concatenate([memory, normalizer[:, :, None]], axis=2)
        read, both = matrix_memory(
            widened[:, :, :, None],
            keys,
            queries,
            log_decay[..., None],
            both[:, :, None],
            self.chunk,
            self.dtype,
        )
        # 1 is exp(-m) in these units. Below -80 what is divided by it is 0 anyway, and exp would
        # overflow; above 30 it is lost in the last digits of n·q, and would let 0 be divided by 0.
        least = jnp.exp(-jnp.clip(scales, -80.0, 30.0))
        divisor = jnp.maximum(jnp.abs(read[..., -1]), least[..., None])
        h = (read[..., :-1] / divisor[..., None]).reshape(*x.shape[:2], self.width)
        out = Linear((self.width,), ("embed", "mlp"), dtype=self.dtype, name="output_gate")
        h = jax.nn.sigmoid(out(x).astype(jnp.float32)) * h
        memory, normalizer = both[:, :, 0, :-1], both[:, :, 0, -1]
        return h.astype(self.dtype), (memory, normalizer, scales[:, -1])

    def _keys(self, x: Sequence, shape: tuple[int, int]) -> Float[Array, "batch time heads depth"]:
        """W·x/√depth + b, equation 23: only the product is divided."""
        names = ("embed", "heads", "head_dim")
        product = Linear(shape, names, bias=False, dtype=self.dtype, name="key")(x)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, names[1:])
        bias: Any = self.param("key_bias", zeros, shape)
        return product / math.sqrt(shape[1]) + jnp.asarray(bias, self.dtype)[None, None]


class ScalarLSTM(_Extended):
    """The sLSTM: c_t = f_t·c_{t-1} + i_t·z_t, n_t = f_t·n_{t-1} + i_t, h_t = o_t·c_t/n_t.

    Equations 8 to 18. Gates see the last h, each head's its own, so this one is read step by step.
    The carry is h, c, n and m, all (batch, width). The order of gates is z (tanh), input, forget,
    output.

    unroll: steps of the loop that are compiled side by side.
    """

    unroll: int = 4

    def initial(self, batch: int) -> Carry:
        """Zeros."""
        zeros = jnp.zeros((batch, self.width))
        return (zeros.astype(self.dtype), zeros, zeros, zeros)

    @nn.compact
    def __call__(
        self,
        x: Sequence,
        carry: Carry | None = None,
        marks: Marks | None = None,
        deterministic: bool = True,
    ) -> tuple[Outputs, Carry]:
        """Every step's hidden vector, and the last one with its memory."""
        carry = self.initial(len(x)) if carry is None else carry
        depth = self.depth()
        blocks = ("heads", None, None, "head_dim")
        spread = nn.initializers.variance_scaling(1.0, "fan_in", "normal", 1, 3, (0, 2))
        shape = (self.heads, depth, 4, depth)
        kernel: Any = self.param("recurrent", nn.with_logical_partitioning(spread, blocks), shape)
        start = nn.with_logical_partitioning(_forgetting(2), (None, "mlp"))
        bias: Any = self.param("bias", start, (4, self.width))
        names = ("embed", None, "mlp")
        into = Linear((4, self.width), names, bias=False, dtype=self.dtype, name="input")
        inputs = into(x).astype(jnp.float32) + bias[None, None]

        def point(small: Small, given: Array, carry: Carry, product: Array) -> Carry:
            _, cell, normalizer, scale = carry
            gates = given + product.astype(jnp.float32)
            enter, log_forget = gates[:, 1], self.log_forget(gates[:, 2])
            # Where nothing is remembered yet its scale is 0, m = -inf.
            log_old = log_forget + jax.lax.stop_gradient(scale)
            scale = jnp.where(normalizer == 0, enter, jnp.maximum(log_old, enter))
            scale = jax.lax.stop_gradient(scale)
            log_old = jnp.where(normalizer == 0, -jnp.inf, log_old - scale)
            old = jnp.exp(log_old)
            new = jnp.exp(enter - scale)
            cell = old * cell + new * jnp.tanh(gates[:, 0])
            normalizer = old * normalizer + new
            hidden = jax.nn.sigmoid(gates[:, 3]) * cell / normalizer
            return hidden.astype(self.dtype), cell, normalizer, scale

        y, carry = recur(
            point, self.unroll, jnp.asarray(kernel, self.dtype), {}, time_major(inputs), carry,
            time_major(marks or Marks()), None,
        )  # fmt: skip
        return time_major(y), carry


def _scales(log_forget: Gates, enter: Gates, before: Array, marks: Marks | None) -> Gates:
    """m_t = max(log f_t + m_{t-1}, log i_t), equation 15, at all steps.

    (a, b) stand for m -> max(a + m, b), which makes another such pair of two.
    """
    if marks is not None and marks.begins is not None:
        # Before a text m is 0, as in a carry of zeros.
        fresh = jnp.maximum(log_forget, enter)
        enter = jnp.where(marks.begins[..., None], fresh, enter)
    log_forget = kept(log_forget, marks, logarithm=True)
    enter = added(enter, marks, logarithm=True)
    if marks is not None and marks.begins is not None and marks.reads is not None:
        unread = marks.begins & ~marks.reads
        enter = jnp.where(unread[..., None], 0.0, enter)
    enter = enter.at[:, 0].set(jnp.maximum(log_forget[:, 0] + before, enter[:, 0]))

    def composed(first: tuple[Array, Array], second: tuple[Array, Array]) -> tuple[Array, Array]:
        return second[0] + first[0], jnp.maximum(second[0] + first[1], second[1])

    return jax.lax.associative_scan(composed, (log_forget, enter), axis=1)[1]


def _forgetting(place: int) -> Any:
    """Biases, 0 but for the forget gates' evenly from 3 to 6, as the authors' own code begins."""

    def initializer(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jnp.zeros(shape, dtype).at[place].set(jnp.linspace(3.0, 6.0, shape[1], dtype=dtype))

    return initializer
