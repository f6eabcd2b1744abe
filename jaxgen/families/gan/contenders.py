"""Several games side by side in one training: each has its own subtree of everything.

Parameters and variables are {name: the game's own}, and an update moves "name/generator" or
"name/discriminator". All see the same batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import optax

from jaxgen.experiment import Batch, Context, Key, Loss, Model, Output, Params, Update, Variables
from jaxgen.families.gan.game import Game


def init_each(games: Mapping[str, Game], key: Key, batch: Batch) -> tuple[Params, Variables]:
    """Every game's parameters and variables, by its name; equal networks begin equal.

    Raises what the games' own `init` raises.
    """
    begun = {name: game.init(key, batch) for name, game in games.items()}
    params = {name: of_game[0] for name, of_game in begun.items()}
    return params, {name: of_game[1] for name, of_game in begun.items()}


def within(name: str, loss: Loss) -> Loss:
    """A game's loss, applied to the subtree `name` of parameters, averages and variables."""

    def applied(params: Params, context: Context) -> Output:
        own = dataclasses.replace(context, variables=context.variables[name], ema=context.ema[name])
        output = loss(params[name], own)
        if output.variables is None:
            return output
        return dataclasses.replace(output, variables=context.variables | {name: output.variables})

    return applied


def updates_within(
    name: str,
    game: Game,
    discriminator: optax.GradientTransformation,
    generator: optax.GradientTransformation,
    ema: float | None = None,
) -> list[Update]:
    """A game's two updates, "NAME_discriminator" and "NAME_generator", by these optimizers.

    ema: decay of the generator's moving average.
    """
    return [
        Update(
            f"{name}_discriminator",
            within(name, game.discriminator_loss),
            discriminator,
            moves=f"{name}/discriminator",
        ),
        Update(
            f"{name}_generator",
            within(name, game.generator_loss),
            generator,
            moves=f"{name}/generator",
            ema=ema,
        ),
    ]


def one_of(model: Model, name: str) -> Model:
    """The model of the game `name` alone."""
    return Model(model.params[name], model.variables[name])
