"""nanoGPT's CPU setting trained in PyTorch, beside `shakespeare_gpt --setting nanogpt_cpu`.

    python benchmarks/torch_nanogpt.py [--seeds 3]     # about 2 minutes a seed on 2 cores

4 layers, 4 heads, width 128, context 64, batch 12, 2,000 steps, no dropout; AdamW at 1e-3, falling
to 1e-4 by a cosine after 100 steps. Prints nats per character on the last tenth of tiny
Shakespeare: the full pass in blocks of the context, and the mean over 200 batches of random
windows, as `jaxgen.families.autoregressive.likelihood` computes both.
"""

import argparse
import math
import statistics

import numpy as np
import torch
import torch_gpt
from torch.nn.utils import clip_grad_norm_

from jaxgen.data.datasets import shakespeare_text
from jaxgen.data.text import Blocks, Windows
from jaxgen.data.tokenizers import CharacterTokenizer

STEPS, WARMUP, RATE, CONTEXT, BATCH = 2000, 100, 1e-3, 64, 12


def rate(step):
    if step < WARMUP:
        return RATE * (step + 1) / (WARMUP + 1)
    share = (step - WARMUP) / (STEPS - WARMUP)
    return RATE * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * share)))


def split(tokens):
    tokens = torch.from_numpy(np.asarray(tokens, np.int64))
    return tokens[:, :-1], tokens[:, 1:]


def train(model, batch):
    """STEPS steps on what `batch(step)` gives, (rows, length + 1) tokens; returns the losses."""
    optimizer = torch_gpt.adamw(model, RATE, betas=(0.9, 0.99), weight_decay=0.1)
    losses = []
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.zero_grad(set_to_none=True)
        loss = model(*split(batch(step)))
        loss.backward()
        clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
    return torch.stack(losses).numpy()


def trained(windows, vocabulary, seed):
    torch.manual_seed(seed)
    generator = np.random.default_rng(seed)
    model = torch_gpt.GPT(vocabulary, 128, 4, 4, CONTEXT, dropout=0.0)
    rows = len(windows)
    train(model, lambda step: windows[generator.integers(rows, size=BATCH)]["tokens"])
    return model


@torch.no_grad()
def full_pass(model, blocks):
    total, count = 0.0, 0
    for start in range(0, len(blocks), 64):
        batch = blocks[np.arange(start, min(start + 64, len(blocks)))]
        mask = batch.get("mask", np.ones((len(batch["tokens"]), CONTEXT), bool))
        for tokens, valid in zip(batch["tokens"], mask, strict=True):
            seen, targets = split(tokens[None, : int(valid.sum()) + 1])
            total += model(seen, targets).item() * targets.numel()
            count += targets.numel()
    return total / count


@torch.no_grad()
def estimate(model, windows, seed):
    generator = np.random.default_rng(1000 + seed)
    batches = generator.integers(len(windows), size=(200, BATCH))
    return statistics.mean(model(*split(windows[rows]["tokens"])).item() for rows in batches)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    training, validation = shakespeare_text()
    tokenizer = CharacterTokenizer.from_text(training + validation)
    windows = Windows(tokenizer.encode(training), CONTEXT)
    held_out = tokenizer.encode(validation)
    found = []
    for seed in range(chosen.seeds):
        model = trained(windows, tokenizer.vocabulary_size, seed)
        scores = (
            full_pass(model, Blocks(held_out, CONTEXT)),
            estimate(model, Windows(held_out, CONTEXT), seed),
        )
        found.append(scores)
        print(f"seed {seed}: full pass {scores[0]:.4f}, estimate {scores[1]:.4f}", flush=True)
    for name, values in zip(("full pass", "estimate"), zip(*found, strict=True), strict=True):
        spread = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
        print(f"{name}: {statistics.mean(values):.3f}{spread}")


if __name__ == "__main__":
    main()
