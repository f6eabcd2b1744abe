"""English and Spanish verses as a TFDS data set, from two Bibles that Debian packages."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from jaxgen.errors import UserError

_Key = tuple[str, int, int]  # "I Kings", chapter, verse

# What OSIS marks that is no verse: notes, who speaks, headings (a psalm's own is canonical), and
# all that follows a book's end, such as the glossary after the last verse of Revelation.
_AFTER_BOOK = re.compile(r'<div\b(?=[^>]*\beID=)(?=[^>]*\btype="book")[^>]*>.*', re.DOTALL)
_NOTE = re.compile(r"<note\b[^>]*(?<!/)>.*?</note>", re.DOTALL)
_HEADING = re.compile(
    r'<(speaker|title)\b(?![^>]*\bcanonical="true")[^>]*(?<!/)>.*?</\1>', re.DOTALL
)
_WITHIN_WORDS = re.compile(r"</?(?:w|q|seg|name)\b[^>]*>")  # the blanks stand around these
_TAG = re.compile(r"<[^>]*>")
_BLANK_BEFORE = re.compile(r"\s+(?=[,.;:!?)”])")
_BLANK_AFTER = re.compile(r"(?<=[(¿¡])\s+")
# What the Reina-Valera adds: the Hebrew letters in Psalm 119, and where a letter was written.
_HEBREW_LETTER = re.compile(r"\A[A-Z]{2,}\.? (?=\W*[A-ZÁÉÍÓÚ])")
_WRITTEN_FROM = re.compile(r"(?<=Amén\.) [^.]*\b(?:enviada|escrita)\b.*", re.IGNORECASE)

# The chapters that the Reina-Valera divides otherwise: runs of its verses, (first, last), and the
# chapter and verse of the World English Bible where each run begins. A verse in no run holds more
# or less than one of the other's, and is left out.
_DIVIDED_OTHERWISE: dict[tuple[str, int], tuple[tuple[int, int, int, int], ...]] = {
    ("Numbers", 13): ((1, 1, 12, 16), (2, 32, 13, 1)),
    ("Numbers", 30): ((1, 1, 29, 40), (2, 15, 30, 1)),
    ("Judges", 14): ((1, 17, 14, 1),),
    ("I Samuel", 24): ((1, 1, 23, 29), (2, 21, 24, 1)),
    ("II Samuel", 2): ((1, 30, 2, 1),),
    ("II Samuel", 20): ((1, 24, 20, 1),),
    ("I Kings", 22): ((1, 42, 22, 1), (45, 52, 22, 44)),
    ("I Chronicles", 1): ((1, 29, 1, 1), (33, 54, 1, 33)),
    ("I Chronicles", 21): ((1, 14, 21, 1), (17, 29, 21, 16)),
    ("II Chronicles", 33): ((1, 9, 33, 1), (11, 24, 33, 12)),
    ("Job", 35): ((1, 14, 35, 1),),
    ("Job", 39): ((1, 3, 38, 39), (4, 29, 39, 1)),
    ("Job", 40): ((1, 19, 40, 6),),
    ("Hosea", 12): ((1, 1, 11, 12), (2, 13, 12, 1)),
    ("Jonah", 2): ((1, 1, 1, 17), (2, 9, 2, 1)),
    ("Acts", 19): ((1, 39, 19, 1),),
    ("Romans", 14): ((1, 22, 14, 1),),
    ("II Corinthians", 13): ((1, 11, 13, 1),),
}


class Scripture(tfds.core.GeneratorBasedBuilder):
    """The verses of the World English Bible and the Reina-Valera of 1909, one split, "train".

    In the order of the English one, 66 books: "book" as SWORD calls it ("I Kings"), "chapter" and
    "verse" int64, "english" and "spanish" UTF-8 on one line, without notes, headings or markup.
    A verse that one of the two lacks is left out, and where their numbers differ they are paired
    by what they say. Both are in the public domain.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {  # noqa: RUF012  (TFDS's own field)
        "1.0.0": "SWORD's modules engWEB2015eb 426.0 and spaRV1909eb 2.60."
    }
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "on Debian, run `apt-get install sword-text-web sword-text-sparv libsword-utils`, then "
        "`mod2imp engWEB2015eb > web.imp` and `mod2imp spaRV1909eb > sparv.imp` in the folder "
        "downloads/manual/scripture"
    )
    # TFDS would find it through importlib_resources, which it needs without asking for it.
    code_path = epath.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="The verses of the Bible in English and Spanish, aligned.",
            features=tfds.features.FeaturesDict(
                {
                    "book": tfds.features.Text(),
                    "chapter": np.int64,
                    "verse": np.int64,
                    "english": tfds.features.Text(),
                    "spanish": tfds.features.Text(),
                }
            ),
            homepage="https://crosswire.org/sword",
            disable_shuffling=True,  # the order of the records is that of the books
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(dl_manager.manual_dir / self.name)}

    def _generate_examples(self, directory: epath.Path) -> Iterator[tuple[int, dict[str, Any]]]:
        english, spanish = (self._verses(directory / name) for name in ("web.imp", "sparv.imp"))
        moved = {_where_in_english(key): _plain(key, text) for key, text in spanish.items()}
        keys = [key for key, text in english.items() if text and moved.get(key)]
        if not keys:
            raise UserError(
                f"the two files in {directory} have no verse in common: "
                f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        for index, (book, chapter, verse) in enumerate(keys):
            yield (
                index,
                {
                    "book": book,
                    "chapter": chapter,
                    "verse": verse,
                    "english": english[book, chapter, verse],
                    "spanish": moved[book, chapter, verse],
                },
            )

    def _verses(self, file: epath.Path) -> dict[_Key, str]:
        """A file's verses as plain text; an entry is a line "$$$I Kings 1:2" and its markup."""
        if not file.exists():
            raise UserError(
                f"{file.parent} holds no {file.name}: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8: write it anew by mod2imp") from error
        verses = {}
        for entry in re.split(r"^\$\$\$", text, flags=re.MULTILINE)[1:]:
            heading, _, marked = entry.partition("\n")
            place = re.fullmatch(r"(.+) ([1-9]\d*):([1-9]\d*)", heading.strip())
            if place:  # chapter 0 and verse 0 hold introductions
                verses[place[1], int(place[2]), int(place[3])] = _without_markup(marked)
        if not verses:
            raise UserError(
                f"{file} holds no verses as mod2imp writes them, after lines such as "
                f"$$$Genesis 1:1: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        return verses


def _without_markup(marked: str) -> str:
    marked = _HEADING.sub(" ", _NOTE.sub(" ", _AFTER_BOOK.sub("", marked)))
    text = html.unescape(_TAG.sub(" ", _WITHIN_WORDS.sub("", marked)))
    text = _BLANK_AFTER.sub("", _BLANK_BEFORE.sub("", text))
    return " ".join(text.split())


def _plain(key: _Key, spanish: str) -> str:
    """A verse of the Reina-Valera without what it adds to the text."""
    book, chapter, verse = key
    if (book, chapter) == ("Psalms", 119) and verse % 8 == 1:
        spanish = _HEBREW_LETTER.sub("", spanish)
    return _WRITTEN_FROM.sub("", spanish)


def _where_in_english(key: _Key) -> _Key | None:
    """The English verse that says the same as one of the Reina-Valera; None where there is none."""
    book, chapter, verse = key
    if (book, chapter) not in _DIVIDED_OTHERWISE:
        return key
    for first, last, to_chapter, to_verse in _DIVIDED_OTHERWISE[book, chapter]:
        if first <= verse <= last:
            return book, to_chapter, to_verse + verse - first
    return None
