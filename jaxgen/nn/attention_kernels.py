"""Attention by the kernels that accelerators bring: cuDNN's on NVIDIA GPUs, splash on TPUs.

Each never holds the scores in memory (Dao et al. 2022), and each has limits: `*_refuses` says in
one sentence why a kernel can't be used, or None if it can.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array

from jaxgen.errors import UserError
from jaxgen.nn.attention_blocks import (
    HIDDEN,
    BlockAttention,
    BlockKeys,
    BlockValues,
    Gradients,
    Outputs,
    Part,
    Queries,
)
from jaxgen.nn.visibility import Keys, Query, Result, Scoring, Values, Visibility, visible
from jaxgen.parallel.sharding import partition_spec


def platform_in_use() -> str:
    """The platform that is traced for: that of the mesh in use, or else this process's own."""
    # The mesh comes first because it may describe devices that this host doesn't have.
    device = jax.sharding.get_abstract_mesh().abstract_device
    platform: str = jax.default_backend() if device is None else device.platform
    return platform


def cudnn_refuses(query: Query, key: Keys, visibility: Visibility, scoring: Scoring) -> str | None:
    """Why cuDNN's flash attention can't be used here, or None if it can."""
    if query.dtype not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN attention takes bfloat16 or float16, not {query.dtype}."
    if query.shape[-1] % 8 or query.shape[-1] > 128:
        return f"cuDNN attention takes depths of 8, 16, ... 128, not {query.shape[-1]}."
    if query.shape[1] % 2 or key.shape[1] % 2:
        return f"cuDNN attention takes even lengths, not {query.shape[1]} by {key.shape[1]}."
    if visibility.dropout > 0:
        return "cuDNN attention is used here without dropout on the weights."
    if checked(query, key):
        return "cuDNN attention is not for a shard_map that checks what varies (check_vma)."
    if scoring.soft_cap is not None or scoring.sinks is not None:
        return "cuDNN attention knows no soft cap and no sinks."
    capability = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    if not capability[:1].isdigit() or float(capability) < 8:
        return "cuDNN attention needs an NVIDIA GPU of compute capability 8.0 or higher."
    return None


def cudnn_attention(
    query: Query, key: Keys, value: Values, visibility: Visibility, scoring: Scoring
) -> Result:
    """cuDNN's flash attention, by `jax.nn.dot_product_attention`.

    On more than one device it must be traced inside `jax.set_mesh`: the compiler's own way to split
    it fails where time is split, or queries otherwise than keys. A query that sees nothing gets a
    mean of the values here, not zeros.
    """
    if refusal := cudnn_refuses(query, key, visibility, scoring):
        raise UserError(refusal)
    # A causal mask that begins at key 0 is the kernel's own, and skips what it hides; so is a
    # causal window without sink tokens.
    own = visibility.causal and visibility.from_the_start
    window = visibility.window if own and not visibility.sink_tokens else None
    rest = dataclasses.replace(
        visibility,
        causal=visibility.causal and not own,
        window=None if window is not None else visibility.window,
    )
    mask = visible(rest, query.shape[1], key.shape[1])

    def local(query: Query, key: Keys, value: Values, bias: Any, mask: Any) -> Result:
        return jax.nn.dot_product_attention(
            query,
            key,
            value,
            bias=bias,
            mask=mask,
            scale=scoring.scale,
            is_causal=own,
            local_window_size=None if window is None else (window - 1, 0),
            implementation="cudnn",
        )

    split = _split(key)
    if split is None:
        return local(query, key, value, scoring.bias, mask)
    rows, _, heads, _ = split

    def place(x: Any) -> PartitionSpec:
        # One row stands for all rows, and one plane for all heads.
        axes = () if x is None else zip((rows, heads), x.shape[:2], strict=True)
        return PartitionSpec(*(None if size == 1 else axis for axis, size in axes))

    places = (split, split, split, place(scoring.bias), place(mask))
    run = jax.shard_map(local, in_specs=places, out_specs=split, check_vma=False)
    return run(query, key, value, scoring.bias, mask)


# Splash attention works on tiles of so many positions or a multiple.
LANES = 128


def splash_refuses(query: Query, key: Keys, visibility: Visibility, scoring: Scoring) -> str | None:
    """Why splash attention can't be used here, or None if it can."""
    if query.shape[1] % LANES or key.shape[1] % LANES:
        return (
            f"Splash attention takes lengths that divide by {LANES}, "
            f"not {query.shape[1]} by {key.shape[1]}."
        )
    if visibility.mask is not None:
        return "Splash attention takes causal, window and segment masks, not an array."
    if visibility.window is not None and visibility.sink_tokens:
        return "Splash attention knows no sink tokens outside its window."
    if scoring.bias is not None or scoring.sinks is not None:
        return "Splash attention is used here without biases and sinks."
    if (visibility.causal or visibility.window) and not isinstance(visibility.offset, int):
        return "Splash attention takes an offset that is known while tracing."
    if visibility.dropout > 0:
        return "Splash attention knows no dropout on the weights."
    if checked(query, key):
        return "Splash attention is not for a shard_map that checks what varies (check_vma)."
    return None


def checked(*arrays: Array) -> bool:
    """Whether an enclosing shard_map keeps track of the mesh axes along which any of these vary.

    Splash attention's kernels don't say it of their results, so that gradients would fail.
    """
    return any(jax.typeof(x).mat.varying for x in arrays)


