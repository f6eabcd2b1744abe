"""`jaxgen sample`: one artifact, a text as it is written, or a file of answers to many prompts."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from etils import epath

from jaxgen import flags
from jaxgen.artifacts import Artifact, Text
from jaxgen.data.prompts import read_prompts, said
from jaxgen.errors import UserError
from jaxgen.experiment import Model, Sampler
from jaxgen.training import drawing, runs


def sample(arguments: list[str]) -> None:
    """Answers a request, or a file of prompts, and says where the answer lies."""
    path = run_argument(arguments, "sample", "[SAMPLER] [flags]")
    samplers = runs.experiment_of(path).samplers
    if not samplers:
        raise UserError(f"The experiment of {path} has no sampler.")
    rest = arguments[1:]
    if rest and (rest[0] in samplers or not (rest[0].startswith("-") and len(samplers) == 1)):
        name, rest = rest[0], rest[1:]
    elif len(samplers) == 1:
        (name,) = samplers
    else:
        name = "--help"
    if name in ("-h", "--help"):
        return say(
            f"usage: jaxgen sample {path} SAMPLER [flags]\n\n"
            f"SAMPLER is one of: {', '.join(samplers)}"
        )
    if name not in samplers:
        raise UserError(
            f"There is no sampler {name!r} in {path}; name one of {', '.join(samplers)}"
            f"{flags.nearest(name, samplers)}."
        )
    chosen = flags.parse(
        [
            flags.group("request", samplers[name].request, samplers[name].request()),
            *checkpoint_flags(),
            flags.flag("output", str, "", "file name without its ending"),
            *_own_flags(samplers[name]),
        ],
        rest,
        f"jaxgen sample {path} {name}",
        f"Draws samples with {name}.",
    )
    prompts = read_prompts(chosen.prompts) if getattr(chosen, "prompts", "") else []
    loaded = runs.load(path, chosen.checkpoint, chosen.ema)
    sampler, model, request = loaded.experiment.samplers[name], loaded.model, chosen.request
    if getattr(chosen, "draft", ""):
        sampler = _drafted(sampler, chosen.draft)
    stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
    stem = chosen.output or str(epath.Path(path) / "drawn" / f"{name}-{stamp}")
    if getattr(chosen, "turns", ""):
        return _converse(sampler, request, model, said(chosen.turns), epath.Path(f"{stem}.jsonl"))
    if prompts:
        requests = [dataclasses.replace(request, prompt=prompt) for prompt in prompts]
        return _answer_all(sampler, requests, model, chosen.batch, epath.Path(f"{stem}.jsonl"))
    if sampler.stream is not None and getattr(request, "count", 0) == 1:
        artifact: Artifact = _streamed(sampler, request, model)
    else:
        artifact = drawing.draw(sampler, request, model)
        say(artifact.show())
    for file in artifact.save(stem):
        say(str(file))


def checkpoint_flags() -> list[flags.Field]:
    """Which of a run's models a command takes."""
    return [
        flags.flag("checkpoint", str, "best", '"best" by the run\'s own score, "last", or a step'),
        flags.flag("ema", bool, True, "use the moving averages, where there are any"),
    ]


def run_argument(arguments: Sequence[str], command: str, rest: str) -> str:
    """The run directory that a command begins with; without one, its usage."""
    if not arguments or arguments[0] in ("-h", "--help"):
        say(f"usage: jaxgen {command} RUN {rest}\n\nRUN is a run directory; add --help after it.")
        sys.exit(0)
    return arguments[0]


def say(text: str, end: str = "\n") -> None:
    """Prints a command's result."""
    print(text, end=end, flush=True)


def _own_flags(sampler: Sampler) -> list[flags.Field]:
    own = []
    if sampler.prepare_many is not None:
        told = 'a file with a prompt a line, or a .jsonl with a "prompt" each; - is standard input'
        own.append(flags.flag("prompts", str, "", f"{told}; answers go to a .jsonl"))
        own.append(flags.flag("batch", int, 8, "so many of those at once"))
    if sampler.continued is not None:
        told = "a file with what the user says in each turn, as --prompts has it, or - to type it"
        own.append(flags.flag("turns", str, "", f"{told}; what was said goes to a .jsonl"))
    if sampler.drafted is not None:
        told = "a run of a smaller model with the same tokenizer, which guesses ahead"
        own.append(flags.flag("draft", str, "", told))
    return own


