"""A corpus directory holds every document's tokens once, and belongs to one tokenizer."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from jaxgen.data.documents import json_lines, texts
from jaxgen.data.special_tokens import GPT2_SPECIAL, SpecialTokens
from jaxgen.data.subword_training import train_byte_pairs
from jaxgen.data.subwords import SubwordTokenizer
from jaxgen.data.token_corpus import read_corpus_directory, write_corpus_directory
from jaxgen.errors import UserError

END = "<|endoftext|>"
DOCUMENTS = [f"Document {n} says {END} and ends." for n in range(25)]
TOKENIZER = train_byte_pairs(DOCUMENTS, 300, GPT2_SPECIAL)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    directory = str(tmp_path_factory.mktemp("corpus") / "tokens")
    write_corpus_directory(directory, iter(["", *DOCUMENTS]), TOKENIZER, 10, at_once=7)
    return directory


def documents_of(file):
    """Cut after each end-of-text token."""
    tokens = np.asarray(file.mapped)
    return np.split(tokens, np.flatnonzero(tokens == TOKENIZER.special_token("eos")) + 1)[:-1]


def test_every_document_is_there_once_and_every_tenth_held_out(corpus):
    made = read_corpus_directory(corpus)
    held_out, training = documents_of(made.validation), documents_of(made.train)
    assert [made.tokenizer.decode(d[:-1]) for d in held_out] == [DOCUMENTS[9], DOCUMENTS[19]]
    wanted = [d for n, d in enumerate(DOCUMENTS, start=1) if n % 10]
    assert [made.tokenizer.decode(d[:-1]) for d in training] == wanted
    described = json.loads((Path(corpus) / "corpus.json").read_text())
    assert described["train"]["documents"] == 23
    assert described["train"]["tokens"] == len(made.train)


def test_another_tokenizer_is_refused(corpus, tmp_path):
    for name in ("train.npy", "validation.npy", "corpus.json"):
        (tmp_path / name).write_bytes((Path(corpus) / name).read_bytes())
    train_byte_pairs(DOCUMENTS, 280).save(tmp_path)
    with pytest.raises(UserError, match="isn't the one of the token files in"):
        read_corpus_directory(str(tmp_path))
    (tmp_path / "corpus.json").write_text("{")
    with pytest.raises(UserError, match=r"corpus\.json is damaged: delete it"):
        read_corpus_directory(str(tmp_path))


def test_nanogpts_files_are_read_and_checked(tmp_path):
    TOKENIZER.save(tmp_path)
    with pytest.raises(UserError, match=r"no train\.npy or train\.bin in .*docs/data\.md"):
        read_corpus_directory(str(tmp_path))
    np.arange(100, dtype="<u2").tofile(tmp_path / "train.bin")
    np.arange(50, dtype="<u2").tofile(tmp_path / "val.bin")
    made = read_corpus_directory(str(tmp_path))
    assert (len(made.train), len(made.validation)) == (100, 50)
    np.array([1, 2, 999], "<u2").tofile(tmp_path / "val.bin")
    with pytest.raises(UserError, match=r"val\.bin has the token 999 at place 2"):
        read_corpus_directory(str(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hold_out_every": 26}, "of 25 documents none is left for validation"),
        ({"hold_out_every": 1}, "at least 2"),
        ({"end": "<|end|>"}, r"no token <\|end\|>"),
        ({"tokenizer": train_byte_pairs(DOCUMENTS, 300, SpecialTokens())}, "names no eos token"),
    ],
)
def test_what_can_not_be_written_leaves_nothing(tmp_path, change, message):
    arguments = {"documents": DOCUMENTS, "tokenizer": TOKENIZER, "hold_out_every": 10, **change}
    with pytest.raises(UserError, match=message):
        write_corpus_directory(str(tmp_path), **arguments)
    assert not list(tmp_path.iterdir())


def test_a_corpus_is_not_overwritten(corpus):
    with pytest.raises(UserError, match=r"has a train\.npy already"):
        write_corpus_directory(corpus, DOCUMENTS, TOKENIZER)


def test_json_lines_are_read_plain_and_compressed(tmp_path):
    lines = b'{"text": "a\\nb", "url": "x"}\n\n{"text": "\xc3\xa9"}\n'
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "b.json.gz").write_bytes(gzip.compress(lines))
    found = texts(json_lines(tmp_path / "a.jsonl", tmp_path / "b.json.gz"))
    assert list(found) == ["a\nb", "é"] * 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"text"', "line 2 of .*a.jsonl is no JSON object"),
        ("a.jsonl", b"[1]", "line 1 of .*a.jsonl is no JSON object"),
        ("a.jsonl", b'{"text": "\xff"}', "line 1 of .*a.jsonl is no JSON object"),
        (
            "a.gz",
            gzip.compress(b'{"text": "a"}\n' * 9, mtime=0)[:-9],
            "a.gz can't be read to its end",
        ),
        ("a.gz", b'{"text": "a"}', "a.gz can't be read to its end"),
        ("a.jsonl", b'{"text": "a"}\n{"txt": "b"}', "document 1 has no text in its field 'text'"),
    ],
)
def test_damaged_lines_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        list(texts(json_lines(tmp_path / name)))


def test_a_missing_file_is_named():
    with pytest.raises(UserError, match=r"no file nowhere\.jsonl"):
        list(json_lines("nowhere.jsonl"))


def test_the_page_on_data_says_what_works(tmp_path, monkeypatch, made_up_speeches):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    # The last two read sets that aren't made up here: what they import is there.
    blocks, others = blocks[:4], blocks[4:]
    assert len(others) == 2
    for block in others:
        exec("\n".join(line for line in block.splitlines() if line.startswith("from ")), {})
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(made_up_speeches))
    (tmp_path / "web").mkdir()
    for part in ("a", "b"):
        documents = (json.dumps({"text": f"{part}{n} " * 20}) + "\n" for n in range(150))
        (tmp_path / "web" / f"{part}.jsonl.gz").write_bytes(
            gzip.compress("".join(documents).encode())
        )
    TOKENIZER.save(tmp_path / "gpt2")
    for line in re.findall(r"^    (\{.*\})$", page, re.MULTILINE):
        (tmp_path / ("chats.jsonl" if "messages" in line else "pairs.jsonl")).write_text(line)
    small = {"1024": "40", '"lm1b"': '"speeches"', "16_384": "300", "tokenizer)": "tokenizer, 10)"}
    values = {}
    special = SpecialTokens(eos="<|endoftext|>", others=("<|im_start|>", "<|im_end|>"))
    for block in blocks:
        if "chat = " in block:
            values["tokenizer"] = train_byte_pairs(DOCUMENTS, 300, special)
        for old, new in small.items():
            block = block.replace(old, new)
        exec(block, values)
    assert len(values["packed"]) == len(values["pairs"]) == 1
    assert values["training"].batch(0, slice(0, 32))["tokens"].shape == (32, 41)
    made = SubwordTokenizer.from_directory("lm1b_tokens")
    first = read_corpus_directory("lm1b_tokens").train[np.arange(10)]
    assert made.decode(first).startswith("Friends, it is")
