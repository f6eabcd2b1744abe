"""A small convolutional classifier: what asks of a sample which class it shows, and where it lies.

Its feature space is its own: a distance measured in it is named for the classifier ("digits
classifier Fréchet distance") and compares with nothing but itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxgen.experiment import Context, Loss, Output, Params
from jaxgen.nn.convolution import GroupNorm, convolution
from jaxgen.nn.resampling import folded

Picture = Float[Array, "batch height width channels"]

Maps = tuple[Float[Array, "batch _ _ _"], ...]  # of several resolutions and widths

_LEVELS = "levels"


class Classifier(nn.Module):
    """Convolutions, the resolution halved after each level, then features, then logits.

    classes: of the label.
    widths: channels of each level.
    features: width of the feature layer.
    dropout: before the features; active where a "dropout" key is passed.
    patch: squares of this many pixels a side become the channels of one place, before all else;
        it must divide height and width. 2 takes a quarter of the time.
    """

    classes: int
    widths: Sequence[int] = (32, 64)
    features: int = 64
    dropout: float = 0.0
    patch: int = 1

    @nn.compact
    def __call__(
        self, picture: Picture
    ) -> tuple[Float[Array, "batch classes"], Float[Array, "batch features"]]:
        """Pictures in [-1, 1] -> logits, and the features whose relu they are linear in."""
        picture = folded(picture, self.patch)
        for level, width in enumerate(self.widths):
            for index in range(2):
                picture = convolution(width, name=f"convolution_{level}_{index}")(picture)
                picture = nn.relu(GroupNorm(name=f"norm_{level}_{index}")(picture))
            self.sow("intermediates", _LEVELS, picture)
            picture = nn.max_pool(picture, (2, 2), strides=(2, 2))
        flat = picture.reshape(picture.shape[0], -1)
        flat = nn.Dropout(self.dropout, deterministic=not self.has_rng("dropout"))(flat)
        features = nn.Dense(
            self.features,
            kernel_init=nn.with_logical_partitioning(nn.initializers.lecun_normal(), (None, "mlp")),
            name="features",
        )(flat)
        logits = nn.Dense(
            self.classes,
            kernel_init=nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("mlp", None)),
            name="logits",
        )(nn.relu(features))
        return logits, features


def level_activations(network: Classifier, params: Params) -> Callable[[Picture], Maps]:
    """What each level of a trained classifier makes of pictures: for perceptual distances.

    The answer takes pictures in [-1, 1] to one map a level, (batch, height, width, width of the
    level), before its resolution is halved.
    """

    def activations(picture: Picture) -> Maps:
        _, seen = network.apply({"params": params}, picture, mutable=["intermediates"])
        return seen["intermediates"][_LEVELS]

    return activations


def classification_loss(network: nn.Module) -> Loss:
    """Cross entropy in nats over a batch of "image" and "label"; logs "accuracy"."""

    def loss(params: Params, context: Context) -> Output:
        label = context.batch["label"]
        logits, _ = network.apply(
            {"params": params}, context.batch["image"], rngs={"dropout": context.key}
        )
        value = optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()
        accuracy = jnp.mean((jnp.argmax(logits, -1) == label).astype(jnp.float32))
        return Output(value=value, weight=label.shape[0], metrics={"accuracy": accuracy})

    return loss
