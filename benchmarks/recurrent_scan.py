"""Each parallel recurrent layer at once against step by step, over the length of the sequence.

    python benchmarks/recurrent_scan.py --longest 4096              # forward
    python benchmarks/recurrent_scan.py --longest 4096 --gradient   # forward and backward

Step by step is a jitted `lax.scan` over single steps of the same layer with the same parameters:
what reading a text without its parallel form would cost. GRU and sLSTM have none, and read both
times in a loop; at once, their inputs' product is outside. The two are timed in turns, so that
whatever else the machine does hits both; beside the clock's time stands that of the processor,
which on a CPU is what the work itself costs.
"""

import argparse
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp

from jaxgen.nn.extended_lstm import MatrixLSTM, ScalarLSTM
from jaxgen.nn.gated_linear_recurrence import GriffinRecurrence
from jaxgen.nn.mamba2 import Mamba2
from jaxgen.nn.minimal_recurrence import MinGRU, MinLSTM
from jaxgen.nn.recurrence import time_major
from jaxgen.nn.recurrent_cells import GRU
from jaxgen.nn.state_space import StateSpace
from jaxgen.parallel.sharding import unbox

SHORTEST, LONGEST = 256, 65_536


def layers(width):
    """All of one width; heads 64 deep, as far as it goes."""
    heads = max(1, width // 64)
    return {
        "GRU (in a loop)": GRU(width),
        "minGRU": MinGRU(width),
        "minLSTM": MinLSTM(width),
        "Griffin": GriffinRecurrence(width, blocks=heads),
        "S5": StateSpace(width, states=width),
        "Mamba-2": Mamba2(width, heads=2 * heads, states=64),
        "mLSTM": MatrixLSTM(width, heads=heads),
        "sLSTM (in a loop)": ScalarLSTM(width, heads=heads),
    }


def at_once(layer, params, x):
    return layer.apply(params, x)[0]


def stepwise(layer, params, x):
    def step(carry, x):
        y, carry = layer.apply(params, x[:, None], carry)
        return carry, y[:, 0]

    _, y = jax.lax.scan(step, layer.initial(len(x)), time_major(x))
    return time_major(y)


def milliseconds(run, params, x):
    """A call's, by the clock and of the processor."""
    begin = time.perf_counter(), time.process_time()
    jax.block_until_ready(run(params, x))
    end = time.perf_counter(), time.process_time()
    return [1e3 * (after - before) for before, after in zip(begin, end, strict=True)]


def timed(layer, x, gradient, turns):
    """Medians [of the clock's, of the processor's] of both passes, which have to say the same."""
    params = unbox(jax.jit(layer.init)(jax.random.key(1), x[:, :8]))
    passes = [partial(read, layer) for read in (at_once, stepwise)]
    outputs = [jax.jit(read)(params, x).astype(jnp.float32) for read in passes]
    scale = float(jnp.abs(outputs[1]).max())
    error = float(jnp.abs(outputs[0] - outputs[1]).max()) / scale
    assert error < (1e-3 if x.dtype == jnp.float32 else 0.1), f"passes differ by {error:.1e}"
    if gradient:
        passes = [
            jax.grad(lambda params, x, read=read: jnp.square(read(params, x)).mean())
            for read in passes
        ]
    passes = [jax.jit(read) for read in passes]
    for read in passes:
        jax.block_until_ready(read(params, x))  # compiles
    rows = [[milliseconds(read, params, x) for read in passes] for _ in range(turns)]
    return [
        [statistics.median(row[side][clock] for row in rows) for side in range(2)]
        for clock in range(2)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shortest", type=int, default=SHORTEST)
    parser.add_argument("--longest", type=int, default=LONGEST)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--gradient", action="store_true", help="times the backward pass as well")
    parser.add_argument("--only", help="layers whose names hold this")
    chosen = parser.parse_args()
    device = jax.devices()[0]
    what = "forward and backward" if chosen.gradient else "forward"
    print(
        f"{device.device_kind} ({device.platform}), jax {jax.__version__}: {what}, "
        f"batch {chosen.batch}, width {chosen.width}, float32, milliseconds"
    )
    heads = "".join(f"{'at once':>12}{'by steps':>12}{'ratio':>8}" for _ in range(2))
    print(f"{'':<28}{'by the clock':>32}{'of processor':>32}")
    print(f"{'layer':<20}{'length':>8}{heads}")
    for name, layer in layers(chosen.width).items():
        if chosen.only and chosen.only not in name:
            continue
        length = chosen.shortest
        while length <= chosen.longest:
            x = jax.random.normal(jax.random.key(0), (chosen.batch, length, chosen.width))
            clocks = timed(layer, x, chosen.gradient, chosen.turns)
            times = "".join(
                f"{once:>12.2f}{steps:>12.2f}{steps / once:>7.1f}×" for once, steps in clocks
            )
            print(f"{name:<20}{length:>8}{times}", flush=True)
            length *= 4


if __name__ == "__main__":
    main()
