"""How a run uses its mesh, besides the mesh's shape: the flags `--parallel.NAME`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jax.sharding import Mesh

from jaxgen.errors import UserError
from jaxgen.parallel.layout import Pipeline
from jaxgen.parallel.mesh import described


@dataclass(frozen=True)
class Parallel:
    """How a run uses its mesh; the comments are what the command line says of each."""

    executor: Literal["pjit", "pmap"] = "pjit"  # pmap keeps everything whole on every device
    shard_optimizer: bool = False  # split optimizer state over the data axis too (ZeRO-1)
    offload_optimizer: bool = False  # keep optimizer state in the host's memory between steps
    microbatches: int = 0  # parts of a batch in a pipeline; 0: four a stage, or as many as divide
    rounds: int = 1  # how often each of them goes around a pipeline's stages

    @property
    def pipeline(self) -> Pipeline:
        """How stacked layers run over the mesh's stages."""
        return Pipeline(microbatches=self.microbatches, rounds=self.rounds)


# What a run does unless told otherwise.
USUAL = Parallel()


def check_parallel(parallel: Parallel, mesh: Mesh) -> None:
    """Raises a `UserError` for options that don't go together, or not with this mesh."""
    if parallel.microbatches < 0 or parallel.rounds < 1:
        raise UserError(
            f"A pipeline can't have {parallel.microbatches} microbatches and {parallel.rounds} "
            "rounds: take 0 microbatches (the usual number) or more, and at least 1 round."
        )
    if mesh.shape["stage"] == 1 and (parallel.microbatches or parallel.rounds > 1):
        raise UserError(
            "Microbatches and rounds are of a pipeline, and this mesh has one stage: give it more "
            "by --mesh.stage."
        )
    if parallel.offload_optimizer:
        device = mesh.local_devices[0]
        if "pinned_host" not in {memory.kind for memory in device.addressable_memories()}:
            raise UserError(
                f"{device.device_kind} has no memory of its host's to keep optimizer state in: "
                "leave out offload_optimizer."
            )
    if parallel.executor == "pjit":
        return
    if mesh.shape["data"] != mesh.size:
        raise UserError(
            f"The executor pmap splits the batch over data and nothing else, not over "
            f"{described(dict(mesh.shape))}: put all devices on data, or take the executor pjit."
        )
    if parallel.shard_optimizer or parallel.offload_optimizer:
        wish = "shard_optimizer" if parallel.shard_optimizer else "offload_optimizer"
        raise UserError(
            f"The executor pmap keeps the whole optimizer state on every device, so it doesn't go "
            f"with {wish}: take the executor pjit."
        )
