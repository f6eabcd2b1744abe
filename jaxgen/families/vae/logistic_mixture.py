"""Mixtures of discretized logistics: a distribution over pictures with a few levels a channel.

Papers: Salimans et al. 2017, "PixelCNN++" (arXiv 1701.05517), section 2.1 (one channel) and 2.2
(channels that depend on those before); the likelihood of VDVAE (Child 2020, arXiv 2011.10650).

A logistic variable is rounded to the nearest of L levels -1, -1 + w, ..., 1, w = 2 / (L - 1); the
lowest and the highest level take all that lies beyond. All levels together have mass 1 exactly.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgen.errors import UserError
from jaxgen.experiment import Key

Picture = Float[Array, "batch height width channels"]
Weights = Float[Array, "batch height width mixtures"]
Components = Float[Array, "batch height width mixtures channels"]

# PixelCNN++'s bound: at s = e⁻⁷ a level of 256 holds 97 % of the mass around its middle,
# and a flat background could otherwise pull the scale to 0 without end.
LOWEST_LOG_SCALE = -7.0


def parameter_count(mixtures: int, channels: int) -> int:
    """How many numbers a pixel `DiscretizedLogisticMixture.of` reads: 3 or 10 a component.

    A weight, a location and a scale for each channel, and a coefficient for each pair of channels.
    """
    return mixtures * (1 + 2 * channels + channels * (channels - 1) // 2)


@flax.struct.dataclass
class DiscretizedLogisticMixture:
    """One mixture a pixel, over all channels of that pixel; pixels are independent.

    logits: of the components π.
    location: μ of each channel, before the channels that come before it are added.
    log_scale: log s of each channel.
    coefficients: entry (i, j), j < i, says how channel j of the picture moves the location of
        channel i (α, β, γ of PixelCNN++, equation 3); all others are 0.
    levels: L, of each channel.
    """

    logits: Weights
    location: Components
    log_scale: Components
    coefficients: Float[Array, "batch height width mixtures channels channels"]
    levels: int = flax.struct.field(pytree_node=False, default=256)

    @staticmethod
    def of(
        raw: Float[Array, "batch height width numbers"], channels: int, levels: int = 256
    ) -> DiscretizedLogisticMixture:
        """From a network's output, `parameter_count(mixtures, channels)` numbers a pixel.

        Raises `UserError` where they aren't a whole number of components, or levels is below 2.
        """
        each = parameter_count(1, channels)
        numbers = raw.shape[-1]
        if numbers % each or levels < 2:
            raise UserError(
                f"A logistic mixture over {levels} levels of {channels} channels takes {each} "
                f"numbers a component and at least 2 levels, and {numbers} numbers were given: "
                "size the network's last layer with parameter_count."
            )
        parts = raw.reshape(*raw.shape[:3], numbers // each, each).astype(jnp.float32)
        before = [(i, j) for i in range(channels) for j in range(i)]
        strict = jnp.zeros((*parts.shape[:-1], channels, channels))
        for index, (i, j) in enumerate(before):
            strict = strict.at[..., i, j].set(jnp.tanh(parts[..., 1 + 2 * channels + index]))
        return DiscretizedLogisticMixture(
            logits=parts[..., 0],
            location=parts[..., 1 : 1 + channels],
            log_scale=jnp.maximum(parts[..., 1 + channels : 1 + 2 * channels], LOWEST_LOG_SCALE),
            coefficients=strict,
            levels=levels,
        )

    def log_probability(self, picture: Picture) -> Float[Array, "batch height width"]:
        """The log probability of each pixel, all channels together, in nats.

        picture: in [-1, 1]; counted as the nearest of the levels.

        The mass between two edges a > b is σ(a) - σ(b) = σ(a) σ(-b) (1 - e^(b - a)), and a - b is
        w / s whatever the location: each factor has an exact logarithm in float32, so none of the
        approximations for tiny masses is needed that the difference itself would ask for.
        """
        shifted = self._given(picture)
        step = 2.0 / (self.levels - 1)
        index = jnp.round((picture + 1) / step)[..., None, :]
        middle = index * step - 1 - shifted
        inverse_scale = jnp.exp(-self.log_scale)
        above = (middle + step / 2) * inverse_scale  # a
        below = (middle - step / 2) * inverse_scale  # b
        log_cumulative = jax.nn.log_sigmoid(above)
        log_survival = jax.nn.log_sigmoid(-below)
        log_share = jnp.log(-jnp.expm1(-step * inverse_scale))
        mass = jnp.where(
            index <= 0,
            log_cumulative,
            jnp.where(
                index >= self.levels - 1, log_survival, log_cumulative + log_survival + log_share
            ),
        )
        each = jax.nn.log_softmax(self.logits) + mass.sum(-1)
        return jax.nn.logsumexp(each, axis=-1)

    def sample(self, key: Key) -> Picture:
        """A picture of exact levels in [-1, 1]: a component a pixel, then channel after channel."""
        which, noise = jax.random.split(key)
        chosen = jax.random.categorical(which, self.logits)[..., None]
        location, log_scale = (
            jnp.take_along_axis(leaf, chosen[..., None], axis=3)[..., 0, :]
            for leaf in (self.location, self.log_scale)
        )
        coefficients = jnp.take_along_axis(self.coefficients, chosen[..., None, None], axis=3)[
            ..., 0, :, :
        ]
        spread = jnp.exp(log_scale) * jax.random.logistic(noise, location.shape)
        drawn: list[Array] = []
        for channel in range(location.shape[-1]):
            value = location[..., channel] + spread[..., channel]
            for earlier, known in enumerate(drawn):
                value += coefficients[..., channel, earlier] * known
            drawn.append(self._nearest_level(value))
        return jnp.stack(drawn, axis=-1)

    def mean(self) -> Picture:
        """The expected picture, in [-1, 1], from the logistics cut off at -1 and 1.

        E clip(X) = -1 + ∫ P(X > t) dt over [-1, 1], the integral of a sigmoid. The mean over the
        levels is the midpoint rule with steps w of that integral, so they differ by half a level
        at most. A channel's location takes the means of the channels before it, component by
        component: exact as long as nothing is cut off.
        """
        means: list[Array] = []
        scale = jnp.exp(self.log_scale)
        for channel in range(self.location.shape[-1]):
            location = self.location[..., channel]
            for earlier, known in enumerate(means):
                location += self.coefficients[..., channel, earlier] * known
            s = scale[..., channel]
            area = s * (jax.nn.softplus((location + 1) / s) - jax.nn.softplus((location - 1) / s))
            means.append(jnp.clip(area - 1, -1, 1))
        each = jnp.stack(means, axis=-1)
        return jnp.sum(jax.nn.softmax(self.logits)[..., None] * each, axis=3)

    def _given(self, picture: Picture) -> Components:
        """The location of each channel, once the channels before it are known."""
        if picture.shape[-1] == 1:
            return self.location
        # On the levels themselves, which is what `sample` draws from.
        known = self._nearest_level(picture)[..., None, None, :]
        return self.location + jnp.sum(self.coefficients * known, axis=-1)

    def _nearest_level(self, value: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        step = 2.0 / (self.levels - 1)
        return jnp.round((jnp.clip(value, -1, 1) + 1) / step) * step - 1
