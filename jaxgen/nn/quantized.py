"""Training with matrix products of 8-bit numbers, by Qwix (https://github.com/google/qwix).

A product y = x·kernel is worked out on rounded numbers. Each row r of x and each column c of the
kernel has a scale of its own, so that its largest magnitude becomes the largest of the format:

    y[r, c] = scale[r] · scale[c] · Σ_i round(x[r, i] / scale[r]) · round(kernel[i, c] / scale[c])

The gradient takes rounding for the identity (the straight-through estimator, Bengio et al. 2013),
and its own two products are rounded as well: the slope that comes in is, and meets what the forward
pass rounded. Parameters, optimizer and all that isn't a product stay as they were: the network that
comes out has the same parameters as the one that went in.

Formats: int8 throughout (Banner et al. 2018, "Scalable methods for 8-bit training of neural
networks"), or floating-point e4m3 forwards and the wider e5m2 for slopes (Micikevicius et al. 2022,
"FP8 formats for deep learning").
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Sequence
from typing import Any, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError

Network = TypeVar("Network", bound=nn.Module)

# Layers that decide much and cost little, by their paths: a mixture's router, an untied head, and
# the first and last convolutions of a U-Net.
LEFT_OUT = (r".*router", r"head", r"first", r"last")


def in_int8(network: Network, left_out: Sequence[str] = LEFT_OUT) -> Network:
    """The network with its products and their gradients in int8: half the size of bfloat16.

    That is `Linear`, the projections of attention and the convolutions, in all methods of the
    network. Products of activations with each other (attention's scores and averages), scores by
    the tokens' embedding, low-rank adapters and a mixture's experts stay as they are.

    Args:
        network: any Linen module, not bound to parameters.
        left_out: regular expressions; a layer whose whole path ("blocks/mlp/up") fits one isn't
            touched.

    Raises:
        UserError: if Qwix isn't installed.
    """
    return _quantized(network, left_out, jnp.int8, jnp.int8)


def in_float8(network: Network, left_out: Sequence[str] = LEFT_OUT) -> Network:
    """The network with its products in float8_e4m3fn and their slopes in float8_e5m2.

    As `in_int8`, but that convolutions stay as they are too: jax's take numbers of one format.
    """
    matrices = ("dot_general",)
    return _quantized(network, left_out, jnp.float8_e4m3fn, jnp.float8_e5m2, matrices)


def _quantized(
    network: Network,
    left_out: Sequence[str],
    forward: Any,
    backward: Any,
    operations: Sequence[str] = (),  # all
) -> Network:
    try:
        import qwix  # Here, for it brings flax.nnx with it.
    except ImportError as error:
        raise UserError(
            "Quantized training needs Qwix: install jaxgen[quantized], or qwix itself."
        ) from error

    class Products(qwix.QtProvider):
        """What stands in for the operations of layers while the network is traced."""

        def get_intercept_map(self) -> dict[str, Any]:
            # Qwix would also take every jax.lax.dot_general that it meets. It meets them inside
            # functions that jax traces once and remembers, such as jnp.dot: other networks of the
            # same process would then get the rounded product without having asked.
            every = super().get_intercept_map()
            for name in ("jax.lax.dot_general", "jax.numpy.einsum", "jax.lax.ragged_dot"):
                del every[name]
            return every | {"jaxgen.nn.linear.product": self.product}

        def product(
            self, x: Float[Array, "rows inputs"], kernel: Float[Array, "inputs outputs"]
        ) -> Float[Array, "rows outputs"]:
            # Qwix tells weights by their shape where it can't trace them back: with two axes more,
            # no x has that of a kernel.
            numbers = (((3,), (0,)), ((), ()))
            return self.dot_general(x[None, None], kernel, numbers)[0, 0].astype(x.dtype)

    _warn_unless_fast(jnp.dtype(forward))
    rules = [qwix.QtRule(module_path=path) for path in left_out]
    rules.append(
        qwix.QtRule(
            op_names=operations, weight_qtype=forward, act_qtype=forward, bwd_qtype=backward
        )
    )
    made: Network = qwix.quantize_model(network, Products(rules), methods=_methods(type(network)))
    return made


def _methods(kind: type[nn.Module]) -> list[str]:
    # All by which one could come in from outside. The others are reached through these.
    return sorted(
        {
            name
            for ancestor in kind.__mro__
            if issubclass(ancestor, nn.Module) and ancestor is not nn.Module
            for name, value in vars(ancestor).items()
            if isinstance(value, types.FunctionType)
            and (name == "__call__" or not (name.startswith("_") or hasattr(nn.Module, name)))
        }
    )


def _warn_unless_fast(format: jnp.dtype) -> None:
    here: Any = jax.devices()[0]
    # A mesh in use may describe devices that this host doesn't have.
    device: Any = jax.sharding.get_abstract_mesh().abstract_device or here
    capability = float(getattr(here, "compute_capability", 0))
    if not has_products(format, device.platform, device.device_kind, capability):
        warnings.warn(
            f"{device.device_kind} has no products of {format.name} of its own: the numbers are "
            "right, but nothing gets faster.",
            stacklevel=4,
        )


def has_products(format: jnp.dtype, platform: str, kind: str, capability: float) -> bool:
    """Whether a device's units multiply 8-bit numbers faster than bfloat16.

    int8: NVIDIA GPUs since Turing (compute capability 7.5), TPUs since v5e. float8: NVIDIA GPUs
    since Ada (8.9), TPUs since 7x.

    platform, kind: the device's `platform` and `device_kind`.
    capability: an NVIDIA GPU's compute capability.
    """
    integer = jnp.issubdtype(format, jnp.integer)
    if platform == "tpu":
        older = ("TPU v2", "TPU v3", "TPU v4")
        return not kind.startswith(older if integer else (*older, "TPU v5", "TPU v6"))
    return platform in ("gpu", "cuda") and capability >= (7.5 if integer else 8.9)
