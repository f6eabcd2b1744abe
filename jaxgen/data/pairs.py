"""The data sets whose items are a text and what it becomes: spoken words, translated verses."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jaxgen.data.datasets import Directory, load

# What g2p-seq2seq cleans away: a variant's number and other comments, then stress. A digit after
# any letter is stress to it, in the word too: "M1" becomes another entry of "M".
_COMMENT = re.compile(r"\(.*\)|\[.*\]|\{.*\}|#.*")
_STRESS = re.compile(r"(?<=[A-Za-z])\d+")

# Whole books, so that no verse's neighbours are learned: a story, wisdom, a prophet, letters; and a
# story, a prophet, a prophet's visions, love songs, letters.
_DEV_BOOKS = ("Esther", "Ecclesiastes", "Hosea", "Galatians", "James", "I John")
_TEST_BOOKS = ("Ruth", "Daniel", "Amos", "Song of Solomon", "Philippians", "I Peter")


@dataclass(frozen=True)
class Pronounced:
    """One word of `cmudict`."""

    word: str  # "ABBE"; also "AL-QAEDA", "B.S", "CAROL'S"
    pronunciations: tuple[tuple[str, ...], ...]  # (("AE", "B", "IY"), ("AE", "B", "EY"))


@dataclass(frozen=True)
class Verse:
    """One verse of `scripture`, in plain text on one line."""

    book: str  # "I Kings"
    chapter: int
    verse: int
    english: str
    spanish: str


def cmudict(
    data_dir: Directory = None,
) -> tuple[tuple[Pronounced, ...], tuple[Pronounced, ...], tuple[Pronounced, ...]]:
    """The CMU Pronouncing Dictionary as (training, dev, test): 106,246, 6,249 and 12,498 words.

    The rule is that of cmusphinx's g2p-seq2seq for a dictionary with `--cleanup` and no parts of
    its own (`create_data_files` in its g2p_problem.py): stress and variants' numbers are dropped,
    the different words counted from 0 in the file's order; of each twenty, 17 and 18 are for the
    test, 19 for dev. All entries of a word are in one part, in order, those too that differed in
    stress alone. None is left out: hyphens, points, apostrophes and underscores stay in the word.

    The words of its published scores are others: they were counted in cmusphinx's own dictionary,
    in lower case and of a commit not named. Its word error rate has one case for each entry, right
    where the answer is any of the word's; here 13,360 in the test.
    """
    records = load("cmudict", "train", data_dir)
    words: dict[str, list[tuple[str, ...]]] = {}
    for record in records.__getitems__(range(len(records))):
        line = f"{record['word'].decode()} {record['pronunciation'].decode()}"
        word, *phonemes = _STRESS.sub("", _COMMENT.sub("", line)).split()
        words.setdefault(word, []).append(tuple(phonemes))
    parts: tuple[list[Pronounced], ...] = ([], [], [])
    for count, (word, pronunciations) in enumerate(words.items()):
        part = {19: 1, 17: 2, 18: 2}.get(count % 20, 0)
        parts[part].append(Pronounced(word, tuple(pronunciations)))
    training, dev, test = (tuple(part) for part in parts)
    return training, dev, test


def scripture(
    data_dir: Directory = None,
) -> tuple[tuple[Verse, ...], tuple[Verse, ...], tuple[Verse, ...]]:
    """English and Spanish verses as (training, dev, test), each in the order of the books.

    The World English Bible and the Reina-Valera of 1909. Twelve books are held out as a whole, 3 %
    of the verses each for dev and test, of several kinds; no law, gospel or psalm is among them,
    each of which would take more. Left out of training is a verse whose English or Spanish is word
    for word one that is held out, and out of dev one that is in the test.
    """
    records = load("scripture", "train", data_dir)
    verses = [_verse(record) for record in records.__getitems__(range(len(records)))]
    test = tuple(verse for verse in verses if verse.book in _TEST_BOOKS)
    dev = _without(test, [verse for verse in verses if verse.book in _DEV_BOOKS])
    rest = [verse for verse in verses if verse.book not in _DEV_BOOKS + _TEST_BOOKS]
    return _without(dev + test, rest), dev, test


def _verse(record: Mapping[str, Any]) -> Verse:
    book, english, spanish = (record[name].decode() for name in ("book", "english", "spanish"))
    return Verse(book, int(record["chapter"]), int(record["verse"]), english, spanish)


def _without(held_out: Iterable[Verse], verses: Iterable[Verse]) -> tuple[Verse, ...]:
    """Those of `verses` of which neither text is one of `held_out`'s."""
    said = {text for verse in held_out for text in (verse.english, verse.spanish)}
    return tuple(v for v in verses if v.english not in said and v.spanish not in said)
