"""A hierarchical VAE that infers from the top down: up the picture once, then down through z.

Papers: Child 2020, "Very Deep VAEs" (arXiv 2011.10650); the order of inference is that of Sønderby
et al. 2016, "Ladder Variational Autoencoders" (arXiv 1602.02282).

    p(z) = Π p(z_i | z_<i),    q(z | x) = Π q(z_i | z_<i, x),    i from 1×1 down to the finest

Encoder activations of each size stay where they are until the decoder comes by; there a group
compares them with its own state, so that prior and posterior share everything above.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.errors import UserError
from jaxgen.experiment import Key
from jaxgen.families.vae.hierarchical_blocks import (
    Draw,
    Picture,
    Posterior,
    Residual,
    StochasticGroup,
    Temperature,
    relative,
    stacked,
)
from jaxgen.nn.convolution import convolution
from jaxgen.nn.resampling import averaged, enlarged, folded, unfolded

Activations = tuple[Float[Array, "batch _ _ _"], ...]  # of each level, the finest first


@flax.struct.dataclass
class Descent:
    """One way down the decoder.

    outputs: (batch, height, width, numbers), the parameters of each pixel's likelihood.
    draws: a tuple of `Draw`s, one for each level that has groups, the topmost first; their leaves
        are stacked, (groups, batch, height, width, latent).
    """

    outputs: Any
    draws: Any


class HierarchicalVAE(nn.Module):
    """Square pictures, halved (or more) from level to level, with groups of latents at each.

    outputs: numbers for each pixel that the likelihood asks for.
    sizes: height and width at each level, the finest first, each dividing the one before.
    widths: channels of the states at each level.
    groups: of latent variables at each level; a level may have none.
    blocks: residual blocks of the encoder at each level.
    patch: squares of so many pixels a side are one place of the finest level: 1 is VDVAE's; 2
        spares the level that costs most.
    latent: channels of a group's latent variable.
    bottleneck: width inside a residual branch, as a share of the state's.
    posterior: `relative` to the prior (NVAE's), which it follows as that moves, or `absolute`
        (VDVAE's).
    learned: between levels, each place of a square has weights of its own, so that a latent at 1×1
        can say what goes where; otherwise means and copies of pixels, as VDVAE has them.
    unroll: write the groups and blocks of a level out, which CPUs need; accelerators compile a
        deep network sooner as a loop.
    dtype: of the convolutions; parameters, Gaussians and outputs are float32.
    """

    outputs: int
    sizes: Sequence[int]
    widths: Sequence[int]
    groups: Sequence[int]
    blocks: int = 1
    patch: int = 1
    latent: int = 8
    bottleneck: float = 0.5
    posterior: Posterior = relative
    learned: bool = True
    unroll: bool = True
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Checks that the levels fit each other."""
        check_levels(self.sizes, self.widths, self.groups)
        levels = (self.sizes, self.widths, self.bottleneck)
        self.encoder = Encoder(
            *levels, self.patch, self.blocks, self.learned, self.unroll, self.dtype
        )
        self.decoder = Decoder(
            *levels,
            self.patch,
            groups=self.groups,
            latent=self.latent,
            outputs=self.outputs,
            posterior=self.posterior,
            learned=self.learned,
            unroll=self.unroll,
            dtype=self.dtype,
        )

    def __call__(self, picture: Picture, key: Key) -> Descent:
        """Every group from its posterior; pictures in [-1, 1]."""
        return self.partly(picture, key, sum(self.groups), 1.0)

    def partly(
        self, picture: Picture, key: Key, observed: int | Int[Array, ""], temperature: Temperature
    ) -> Descent:
        """The `observed` topmost groups from their posteriors, those below from the prior.

        What Child 2020 shows in figure 4: how much of a picture is decided how far up.
        """
        temperatures = jnp.full(len(self.sizes), temperature, jnp.float32)
        activations = self.encoder(picture)
        return self.decoder(activations, picture.shape[0], key, observed, temperatures)

    def draw(self, key: Key, count: int, temperatures: Float[Array, "levels"]) -> Descent:
        """Every group from the prior, its deviation times the temperature of its level."""
        return self.decoder(None, count, key, 0, temperatures)


class Encoder(nn.Module):
    """From the picture up: residual branches, then means over squares, to the topmost level."""

    sizes: Sequence[int]
    widths: Sequence[int]
    bottleneck: float
    patch: int
    blocks: int
    learned: bool
    unroll: bool
    dtype: Any

    @nn.compact
    def __call__(self, picture: Picture) -> Activations:
        """-> the activations at each level, the finest first."""
        side = self.sizes[0] * self.patch
        if picture.shape[1:3] != (side, side):
            raise UserError(
                f"This VAE is built for pictures of {side}×{side}, and was given "
                f"{picture.shape[1]}×{picture.shape[2]}: make the first of its sizes, times the "
                "patch, theirs."
            )
        gain = 1 / math.sqrt(self.blocks * len(self.sizes))
        hidden = convolution(self.widths[0], dtype=self.dtype, name="first")(
            folded(picture, self.patch)
        )
        activations = []
        for level, (size, width) in enumerate(zip(self.sizes, self.widths, strict=True)):
            if level > 0:
                down = folded if self.learned else averaged
                hidden = down(hidden, self.sizes[level - 1] // size)
                hidden = convolution(width, 1, dtype=self.dtype, name=f"widen_{level}")(hidden)
            middle = _middle(width, self.bottleneck)
            blocks = stacked(Residual, self.blocks, self.unroll)(
                middle, gain, self.dtype, name=f"level_{level}"
            )
            hidden, _ = blocks(hidden)
            activations.append(hidden)
        return tuple(activations)


class Decoder(nn.Module):
    """From a learned start at the topmost level down, through every group, to the outputs."""

    sizes: Sequence[int]
    widths: Sequence[int]
    bottleneck: float
    patch: int
    groups: Sequence[int]
    latent: int
    outputs: int
    posterior: Posterior
    learned: bool
    unroll: bool
    dtype: Any

    @nn.compact
    def __call__(
        self,
        activations: Activations | None,
        count: int,
        key: Key,
        observed: int | Int[Array, ""],
        temperatures: Float[Array, "levels"],
    ) -> Descent:
        """`count` pictures, their `observed` topmost groups by the activations.

        temperatures: of each level, the finest first, for groups that are not observed.
        """
        gain = 1 / math.sqrt(sum(self.groups))
        draws: list[Draw] = []
        above = 0  # groups so far
        state = jnp.zeros((count, self.sizes[-1], self.sizes[-1], self.widths[-1]), self.dtype)
        for level in reversed(range(len(self.sizes))):
            size, width, groups = self.sizes[level], self.widths[level], self.groups[level]
            if size > state.shape[1]:
                factor = size // state.shape[1]
                made = width * factor**2 if self.learned else width
                narrow = convolution(made, 1, dtype=self.dtype, name=f"narrow_{level}")
                up = unfolded if self.learned else enlarged
                state = up(narrow(state), factor)
            # Where a place is, which convolutions alone couldn't tell; at the topmost level it is
            # all there is before the first z.
            start: Any = self.param(
                f"start_{level}",
                nn.with_logical_partitioning(nn.initializers.zeros, (None, None, "channels_out")),
                (size, size, width),
            )
            state = state + start[None].astype(self.dtype)
            middle = _middle(width, self.bottleneck)
            if groups == 0:
                residual = Residual(middle, gain, self.dtype, name=f"level_{level}")
                state, _ = residual(state)
                continue
            each = (0, 0, nn.broadcast, nn.broadcast)
            state, draw = stacked(StochasticGroup, groups, self.unroll, each)(
                self.latent, middle, gain, self.posterior, self.dtype, name=f"level_{level}"
            )(
                state,
                jax.vmap(partial(jax.random.fold_in, key))(above + jnp.arange(groups)),
                above + jnp.arange(groups) < observed,
                None if activations is None else activations[level],
                temperatures[level],
            )
            draws.append(draw)
            above += groups
        # Wide enough to see across the seams of the last enlargement.
        last = convolution(self.outputs * self.patch**2, name="outputs")
        outputs = last(nn.gelu(state).astype(jnp.float32))
        return Descent(unfolded(outputs, self.patch), tuple(draws))


def check_levels(sizes: Sequence[int], widths: Sequence[int], groups: Sequence[int]) -> None:
    """Raises `UserError` unless there is a width and a number of groups for each dividing size."""
    if not len(sizes) == len(widths) == len(groups):
        raise UserError(
            f"A hierarchical VAE needs a width and a number of groups for each size: there are "
            f"{len(sizes)} sizes, {len(widths)} widths and {len(groups)} numbers of groups."
        )
    for larger, smaller in pairwise(sizes):
        if smaller < 1 or larger <= smaller or larger % smaller:
            raise UserError(
                f"Pictures of {larger}×{larger} can't be averaged down to {smaller}×{smaller}: "
                "each of the sizes has to divide the one before."
            )
    if not groups or min(groups) < 0 or not sum(groups):
        raise UserError("A hierarchical VAE needs at least one group of latent variables.")


def _middle(width: int, bottleneck: float) -> int:
    return max(1, round(width * bottleneck))
