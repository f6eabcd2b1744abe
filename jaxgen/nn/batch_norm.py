"""Batch normalization whose scale and shift may depend on the class."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxgen.errors import UserError
from jaxgen.nn.convolution import Picture


class ConditionalBatchNorm(nn.Module):
    """Batch normalization (Ioffe & Szegedy 2015) with a scale and a shift for each class.

    Dumoulin et al. 2017, "A Learned Representation for Artistic Style", section 2.2; de Vries et
    al. 2017. The statistics are of all classes together.

    classes: 0 has one scale and shift for all, which is plain batch normalization.
    momentum: of the running statistics, what stays of them each step.
    epsilon: added to the variance.
    dtype: of the answer; statistics and parameters are float32.
    """

    classes: int = 0
    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, picture: Picture, label: Int[Array, "batch"] | None = None, *, train: bool = False
    ) -> Picture:
        """Normalizes by the batch's statistics, or by the running ones unless `train`.

        Raises `UserError` without labels where there are classes.
        """
        rows = (self.classes,) if self.classes else ()
        names = (*(None for _ in rows), "channels_out")
        shape = (*rows, picture.shape[-1])
        scale: Any = self.param(
            "scale", nn.with_logical_partitioning(nn.initializers.ones, names), shape
        )
        shift: Any = self.param(
            "shift", nn.with_logical_partitioning(nn.initializers.zeros, names), shape
        )
        normal = nn.BatchNorm(
            not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            use_bias=False,
            use_scale=False,
            name="statistics",
        )(picture.astype(jnp.float32))
        if self.classes:
            if label is None:
                raise UserError(
                    f"A normalization for {self.classes} classes needs a label for each picture: "
                    "pass labels, or build the network without classes."
                )
            scale, shift = scale[label][:, None, None], shift[label][:, None, None]
        else:
            scale, shift = scale[None, None, None], shift[None, None, None]
        return (normal * scale + shift).astype(self.dtype)
