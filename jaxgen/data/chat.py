"""Conversations as tokens, by a template of special tokens, and which of them are the answers'."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Bool, Int, Int32

from jaxgen.data.conversations import Message
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.errors import UserError


@dataclass(frozen=True)
class ChatTemplate:
    """How messages are written side by side, as Hugging Face's chat templates do in Jinja.

    A message is `start` role `role_end` `gap` content `end` `after`. What is special is one token
    of the vocabulary each, or empty where a template has none.
    """

    start: str  # special; begins a message
    role_end: str  # special; ends the role
    gap: str  # ordinary text between the role and the content
    end: str  # special; ends a message, and an answer
    after: str = ""  # ordinary text between messages
    begin: str = ""  # special; begins a conversation
    roles: tuple[str, ...] = ("system", "user", "assistant", "tool")
    answers: str = "assistant"  # the role whose messages are learned


CHATML = ChatTemplate("<|im_start|>", "", "\n", "<|im_end|>", after="\n")  # OpenAI's; Qwen's
LLAMA3 = ChatTemplate(  # Dubey et al. 2024, "The Llama 3 Herd of Models"
    "<|start_header_id|>", "<|end_header_id|>", "\n\n", "<|eot_id|>", begin="<|begin_of_text|>"
)


@dataclass(frozen=True, eq=False)
class Conversation:
    """A conversation's tokens, and which are to be learned: answers, with the end of each."""

    tokens: Int32[np.ndarray, "size"]
    answers: Bool[np.ndarray, "size"]


@dataclass(frozen=True, eq=False)
class Chat:
    """A tokenizer that writes conversations by a template.

    A role or a content that spells a special token is cut like any other text: nobody ends their
    message but the template. Contents are taken as they are, with their blanks, and are cut apart
    from what stands before them, so that a prompt's tokens don't depend on the answer; transformers
    cuts both at once, which may differ where a content begins with a blank.

    Raises `UserError` where the vocabulary lacks a special token of the template.
    """

    tokenizer: SubwordTokenizer
    template: ChatTemplate = CHATML

    def __post_init__(self) -> None:
        written = self.template
        for text in (written.begin, written.start, written.role_end, written.end):
            if text and self._special(text)[0] not in self.tokenizer.special_tokens:
                raise UserError(f"the tokenizer's token {text} is not a special one: make it one")

    @cached_property
    def end(self) -> int:
        """The token that ends an answer: where to stop drawing."""
        return self._special(self.template.end)[0]

    def conversation(self, messages: Sequence[Message]) -> Conversation:
        """The tokens of a whole conversation; `UserError` for none, and for an unknown role."""
        if not messages:
            raise UserError("a conversation needs at least one message, this one has none")
        tokens = self._special(self.template.begin)
        answers = [False] * len(tokens)
        contents = self.tokenizer.encode_ordinary([message.content for message in messages])
        for message, content in zip(messages, contents, strict=True):
            said = [*content.tolist(), self.end]
            after = self._ordinary(self.template.after)
            head = self._head(message.role)
            tokens += [*head, *said, *after]
            learned = message.role == self.template.answers
            answers += [False] * len(head) + [learned] * len(said) + [False] * len(after)
        return Conversation(np.array(tokens, np.int32), np.array(answers, bool))

    def prompt(self, messages: Sequence[Message]) -> Int32[np.ndarray, "size"]:
        """The tokens of a conversation so far, with an answer begun: a model writes on there."""
        said = self.conversation(messages).tokens
        return np.concatenate([said, np.array(self._head(self.template.answers), np.int32)])

    def _head(self, role: str) -> list[int]:
        if role not in self.template.roles:
            raise UserError(
                f"there is no role {role!r} in the conversation's template, but "
                f"{', '.join(self.template.roles)}"
            )
        start, role_end = self._special(self.template.start), self._special(self.template.role_end)
        if role_end:
            return [*start, *self._ordinary(role), *role_end, *self._ordinary(self.template.gap)]
        return [*start, *self._ordinary(role + self.template.gap)]

    def _ordinary(self, text: str) -> list[int]:
        return self.tokenizer.encode_ordinary([text])[0].tolist()

    def _special(self, text: str) -> list[int]:
        return [self.tokenizer.token(text)] if text else []


class ChatPrompts:
    """Conversations to answer, an item each: "tokens" (width,) int32, and their "length".

    width: room for the longest; `UserError` for one that is longer, and where there are none.
    """

    def __init__(self, chat: Chat, conversations: Sequence[Sequence[Message]], width: int) -> None:
        if not conversations:
            raise UserError("there is no conversation to answer")
        rows = [chat.prompt(messages) for messages in conversations]
        lengths = [len(row) for row in rows]
        if max(lengths) > width:
            raise UserError(
                f"a conversation of {max(lengths)} tokens has no room in {width}: leave it out, or "
                "make more room"
            )
        self._leaves = {
            "tokens": np.stack([np.pad(row, (0, width - len(row))) for row in rows]),
            "length": np.array(lengths, np.int32),
        }

    def __len__(self) -> int:
        return len(self._leaves["length"])

    def __getitem__(self, indices: Int[np.ndarray, "rows"]) -> dict[str, np.ndarray]:
        return {name: leaf[indices] for name, leaf in self._leaves.items()}
