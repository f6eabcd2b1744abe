"""Drawing pictures from a denoiser, as the command line and the studio do it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxgen.artifacts import Images
from jaxgen.errors import UserError, at_least_one
from jaxgen.experiment import Key, Model, Sampler
from jaxgen.families.diffusion.guidance import classifier_free, drop_class
from jaxgen.families.diffusion.paths import (
    VELOCITY,
    Condition,
    Denoiser,
    Items,
    NoisePath,
    Prediction,
    Time,
    predicting,
)
from jaxgen.families.diffusion.solvers import Solver, uniform_times

_COLUMNS = 10  # of the grid; without a label, each of its rows shows one class


@dataclass(frozen=True)
class ImageRequest:
    """What to draw."""

    label: int = -1  # class to draw; -1: each row of ten shows the next class
    count: int = 100  # how many pictures
    steps: int = 20  # intervals of time; more follow the path more closely
    guidance: float = 1.0  # how strongly the label steers: 1 as trained, more overstates it
    animate: bool = False  # keep the path from noise to picture as well, and save it as a GIF
    seed: int = 0  # another seed draws other pictures


@dataclass(frozen=True)
class _Plan:
    """The static part of a request: what decides the shapes of the program."""

    count: int
    steps: int
    guided: bool
    animate: bool


def image_sampler(
    solver: Solver,
    apply: Callable[..., Any],
    path: NoisePath,
    *,
    shape: tuple[int, int, int],
    classes: int,
    prediction: Prediction = VELOCITY,
    enlarge: int = 1,
) -> Sampler:
    """A class-conditional picture `Sampler` that follows the probability-flow ODE by `solver`.

    `sample` gives {"image": (count, height, width, channels)} in [-1, 1] and, for an animated
    request, "frames" (steps + 1, count, height, width, channels). Picture i depends on the key,
    the request and i alone: drawing more pictures doesn't change the first ones.

    apply: the network's `apply`: (variables, x_t, t, label) -> prediction.
    shape: height, width, channels.
    classes: of the label; `prepare` raises `UserError` for any other, and for empty requests.
    enlarge: how many times a saved picture is enlarged.
    """

    def prepare(request: ImageRequest) -> tuple[_Plan, dict[str, Any]]:
        at_least_one(count=request.count, steps=request.steps)
        if not -1 <= request.label < classes:
            raise UserError(
                f"There is no class {request.label}: label is one of 0 to {classes - 1}, or -1 "
                "for all of them in turn."
            )
        label = np.full(request.count, request.label, np.int32)
        if request.label == -1:
            label = (np.arange(request.count, dtype=np.int32) // _COLUMNS) % classes
        # At 1 the unconditional prediction has no say, so that it needn't be computed.
        plan = _Plan(request.count, request.steps, request.guidance != 1.0, request.animate)
        return plan, {"label": label, "guidance": np.float32(request.guidance)}

    def sample(model: Model, key: Key, plan: _Plan, arrays: dict[str, Any]) -> dict[str, Array]:
        denoiser = predicting(VELOCITY, _denoiser(apply, model), path, prediction)
        if plan.guided:
            denoiser = classifier_free(denoiser, arrays["guidance"], drop_class)
        times = uniform_times(path.noise_time, path.data_time, plan.steps)
        start = path.noise_level(times[:1]).reshape(1, 1, 1, 1) * noise(key, plan.count, shape)
        solution = solver(denoiser, start, times, arrays["label"], plan.animate)
        drawn = {"image": solution.end}
        if solution.path is not None:
            drawn["frames"] = solution.path
        return drawn

    def render(drawn: dict[str, Any]) -> Images:
        return Images.of_signed(
            drawn["image"], columns=_COLUMNS, frames=drawn.get("frames"), enlarge=enlarge
        )

    return Sampler(request=ImageRequest, prepare=prepare, sample=sample, render=render)


def noise(key: Key, count: int, shape: tuple[int, ...]) -> Float[Array, "count *shape"]:
    """Standard normal items, each from its own key: item i is the same whatever the count."""
    keys = jax.vmap(lambda index: jax.random.fold_in(key, index))(jnp.arange(count))
    return jax.vmap(lambda each: jax.random.normal(each, shape))(keys)


def _denoiser(apply: Callable[..., Any], model: Model) -> Denoiser:
    def denoiser(noisy: Items, time: Time, condition: Condition) -> Items:
        return apply({"params": model.params, **model.variables}, noisy, time, condition)

    return denoiser
