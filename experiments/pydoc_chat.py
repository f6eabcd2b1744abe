"""A small model that talks about Python functions: supervised fine-tuning.

Instruction tuning on conversations (Ouyang et al. 2022, step 1), through ChatML's template. The
conversations are made of the documented functions of Python's own library: what one does, its
arguments, defaults and exceptions, in several turns (jaxgen/data/python_chat.py says how). Of them
only answers are learned, and beside them the functions as plain text. pydoc_chat_dpo.py goes on.

Command: jaxgen train experiments/pydoc_chat.py; then jaxgen sample RUN --turns -

Hardware and time: 2 CPU cores, see RESULTS.md.

Expected, in RESULTS.md, on modules that were held out: the share of lists that are right to the
letter, as `test/arguments_exact`, and `test/deed_rouge_l` of what functions do.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxgen.data.chat import Chat
from jaxgen.data.conversations import Message
from jaxgen.data.python_chat import all_turns, conversation, examined
from jaxgen.data.python_functions import standard_functions
from jaxgen.data.sources import Deferred, Shuffled
from jaxgen.data.special_tokens import SpecialTokens
from jaxgen.data.subword_training import train_byte_pairs
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.data.text import Packed
from jaxgen.evaluation.answers import answer_scores
from jaxgen.experiment import Best, Evaluation, Experiment, Model, Preview, Update
from jaxgen.families.autoregressive.architectures import qwen3
from jaxgen.families.autoregressive.chat import ChatRequest, chat_sampler, replies
from jaxgen.families.autoregressive.decoder import transformer_decoder
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.likelihood import next_token_loss
from jaxgen.families.autoregressive.transformer import muon_matrices
from jaxgen.training.optimizers import muon, warmup_cosine

SPECIAL = SpecialTokens(eos="<|endoftext|>", others=("<|im_start|>", "<|im_end|>"))
EXAMPLE = "What are its arguments?\n\ndef shift(self, line, by=1):\n    return line << by"
ANSWER = 64  # tokens of an answer


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    vocabulary: int = 4096  # byte pairs and special tokens
    layers: int = 4  # transformer blocks
    heads: int = 6  # query heads of 32 numbers each
    groups: int = 3  # heads of keys and values
    width: int = 192  # of the residual stream
    context: int = 256  # tokens of a conversation
    variants: int = 4  # conversations about each function
    batch: int = 8  # rows in a step
    steps: int = 2000  # training steps
    rate: float = 3e-3  # AdamW's peak learning rate
    muon_rate: float = 0.02  # Muon's
    functions: int = 0  # so many of each part; 0 is all
    evaluate_every: int = 500  # steps between scores, conversations and checkpoints
    seed: int = 0  # initialization, data order, samples


SETTINGS = {
    "default": Config(),
    "tiny": Config(300, 2, 2, 1, 32, variants=1, steps=6, functions=12, evaluate_every=3),
}


def assets(config: Config) -> dict[str, bytes]:
    """The byte pairs, learned from what is trained on."""
    texts = [
        t for f in standard_functions(config.functions)[0] for t in (f.documentation, f.source)
    ]
    return train_byte_pairs(texts, config.vocabulary, SPECIAL).files()


def build(config: Config, kept: Mapping[str, bytes]) -> Experiment:
    """Next-token prediction of answers and of plain text; scores are those of whole answers."""
    tokenizer = SubwordTokenizer.from_files(kept)
    chat = Chat(tokenizer)

    def data() -> dict[str, Any]:
        training, development, test = standard_functions(config.functions)
        told = [
            chat.conversation(conversation(t)) for t in all_turns(training, range(config.variants))
        ]
        told = [each for each in told if len(each.tokens) <= config.context + 1]
        plain = tokenizer.encode_ordinary([f"{f.source}\n\n{f.documentation}" for f in training])
        masks = [each.answers for each in told] + [np.ones(len(each), bool) for each in plain]
        packed = Packed([each.tokens for each in told] + plain, config.context, masks=masks)
        asked, turns = examined(chat, all_turns(test), config.context - ANSWER)
        watched, watched_turns = examined(
            chat, all_turns(development[:64]), config.context - ANSWER
        )
        return {
            "train": Shuffled(packed, config.batch, config.seed), "test": asked,
            "test_turns": turns, "development": watched, "development_turns": watched_turns,
        }  # fmt: skip

    network = qwen3(
        tokenizer.vocabulary_size, config.width, config.layers, config.heads, config.groups,
        hidden=8 * config.width // 3, depth=32, rotary_base=10_000.0, tied=True,
    ).clone(unroll=config.layers)  # fmt: skip
    decoder = transformer_decoder(network, config.context)
    answered = replies(decoder, tokenizer.vocabulary_size, chat.end, ANSWER, rows=32)

    def scored(part: str) -> Evaluation:
        def score(model: Model, data: Mapping[str, Any], key: Any) -> dict[str, float]:
            given = [tokenizer.decode(np.array(a, np.int32)) for a in answered(model, data[part])]
            kinds, right = zip(*((t.kind, t.answer) for t in data[f"{part}_turns"]), strict=True)
            return answer_scores(kinds, right, given)

        return Evaluation(part, score, config.evaluate_every if part == "development" else None)

    asked = lambda messages: chat.prompt([Message(*message) for message in messages])
    slow, fast = (
        warmup_cosine(peak, config.steps, config.steps // 10, final=peak / 10)
        for peak in (config.rate, config.muon_rate)
    )
    optimizer = muon(fast, muon_matrices, adam_learning_rate=slow, b2=0.99, clip=1.0)
    request = ChatRequest(EXAMPLE, tokens=ANSWER)
    loss = next_token_loss(language_model(network), chunk=128)
    return Experiment(
        init=lambda key, batch: (network.init(key, batch["tokens"][:, :-1])["params"], {}),
        updates=[Update("chat", loss, optimizer, ema=0.99)],
        data=Deferred(data),
        steps=config.steps,
        seed=config.seed,
        network=network,
        samplers={"chat": chat_sampler(decoder, tokenizer, asked, chat.end)},
        evaluations=[scored("development"), scored("test")],
        previews=[Preview("answer", "chat", request, config.evaluate_every)],
        best=Best("development/arguments_exact", higher_is_better=True),
        checkpoint_every=config.evaluate_every,
        unit="tokens",
        units_per_row=config.context,
    )


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
