"""Every family by every way to spread it out that applies: the losses of one device.

The default run takes some cells, where other tests don't show the same; `-m slow` takes the whole
table.
"""

import dataclasses
import functools
import os
from pathlib import Path
from unittest.mock import MagicMock

import jax
import numpy as np
import optax
import pytest
from etils import epath
from made_up_data import python_speeches, write_chorales, write_dictionary, write_speeches

from jaxgen.data.loader import load_batches
from jaxgen.parallel.layout import layout_in_use
from jaxgen.parallel.mesh import MeshShape, make_mesh
from jaxgen.parallel.options import Parallel
from jaxgen.parallel.sharding import global_batch
from jaxgen.training import experiment_file
from jaxgen.training.prepared import operations_of_step, prepare

ROOT = Path(__file__).parent.parent.parent
STEPS = 3
# Adam's first steps divide gradients by their own size: it hides wrong factors, and where gradients
# are tiny it makes steps of rounding errors. This keeps both visible, and has a state to split.
PLAIN = optax.sgd(1e-3, momentum=0.9)
# Another order of sums changes the last places: 24 bits of a number, or 8 where an experiment
# computes in bfloat16.
EXACT, BFLOAT16 = 2e-4, 2e-3
COMPUTE_IN_BFLOAT16 = ("llama3_8b", "gpt3_175b", "mixtral_8x7b", "cifar10_r3gan")
# Not means over rows: a pipeline reports the mean of its microbatches', as accumulation does.
OF_MICROBATCHES = ("gpt/load_balance", "gpt/load_entropy")

# What each strategy does to the mesh, and what besides.
STRATEGIES = {
    "data": (MeshShape(data=8), Parallel()),
    "fsdp": (MeshShape(data=1, fsdp=8), Parallel()),
    "tensor": (MeshShape(data=4, tensor=2), Parallel()),
    "data, fsdp, tensor": (MeshShape(data=2, fsdp=2, tensor=2), Parallel()),
    "slices, fsdp": (MeshShape(slices=2, data=1, fsdp=4), Parallel()),
    "sequence": (MeshShape(data=2, sequence=4), Parallel()),
    "sequence, tensor": (MeshShape(data=2, sequence=2, tensor=2), Parallel()),
    "expert": (MeshShape(data=2, expert=4), Parallel()),
    "stage": (MeshShape(data=4, stage=2), Parallel()),
    "stage, tensor": (MeshShape(data=2, stage=2, tensor=2), Parallel()),
    "sharded optimizer": (MeshShape(data=8), Parallel(shard_optimizer=True)),
    "offloaded optimizer": (MeshShape(data=1, fsdp=8), Parallel(offload_optimizer=True)),
    "pmap": (MeshShape(data=8), Parallel(executor="pmap")),
}

EVERYONE = ["data", "fsdp", "tensor", "data, fsdp, tensor", "slices, fsdp", "sharded optimizer"]
ATTENTION = ["sequence", "sequence, tensor"]
STACKED = ["stage", "stage, tensor"]

# Experiment: the strategies that apply to it, and what of its tiny setting has to change for them.
# Pipelines draw other noise, and so does pmap: there dropout is off, and losses that draw are out.
TABLE = {
    "llama3_8b": ([*EVERYONE, *ATTENTION, *STACKED, "offloaded optimizer", "pmap"], {}),
    "gpt3_175b": ([*EVERYONE, *ATTENTION, "pmap"], {}),
    "mixtral_8x7b": ([*EVERYONE, *ATTENTION, *STACKED, "expert"], {}),
    "shakespeare_gpt": ([*EVERYONE, *ATTENTION, *STACKED, "pmap"], {"dropout": 0.0}),
    "speeches_bert": ([*EVERYONE, *ATTENTION, *STACKED], {"dropout": 0.0}),
    "cmudict_g2p": ([*EVERYONE, *STACKED, "pmap"], {"dropout": 0.0}),
    "names_rnn": ([*EVERYONE, "pmap"], {"dropout": 0.0}),
    "shakespeare_rnn": (EVERYONE, {}),
    "chorales_rnn": ([*EVERYONE, "pmap"], {"dropout": 0.0, "recurrent_dropout": 0.0}),
    "mnist_vae": (EVERYONE, {}),
    "mnist_vqvae": (EVERYONE, {}),
    "mnist_hierarchical_vae": (EVERYONE, {}),
    "gaussians_gan": (EVERYONE, {}),
    "mnist_dcgan": (EVERYONE, {}),
    "cifar10_r3gan": (EVERYONE, {}),
    "digits_flow": ([*EVERYONE, "offloaded optimizer"], {}),
    "digits_classifier": ([*EVERYONE, "pmap"], {"dropout": 0.0}),
}

