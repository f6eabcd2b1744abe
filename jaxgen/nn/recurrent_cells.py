"""The classic recurrent layers: Elman's, the LSTM in its variants, and the GRU.

Gates are an axis of their own in every kernel, (inputs, gates, width). The inputs' products are
taken for the whole sequence at once, before the loop; only hidden·kernel is in it.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.nn.recurrence import Carry, Marks, Point, Small, recur, time_major
from jaxgen.parallel.sharding import gathered

Sequence = Float[Array, "batch time features"]
Outputs = Float[Array, "batch time width"]


def _orthogonal(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """An orthogonal matrix for each gate, so that what is remembered neither grows nor fades."""
    hidden, gates, width = shape
    square = nn.initializers.orthogonal()
    each = [square(part, (hidden, width), dtype) for part in jax.random.split(key, gates)]
    return jnp.stack(each, axis=1)


class _Gated(nn.Module):
    """What the layers below have in common: their kernels, and the way through a sequence.

    width: numbers in the output, and in the memory.
    zoneout: the share of numbers that a step leaves as they were (Krueger et al. 2017); without
        training their mean is taken.
    recurrent_dropout: the share of hidden numbers that a row's steps don't see, the same ones at
        all steps (Gal & Ghahramani 2016).
    unroll: steps of the loop that are compiled side by side.
    dtype: of products; gates and memory are float32.
    """

    width: int
    zoneout: float = 0.0
    recurrent_dropout: float = 0.0
    unroll: int = 4
    dtype: Any = jnp.float32

    def initial(self, batch: int) -> Carry:
        """Zeros."""
        return (jnp.zeros((batch, self.width), self.dtype),)

    def kernel(self, name: str, inputs: int, gates: int, initializer: Any) -> Array:
        """A parameter (inputs, gates, width)."""
        names = ("embed", None, "mlp")
        boxed = nn.with_logical_partitioning(initializer, names)
        made: Any = self.param(name, boxed, (inputs, gates, self.width))
        return gathered(jnp.asarray(made, self.dtype), names)

    def vectors(self, name: str, gates: int, initializer: Any = nn.initializers.zeros) -> Array:
        """A float32 parameter (gates, width)."""
        boxed = nn.with_logical_partitioning(initializer, (None, "mlp"))
        made: Any = self.param(name, boxed, (gates, self.width))
        return made

    def through(
        self,
        point: Point,
        kernel: Array,
        small: Small,
        inputs: Any,
        carry: Carry,
        marks: Marks | None,
        deterministic: bool,
    ) -> tuple[Outputs, Carry]:
        """All steps; `inputs` are (batch, time, ...), the zoneout's masks not yet among them."""
        batch, time = jax.tree.leaves(inputs)[0].shape[:2]
        mask = None
        if self.recurrent_dropout and not deterministic:
            keep = 1 - self.recurrent_dropout
            kept = jax.random.bernoulli(self.make_rng("dropout"), keep, (batch, kernel.shape[0]))
            mask = kept.astype(self.dtype) / keep
        if self.zoneout:
            point = _zoned_out(point)
            inputs = (inputs, tuple(self._moved(leaf, time, deterministic) for leaf in carry))
        y, carry = recur(
            point, self.unroll, kernel, small, time_major(inputs), carry,
            time_major(marks or Marks()), mask,
        )  # fmt: skip
        return time_major(y), carry

    def _moved(self, leaf: Array, time: int, deterministic: bool) -> Array:
        """How much of each number a step moves, (batch, time, numbers or 1)."""
        moves = 1 - self.zoneout
        if deterministic:
            return jnp.full((len(leaf), time, 1), moves)
        shape = (len(leaf), time, *leaf.shape[1:])
        return jax.random.bernoulli(self.make_rng("dropout"), moves, shape).astype(jnp.float32)


def _zoned_out(point: Point) -> Point:
    """The same cell, of whose carry only a part moves; inputs are (the cell's, what moves)."""

    def zoned(small: Small, inputs: Any, carry: Carry, product: Array) -> Carry:
        own, shares = inputs
        new = point(small, own, carry, product)
        return tuple(
            (share * after + (1 - share) * before).astype(before.dtype)
            for share, after, before in zip(shares, new, carry, strict=True)
        )

    return zoned


class Elman(_Gated):
    """h = tanh(x·W + h·U + b) (Elman 1990)."""

    @nn.compact
    def __call__(
        self,
        x: Sequence,
        carry: Carry | None = None,
        marks: Marks | None = None,
        deterministic: bool = True,
    ) -> tuple[Outputs, Carry]:
        """Every step's hidden vector, and the last."""
        carry = self.initial(len(x)) if carry is None else carry
        weights = self.kernel("input", x.shape[-1], 1, nn.initializers.lecun_normal(0, (1, 2)))
        kernel = self.kernel("recurrent", self.width, 1, _orthogonal)
        inputs = _shifted(_products(x, weights), self.vectors("bias", 1))

        def point(small: Small, given: Array, carry: Carry, product: Array) -> Carry:
            return (jnp.tanh(given + product)[:, 0].astype(self.dtype),)

        return self.through(point, kernel, {}, inputs, carry, marks, deterministic)


