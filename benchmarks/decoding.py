"""Greedy decoding of GPT-2 (124M, random weights) beside transformers' `generate`, on the CPU.

    python benchmarks/decoding.py            # batches of 1 and 8, short and long prompts, 5 minutes

Both have the same weights and prompts, and must write the same tokens. Told are tokens a second
over all rows, the prompt's own time, and the time of each token after it, which is what grows with
the context: in float32, two threads each, in turns.
"""

import statistics
import tempfile
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import side_by_side
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from jaxgen.families.autoregressive.decoder import transformer_decoder
from jaxgen.families.autoregressive.decoding import generate, sampled
from jaxgen.families.autoregressive.logits import temperature
from jaxgen.interop.hugging_face import load

SETTINGS = [(1, 16, 64), (8, 16, 64), (1, 768, 64), (8, 768, 32)]  # batch, prompt, new tokens


def models():
    """transformers' network with random weights, and the same as ours, by its files."""
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(GPT2Config()).eval()
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        ours = load(directory)
    return theirs, ours.network, ours.params


def compare(theirs, network, params, batch, prompt, new, turns):
    """Prints both sides of one setting."""
    ids = np.random.default_rng(0).integers(0, 50257, (batch, prompt)).astype(np.int32)
    decoder = transformer_decoder(network, prompt + new)
    write = jax.jit(
        partial(generate, decoder, choice=sampled(temperature(0.0))), static_argnames="length"
    )
    lengths, key = jnp.full(batch, prompt), jax.random.key(0)

    def ours(length):
        return np.asarray(write(params, key, ids, lengths, length=length)[0])

    def peer(length):
        with torch.inference_mode():
            out = theirs.generate(
                torch.from_numpy(ids).long(), max_new_tokens=length, min_new_tokens=length,
                do_sample=False, use_cache=True, pad_token_id=50256,
                attention_mask=torch.ones(ids.shape, dtype=torch.long),
            )  # fmt: skip
        return out[:, prompt:].numpy()

    agree = (ours(new) == peer(new)).mean()
    ours(1), peer(1)
    times = {(side, length): [] for side in (ours, peer) for length in (1, new)}
    for _ in range(turns):
        for side, length in times:
            began = time.perf_counter()
            side(length)
            times[side, length].append(time.perf_counter() - began)
    print(f"batch {batch}, prompt {prompt}, {new} new tokens ({agree:.1%} the same)")
    found = {key: statistics.median(each) for key, each in times.items()}
    for name, side in (("jaxgen", ours), ("transformers", peer)):
        first, whole = found[side, 1], found[side, new]
        print(
            f"  {name:13} {batch * new / whole:7.1f} tokens/s   prompt and first token "
            f"{first * 1e3:7.1f} ms   each further {(whole - first) / (new - 1) * 1e3:6.2f} ms"
        )
    print(f"  ratio {found[peer, new] / found[ours, new]:.2f}×", flush=True)


def main():
    """All settings."""
    parser = side_by_side.arguments(__doc__)
    parser.set_defaults(turns=5)
    chosen = parser.parse_args()
    side_by_side.share_threads(chosen.threads)
    theirs, network, params = models()
    for batch, prompt, new in SETTINGS:
        compare(theirs, network, params, batch, prompt, new, chosen.turns)


if __name__ == "__main__":
    main()
