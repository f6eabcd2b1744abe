"""Strict settings for every test: 8 simulated devices, no silent broadcasting, shapes checked."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from pathlib import Path

import jax
from jaxtyping import install_import_hook

# Compiling is most of the tests' time, and the programs are too small to be slower for it: level 0
# takes two thirds of the time, one piece nine tenths of that, and no fusion emitters half (a flag
# that jax 0.12 no longer knows and dies of).
os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "")
    + " --xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    + " --xla_cpu_parallel_codegen_split_count=1"
    + (" --xla_cpu_use_fusion_emitters=false" if jax.__version_info__ < (0, 11) else "")
).strip()
install_import_hook("jaxgen", "strict_types.check")

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_legacy_prng_key", "error")
# Simulated devices share two cores: programs that run ahead starve each other's collectives.
jax.config.update("jax_cpu_enable_async_dispatch", False)
# One cache for this process, for those that tests start, and for the next run of the tests.
COMPILED = Path(__file__).parent.parent / ".pytest_cache" / "compiled"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(COMPILED)
jax.config.update("jax_compilation_cache_dir", str(COMPILED))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)

# Real data: where the user has it, or beside the repository.
_beside = Path(__file__).parent.parent.parent / "shared" / "tfds"
if "TFDS_DATA_DIR" not in os.environ and _beside.is_dir():
    os.environ["TFDS_DATA_DIR"] = str(_beside)
