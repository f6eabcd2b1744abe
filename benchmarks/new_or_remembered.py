"""Are a run's MNIST samples new, or remembered training digits? And how long does one take?

    python benchmarks/new_or_remembered.py RUN [--sampler draw] [--count 1000] [--output pairs]

Compares each sample's nearest training digit, in the features of the run's own classifier and in
pixels, with how near the test digits lie to the training digits; saves a picture of the samples
that lie nearest, each followed by its training digit. The time is this machine's.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial

import jax
import numpy as np

from jaxgen.artifacts import Images
from jaxgen.data.datasets import mnist
from jaxgen.data.sources import in_memory
from jaxgen.evaluation.features import read
from jaxgen.evaluation.novelty import novelty
from jaxgen.evaluation.timing import seconds_per_sample
from jaxgen.training.run_directory import open_run
from jaxgen.training.runs import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--sampler", default="draw")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--output", default="pairs")
    chosen = parser.parse_args()

    run = open_run(chosen.run)
    loaded = load(run.path)
    judge = load(run.path / run.read("config.json")["requires"]["classifier"])
    look = partial(read, judge.network, judge.params)
    sampler = loaded.experiment.samplers[chosen.sampler]
    static, arrays = sampler.prepare(replace(sampler.request(), count=chosen.count))
    drawing = jax.jit(sampler.sample, static_argnums=2)

    def draw(key: jax.Array) -> jax.Array:
        return drawing(loaded.model, key, static, arrays)["image"]

    drawn = np.asarray(draw(jax.random.key(0)))
    train = in_memory(mnist("train")).leaves["image"]
    test = in_memory(mnist("test")).leaves["image"][: chosen.count]
    nearest = {}
    for space, of in (("features", lambda seen: look(seen)[1]), ("pixels", flat)):
        pieces = (of(train[start : start + 5000]) for start in range(0, len(train), 5000))
        found = novelty(pieces, of(test), of(drawn))
        nearest[space] = found.samples
        print(
            f"{space:9} nearer than held-out digits: {found.nearer:.3f} (new: 0.5)   "
            f"copies: {found.copies:.3f} (new: 0.01)"
        )
    first = np.argsort(nearest["pixels"].distances)[:50]
    pairs = np.stack([drawn[first], train[nearest["pixels"].indices[first]]], axis=1)
    shown = np.clip((pairs.reshape(-1, *drawn.shape[1:]) + 1) / 2, 0, 1)
    print(Images(shown, enlarge=2).save(chosen.output)[0])
    seconds = seconds_per_sample(draw, chosen.count, jax.random.key(1))
    print(f"{seconds * 1e3:.3f} ms a sample, {chosen.count} at once")


def flat(pictures: np.ndarray) -> np.ndarray:
    return pictures.reshape(len(pictures), -1)


if __name__ == "__main__":
    main()