class LSTM(_Gated):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; forget gates, Gers et al. 2000).

    The carry is (hidden (batch, projection or width), cell (batch, width)). The order of gates is
    input, forget, candidate, output.

    peepholes: gates see the cell (Gers et al. 2002).
    projection: the hidden vector is a linear map of width to so many numbers (Sak et al. 2014).
    normalized: layer norms on both products and on the cell (Ba et al. 2016, equations 20 to 22).
    forget_bias: the forget gate's bias begins there (Jozefowicz et al. 2015).
    """

    peepholes: bool = False
    projection: int | None = None
    normalized: bool = False
    forget_bias: float = 1.0

    def initial(self, batch: int) -> Carry:
        """Zeros."""
        hidden = self.width if self.projection is None else self.projection
        return (jnp.zeros((batch, hidden), self.dtype), jnp.zeros((batch, self.width)))

    @nn.compact
    def __call__(
        self,
        x: Sequence,
        carry: Carry | None = None,
        marks: Marks | None = None,
        deterministic: bool = True,
    ) -> tuple[Outputs, Carry]:
        """Every step's hidden vector, and the last one with its cell."""
        carry = self.initial(len(x)) if carry is None else carry
        weights = self.kernel("input", x.shape[-1], 4, nn.initializers.lecun_normal(0, (1, 2)))
        kernel = self.kernel("recurrent", carry[0].shape[-1], 4, _orthogonal)
        small: dict[str, Array] = {}
        products = _products(x, weights)
        if self.normalized:
            ones = nn.initializers.ones
            products = _scaled(_normal(products, (2, 3)), self.vectors("input_scale", 4, ones))
            small |= {"hidden": self.vectors("hidden_scale", 4, ones),
                      "cell": self.vectors("cell_scale", 1, ones)[0],
                      "shift": self.vectors("cell_bias", 1)[0]}  # fmt: skip
        if self.peepholes:
            small["peephole"] = self.vectors("peephole", 3)
        if self.projection is not None:
            names = ("mlp", "embed")
            initializer = nn.with_logical_partitioning(nn.initializers.lecun_normal(), names)
            shape = (self.width, self.projection)
            projection: Any = self.param("projection", initializer, shape)
            small["projection"] = gathered(projection, names)
        inputs = _shifted(products, self.vectors("bias", 4, _forgetting(self.forget_bias)))

        def point(small: Small, given: Array, carry: Carry, product: Array) -> Carry:
            cell = carry[1]
            product = product.astype(jnp.float32)
            if self.normalized:
                product = _scaled(_normal(product, (1, 2)), small["hidden"])
            gates = given + product
            if self.peepholes:
                gates = gates.at[:, :2].add(small["peephole"][None, :2] * cell[:, None])
            enter, forget = (jax.nn.sigmoid(gates[:, i]) for i in (0, 1))
            cell = forget * cell + enter * jnp.tanh(gates[:, 2])
            leave = gates[:, 3]
            if self.peepholes:
                leave = leave + _scaled(cell, small["peephole"][2])
            shown = cell
            if self.normalized:
                shown = _shifted(_scaled(_normal(cell, (1,)), small["cell"]), small["shift"])
            hidden = jax.nn.sigmoid(leave) * jnp.tanh(shown)
            if self.projection is not None:
                hidden = hidden @ small["projection"]
            return hidden.astype(self.dtype), cell

        return self.through(point, kernel, small, inputs, carry, marks, deterministic)


class GRU(_Gated):
    """The gated recurrent unit (Cho et al. 2014), with the reset gate after the product.

    h' = (1 - z)·tanh(x·W + b + r·(h·U + c)) + z·h, as cuDNN and PyTorch compute it: h·U is one
    product for all gates. The order of gates is reset, update, candidate.
    """

    @nn.compact
    def __call__(
        self,
        x: Sequence,
        carry: Carry | None = None,
        marks: Marks | None = None,
        deterministic: bool = True,
    ) -> tuple[Outputs, Carry]:
        """Every step's hidden vector, and the last."""
        carry = self.initial(len(x)) if carry is None else carry
        weights = self.kernel("input", x.shape[-1], 3, nn.initializers.lecun_normal(0, (1, 2)))
        kernel = self.kernel("recurrent", self.width, 3, _orthogonal)
        small = {"bias": self.vectors("candidate_bias", 1)[0]}
        inputs = _shifted(_products(x, weights), self.vectors("bias", 3))

        def point(small: Small, given: Array, carry: Carry, product: Array) -> Carry:
            product = product.astype(jnp.float32)
            reset, update = (jax.nn.sigmoid(given[:, i] + product[:, i]) for i in (0, 1))
            candidate = jnp.tanh(given[:, 2] + reset * _shifted(product[:, 2], small["bias"]))
            hidden = (1 - update) * candidate + update * carry[0].astype(jnp.float32)
            return (hidden.astype(self.dtype),)

        return self.through(point, kernel, small, inputs, carry, marks, deterministic)


def _products(x: Sequence, weights: Array) -> Float[Array, "batch time gates width"]:
    """x·W for a whole sequence, as float32."""
    rows = x.astype(weights.dtype).reshape(-1, x.shape[-1])
    made = jnp.dot(rows, weights.reshape(len(weights), -1)).astype(jnp.float32)
    return made.reshape(*x.shape[:2], *weights.shape[1:])


def _shifted(x: Array, by: Array) -> Array:
    return x + jnp.expand_dims(by, range(x.ndim - by.ndim))


def _scaled(x: Array, by: Array) -> Array:
    return x * jnp.expand_dims(by, range(x.ndim - by.ndim))


def _normal(x: Array, axes: tuple[int, ...], epsilon: float = 1e-5) -> Array:
    """Mean 0 and variance 1 over some axes."""
    centred = x - x.mean(axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(axes, keepdims=True) + epsilon)


def _forgetting(bias: float) -> Any:
    def initializer(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jnp.zeros(shape, dtype).at[1].set(bias)

    return initializer
