"""Conversations about functions say what their source says, and always the same."""

import numpy as np
import pytest

from jaxgen.data.chat import Chat, ChatPrompts
from jaxgen.data.python_chat import all_turns, asked, conversation, examined, preferences, turns
from jaxgen.data.python_functions import PythonFunction
from jaxgen.data.special_tokens import SpecialTokens
from jaxgen.data.subword_training import train_byte_pairs
from jaxgen.errors import UserError

SOURCE = """def pack(self, path, /, rows=3, *more, mode='r', last, **rest):
    if not path:
        raise ValueError('none')
    try:
        return rows
    except KeyError as error:
        raise errors.Missing from error"""
PACK = PythonFunction("box", "Box.pack", SOURCE, "Packs it\nall. Twice.\n\nMore.", True)
BARE = PythonFunction("box", "bare", "def bare():\n    pass", "Does nothing", True)
ANSWERS = {
    "deed": "Packs it all.",
    "arguments": "`path`, `rows`, `*more`, `mode`, `last` and `**rest`.",
    "defaults": "`rows=3` and `mode='r'`.",
    "exceptions": "`ValueError` and `errors.Missing`.",
}
NOTHING = {
    "deed": "Does nothing.",
    "arguments": "It takes none.",
    "defaults": "None of them has one.",
    "exceptions": "It raises nothing itself.",
}
SPECIAL = SpecialTokens(eos="<|endoftext|>", others=("<|im_start|>", "<|im_end|>"))
CHAT = Chat(train_byte_pairs([SOURCE], 280, SPECIAL))


@pytest.mark.parametrize(("function", "answers"), [(PACK, ANSWERS), (BARE, NOTHING)])
def test_answers_are_read_off_the_source(function, answers):
    found = turns(function, PACK if function is BARE else BARE)
    assert {turn.kind: turn.answer for turn in found} == answers
    assert found[0].question.endswith(f"\n\n{function.source}")
    assert all("def " not in turn.question for turn in found[1:])
    assert all(turn.wrong != turn.answer for turn in found)


def test_each_variant_is_told_alike_and_differs_from_the_others():
    first = [turns(PACK, BARE, variant) for variant in range(8)]
    assert first == [turns(PACK, BARE, variant) for variant in range(8)]
    assert len({tuple(turn.kind for turn in each) for each in first}) > 1
    assert len({each[0].question.split("\n")[0] for each in first}) > 1


def test_wrong_lists_have_one_name_less_or_one_too_many():
    for variant in range(8):
        (turn,) = [t for t in turns(PACK, BARE, variant) if t.kind == "arguments"]
        right, wrong = (set(said.replace(" and ", ", ")[:-1].split(", ")) for said in
                        (turn.answer, turn.wrong))  # fmt: skip
        assert len(right ^ wrong) == 1


def test_questions_come_after_the_right_answers_to_all_before():
    (told, _) = all_turns([PACK, BARE])
    messages = conversation(told)
    assert [message.role for message in messages] == ["user", "assistant"] * 4
    assert asked(told, 2) == messages[:5]
    pairs = preferences(told)
    assert [pair.prompt for pair in pairs] == [messages[: 2 * at + 1] for at in range(4)]
    assert [(p.chosen, p.rejected) for p in pairs] == [(t.answer, t.wrong) for t in told]


def test_what_has_no_room_is_not_asked():
    prompts, kept = examined(CHAT, [turns(PACK, BARE), turns(BARE, PACK)], 120)
    assert 0 < len(prompts) == len(kept) < 8
    items = prompts[np.arange(len(prompts))]
    for row, turn in enumerate(kept):
        tokens = items["tokens"][row][: items["length"][row]]
        assert turn.question in CHAT.tokenizer.decode(tokens)
        assert CHAT.tokenizer.decode(tokens).endswith("<|im_start|>assistant\n")
    with pytest.raises(UserError, match="no room in 10"):
        ChatPrompts(CHAT, [asked(turns(PACK, BARE), 0)], 10)
    with pytest.raises(UserError, match="no conversation"):
        ChatPrompts(CHAT, [], 10)