IN_THE_DEFAULT_RUN = {
    ("shakespeare_gpt", "sequence, tensor"),
    ("mixtral_8x7b", "expert"),
    ("shakespeare_gpt", "pmap"),
    ("gaussians_gan", "data, fsdp, tensor"),
    ("digits_flow", "slices, fsdp"),
    ("digits_classifier", "data, fsdp, tensor"),
}


def cells():
    for name, (strategies, _) in TABLE.items():
        for strategy in strategies:
            marks = () if (name, strategy) in IN_THE_DEFAULT_RUN else pytest.mark.slow
            yield pytest.param(name, strategy, marks=marks, id=f"{name}-{strategy}")


@pytest.fixture(scope="module", autouse=True)
def data_sets(tmp_path_factory):
    """Made-up data beside what is prepared, and instead of what isn't."""
    there = Path(os.environ.get("TFDS_DATA_DIR", Path.home() / "tensorflow_datasets"))
    directory = tmp_path_factory.mktemp("tfds")
    write_speeches(directory, python_speeches())
    write_dictionary(directory)
    write_chorales(directory)
    for prepared in there.glob("*"):
        if not (directory / prepared.name).exists():
            (directory / prepared.name).symlink_to(prepared)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TFDS_DATA_DIR", str(directory))
        yield


@functools.cache
def built(name):
    path = epath.Path(ROOT / "experiments" / f"{name}.py")
    file = experiment_file.read(path)
    fields = {field.name for field in dataclasses.fields(file.config_type)}
    changes = {key: value for key, value in TABLE[name][1].items() if key in fields}
    config = dataclasses.replace(file.settings["tiny"], **changes)
    # What a run builds on scores its samples; none are drawn here.
    required = dict.fromkeys(file.requires, MagicMock())
    experiment = file.build(config, required, file.assets(config))
    return dataclasses.replace(
        experiment, updates=[dataclasses.replace(u, optimizer=PLAIN) for u in experiment.updates]
    )


def trained(name, mesh, parallel):
    """The metrics of the first steps, and what one of them computes."""
    experiment = built(name)
    source = experiment.data["train"]
    prepared = prepare(experiment, mesh, parallel)
    found = []
    with jax.set_mesh(mesh), layout_in_use(prepared.layout):
        state = prepared.create()
        with load_batches(source, 0, prepared.rows, prepared.repeats) as batches:
            for step in range(STEPS):
                batch = global_batch(next(batches), source.batch_size, mesh)
                if step == 0:
                    operations = operations_of_step(experiment, prepared, state, batch, mesh)
                state, metrics, finite = prepared.train_step(state, batch)
                assert finite
                found.append(jax.device_get(metrics))
    return found, operations


@functools.cache
def by_one_device(name):
    return trained(name, make_mesh(MeshShape(), jax.devices()[:1]), Parallel())


@pytest.mark.parametrize(("name", "strategy"), list(cells()))
def test_spread_out_it_learns_what_one_device_learns(name, strategy):
    shape, parallel = STRATEGIES[strategy]
    alone, operations = by_one_device(name)
    tolerance = BFLOAT16 if name in COMPUTE_IN_BFLOAT16 else EXACT
    together, counted = trained(name, make_mesh(shape), parallel)
    if shape.stage > 1:  # without the bubble
        assert counted.model == operations.model
    for step, (ours, theirs) in enumerate(zip(together, alone, strict=True)):
        for metric, value in theirs.items():
            if shape.stage > 1 and metric in OF_MICROBATCHES:
                continue
            np.testing.assert_allclose(
                ours[metric], value, tolerance, tolerance / 10, err_msg=f"{metric}, step {step}"
            )
