"""Samples and scores of a model, for the loop and the command line alike."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import jax
import numpy as np

from jaxgen.artifacts import Artifact
from jaxgen.errors import UserError
from jaxgen.experiment import Data, Evaluation, Key, Model, Sampler


def draw(sampler: Sampler, request: Any, model: Model) -> Artifact:
    """Answers one request; its `seed` decides every random number."""
    static, arrays = sampler.prepare(request)
    key = jax.random.key(request.seed)
    drawn = _jitted(sampler.sample)(model, key, static, arrays)
    return sampler.render(jax.tree.map(np.asarray, jax.device_get(drawn)))


@cache
def _jitted(sample: Any) -> Any:
    return jax.jit(sample, static_argnums=2)


def scores(
    evaluations: Sequence[Evaluation], model: Model, data: Data, key: Key
) -> dict[str, float]:
    """All scores of some evaluations, as "evaluation/score".

    Raises:
        UserError: if two evaluations share a name, since one would hide the other.
    """
    names = [evaluation.name for evaluation in evaluations]
    if len(set(names)) != len(names):
        raise UserError(f"Evaluations need different names, not {names}.")
    found = {}
    for evaluation in evaluations:
        for name, value in evaluation.score(model, data, key).items():
            found[f"{evaluation.name}/{name}"] = float(value)
    return found
