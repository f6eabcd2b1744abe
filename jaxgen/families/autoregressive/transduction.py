"""From one text to another: encoder–decoders as translators, greedy or by beams."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgen.artifacts import Text
from jaxgen.errors import UserError
from jaxgen.experiment import Items, Key, Model, Params, Sampler
from jaxgen.families.autoregressive.automata import until_token
from jaxgen.families.autoregressive.beams import Hypotheses, beam_search, power_penalty
from jaxgen.families.autoregressive.decoder import Decoder, encoder_decoder_decoder
from jaxgen.families.autoregressive.passes import whole_batches
from jaxgen.families.autoregressive.policies import Policy, combined, guided
from jaxgen.parallel.sharding import fetched

Source = Int[Array, "batch sources"]


@dataclass(frozen=True)
class Transducer:
    """How a network's answers are searched for.

    begin, end: the tokens around a target.
    source_length, length: room for a source, and for its answer with `end`.
    policy: rules tokens out besides, or None.
    decoder: `(network, room for begin, answer and end, source, segments) -> Decoder`.
    """

    network: Any
    begin: int
    end: int
    source_length: int
    length: int
    policy: Policy | None = None
    decoder: Callable[[Any, int, Source, Source], Decoder] = encoder_decoder_decoder

    def search(
        self,
        params: Params,
        source: Source,
        segments: Source,
        beams: int,
        exponent: float | Float[Array, ""],
    ) -> Hypotheses:
        """The best answers to each source; one beam is greedy. See `beam_search`."""
        rows = source.shape[0]
        decoder = self.decoder(self.network, self.length + 1, source, segments)
        ended = guided(until_token(self.network.vocabulary, [self.end]))
        return beam_search(
            decoder,
            params,
            jnp.full((rows, 1), self.begin, jnp.int32),
            jnp.ones(rows, jnp.int32),
            ended if self.policy is None else combined(ended, self.policy),
            beams=beams,
            length=self.length,
            penalty=power_penalty(exponent),
        )

    def text(self, hypotheses: Hypotheses, row: int, rank: int = 0) -> list[int]:
        """The tokens of one answer, without its end."""
        size = int(hypotheses.lengths[row, rank])
        tokens = np.asarray(hypotheses.tokens[row, rank])[:size].tolist()
        return tokens[:-1] if tokens and tokens[-1] == self.end else tokens


@dataclass(frozen=True)
class TransduceRequest:
    """What to answer to."""

    text: str = ""  # the source
    beams: int = 4  # texts that are followed side by side; 1 is greedy
    length_penalty: float = 1.0  # 0 takes the likeliest answer, 1 the likeliest by token
    count: int = 1  # how many of the best answers to give
    seed: int = 0  # changes nothing: nothing is drawn


def transduction_sampler(
    transducer: Transducer,
    encode: Callable[[str], Any],
    decode: Callable[[Sequence[int]], str],
    example: str,
) -> Sampler:
    """Answers a text, by the beams that the request asks for.

    encode: a source to its tokens (size,); raises `UserError` for what it doesn't know.
    decode: an answer's tokens to text.
    example: what to answer to where nothing is asked.

    Raises:
        UserError: by `prepare`, for a request out of range, and a source that is empty or too long.
    """

    def prepare(request: TransduceRequest) -> tuple[tuple[int, int], Any]:
        for name, good, cure in (
            ("beams", request.beams >= 1, "at least 1"),
            ("count", 1 <= request.count <= request.beams, "from 1 to the number of beams"),
        ):
            if not good:
                raise UserError(f"{name} must be {cure}, not {getattr(request, name)}.")
        text = request.text or example
        tokens = np.asarray(encode(text), np.int32)
        room = transducer.source_length
        if not 1 <= len(tokens) <= room:
            raise UserError(
                f"The text has {len(tokens)} tokens, and the model reads 1 to {room}: give another."
            )
        source = np.pad(tokens, (0, room - len(tokens)))[None]
        arrays = {
            "source": source,
            "segments": (np.arange(room) < len(tokens)).astype(np.int32)[None],
            "exponent": np.float32(request.length_penalty),
            "text": np.frombuffer(text.encode(), np.uint8),
        }
        return (request.beams, request.count), arrays

    def sample(model: Model, key: Key, static: tuple[int, int], arrays: Any) -> Any:
        beams, count = static
        found = transducer.search(
            model.params, arrays["source"], arrays["segments"], beams, arrays["exponent"]
        )
        best = jax.tree.map(lambda leaf: leaf[:, :count], found)
        return {"found": best, "text": arrays["text"]}

    def render(drawn: Any) -> Text:
        found = drawn["found"]
        ranks = range(found.scores.shape[1])
        answers = [decode(transducer.text(found, 0, rank)) for rank in ranks]
        scores = np.asarray(found.scores[0])
        told = [f"{answer}  ({s:.2f})" for answer, s in zip(answers, scores, strict=True)]
        source = bytes(np.asarray(drawn["text"])).decode()
        return Text((f"{source} → " + "\n    ".join(answers if len(told) == 1 else told),))

    return Sampler(TransduceRequest, prepare, sample, render)


# (the answers' tokens, without ends and in the order of their items, data) -> scores
Judge = Callable[[Sequence[Sequence[int]], Mapping[str, Any]], Mapping[str, float]]
Score = Callable[[Model, Mapping[str, Any], Key], Mapping[str, float]]


def answers_scored(
    transducer: Transducer,
    data: str,
    judge: Judge,
    *,
    beams: int,
    exponent: float = 1.0,
    rows: int = 128,
) -> Score:
    """Answers every item of `data[data]` and has the answers judged."""
    search = jax.jit(
        lambda params, batch: transducer.search(
            params, batch["source"], batch["source_segments"], beams, exponent
        )
    )

    def score(model: Model, datasets: Mapping[str, Any], key: Key) -> Mapping[str, float]:
        items: Items = datasets[data]
        answers: list[list[int]] = []
        for batch, _ in whole_batches(items, rows):
            asked = {name: batch[name] for name in ("source", "source_segments")}
            found = fetched(search(model.params, asked))
            answers += [transducer.text(found, row) for row in range(rows)]
        return judge(answers[: len(items)], datasets)

    return score
