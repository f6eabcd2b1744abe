"""Samples and scores of a model, for the loop and the command line alike."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from functools import cache
from typing import Any

import jax
import numpy as np

from jaxgen.artifacts import Artifact
from jaxgen.errors import UserError
from jaxgen.experiment import Data, Evaluation, Key, Model, Sampler
from jaxgen.parallel.sharding import fetched


def draw(sampler: Sampler, request: Any, model: Model) -> Artifact:
    """Answers one request; its `seed` decides every random number."""
    return _drawn(sampler, sampler.prepare(request), request.seed, model)


def draw_many(sampler: Sampler, requests: Sequence[Any], model: Model) -> Artifact:
    """Answers requests that differ in their prompts alone, in one batch."""
    assert sampler.prepare_many is not None
    return _drawn(sampler, sampler.prepare_many(requests), requests[0].seed, model)


def stream(sampler: Sampler, request: Any, model: Model) -> Iterator[Artifact]:
    """What `draw` gives, growing: each artifact is a beginning of it."""
    assert sampler.stream is not None
    static, arrays = sampler.prepare(request)
    for part in sampler.stream(model, jax.random.key(request.seed), static, arrays):
        yield _rendered(sampler, part)


def _drawn(sampler: Sampler, prepared: tuple[Hashable, Any], seed: int, model: Model) -> Artifact:
    static, arrays = prepared
    drawn = _jitted(sampler.sample)(model, jax.random.key(seed), static, arrays)
    return _rendered(sampler, drawn)


def _rendered(sampler: Sampler, drawn: Any) -> Artifact:
    return sampler.render(jax.tree.map(np.asarray, fetched(drawn)))


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
