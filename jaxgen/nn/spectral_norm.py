"""Layers whose largest singular value is held at 1: spectral normalization.

Miyato et al. 2018, "Spectral Normalization for Generative Adversarial Networks". Flax has one of
its own, around any layer: it can't read parameters that are boxed with logical axis names, and it
iterates again wherever the layer is called. Here the vectors stand still unless one trains.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.nn.convolution import Picture
from jaxgen.parallel.sharding import gathered

Kernel = Float[Array, "*taken outputs"]

BEGINNING = 15  # iterations at initialization; then one a step is enough, as kernels change slowly


class SpectralNorm(nn.Module):
    """A kernel divided by its largest singular value σ, by power iteration (their algorithm 1).

    The kernel is a matrix of all inputs by the outputs. Its first singular vectors, "inward"
    (inputs,) and "outward" (outputs,), live in the collection "spectral" and are constants to the
    gradient, which goes through σ = inward·kernel·outward (their equation 12).

    epsilon: added to lengths before they divide.
    """

    epsilon: float = 1e-12

    @nn.compact
    def __call__(self, kernel: Kernel, *, train: bool = False) -> Kernel:
        """The kernel / σ; with `train` after one more iteration, which is kept where it may be."""
        matrix = kernel.reshape(-1, kernel.shape[-1]).astype(jnp.float32)
        fixed = jax.lax.stop_gradient(matrix)

        def iterated(outward: Array) -> tuple[Array, Array]:
            inward = self._unit(_product(fixed, outward))
            return inward, self._unit(_product(inward, fixed))

        def begun() -> Array:
            start = jax.random.normal(self.make_rng("params"), (matrix.shape[1],))
            return jax.lax.fori_loop(
                0, BEGINNING, lambda _, outward: iterated(outward)[1], self._unit(start)
            )

        outward = self.variable("spectral", "outward", begun)
        inward = self.variable("spectral", "inward", lambda: iterated(outward.value)[0])
        first, last = inward.value, outward.value
        if train and not self.is_initializing():
            first, last = iterated(outward.value)
            if self.is_mutable_collection("spectral"):
                inward.value, outward.value = first, last
        sigma = _product(_product(first, matrix), last)
        return kernel / sigma.astype(kernel.dtype)

    def _unit(self, vector: Float[Array, "entries"]) -> Float[Array, "entries"]:
        return vector / (jnp.linalg.norm(vector) + self.epsilon)


def _product(one: Array, other: Array) -> Array:
    # Shorter products, as accelerators take by default, would move σ by up to a thousandth.
    return jnp.dot(one, other, precision=jax.lax.Precision.HIGHEST)


class SpectralConvolution(nn.Module):
    """A convolution that keeps the resolution, its kernel spectrally normalized.

    kernel: pixels wide and high; odd.
    initializer: of the kernel, before it is normalized.
    dtype: of the computation; parameters stay float32.
    """

    features: int
    kernel: int = 3
    initializer: Any = nn.initializers.lecun_normal()
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, picture: Picture, *, train: bool = False
    ) -> Float[Array, "batch height width {self.features}"]:
        """Convolves; with `train` the estimate of the singular value is improved."""
        names = (None, None, "channels_in", "channels_out")
        shape = (self.kernel, self.kernel, picture.shape[-1], self.features)
        kernel, bias = _weights(self, self.initializer, names, shape)
        normal = SpectralNorm(name="norm")(kernel, train=train)
        answer = jax.lax.conv_general_dilated(
            picture.astype(self.dtype),
            normal.astype(self.dtype),
            (1, 1),
            [(self.kernel // 2, self.kernel // 2)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return answer + bias.astype(self.dtype)[None, None, None]


class SpectralLinear(nn.Module):
    """A linear map of the last axis, its kernel spectrally normalized; always float32."""

    features: int
    initializer: Any = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch taken"], *, train: bool = False
    ) -> Float[Array, "batch {self.features}"]:
        """Maps each row; with `train` the estimate of the singular value is improved."""
        names = ("channels_in", "channels_out")
        kernel, bias = _weights(self, self.initializer, names, (x.shape[-1], self.features))
        return x @ SpectralNorm(name="norm")(kernel, train=train) + bias[None]


class SpectralEmbedding(nn.Module):
    """A vector for each class, their matrix spectrally normalized; always float32.

    classes: rows; features: entries of each.
    """

    classes: int
    features: int
    initializer: Any = nn.initializers.normal(1.0)

    @nn.compact
    def __call__(
        self, label: Int[Array, "batch"], *, train: bool = False
    ) -> Float[Array, "batch {self.features}"]:
        """The labels' vectors; with `train` the estimate of the singular value is improved."""
        named = nn.with_logical_partitioning(self.initializer, (None, "channels_out"))
        table: Any = self.param("table", named, (self.classes, self.features))
        return SpectralNorm(name="norm")(table, train=train)[label]


def _weights(
    module: nn.Module, initializer: Any, names: tuple[str | None, ...], shape: tuple[int, ...]
) -> tuple[Array, Array]:
    kernel: Any = module.param(
        "kernel", nn.with_logical_partitioning(initializer, names), shape, jnp.float32
    )
    zeros = nn.with_logical_partitioning(nn.initializers.zeros, names[-1:])
    bias: Any = module.param("bias", zeros, shape[-1:], jnp.float32)
    return gathered(kernel, names), bias
