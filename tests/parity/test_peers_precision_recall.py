"""Our precision and recall and torch-fidelity's, on the same features."""

import numpy as np
import pytest

from jaxgen.evaluation.precision_recall import precision_recall

torch = pytest.importorskip("torch")
prc = pytest.importorskip("torch_fidelity.metric_prc")


def test_precision_and_recall_are_torch_fidelitys():
    rng = np.random.default_rng(0)
    real, samples = rng.normal(size=(90, 5)), rng.normal(0.3, 1.3, size=(70, 5))
    expected = prc.prc_features_to_metric(
        torch.from_numpy(samples), torch.from_numpy(real), prc_neighborhood=3, verbose=False
    )
    found = precision_recall(real, samples, neighbours=3)
    assert 0 < found.precision < 1 and 0 < found.recall < 1
    assert found.precision == pytest.approx(expected[prc.KEY_METRIC_PRECISION])
    assert found.recall == pytest.approx(expected[prc.KEY_METRIC_RECALL])
