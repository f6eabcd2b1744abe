"""Conversations have the tokens that transformers' apply_chat_template gives them."""

import pytest
import tokenizers

from jaxgen.data.chat import CHATML, LLAMA3, Chat
from jaxgen.data.conversations import Message
from jaxgen.data.special_tokens import SpecialTokens
from jaxgen.data.subword_training import train_byte_pairs

transformers = pytest.importorskip("transformers")

TEMPLATES = {
    CHATML: "{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + "
    "message.content + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    LLAMA3: "{{ '<|begin_of_text|>' }}{% for message in messages %}{{ '<|start_header_id|>' + "
    "message.role + '<|end_header_id|>\\n\\n' + message.content + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}",
}
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SAID = [
    ("system", "Be kind, and brief."),
    ("user", "How are you?\n\nI'm well: 1,234 times!"),
    ("assistant", "Fine, café ☃"),
    ("user", "x " * 40),
]


@pytest.mark.parametrize("template", TEMPLATES, ids=["ChatML", "Llama 3"])
def test_tokens_are_transformers(template, tmp_path):
    texts = (template.start, template.role_end, template.end, template.begin)
    special = SpecialTokens(others=tuple(text for text in texts if text))
    corpus = ["How are you? I am fine, the user said to the assistant.\n\n"] * 20
    tokenizer = train_byte_pairs(corpus, 330, special)
    if template is LLAMA3:
        # GPT-2's way of cutting lets a line break of the template go with the content; Llama 3's,
        # which is what its template is read by, doesn't.
        splits = tokenizers.pre_tokenizers.Split(tokenizers.Regex(LLAMA3_WORDS), "isolated")
        levels = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([splits, levels])
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    theirs.chat_template = TEMPLATES[template]
    chat = Chat(tokenizer, template)
    for count in range(1, len(SAID) + 1):
        messages = [{"role": role, "content": content} for role, content in SAID[:count]]
        ours = [Message(role, content) for role, content in SAID[:count]]
        wanted = theirs.apply_chat_template(messages, return_dict=False)
        assert chat.conversation(ours).tokens.tolist() == wanted
        wanted = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert chat.prompt(ours).tolist() == wanted
