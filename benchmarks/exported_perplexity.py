"""A trained run's perplexity, by jaxgen and by Hugging Face's transformers on what it exports.

    python benchmarks/exported_perplexity.py RUN      # a run of speeches_bpe_gpt, a minute or two

transformers opens the exported directory, cuts the same text with the exported tokenizer and scores
every held-out token once, in the same rows of the context.
"""

import argparse
import math
import tempfile
from pathlib import Path

import jax
import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jaxgen.interop.exporting import export
from jaxgen.training import runs


def their_nats(directory, items, rows=32):
    """Nats a counted token over all items, as `full_pass` counts them, by transformers."""
    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()
    total, count = 0.0, 0
    for start in range(0, len(items), rows):
        batch = items[np.arange(start, min(start + rows, len(items)))]
        tokens, mask = torch.from_numpy(batch["tokens"]).long(), torch.from_numpy(batch["mask"])
        with torch.no_grad():
            logits = model(tokens[:, :-1]).logits
        nats = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), tokens[:, 1:], reduction="none"
        )
        total += nats[mask].double().sum().item()
        count += int(mask.sum())
    return total / count


def both(run, directory):
    """Ours and theirs, for a run whose data has "held_out" `Blocks`; exports to `directory`."""
    loaded = runs.load(run)
    context = getattr(loaded.config, "context", None)
    export(directory, loaded.network, loaded.params, loaded.kept, context)
    held_out = loaded.experiment.data["held_out"]
    (evaluation,) = [e for e in loaded.experiment.evaluations if e.name == "held_out"]
    ours = evaluation.score(loaded.model, loaded.experiment.data, jax.random.key(0))["nats"]
    tokenizer = AutoTokenizer.from_pretrained(directory)
    known = held_out[np.arange(1)]["tokens"][0]
    again = tokenizer(tokenizer.decode(known), add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(again) == tokenizer.decode(known)
    return ours, their_nats(directory, held_out)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        ours, theirs = both(chosen.run, Path(scratch) / "exported")
    for name, nats in (("jaxgen", ours), ("transformers", theirs)):
        print(f"{name:12} {nats:.6f} nats a token, perplexity {math.exp(nats):.4f}")


if __name__ == "__main__":
    main()
