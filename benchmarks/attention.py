"""Attention by the platform's own kernel, side by side with plain XLA, forward and gradient.

    python benchmarks/attention.py            # on an NVIDIA GPU; a minute

Causal self-attention in bfloat16. Before timing, the kernel's answer and its three gradients are
checked against XLA's in float32: the kernel's error may be at most twice that of XLA's own
bfloat16. Timed in turns; the numbers are medians.
"""

import argparse
import statistics
import time

import jax
import jax.numpy as jnp

from jaxgen.nn.attention import attention, xla_attention
from jaxgen.nn.attention_kernels import cudnn_attention

SHAPES = [(64, 256, 6, 64), (16, 1024, 12, 64), (4, 4096, 16, 128)]  # batch, time, heads, depth


def gradients(implementation):
    """A compiled function: attention's answer and the gradients of its weighted sum."""

    def weighed(query, key, value, weights):
        out = attention(query, key, value, causal=True, implementation=implementation)
        return (out.astype(jnp.float32) * weights).sum(), out

    def run(query, key, value, weights):
        (_, out), found = jax.value_and_grad(weighed, (0, 1, 2), has_aux=True)(
            query, key, value, weights
        )
        return out, *found

    return jax.jit(run)


def error(found, exact):
    """The largest deviation of each array, as a share of the exact one's largest entry."""
    return [
        float(jnp.abs(a.astype(jnp.float32) - b).max() / jnp.abs(b).max())
        for a, b in zip(found, exact, strict=True)
    ]


def timed(run, given, count=20):
    """Milliseconds a call."""
    begin = time.perf_counter()
    for _ in range(count):
        out = run(*given)
    jax.block_until_ready(out)
    return (time.perf_counter() - begin) / count * 1e3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--turns", type=int, default=9)
    chosen = parser.parse_args()
    print(f"jax {jax.__version__} on {jax.devices()[0].device_kind}, bfloat16, causal")
    for shape in SHAPES:
        exact = [jax.random.normal(jax.random.key(i), shape) for i in range(4)]
        given = [x.astype(jnp.bfloat16) for x in exact[:3]] + [exact[3]]
        kernel, plain = gradients(cudnn_attention), gradients(xla_attention)
        with jax.default_matmul_precision("highest"):
            reference = plain(*[x.astype(jnp.float32) for x in given])
        ours, theirs = error(kernel(*given), reference), error(plain(*given), reference)
        print(f"batch {shape[0]}, time {shape[1]}, heads {shape[2]}, depth {shape[3]}")
        print("  error of the answer and the gradients by query, key, value:")
        print("    kernel", " ".join(f"{x:.1e}" for x in ours))
        print("    XLA   ", " ".join(f"{x:.1e}" for x in theirs))
        assert all(a <= 2 * b + 1e-3 for a, b in zip(ours, theirs, strict=True))
        turns = [[timed(run, given) for run in (kernel, plain)] for _ in range(chosen.turns)]
        fast, slow = (statistics.median(side) for side in zip(*turns, strict=True))
        ratio = statistics.median(b / a for a, b in turns)
        print(f"  kernel {fast:7.3f} ms   XLA {slow:7.3f} ms   ratio {ratio:.2f}×")


if __name__ == "__main__":
    main()
