"""scikit-learn's handwritten digits as a TFDS data set: embedded, with nothing to download."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from etils import epath
from PIL import Image


class Digits(tfds.core.GeneratorBasedBuilder):
    """1,797 pictures of 8×8, one split, "train", in scikit-learn's order.

    "image" is a PNG of (8, 8, 1) uint8 whose levels are the data's own, 0 .. 16, not stretched to
    255: nothing is rounded. "label" is 0 .. 9, "index" the place in `load_digits`. Alpaydin and
    Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "scikit-learn's load_digits."}  # noqa: RUF012  (TFDS's own field)
    # TFDS would find it through importlib_resources, which it needs without asking for it.
    code_path = epath.Path(__file__)

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Handwritten digits, 8×8, in levels 0 to 16 (UCI, by scikit-learn).",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(
                        shape=(8, 8, 1), dtype=np.uint8, encoding_format="png"
                    ),
                    "label": tfds.features.ClassLabel(num_classes=10),
                    "index": np.int64,
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://archive.ics.uci.edu/dataset/80",
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
        return {"train": self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        from sklearn.datasets import load_digits  # 1.4 s to import, once in a machine's life

        digits = load_digits()
        for index, (levels, label) in enumerate(zip(digits.images, digits.target, strict=True)):
            # TFDS takes an array only with TensorFlow at hand; a PNG it stores as it is.
            encoded = io.BytesIO()
            Image.fromarray(levels.astype(np.uint8)).save(encoded, "PNG")
            encoded.seek(0)
            yield index, {"image": encoded, "label": int(label), "index": index}
