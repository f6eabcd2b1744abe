"""StyleGAN2's space of styles, for the samplers: its ways are straight, its centre the mean w."""

from __future__ import annotations

from typing import Any

from jaxgen.experiment import Key, Model
from jaxgen.families.gan.game import Game
from jaxgen.families.gan.latent_space import LatentSpace, prior_space, straight
from jaxgen.families.gan.parts import Label, Latent, Things
from jaxgen.families.gan.stylegan2 import StyleGAN2Generator


def style_space(game: Game) -> LatentSpace:
    """One w for all layers of a picture, of a game whose generator is a `StyleGAN2Generator`.

    Truncation is ψ, which draws w towards the mean (Karras et al. 2019, appendix B); projection is
    into W (Karras et al. 2020, appendix D), from random w rather than from the mean.
    """

    def variables(model: Model) -> dict[str, Any]:
        return {"params": model.params["generator"], **model.variables["generator"]}

    def latents(model: Model, key: Key, label: Label | None, count: int, truncation: Any) -> Latent:
        latent = prior_space(game).latents(model, key, label, count, None)
        styles: Any = game.generator.apply(
            variables(model), latent, label, truncation=truncation, method=StyleGAN2Generator.map
        )
        return styles[:, 0]

    def make(model: Model, latent: Latent, label: Label | None) -> Things:
        made: Any = game.generator.apply(
            variables(model), latent, method=StyleGAN2Generator.synthesize
        )
        return made

    return LatentSpace(latents, make, straight)
