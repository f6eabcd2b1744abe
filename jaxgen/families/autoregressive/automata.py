"""Finite automata over tokens: where a text ends, and which texts may be written at all.

An automaton over bytes becomes one over tokens by walking the bytes that each token stands for
(Willard & Louf 2023, "Efficient Guided Generation for Large Language Models", section 3). What is
drawn then never depends on how the tokenizer happens to cut a text.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flax.struct
import numpy as np
from jaxtyping import Bool, Int32

from jaxgen.errors import UserError

FORBIDDEN = -1

Table = Int32[np.ndarray, "states vocabulary"]


@flax.struct.dataclass
class Automaton:
    """States 0, 1, ...; a row begins in state 0.

    following: the state after each token in each state, (states, vocabulary) int32, or FORBIDDEN.
    final: whether a row is complete in a state, (states,) bool.
    """

    following: Any
    final: Any


def until_token(vocabulary: int, tokens: Sequence[int]) -> Automaton:
    """Ends at any of some tokens."""
    following = np.zeros((2, vocabulary), np.int32)
    following[:, list(tokens)] = 1
    return Automaton(following, np.array([False, True]))


def until_string(spellings: Sequence[bytes], stops: Sequence[str]) -> Automaton:
    """Ends with the token in which one of some strings is complete, wherever that begins.

    (The automaton over bytes is that of Aho & Corasick 1975.)

    spellings: the bytes that each token stands for; none for a special one.

    Raises:
        UserError: for an empty string, and for one that no sequence of tokens spells.
    """
    for stop in stops:
        if not stop:
            raise UserError("A stop string is empty: leave it out, or give one character at least.")
        if not _spellable(_string_automaton(spellings, [stop])):
            raise UserError(
                f"No sequence of tokens spells the stop string {stop!r}: take one of characters "
                "that the tokenizer knows."
            )
    return _string_automaton(spellings, stops)


def one_of(spellings: Sequence[bytes], texts: Sequence[str], end: int | None = None) -> Automaton:
    """Writes one of some texts, and nothing else.

    end: the token that ends a text which another one goes on from.

    Raises:
        UserError: without a text; for one that no sequence of tokens spells; for a text that
            another one begins with, where there is no `end`.
    """
    if not texts or not all(texts):
        raise UserError("Give at least one text to choose from, and none that is empty.")
    nodes, children = _trie([text.encode() for text in texts])
    steps = np.full((len(nodes), 256), FORBIDDEN, np.int32)
    for node, byte in children:
        steps[node, byte] = children[node, byte]
    complete = np.array([node in {text.encode() for text in texts} for node in nodes])
    leaves = (steps == FORBIDDEN).all(1)
    # Beyond a complete text no byte may follow, not even of the same token.
    following = _over_tokens(steps, spellings)
    # One more state, for texts that `end` completes.
    following = np.concatenate([following, np.full_like(following[:1], FORBIDDEN)])
    complete, leaves = np.append(complete, False), np.append(leaves, True)
    following[:, [not spelling for spelling in spellings]] = FORBIDDEN
    if (complete & ~leaves).any():
        inner = nodes[int(np.flatnonzero(complete & ~leaves)[0])].decode()
        if end is None:
            raise UserError(
                f"{inner!r} is the beginning of another text to choose from, and there is no token "
                "that ends it: leave one of the two out."
            )
        following[complete & ~leaves, end] = len(nodes)
    # Only ways that lead to a text may be taken.
    useful = leaves.copy()
    while True:
        leads = useful[following] & (following != FORBIDDEN)
        wider = useful | leads.any(1)
        if (wider == useful).all():
            break
        useful = wider
    following[~useful[following]] = FORBIDDEN
    reached = _reached(following)
    for node, text in enumerate(nodes):
        if complete[node] and not reached[node]:
            raise UserError(
                f"No sequence of tokens spells {text.decode()!r}: take texts of characters that "
                "the tokenizer knows."
            )
    following[leaves] = np.flatnonzero(leaves)[:, None]  # a row that has ended stays where it is
    return Automaton(following, leaves)


def _trie(texts: Sequence[bytes]) -> tuple[list[bytes], dict[tuple[int, int], int]]:
    """All prefixes, the empty one first; and each one's children, by the byte."""
    nodes = sorted({text[:size] for text in texts for size in range(len(text) + 1)}, key=len)
    numbers = {node: number for number, node in enumerate(nodes)}
    children = {(numbers[node[:-1]], node[-1]): numbers[node] for node in nodes if node}
    return nodes, children


def _string_automaton(spellings: Sequence[bytes], stops: Sequence[str]) -> Automaton:
    ends = [stop.encode() for stop in stops]
    nodes, _ = _trie(ends)
    numbers = {node: number for number, node in enumerate(nodes)}
    steps = np.zeros((len(nodes), 256), np.int32)
    for number, node in enumerate(nodes):
        for byte in {byte for end in ends for byte in end}:
            text = node + bytes([byte])
            # The longest end of what was read that begins a stop string.
            steps[number, byte] = next(
                numbers[text[start:]] for start in range(len(text) + 1) if text[start:] in numbers
            )
    final = np.array([any(node.endswith(end) for end in ends) for node in nodes])
    steps[final] = np.flatnonzero(final)[:, None]  # are never left
    return Automaton(_over_tokens(steps, spellings), final)


def _over_tokens(steps: Int32[np.ndarray, "states 256"], spellings: Sequence[bytes]) -> Table:
    """Walks each token's bytes from each state; one that stands for none stays where it is."""
    states = len(steps)
    # Row -1, the last, stays forbidden.
    steps = np.concatenate([steps, np.full((1, 256), FORBIDDEN, np.int32)])
    following = np.tile(np.arange(states, dtype=np.int32)[:, None], (1, len(spellings)))
    sizes = np.array([len(spelling) for spelling in spellings])
    for place in range(int(sizes.max(initial=0))):
        tokens = [int(token) for token in np.flatnonzero(sizes > place)]
        byte = np.array([spellings[token][place] for token in tokens])
        following[:, tokens] = steps[following[:, tokens], byte[None, :]]
    return following


def _spellable(automaton: Automaton) -> bool:
    return bool((_reached(automaton.following) & automaton.final).any())


def _reached(following: Table) -> Bool[np.ndarray, "states"]:
    reached = np.zeros(len(following), bool)
    reached[0], frontier = True, [0]
    while frontier:
        after = np.unique(following[frontier])
        frontier = [int(state) for state in after if state != FORBIDDEN and not reached[state]]
        reached[frontier] = True
    return reached