def splash_attention(
    query: Query,
    key: Keys,
    value: Values,
    visibility: Visibility,
    scoring: Scoring,
    interpret: bool = False,
) -> Result:
    """The TPU kernel that never holds the scores and skips what a causal mask hides.

    On more than one device it must be traced inside `jax.set_mesh`: the compiler can't split a
    kernel by itself, so each device runs it on its own rows and heads. `interpret` runs it on any
    platform, slowly, to test it.
    """
    if refusal := splash_refuses(query, key, visibility, scoring):
        raise UserError(refusal)

    def local(query: Query, key: Keys, value: Values, segments: Any) -> Result:
        q, k, v = (x.transpose(0, 2, 1, 3) for x in (query * scoring.scale, key, value))
        run = _splash_kernel(q, k, visibility, scoring.soft_cap, False, interpret)
        return jax.vmap(run)(q, k, v, _ids(segments)).transpose(0, 2, 1, 3)

    split = _split(key)
    if split is None:
        return local(query, key, value, visibility.segments)
    places = (split, split, split, PartitionSpec(split[0]))
    run = jax.shard_map(local, in_specs=places, out_specs=split, check_vma=False)
    return run(query, key, value, visibility.segments)


def _split(key: Keys) -> PartitionSpec | None:
    """Where queries, keys and values lie, each device with its own rows and heads.

    What doesn't divide over the devices is worked out whole on each. None where a device is alone.
    """
    mesh = jax.sharding.get_abstract_mesh()
    # Not where nothing is split: the compiler refuses a kernel that it might have to split.
    if mesh.empty or mesh.size == 1 or mesh.are_all_axes_manual:
        return None
    return partition_spec(("batch", None, "heads", None), key.shape, mesh)


def splash_blocks(interpret: bool = False) -> BlockAttention:
    """Splash attention of queries to some of the keys, for lengths that divide by 128."""

    def forward(
        query: Queries,
        key: BlockKeys,
        value: BlockValues,
        visibility: Visibility,
        soft_cap: float | None,
    ) -> Part:
        run = _splash_kernel(query, key, visibility, soft_cap, True, interpret)
        out, (logsumexp,) = jax.vmap(run)(query, key, value, _ids(visibility.segments))
        # A query that sees nothing has the mean of what it doesn't see here, or a division by 0.
        out = jnp.where((logsumexp > HIDDEN)[..., None], out.astype(jnp.float32), 0)
        return Part(out, jnp.maximum(logsumexp, HIDDEN))

    def backward(
        query: Queries,
        key: BlockKeys,
        value: BlockValues,
        visibility: Visibility,
        soft_cap: float | None,
        part: Part,
        of_out: Outputs,
    ) -> Gradients:
        from jax.experimental.pallas.ops.tpu.splash_attention import (
            splash_attention_kernel as kernel,
        )

        run = _splash_kernel(query, key, visibility, soft_cap, False, interpret)

        # The kernel's own gradient would take its logsumexp, over these keys, for that over all. So
        # this calls the function beneath it, which takes one. Nobody promises that function, but
        # from jax 0.10.2 to 0.12.0.1 it is the same, and the tests would tell.
        def one_row(
            query: Array, key: Array, value: Array, ids: Any, part: Part, of_out: Array
        ) -> tuple[Array, Array, Array]:
            kept = (query, key, value, ids, None, *part, run.dq_mask_info, run.dkv_mask_info)
            gradients = kernel._splash_attention_bwd(**run.kwargs, res=kept, do=of_out)
            return gradients[3], gradients[4], gradients[5]

        ids = _ids(visibility.segments)
        return jax.vmap(one_row)(query, key, value, ids, part, of_out)

    return BlockAttention(forward, backward)


def _splash_kernel(
    query: Queries,
    key: BlockKeys,
    visibility: Visibility,
    soft_cap: float | None,
    with_logsumexp: bool,
    interpret: bool,
) -> Any:
    """The kernel for one row of a batch: (query, key, value, segments) -> its result."""
    # Imported here because it takes a second and only a TPU needs it.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    heads, time = query.shape[1:3]
    positions = key.shape[2]
    shape, window = (time, positions), visibility.window
    one: Any
    if window is not None:
        after = 0 if visibility.causal else window - 1
        one = masks.LocalMask(shape, (window - 1, after), offset=visibility.offset)
    elif visibility.causal:
        one = masks.CausalMask(shape, offset=visibility.offset)
    else:
        one = masks.FullMask(shape)
    rows, columns = (_block(length) for length in (time, positions))
    return kernel.make_splash_mha(
        masks.MultiHeadMask([one] * heads),
        block_sizes=kernel.BlockSizes(
            block_q=rows,
            block_kv=columns,
            block_kv_compute=columns,
            block_q_dkv=rows,
            block_kv_dkv=columns,
            block_kv_dkv_compute=columns,
            block_q_dq=rows,
            block_kv_dq=columns,
        ),
        head_shards=1,
        q_seq_shards=1,
        save_residuals=with_logsumexp,
        attn_logits_soft_cap=soft_cap,
        interpret=interpret,
    )


def _ids(segments: Any) -> Any:
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel

    return None if segments is None else kernel.SegmentIds(*segments)


def _block(length: int) -> int:
    # The largest of the kernel's usual tile sizes that divides the length.
    return next(size for size in (512, 256, LANES) if length % size == 0)
