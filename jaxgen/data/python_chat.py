"""Conversations about Python functions, with answers that their source and documentation give.

Nobody wrote these conversations: each is made of one function, the same on every machine. Four
things are asked, in an order and in words that the function's name draws; the first question brings
the source along. What a function does is the first line of its documentation; the rest is read off
the source, so that answers about functions never seen can be told right from wrong.

A preference is a conversation up to one of its answers, and beside this a wrong one: what another
function of the module does, a list with a name lost, or one with a name too many.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from jaxgen.data.chat import Chat, ChatPrompts
from jaxgen.data.conversations import Message, Preference
from jaxgen.data.python_functions import PythonFunction

# What is asked: the questions, and the answer where there is nothing to list.
_ASKED = {
    "deed": ("What does this function do?", "Describe this function in a line.", "What is it for?"),
    "arguments": (
        "What are its arguments?", "Which arguments does it take?", "Name its arguments.",
    ),
    "defaults": (
        "Which arguments have a default?", "What can be left out?", "Are there defaults?",
    ),
    "exceptions": (
        "What does it raise?", "Which exceptions does it raise?", "Does it raise anything?",
    ),
}  # fmt: skip
_NONE = {
    "arguments": "It takes none.",
    "defaults": "None of them has one.",
    "exceptions": "It raises nothing itself.",
}

# What a wrong answer adds where nobody lends anything.
_STRANGE = {"arguments": ["value"], "defaults": ["value=None"], "exceptions": ["ValueError"]}


@dataclass(frozen=True)
class Turn:
    """A question and its answer.

    kind: "deed", "arguments", "defaults" or "exceptions".
    wrong: another answer, which is not right.
    """

    kind: str
    question: str
    answer: str
    wrong: str


def turns(function: PythonFunction, other: PythonFunction, variant: int = 0) -> tuple[Turn, ...]:
    """All that is asked about a function, in an order of its own.

    other: lends wrong answers.
    variant: another one asks in other words and in another order.
    """
    draw = _draws(function, variant)
    own, lent = _facts(function), _facts(other)
    found: list[Turn] = []
    for kind in draw.permutation(sorted(_ASKED)):
        question = str(draw.choice(_ASKED[kind]))
        if kind == "deed":
            answer, wrong = (_sentence(each) for each in (function, other))
        else:
            answer = _listed(own[kind], _NONE[kind])
            strange = [name for name in lent[kind] if name not in own[kind]] or _STRANGE[kind]
            wrong = _listed(_mistaken(own[kind], strange[0], draw), _NONE[kind])
        if not found:
            question = f"{question}\n\n{function.source}"
        found.append(Turn(str(kind), question, answer, wrong))
    return tuple(found)


def conversation(turns: Sequence[Turn]) -> tuple[Message, ...]:
    """Questions and answers by turns."""
    return tuple(
        Message(role, said)
        for turn in turns
        for role, said in (("user", turn.question), ("assistant", turn.answer))
    )


def asked(turns: Sequence[Turn], at: int) -> tuple[Message, ...]:
    """A conversation up to question `at`, which is to be answered."""
    return (*conversation(turns[:at]), Message("user", turns[at].question))


def preferences(turns: Sequence[Turn]) -> list[Preference]:
    """The right and the wrong answer to each question, after all before it."""
    return [
        Preference(asked(turns, at), turn.answer, turn.wrong)
        for at, turn in enumerate(turns)
        if turn.wrong != turn.answer
    ]


def examined(
    chat: Chat, conversations: Sequence[Sequence[Turn]], width: int
) -> tuple[ChatPrompts, list[Turn]]:
    """Each question that has room in `width` tokens, after the right answers to all before it."""
    found = [(asked(turns, at), turn) for turns in conversations for at, turn in enumerate(turns)]
    short = [(said, turn) for said, turn in found if len(chat.prompt(said)) <= width]
    return ChatPrompts(chat, [said for said, _ in short], width), [turn for _, turn in short]


def all_turns(
    functions: Sequence[PythonFunction], variants: Sequence[int] = (0,)
) -> list[tuple[Turn, ...]]:
    """`turns` of each function; what lends wrong answers is the next of its module, if any is."""
    found = []
    for place, function in enumerate(functions):
        neighbours = [functions[place - 1], functions[(place + 1) % len(functions)]]
        same = [each for each in neighbours if each.module == function.module]
        other = (same or neighbours)[-1]
        found += [turns(function, other, variant) for variant in variants]
    return found


def _draws(function: PythonFunction, variant: int) -> np.random.Generator:
    named = f"{variant} {function.module}.{function.name}".encode()
    return np.random.default_rng(int.from_bytes(hashlib.sha256(named).digest()[:8], "big"))


def _sentence(function: PythonFunction) -> str:
    """The first sentence of its documentation."""
    paragraph = " ".join(function.documentation.split("\n\n")[0].split())
    found = re.match(r".+?[.!?](?= [A-Z]|$)", paragraph)
    return found[0] if found else f"{paragraph.rstrip(':')}."


def _listed(names: Sequence[str], none: str) -> str:
    quoted = [f"`{name}`" for name in names]
    *rest, last = quoted or [none]
    return f"{', '.join(rest)} and {last}." if rest else f"{last}." if quoted else none


def _mistaken(right: Sequence[str], strange: str, draw: np.random.Generator) -> list[str]:
    """The names with one lost, or with a strange one besides."""
    if right and draw.random() < 0.5:
        lost = int(draw.integers(len(right)))
        return [name for place, name in enumerate(right) if place != lost]
    return [*right, strange]


def _facts(function: PythonFunction) -> dict[str, list[str]]:
    """The names of arguments, those with their defaults, and what is raised, in order."""
    node = ast.parse(function.source).body[0]
    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    given = node.args
    places = [*given.posonlyargs, *given.args]
    late = places[len(places) - len(given.defaults) :]
    pairs: list[tuple[ast.arg, ast.expr | None]] = [*zip(late, given.defaults, strict=True)]
    pairs += [*zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    defaults = {each.arg: value for each, value in pairs if value is not None}
    if "." in function.name and places and places[0].arg in ("self", "cls"):
        places = places[1:]
    names = [
        *(each.arg for each in places),
        *([f"*{given.vararg.arg}"] if given.vararg else []),
        *(each.arg for each in given.kwonlyargs),
        *([f"**{given.kwarg.arg}"] if given.kwarg else []),
    ]
    raised = [
        ast.unparse(each.exc.func if isinstance(each.exc, ast.Call) else each.exc)
        for each in ast.walk(node)
        if isinstance(each, ast.Raise) and each.exc is not None
    ]
    return {
        "arguments": names,
        "defaults": [
            f"{name}={ast.unparse(defaults[name])}" for name in names if name in defaults
        ],
        "exceptions": [name for name in dict.fromkeys(raised) if name[:1].isupper() or "." in name],
    }  # fmt: skip
