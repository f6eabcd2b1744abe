"""The vector-quantized variational autoencoder: its objective, and pictures to codes and back.

van den Oord, Vinyals & Kavukcuoglu 2017, "Neural Discrete Representation Learning". Encode to a
grid of vectors, put the nearest code in place of each, decode. With a uniform prior over codes the
divergence of the posterior, which is certain, is the constant log(codes) at each place, and drops
out: what remains is the reconstruction. A prior that knows the pictures is learned afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgen.experiment import Batch, Context, Key, Loss, Model, Output, Params
from jaxgen.families.vae.quantization import Quantizer

Picture = Float[Array, "batch height width channels"]
Codes = Int[Array, "batch grid_height grid_width"]


@dataclass(frozen=True)
class VectorQuantizedAutoencoder:
    """A network and its quantizer, with all that is done with a trained model of both.

    network: a Linen module with the methods `encode` (picture -> latents) and `decode`.
    quantizer: its state is the model's `variables`.
    """

    network: nn.Module
    quantizer: Quantizer

    def init(self, key: Key, batch: Batch) -> tuple[Params, Any]:
        """Parameters for pictures such as batch["image"], and the quantizer's first state."""
        network_key, quantizer_key = jax.random.split(key)

        def through(module: Any, picture: Picture) -> Picture:
            return module.decode(module.encode(picture))

        params = self.network.init(network_key, batch["image"], method=through)["params"]
        return params, self.quantizer.init(quantizer_key)

    def encode(self, model: Model, pictures: Picture) -> Codes:
        """The codes of pictures in [-1, 1]."""
        latent = self._apply(model.params, pictures, "encode")
        return self.quantizer.quantize(latent, model.variables, None, False).indices

    def decode(self, model: Model, codes: Codes) -> Picture:
        """The pictures of codes, in [-1, 1]."""
        latent = self.quantizer.look_up(codes, model.variables)
        return jnp.clip(self._apply(model.params, latent, "decode"), -1, 1)

    def reconstruct(self, model: Model, key: Key, pictures: Picture) -> Picture:
        """What is left of pictures after their codes, in [-1, 1]; nothing random in it."""
        return self.decode(model, self.encode(model, pictures))

    def loss(self) -> Loss:
        """Mean squared error over the pixels in [-1, 1], plus the quantizer's own loss.

        Equation 3 for a Gaussian of fixed width, its code-book term left to the quantizer. Logs
        "squared_error", "quantization" and the quantizer's metrics.
        """

        def loss(params: Params, context: Context) -> Output:
            pictures = jnp.asarray(context.batch["image"])
            latent = self._apply(params, pictures, "encode")
            quantized = self.quantizer.quantize(latent, context.variables, context.key, True)
            decoded = self._apply(params, quantized.values, "decode")
            error = jnp.mean((decoded - pictures) ** 2)
            return Output(
                value=error + quantized.loss,
                weight=pictures.shape[0],
                metrics={
                    "squared_error": error,
                    "quantization": quantized.loss,
                    **quantized.metrics,
                },
                variables=quantized.state,
            )

        return loss

    def _apply(self, params: Params, inputs: Array, method: str) -> Any:
        return self.network.apply({"params": params}, inputs, method=method)
