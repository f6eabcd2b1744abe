"""Two training steps side by side: ours and PyTorch's, with the same threads, timed in turns.

In turns, so that whatever else the machine does hits both; the numbers are medians over the turns,
the ratio the median of each turn's own. Beside the clock's time stands that of the processor: with
one thread (`--threads 1`) it is what the work itself costs, however busy the machine is.
"""

import argparse
import os
import statistics
import time

import jax
import torch

from jaxgen.training.host_memory import keep_freed_memory

THREADS = 2


def arguments(description):
    """A parser with the flags that every comparison has."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--turns", type=int, default=12, help="how often each side is timed")
    parser.add_argument("--threads", type=int, default=THREADS, help="for each side")
    return parser


def share_threads(threads):
    """Gives both sides so many threads, and says so; to be called before the first array is made.

    XLA's thread pool, made at the first use of jax, has as many threads as there are cores. Freed
    memory stays with the process, as the command line has it: for both, they share the process.
    """
    keep_freed_memory()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    torch.set_num_threads(threads)
    print(f"jax {jax.__version__}, torch {torch.__version__}, {threads} threads each, float32")


def compare(name, ours, theirs, *, turns, steps, warm_up):
    """Times two functions of a number of steps that run so many and wait for them; prints both.

    turns: how often each is timed; steps: in each turn; warm_up: before the first, uncounted.
    """
    pair = ours, theirs
    for run in pair:
        run(warm_up)  # compiles, and warms up what there is to warm
    rows = [[_milliseconds(run, steps) for run in pair] for _ in range(turns)]
    print(name)
    for clock, label in enumerate(("by the clock", "of processor")):
        times = [[side[clock] for side in row] for row in rows]
        mine, peer = (statistics.median(side) for side in zip(*times, strict=True))
        ratio = statistics.median(theirs / ours for ours, theirs in times)
        print(f"  {label}: jaxgen {mine:8.2f} ms   PyTorch {peer:8.2f} ms   ratio {ratio:.2f}×")


def _milliseconds(run, steps):
    """A step's, by the clock and of the processor."""
    begin = time.perf_counter(), time.process_time()
    run(steps)
    end = time.perf_counter(), time.process_time()
    return [(after - before) / steps * 1e3 for before, after in zip(begin, end, strict=True)]
