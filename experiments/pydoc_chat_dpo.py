"""The model of pydoc_chat, taught by preferences which of two answers is right.

Direct preference optimization (Rafailov et al. 2023), with the likelihood of right answers beside
it (Pang et al. 2024): the policy begins as the fine-tuned model, which stays as the reference. That
is a run of pydoc_chat (`--chat RUN`), trained first where none is given. A preference is a
conversation up to a question, with the right answer and a wrong one (jaxgen/data/python_chat.py
says which), and the wrong ones are hard: a list with one name lost or one too many, what another
function of the module does.

Command: jaxgen train experiments/pydoc_chat_dpo.py --chat RUN

Hardware and time: 2 CPU cores, see RESULTS.md.

Expected, in RESULTS.md, on modules that were held out: the share of pairs whose right answer is the
likelier one, before (`before/ranked`) and after (`ranking/ranked`), and the scores of answers.
"""

import dataclasses
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxgen.data.chat import Chat
from jaxgen.data.conversations import Message
from jaxgen.data.preferences import Preferences
from jaxgen.data.python_chat import all_turns, examined, preferences
from jaxgen.data.python_functions import standard_functions
from jaxgen.data.sources import Deferred, Shuffled
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.evaluation.answers import answer_scores
from jaxgen.experiment import Best, Evaluation, Experiment, Model, Preview, Update
from jaxgen.families.autoregressive.chat import ChatRequest, chat_sampler, replies
from jaxgen.families.autoregressive.decoder import of_part, transformer_decoder
from jaxgen.families.autoregressive.language_model import language_model
from jaxgen.families.autoregressive.preference import preference_loss, ranked, with_reference
from jaxgen.training.optimizers import adamw, warmup_cosine

REQUIRES = {"chat": "pydoc_chat.py"}
EXAMPLE = "What are its arguments?\n\ndef shift(self, line, by=1):\n    return line << by"
ANSWER = 64  # tokens of an answer


@dataclass(frozen=True)
class Config:
    """The numbers one sweeps."""

    beta: float = 0.1  # how dear it is to leave the reference
    likelihood: float = 1.0  # weight of the right answers' own likelihood
    batch: int = 16  # pairs in a step
    steps: int = 200  # training steps
    rate: float = 5e-5  # AdamW's peak learning rate
    functions: int = 0  # so many of each part; 0 is all
    evaluate_every: int = 100  # steps between scores, conversations and checkpoints
    seed: int = 0  # data order, samples


SETTINGS = {
    "default": Config(),
    "tiny": Config(batch=8, steps=6, functions=12, evaluate_every=3),
}


def build(config: Config, required: Mapping[str, Any]) -> Experiment:
    """The fine-tuned network and weights, twice: one copy moves."""
    base = required["chat"]
    network, context = base.network, base.config.context
    tokenizer = SubwordTokenizer.from_files(base.kept)
    chat = Chat(tokenizer)

    def data() -> dict[str, Any]:
        # In training, questions in other words than those of the fine-tuning.
        variants = (base.config.variants, 0, 0)
        training, development, test = (
            all_turns(part, [variant])
            for part, variant in zip(standard_functions(config.functions), variants, strict=True)
        )

        def pairs(conversations: Any) -> Preferences:
            found = [pair for turns in conversations for pair in preferences(turns)]
            return Preferences.short(found, chat, context)

        asked, turns = examined(chat, test, context - ANSWER)
        return {
            "train": Shuffled(pairs(training), config.batch, config.seed),
            "development_pairs": pairs(development[:64]), "pairs": pairs(test), "test": asked,
            "test_turns": turns,
        }  # fmt: skip

    model = language_model(network)
    decoder = of_part(transformer_decoder(network, context), "policy")
    answered = replies(decoder, tokenizer.vocabulary_size, chat.end, ANSWER, rows=32)

    def score(model: Model, data: Mapping[str, Any], key: Any) -> dict[str, float]:
        given = [tokenizer.decode(np.array(a, np.int32)) for a in answered(model, data["test"])]
        kinds, right = zip(*((turn.kind, turn.answer) for turn in data["test_turns"]), strict=True)
        return answer_scores(kinds, right, given)

    def before(score: Any) -> Any:
        fine_tuned = dataclasses.replace(base.model, params=with_reference(base.params))
        return lambda _, data, key: score(fine_tuned, data, key)

    asked = lambda messages: chat.prompt([Message(*message) for message in messages])
    watched, ranking = (ranked(model, part) for part in ("development_pairs", "pairs"))
    loss = preference_loss(model, beta=config.beta, likelihood=config.likelihood)
    rate = warmup_cosine(config.rate, config.steps, config.steps // 10)
    request = ChatRequest(EXAMPLE, tokens=ANSWER)
    return Experiment(
        init=lambda key, batch: (
            with_reference(network.init(key, batch["chosen"][:, :-1])["params"]), {},
        ),
        pretrained=lambda shapes: with_reference(base.params),
        updates=[Update("preference", loss, adamw(rate), "policy")],
        data=Deferred(data),
        steps=config.steps,
        seed=config.seed,
        network=network,
        samplers={"chat": chat_sampler(decoder, tokenizer, asked, chat.end)},
        evaluations=[
            Evaluation("development", watched, config.evaluate_every),
            Evaluation("before", before(ranking)), Evaluation("ranking", ranking),
            Evaluation("before_test", before(score)), Evaluation("test", score),
        ],
        previews=[Preview("answer", "chat", request, config.evaluate_every)],
        best=Best("development/ranked", higher_is_better=True),
        checkpoint_every=config.evaluate_every,
        unit="pairs",
        units_per_row=1,
    )  # fmt: skip


if __name__ == "__main__":
    from jaxgen.cli import main

    main(["train", *sys.argv])
