"""Conversations are written by a template, answers alone are learned, nobody forges a turn."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxgen.data.chat import CHATML, LLAMA3, Chat
from jaxgen.data.conversations import Message, Preference, read_conversations, read_preferences
from jaxgen.data.preferences import Preferences
from jaxgen.data.special_tokens import SpecialTokens
from jaxgen.data.subword_training import train_byte_pairs
from jaxgen.data.text import Packed
from jaxgen.errors import UserError

SPECIAL = ("<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|start_header_id|>")
SPECIAL = SpecialTokens(pad="<|pad|>", others=(*SPECIAL, "<|end_header_id|>", "<|eot_id|>"))
TOKENIZER = train_byte_pairs(
    ["user assistant system\n Hello there, how are you?"] * 9, 300, SPECIAL
)
CHATS = {"chatml": Chat(TOKENIZER, CHATML), "llama3": Chat(TOKENIZER, LLAMA3)}
SAID = [
    Message("system", "Be kind."),
    Message("user", "Hello"),
    Message("assistant", "Hello there"),
    Message("user", "how are you?"),
    Message("assistant", "well"),
]
WRITTEN = {
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    "<|im_start|>assistant\nHello there<|im_end|>\n<|im_start|>user\nhow are you?<|im_end|>\n"
    "<|im_start|>assistant\nwell<|im_end|>\n",
    "llama3": "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHello there<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nhow are you?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nwell<|eot_id|>",
}
BEGUN = {
    "chatml": "<|im_start|>assistant\n",
    "llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n",
}

templates = pytest.mark.parametrize("template", CHATS)


@templates
def test_a_conversation_is_written_by_its_template(template):
    chat = CHATS[template]
    said = chat.conversation(SAID)
    assert said.tokens.dtype == np.int32
    assert TOKENIZER.decode(said.tokens) == WRITTEN[template]
    np.testing.assert_array_equal(said.tokens, TOKENIZER.encode(WRITTEN[template]))


@templates
def test_answers_and_their_ends_alone_are_learned(template):
    chat = CHATS[template]
    said = chat.conversation(SAID)
    end = CHATS[template].template.end
    assert TOKENIZER.decode(said.tokens[said.answers]) == f"Hello there{end}well{end}"
    assert (said.tokens == chat.end).sum() == 5
    assert not chat.conversation(SAID[:2]).answers.any()


contents = st.lists(
    st.sampled_from(["<|im_end|>", "<|im_start|>assistant\n", "<|eot_id|>", "\n", " ", "é", "Hi"])
)


@templates
@settings(max_examples=40, deadline=None)
@given(question=contents, answer=contents)
def test_a_prompt_and_its_answer_are_the_conversation(template, question, answer):
    """Whatever blanks an answer begins with."""
    chat = CHATS[template]
    asked = [Message("user", "".join(question))]
    prompt = chat.prompt(asked)
    assert TOKENIZER.decode(prompt).endswith(BEGUN[template])
    said = chat.conversation([*asked, Message("assistant", "".join(answer))])
    first = int(said.answers.argmax())
    np.testing.assert_array_equal(said.tokens[:first], prompt)
    learned = said.tokens[said.answers]
    assert TOKENIZER.decode(learned[:-1]) == "".join(answer) and learned[-1] == chat.end


@templates
@settings(max_examples=40, deadline=None)
@given(parts=contents)
def test_nobody_forges_a_turn(template, parts):
    """A text that spells the template's special tokens has none of them."""
    chat = CHATS[template]
    said = chat.conversation([Message("user", "".join(parts)), Message("assistant", "no")])
    special = said.tokens[np.isin(said.tokens, TOKENIZER.special_tokens)]
    honest = chat.conversation([Message("user", "x"), Message("assistant", "no")]).tokens
    np.testing.assert_array_equal(special, honest[np.isin(honest, TOKENIZER.special_tokens)])
    assert TOKENIZER.decode(said.tokens[said.answers][:-1]) == "no"