def _drafted(sampler: Sampler, draft: str) -> Sampler:
    loaded = runs.load(draft)
    able = [each for each in loaded.experiment.samplers.values() if each.drafted is not None]
    if not able or sampler.drafted is None:
        raise UserError(f"{draft} is no run of a language model: a draft must write text.")
    return sampler.drafted(able[0], loaded.model)


def _streamed(sampler: Sampler, request: Any, model: Model, shown: int = 0) -> Text:
    """Prints a text while it is written, but for its beginning, and returns it whole."""
    # What may come to be a stop string isn't shown, nor half a character.
    held_back = max([len(stop) for stop in getattr(request, "stop", ())], default=1) - 1
    artifact = Text(("",))
    for part in drawing.stream(sampler, request, model):
        assert isinstance(part, Text)
        artifact, (text,) = part, part.passages
        ready = text[: len(text) - held_back].rstrip("\ufffd")
        say(ready[shown:], end="")
        shown = max(shown, len(ready))
    say(artifact.passages[0][shown:])
    return artifact


def _converse(
    sampler: Sampler, request: Any, model: Model, turns: Iterable[str], path: epath.Path
) -> None:
    """Answers turn after turn, with all before in sight, and keeps what was said."""
    assert sampler.continued is not None
    if request.count != 1:
        raise UserError(
            f"--turns takes one answer to each, and count is {request.count}: leave it."
        )
    told, answer = [*request.before], None
    path.parent.mkdir(parents=True, exist_ok=True)
    for turn in turns:
        if answer is None:
            request = dataclasses.replace(request, prompt=turn)
        else:
            request = sampler.continued(request, answer, turn)
        if not sys.stdin.isatty():
            say(f"> {turn}")
        if sampler.stream is None:
            artifact = drawing.draw(sampler, request, model)
            assert isinstance(artifact, Text)
            say(artifact.passages[0][len(artifact.prompts[0]) :])
        else:
            artifact = _streamed(sampler, request, model, len(turn) + 1)
        answer = artifact.passages[0][len(artifact.prompts[0]) :]
        told += [turn, answer]
        # Whole after each turn, so that nothing is lost if the next one has no room.
        path.write_text(_told(request.system, told))
    say(str(path))


def _told(system: str, said: Sequence[str]) -> str:
    """A conversation as `jaxgen.data.conversations` reads it."""
    messages = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")
    messages += [{"role": roles[place % 2], "content": text} for place, text in enumerate(said)]
    return json.dumps({"messages": messages}, ensure_ascii=False) + "\n"


def _answer_all(
    sampler: Sampler, requests: Sequence[Any], model: Model, batch: int, path: epath.Path
) -> None:
    """Answers prompts in batches of one size, a line of JSON each, in order."""
    if batch < 1:
        raise UserError(f"--batch must be at least 1, not {batch}.")
    lines: list[str] = []
    times: list[tuple[float, int]] = []
    path.parent.mkdir(parents=True, exist_ok=True)
    for start in range(0, len(requests), batch):
        some = requests[start : start + batch]
        # Filled up, so that the last batch runs the program of the others.
        filled = [*some, *[some[-1]] * (min(batch, len(requests)) - len(some))]
        began = time.perf_counter()
        text = drawing.draw_many(sampler, filled, model)
        assert isinstance(text, Text)
        count = requests[0].count * len(some)
        times.append((time.perf_counter() - began, sum(text.sizes[:count])))
        lines += text.lines()[:count]
        # Whole after each batch, so that little is lost to a crash.
        path.write_text("".join(f"{line}\n" for line in lines))
    counted = times[1:] or times
    seconds, tokens = (sum(column) for column in zip(*counted, strict=True))
    besides = ", the first batch, which compiles, not counted" if len(times) > 1 else ""
    say(f"{len(lines)} passages; {tokens / seconds:,.0f} tokens/s{besides}")
    say(str(path))
