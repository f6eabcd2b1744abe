"""Fine-tuning to one president's speeches, by low-rank adapters or in full.

LoRA (Hu et al. 2022): beside each kernel of the attention and of the gated network lie two thin
matrices, which alone are moved; `--full` moves all parameters instead. What is fine-tuned is a run
of speeches_bpe_gpt (`--base RUN`), trained first where none is given.

Command: jaxgen train experiments/speeches_lora.py --base RUN [--setting full]

Hardware and time: 2 CPU cores, see RESULTS.md.

Expected, in RESULTS.md: perplexity on the president's own held-out speeches before
(`before/perplexity`) and after (`held_out/perplexity`), and after on the speeches of all others
that were held out (`others/perplexity`), which tells what was forgotten.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxgen.data.datasets import speeches
from jaxgen.data.sources import Deferred, Shuffled
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.data.text import Blocks, Packed
from jaxgen.experiment import Batch, Best, Evaluation, Experiment, Key, Model, Preview, Update
from jaxgen.families.autoregressive.decoder import transformer_decoder
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.likelihood import full_pass, next_token_loss
from jaxgen.families.autoregressive.sampling import GenerateRequest, text_sampler
from jaxgen.nn.low_rank import adapted, is_adapter
from jaxgen.training.optimizers import adamw, warmup_cosine

REQUIRES = {"base": "speeches_bpe_gpt.py"}


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    president: str = "Theodore Roosevelt"  # whose speeches to learn
    full: bool = False  # move all parameters, and no adapters
    rank: int = 16  # of the adapters
    alpha: float = 32.0  # the adapters count alpha / rank
    batch: int = 8  # rows of packed speeches in a step
    steps: int = 200  # training steps
    rate: float = 2e-3  # AdamW's peak learning rate
    evaluate_every: int = 50  # steps between scores, passages and checkpoints
    seed: int = 0  # initialization of the adapters, data order, samples


SETTINGS = {
    "default": Config(),
    "full": replace(Config(), full=True, rate=3e-4),
    "tiny": Config(rank=2, batch=8, steps=8, evaluate_every=4),
}


def is_adaptable(path: tuple[str, ...]) -> bool:
    """The kernels of all blocks: queries, keys, values, outputs, and the gated network's."""
    return path[0] == "blocks"


def build(config: Config, required: Mapping[str, Any]) -> Experiment:
    """The base's network and weights, moved on rows in which speeches lie side by side."""
    base = required["base"]
    network, context = base.network, base.config.context
    tokenizer = SubwordTokenizer.from_files(base.kept)

    def data() -> dict[str, Any]:
        end = tokenizer.special_token("eos")

        def documents(part: int, own: bool) -> list[np.ndarray]:
            chosen = [s.text for s in speeches()[part] if (s.president == config.president) == own]
            return [np.append(t, np.int32(end)) for t in tokenizer.encode_ordinary(chosen)]

        speeches(config.president)  # tells who has none
        return {
            "train": Shuffled(Packed(documents(0, True), context), config.batch, config.seed),
            "held_out": Blocks(np.concatenate(documents(1, True)), context),
            "others": Blocks(np.concatenate(documents(1, False)), context),
        }

    model = language_model(network)
    rate = warmup_cosine(config.rate, config.steps, config.steps // 10)
    moves = "" if config.full else is_adapter

    def init(key: Key, batch: Batch) -> tuple[Any, dict[str, Any]]:
        params = network.init(key, batch["tokens"][:, :-1])["params"]
        if config.full:
            return params, {}
        rank, alpha = config.rank, config.alpha
        return adapted(params, key, rank=rank, alpha=alpha, targets=is_adaptable), {}

    own, others = (
        full_pass(model, part, token_bytes=tokenizer.token_bytes) for part in ("held_out", "others")
    )

    def before(_: Model, data: Mapping[str, Any], key: Key) -> Mapping[str, float]:
        return own(base.model, data, key)

    request = GenerateRequest("Fellow citizens", tokens=120)
    return Experiment(
        init=init,
        pretrained=lambda shapes: base.params,
        updates=[Update("fine_tuning", next_token_loss(model, chunk=128), adamw(rate), moves)],
        data=Deferred(data),
        steps=config.steps,
        seed=config.seed,
        network=network,
        samplers={"generate": text_sampler(transformer_decoder(network, context), tokenizer)},
        evaluations=[
            Evaluation("before", before),
            Evaluation("held_out", own, config.evaluate_every),
            Evaluation("others", others),
        ],
        previews=[Preview("passage", "generate", request, config.evaluate_every)],
        best=Best("held_out/nats"),
        checkpoint_every=config.evaluate_every,
        unit="tokens",
        units_per_row=context,
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