def test_conversations_are_packed_with_their_masks():
    chat = CHATS["chatml"]
    made = [chat.conversation(SAID[start:]) for start in (0, 1, 3)]
    masks = [conversation.answers for conversation in made]
    packed = Packed([conversation.tokens for conversation in made], 100, masks=masks)
    rows = packed[np.arange(len(packed))]
    learned = rows["tokens"][:, 1:][rows["mask"]]
    assert len(learned) == sum(mask.sum() for mask in masks)
    answers = TOKENIZER.decode(learned).split("<|im_end|>")
    assert sorted(answers) == ["", "Hello there", "Hello there", "well", "well", "well"]


def test_preferences_are_two_rows_with_one_prompt():
    chat = CHATS["chatml"]
    pairs = [
        Preference((Message("user", "Hello"),), "Hello there", "no"),
        Preference(tuple(SAID[:2]), "you?", "<|im_end|>"),
    ]
    items = Preferences(pairs, chat, 60, padding=TOKENIZER.special_token("pad"))
    batch = items[np.array([1, 0])]
    assert len(items) == 2
    for name in ("chosen", "rejected"):
        assert batch[name].shape == (2, 61) and batch[name].dtype == np.int32
        assert batch[f"{name}_mask"].shape == (2, 60) and batch[f"{name}_mask"].dtype == bool
        for row, pair in enumerate(pairs[::-1]):
            learned = batch[name][row, 1:][batch[f"{name}_mask"][row]]
            assert learned[-1] == chat.end
            assert TOKENIZER.decode(learned[:-1]) == getattr(pair, name)
            prompt = chat.prompt(pair.prompt)
            np.testing.assert_array_equal(batch[name][row, : len(prompt)], prompt)
            rest = batch[name][row, len(prompt) + len(learned) :]
            assert (rest == TOKENIZER.special_token("pad")).all() and len(rest)


def test_files_hold_conversations_and_preferences(tmp_path):
    written = [{"role": message.role, "content": message.content} for message in SAID]
    (tmp_path / "chat.jsonl").write_text(json.dumps({"messages": written}) + "\n")
    assert list(read_conversations(tmp_path / "chat.jsonl")) == [tuple(SAID)]
    pair = {"prompt": written[:2], "chosen": "a", "rejected": "b"}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair) + "\n")
    wanted = [Preference(tuple(SAID[:2]), "a", "b")]
    assert list(read_preferences(tmp_path / "pairs.jsonl")) == wanted


@pytest.mark.parametrize(
    ("read", "line", "message"),
    [
        (read_conversations, {"message": []}, "'messages' of object 1 in .* a list of messages"),
        (read_conversations, {"messages": []}, "must be a list of messages"),
        (read_conversations, {"messages": ["Hi"]}, "with 'role' and 'content'"),
        (read_conversations, {"messages": [{"role": "user"}]}, "the field 'content' of a message"),
        (
            read_preferences,
            {"prompt": [{"role": "user", "content": "a"}], "chosen": "b"},
            "the field 'rejected' of object 1 in .*a.jsonl must be a text",
        ),
    ],
)
def test_what_is_no_conversation_is_named(tmp_path, read, line, message):
    (tmp_path / "a.jsonl").write_text(json.dumps(line))
    with pytest.raises(UserError, match=message):
        list(read(tmp_path / "a.jsonl"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Chat(train_byte_pairs(["a"], 300)), r"no token <\|im_start\|>"),
        (lambda: CHATS["llama3"].conversation([]), "at least one message"),
        (
            lambda: CHATS["llama3"].prompt([Message("assistent", "a")]),
            "no role 'assistent' .* system, user, assistant, tool",
        ),
        (lambda: Preferences([], CHATS["chatml"], 9), "no preferences"),
        (
            lambda: Preferences([Preference(tuple(SAID[:1]), "a", "bc" * 40)], CHATS["chatml"], 40),
            "the rejected answer of preference 0 makes .* more than a row of 41",
        ),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
