"""The peaks of devices, against the figures that Pallas plans its TPU kernels by."""

import jax
import numpy as np
import pytest
from jax.experimental.pallas import tpu

from jaxgen.parallel.peak_operations import peak_operations


@pytest.mark.parametrize(
    ("kind", "version", "cores"),
    [
        ("TPU v4", "TPU_V4", 2),
        ("TPU v5 lite", "TPU_V5E", 1),
        ("TPU v5", "TPU_V5P", 2),
        ("TPU v6 lite", "TPU_V6E", 1),
        ("TPU7x", "TPU_7X", 1),
    ],
)
def test_peaks_are_those_that_pallas_knows(kind, version, cores):
    core = tpu.get_tpu_info_for_chip(tpu.ChipVersion[version], cores)
    np.testing.assert_allclose(peak_operations(kind), cores * core.bf16_ops_per_second, rtol=5e-3)


def test_no_peak_without_a_data_sheet():
    assert peak_operations(jax.devices()[0].device_kind) is None
    # A slice of a GPU isn't the GPU.
    assert peak_operations("NVIDIA H100 80GB HBM3 MIG 1g.10gb") is None
    assert peak_operations("NVIDIA H100 80GB HBM3") == 989e12
