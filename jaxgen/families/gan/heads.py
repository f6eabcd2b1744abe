"""What a discriminator says in the end: its last layers, from features (batch, channels).

A head is a module `(features, label, train) -> Judgement`, float32 throughout. Kernels are
spectrally normalized unless told otherwise.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.families.gan.parts import Judgement, Label
from jaxgen.nn.linear import Linear
from jaxgen.nn.spectral_norm import SpectralEmbedding, SpectralLinear

Features = Float[Array, "batch channels"]

XAVIER = nn.initializers.xavier_uniform()


class LogitHead(nn.Module):
    """One logit, linear in the features; labels are not looked at.

    spectral: normalizes the kernel.
    """

    spectral: bool = True

    @nn.compact
    def __call__(
        self, features: Features, label: Label | None = None, *, train: bool = False
    ) -> Judgement:
        """The logit of each row."""
        return Judgement(_linear(features, 1, "logit", self.spectral, train)[:, 0])


class ProjectionHead(nn.Module):
    """A logit plus the features' projection on a vector of the class: ψ(φ) + v_y · φ.

    Miyato & Koyama 2018, "cGANs with Projection Discriminator", equation 4 (its V is normalized as
    the layers are). Two labels' logits for one picture differ by (v_a - v_b) · φ.

    classes: how many vectors; spectral: normalizes kernel and vectors.
    """

    classes: int
    spectral: bool = True

    @nn.compact
    def __call__(
        self, features: Features, label: Label | None = None, *, train: bool = False
    ) -> Judgement:
        """The logit of each row, given its label; `UserError` without labels."""
        if label is None:
            raise UserError(
                f"A projection on {self.classes} classes needs a label for each row: give the game "
                "its classes, or take another head."
            )
        logit = _linear(features, 1, "logit", self.spectral, train)[:, 0]
        width = features.shape[-1]
        if self.spectral:
            vectors = SpectralEmbedding(self.classes, width, XAVIER, name="classes")
            of_label = vectors(label, train=train)
        else:
            named = nn.with_logical_partitioning(XAVIER, (None, "channels_out"))
            table: Any = self.param("classes", named, (self.classes, width))
            of_label = table[label]
        return Judgement(logit + jnp.sum(of_label * features.astype(jnp.float32), axis=-1))


class ClassifierHead(nn.Module):
    """A logit, and beside it those of the class, for all labels alike.

    The auxiliary classifier of Odena et al. 2017, "Conditional Image Synthesis with Auxiliary
    Classifier GANs", equations 2 and 3; the game adds its cross entropy to both losses.

    classes: how many; spectral: normalizes both kernels.
    """

    classes: int
    spectral: bool = True

    @nn.compact
    def __call__(
        self, features: Features, label: Label | None = None, *, train: bool = False
    ) -> Judgement:
        """The logit and the class logits of each row."""
        return Judgement(
            _linear(features, 1, "logit", self.spectral, train)[:, 0],
            _linear(features, self.classes, "class_logits", self.spectral, train),
        )


def _linear(features: Features, outputs: int, name: str, spectral: bool, train: bool) -> Array:
    wide = features.astype(jnp.float32)
    if spectral:
        return SpectralLinear(outputs, XAVIER, name=name)(wide, train=train)
    return Linear((outputs,), ("channels_in", "channels_out"), initializer=XAVIER, name=name)(wide)
