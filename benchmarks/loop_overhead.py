"""What the training loop adds to a bare jitted step, in microseconds a step.

    python benchmarks/loop_overhead.py

Both sides run the same compiled step on batches of the same shape, in turns; the loop's side
reads its batches through the data room, looks after every loss and logs every 1,000 steps. The
bare side has its one batch in memory. The step is a small network of about a millisecond, so that
microseconds can be seen.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxgen.data.sources import Arrays, Shuffled
from jaxgen.experiment import Experiment, Output, Update
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.training.loop import fit
from jaxgen.training.optimizers import adamw
from jaxgen.training.prepared import prepare
from jaxgen.training.run_directory import create

STEPS, ROUNDS, WIDTH = 3000, 7, 192


def experiment(steps: int) -> Experiment:
    numbers = np.random.default_rng(0).normal(size=(1000, WIDTH)).astype(np.float32)

    def init(key, batch):
        keys = jax.random.split(key, 2)
        return {
            name: {"kernel": jax.random.normal(k, (WIDTH, WIDTH)) / WIDTH**0.5}
            for name, k in zip(("first", "second"), keys, strict=True)
        }, {}

    def loss(params, context):
        hidden = jnp.tanh(context.batch["x"] @ params["first"]["kernel"])
        return Output(jnp.mean((hidden @ params["second"]["kernel"] - context.batch["x"]) ** 2))

    return Experiment(
        init=init,
        updates=[Update("all", loss, adamw(1e-3))],
        data={"train": Shuffled(Arrays({"x": numbers}), 128, 0)},
        steps=steps,
        seed=0,
        log_every=1000,
        checkpoint_every=10**9,
    )


def bare(prepared, batch) -> float:
    state = prepared.create()
    state, _, _ = prepared.train_step(state, batch)
    jax.block_until_ready(state)
    begin = time.perf_counter()
    for _ in range(STEPS):
        state, _, _ = prepared.train_step(state, batch)
    jax.block_until_ready(state)
    return (time.perf_counter() - begin) / STEPS


def looped(mesh) -> float:
    """From the loop's own clock, so that compilation and the final checkpoint stay out."""
    with tempfile.TemporaryDirectory() as directory:
        run = create(f"{directory}/run", {}, "", [])
        fit(experiment(STEPS + 1000), run, mesh)
        lines = Path(f"{directory}/run/timing.jsonl").read_text().splitlines()

    return statistics.mean(json.loads(line)["seconds_per_step"] for line in lines[1:])


def main() -> None:
    mesh = make_mesh(MeshShape())
    plan = experiment(STEPS)
    prepared = prepare(plan, mesh)
    batch = {name: leaf[None] for name, leaf in plan.data["train"].batch(0, slice(0, 128)).items()}
    rows = [(bare(prepared, batch), looped(mesh)) for _ in range(ROUNDS)]
    differences = [1e6 * (loop - step) for step, loop in rows]
    print(f"bare step   {1e6 * statistics.median(step for step, _ in rows):8.1f} µs")
    print(f"in the loop {1e6 * statistics.median(loop for _, loop in rows):8.1f} µs")
    print(
        f"the loop adds {statistics.median(differences):.1f} µs a step "
        f"(median of {ROUNDS}; {min(differences):.1f} to {max(differences):.1f})"
    )


if __name__ == "__main__":
    main()
