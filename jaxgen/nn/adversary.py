"""What two adversaries minimize, whatever they look at.

Each is a pair of functions of two sets of logits, those of real things and those of made ones; a
logit is high for what looks real. One who makes (the generator) and one who judges (the
discriminator, or critic) are trained in turn, each down its own function of the same two sets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from flax.linen import relu, softplus
from jaxtyping import Array, Float

Logits = Float[Array, "batch *patches"]
Scalar = Float[Array, ""]


class Adversary(NamedTuple):
    """discriminator, generator: (logits of real things, logits of made ones) -> a loss.

    Where the generator's loss looks at the made ones only, the real ones are never computed.
    """

    discriminator: Callable[[Logits, Logits], Scalar]
    generator: Callable[[Logits, Logits], Scalar]


def _cross_entropies(real: Logits, made: Logits) -> Scalar:
    """-log D(x) - log(1 - D(G(z))), D being the logistic function of the logit."""
    return jnp.mean(softplus(-real)) + jnp.mean(softplus(made))


# Goodfellow et al. 2014, equation 1: one value, which one raises and the other lowers. At the best
# discriminator that value is 2 JSD(real, made) - log 4 (its theorem 1).
MINIMAX = Adversary(_cross_entropies, lambda real, made: -jnp.mean(softplus(made)))

# Its section 3: -log D(G(z)) instead, which has a slope while the discriminator is still winning.
NON_SATURATING = Adversary(_cross_entropies, lambda real, made: jnp.mean(softplus(-made)))

# LSGAN: Mao et al. 2017, equation 9, with labels 0 and 1 (a = 0, b = c = 1).
LEAST_SQUARES = Adversary(
    lambda real, made: 0.5 * jnp.mean((real - 1) ** 2) + 0.5 * jnp.mean(made**2),
    lambda real, made: 0.5 * jnp.mean((made - 1) ** 2),
)

# WGAN: Arjovsky et al. 2017, equation 2. It means something only for a critic whose slope is held,
# by a penalty or by clipping its weights.
WASSERSTEIN = Adversary(
    lambda real, made: jnp.mean(made) - jnp.mean(real), lambda real, made: -jnp.mean(made)
)

# Lim & Ye 2017; Miyato et al. 2018, equations 16 and 17: logits past a margin of 1 are left alone.
HINGE = Adversary(
    lambda real, made: jnp.mean(relu(1 - real)) + jnp.mean(relu(1 + made)),
    lambda real, made: -jnp.mean(made),
)

# Jolicoeur-Martineau 2018 as R3GAN pairs it (Huang et al. 2024, equation 2): each real thing is
# compared with one made one, so that no mode can be given up for the others.
RELATIVISTIC = Adversary(
    lambda real, made: jnp.mean(softplus(made - real)),
    lambda real, made: jnp.mean(softplus(real - made)),
)
