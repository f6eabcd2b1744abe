"""The data sets whose items are a text and what it becomes: words and how they are pronounced."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jaxgen.data.datasets import Directory, load

# What g2p-seq2seq cleans away: a variant's number and other comments, then stress. A digit after
# any letter is stress to it, in the word too: "M1" becomes another entry of "M".
_COMMENT = re.compile(r"\(.*\)|\[.*\]|\{.*\}|#.*")
_STRESS = re.compile(r"(?<=[A-Za-z])\d+")


@dataclass(frozen=True)
class Pronounced:
    """One word of `cmudict`."""

    word: str  # "ABBE"; also "AL-QAEDA", "B.S", "CAROL'S"
    pronunciations: tuple[tuple[str, ...], ...]  # (("AE", "B", "IY"), ("AE", "B", "EY"))


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
