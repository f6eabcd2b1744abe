"""Our kernel distance and torchmetrics' formula for KID, on the same features."""

import numpy as np
import pytest

from jaxgen.evaluation.kernel_distance import squared_discrepancy

torch = pytest.importorskip("torch")
kid = pytest.importorskip("torchmetrics.image.kid")


@pytest.mark.parametrize("features", [1, 16, 64])
def test_unbiased_discrepancy_is_torchmetrics(features):
    rng = np.random.default_rng(features)
    real, samples = rng.normal(size=(50, features)), rng.normal(0.3, 1.5, size=(50, features))
    for one, other in ((real, samples), (real, real)):
        expected = kid.poly_mmd(torch.from_numpy(one), torch.from_numpy(other))
        assert squared_discrepancy(one, other) == pytest.approx(float(expected), rel=1e-9)
