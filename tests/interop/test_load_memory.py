"""How much memory the whole process takes to load a checkpoint of several hundred megabytes."""

import json
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgen.interop import hugging_face
from jaxgen.interop.checkpoint_files import Tensor, write
from jaxgen.interop.weights import tensors_of

CONFIG = {
    "model_type": "llama",
    "vocab_size": 4000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
}
# Alone in a process, because a process's peak is never forgotten.
LOAD = """
import json, sys
import jax
from jaxgen.interop import hugging_face

def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))

hugging_face.load(sys.argv[1])  # what is compiled stays
before = memory("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak is counted from here
params = hugging_face.load(sys.argv[2]).params
peak = memory("VmHWM")
size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
values = [float(leaf.reshape(-1)[-1]) for leaf in jax.tree.leaves(params)]
print(json.dumps({"peak": peak - before, "size": size, "values": values}))
"""


def written(folder, config, shard_bytes):
    architecture = hugging_face.ARCHITECTURES["llama"]
    network = architecture.network_of(config, None)
    params = hugging_face.abstract_params(network, None, jnp.float32)
    tensors = [
        Tensor(each.name, each.shape, each.dtype, lambda each=each: np.ones(each.shape, each.dtype))
        for each in tensors_of(params, architecture.table(network))
    ]
    write(folder, config, tensors, None, shard_bytes)
    return max(file.stat().st_size for file in folder.glob("*.safetensors"))


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's /proc")
def test_a_load_takes_the_state_and_at_most_two_of_its_largest_files(tmp_path):
    largest = written(tmp_path / "large", CONFIG, 100_000_000)
    written(tmp_path / "small", CONFIG | {"num_hidden_layers": 1}, 100_000_000)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": "", "MALLOC_ARENA_MAX": "2"}
    arguments = [sys.executable, "-c", LOAD, tmp_path / "small", tmp_path / "large"]
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["size"] > 380_000_000 and 80_000_000 < largest <= 101_000_000
    assert set(found["values"]) == {1.0}
    # On a CPU the state is in the host's memory too.
    assert found["size"] <= found["peak"] <= found["size"] + 2 * largest
