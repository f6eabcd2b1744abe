"""S5: a diagonal linear state space with many inputs and outputs (Smith et al. 2023).

"Simplified State Space Layers for Sequence Modeling". The state's dynamics begin
as those of the HiPPO-N matrix, whose eigenvalues come in conjugate pairs; one of each pair is kept.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Complex, Float

from jaxgen.errors import UserError
from jaxgen.nn.linear import Linear
from jaxgen.nn.linear_scan import added, kept, linear_scan
from jaxgen.nn.mlp import gelu
from jaxgen.nn.recurrence import Carry, Marks
from jaxgen.parallel.sharding import gathered

Sequence = Float[Array, "batch time width"]
Matrix = Float[np.ndarray, "states states"]


class StateSpace(nn.Module):
    """y_t = 2·Re(C·h_t) + D·x_t, h_t = Λ̄·h_{t-1} + B̄·x_t, the paper's section 3.

    Zero-order hold with a step Δ of each state's own: Λ̄ = exp(Λ·Δ), B̄ = Λ⁻¹·(Λ̄ - 1)·B. The real
    parts of Λ are kept as the logarithm of their opposites, so that nothing grows (Gu et al. 2022,
    S4D, section 3.1). The carry is the real and the imaginary parts of h_t, float32 (batch,
    states / 2).

    width: of input and output; `UserError` for another input.
    states: real numbers in the state, two for each eigenvalue that is kept.
    blocks: HiPPO-N matrices that the dynamics begin as; `UserError` unless each is of an even size.
    gated: puts the layer's nonlinearity behind it, u = GELU(y), u·σ(W·u + b).
    shortest, longest: at the start log Δ lies evenly between theirs.
    dtype: of products; the state is float32.
    """

    width: int
    states: int
    blocks: int = 1
    gated: bool = True
    shortest: float = 0.001
    longest: float = 0.1
    dtype: Any = jnp.float32

    def initial(self, batch: int) -> Carry:
        """Zeros."""
        return (jnp.zeros((batch, self.states // 2)), jnp.zeros((batch, self.states // 2)))

    @nn.compact
    def __call__(
        self,
        x: Sequence,
        carry: Carry | None = None,
        marks: Marks | None = None,
        deterministic: bool = True,
    ) -> tuple[Sequence, Carry]:
        """Every step's output, and the last state."""
        self._check(x.shape[-1])
        real, imaginary = self.initial(len(x)) if carry is None else carry
        eigenvalues, steps = self._dynamics()
        # B and C in one real product each: complex numbers are two real ones beside each other.
        half = self.states // 2
        into = Linear(
            (2, half), ("embed", None, "mlp"), 1, False, self._input, self.dtype, name="input"
        )
        parts = into(x).astype(jnp.float32)
        held = jnp.expm1(eigenvalues * steps) / eigenvalues
        addition = jax.lax.complex(parts[:, :, 0], parts[:, :, 1]) * held[None, None]
        decay = jnp.broadcast_to(jnp.exp(eigenvalues * steps)[None, None], addition.shape)
        before = jax.lax.complex(real, imaginary)
        states = linear_scan(kept(decay, marks), added(addition, marks), before)
        # 2·Re(C·h) = 2·(Re C·Re h - Im C·Im h).
        parts = 2 * jnp.stack([states.real, -states.imag], axis=2)
        out = Linear(
            (self.width,), (None, "mlp", "embed"), 2, False, self._output, self.dtype, name="output"
        )
        named = nn.with_logical_partitioning(nn.initializers.normal(1.0), ("embed",))
        through: Any = self.param("through", named, (self.width,))  # D
        x = x.astype(self.dtype)
        through = gathered(jnp.asarray(through, self.dtype), ("embed",))
        y = out(parts) + through[None, None] * x
        if self.gated:
            y = gelu(y)
            names = ("embed", "mlp")
            y = y * jax.nn.sigmoid(Linear((self.width,), names, dtype=self.dtype, name="gate")(y))
        last = states[:, -1]
        return y, (last.real, last.imag)

    def _check(self, features: int) -> None:
        if features != self.width:
            raise UserError(
                f"A state space of width {self.width} can't take in {features} numbers a step: "
                "make both the same."
            )
        if self.states % (2 * self.blocks):
            raise UserError(
                f"{self.states} states can't be cut into {self.blocks} blocks of an even size: "
                f"take a multiple of {2 * self.blocks}."
            )

    def _dynamics(self) -> tuple[Complex[Array, "half"], Float[Array, "half"]]:
        """Λ and Δ."""
        half = self.states // 2
        frequencies = np.tile(diagonalized(self.states // self.blocks)[0].imag, self.blocks)
        # Every eigenvalue of HiPPO-N has the real part -1/2.
        decays: Any = self.param(
            "log_decay",
            nn.with_logical_partitioning(nn.initializers.constant(math.log(0.5)), ("mlp",)),
            (half,),
        )
        turns: Any = self.param(
            "frequency",
            nn.with_logical_partitioning(
                lambda key, shape, dtype=jnp.float32: jnp.asarray(frequencies, dtype), ("mlp",)
            ),
            (half,),
        )

        def evenly(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
            ends = math.log(self.shortest), math.log(self.longest)
            return jax.random.uniform(key, shape, dtype, *ends)

        log_steps: Any = self.param(
            "log_step", nn.with_logical_partitioning(evenly, ("mlp",)), (half,)
        )
        return jax.lax.complex(-jnp.exp(decays), turns), jnp.exp(log_steps)

    def _input(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """V⁻¹·B for a random real B, V the eigenvectors; (width, real parts and imaginary)."""
        drawn = nn.initializers.lecun_normal()(key, (shape[0], self.states), dtype)
        return self._turned(drawn, inverse=True).reshape(shape)

    def _output(self, key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
        """C·V for a random real C; (real parts and imaginary, width)."""
        drawn = nn.initializers.lecun_normal()(key, (self.states, shape[1]), dtype).T
        return self._turned(drawn, inverse=False).reshape(shape[1], -1).T

    def _turned(self, drawn: Array, inverse: bool) -> Array:
        """Each row, in its blocks, into the eigenvectors' basis: (rows, 2, half)."""
        vectors = diagonalized(self.states // self.blocks)[1]
        vectors = vectors.conj() if inverse else vectors
        apart = drawn.reshape(len(drawn), self.blocks, -1)
        made = [
            jnp.einsum("rbs,sh->rbh", apart, jnp.asarray(part, drawn.dtype))
            for part in (vectors.real, vectors.imag)
        ]
        return jnp.stack([part.reshape(len(drawn), -1) for part in made], axis=1)


def hippo_normal(states: int) -> Matrix:
    """HiPPO-N, the normal part of HiPPO-LegS (Gu et al. 2022, S4, theorem 1).

    -1/2 on the diagonal, and off it ∓√(n + 1/2)·√(k + 1/2), minus below.
    """
    root = np.sqrt(np.arange(states) + 0.5)
    product = np.outer(root, root)
    return np.triu(product, 1) - np.tril(product, -1) - 0.5 * np.eye(states)


def diagonalized(
    states: int,
) -> tuple[Complex[np.ndarray, "half"], Complex[np.ndarray, "states half"]]:
    """Eigenvalues of HiPPO-N above the real axis, and their orthonormal eigenvectors."""
    # A normal matrix: -1/2 plus a skew-symmetric one, i times which is Hermitian.
    skew = hippo_normal(states) + 0.5 * np.eye(states)
    turns, vectors = np.linalg.eigh(-1j * skew)
    above = turns > 0
    return -0.5 + 1j * turns[above], vectors[:, above]
