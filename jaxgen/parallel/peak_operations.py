"""How many operations a device could do a second, as its vendor says."""

from __future__ import annotations

# Dense matrix products of bfloat16 numbers, without the doubling by sparsity that NVIDIA's sheets
# like to show first; for one device as jax counts them, under the `device_kind` that jax gives it.
_PEAKS = {
    # Google, docs.cloud.google.com/tpu/docs: the page of each version, "peak compute per chip". The
    # chips of v2, v3 and 7x are two devices each.
    "TPU v2": 45e12 / 2,
    "TPU v3": 123e12 / 2,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "TPU7x": 2307e12 / 2,
    # NVIDIA Tesla V100 data sheet; in float16, for it has no bfloat16.
    "Tesla V100-SXM2-16GB": 125e12,
    "Tesla V100-SXM2-32GB": 125e12,
    "Tesla V100-PCIE-16GB": 112e12,
    "Tesla V100-PCIE-32GB": 112e12,
    # NVIDIA A100 data sheet.
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    # NVIDIA H100 and H200 data sheets, halved: 1,979, 1,513 and 1,671 teraflops with sparsity.
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
    # NVIDIA HGX B200 data sheet, halved: 36 petaflops with sparsity for eight.
    "NVIDIA B200": 2250e12,
    # NVIDIA L4 data sheet, halved: 242 teraflops with sparsity.
    "NVIDIA L4": 121e12,
    # NVIDIA Ada architecture white paper: products summed in float32.
    "NVIDIA GeForce RTX 4090": 165e12,
}


def peak_operations(device_kind: str) -> float | None:
    """The dense bfloat16 operations a second of one device; None for a CPU and what isn't known.

    It is the divisor of MFU (model FLOPs utilization: Chowdhery et al. 2022, appendix B):

        model operations a step / seconds a step / (devices · peak_operations(device_kind))

    device_kind: `jax.Device.device_kind`. On a V100 the peak is that of float16.
    """
    return _PEAKS.get(device_kind)
