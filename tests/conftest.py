"""Strict settings for every test: 8 simulated devices, no silent broadcasting, shapes checked."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
).strip()

import jax  # noqa: E402  (the flags above must be set first)
from jaxtyping import install_import_hook  # noqa: E402

install_import_hook("jaxgen", "strict_types.check")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")
# Simulated devices share two cores: programs that run ahead starve each other's collectives.
jax.config.update("jax_cpu_enable_async_dispatch", False)
