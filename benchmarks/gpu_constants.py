"""What no tensor takes on a GPU: the CUDA context, cuBLAS's workspaces, NCCL; runs in the train environment.

`python benchmarks/gpu_constants.py machine|context|float32|bfloat16` prints a JSON object as its last line, and so does
`torchrun --standalone --nproc-per-node 2 benchmarks/gpu_constants.py nccl`. Bytes; what cannot be measured is null.
"""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gpu_device import driver_version, used_bytes

_LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
_WIDTH = 1024
"""Of the square matrices that are multiplied."""
_DEVICE = "cuda"


def machine() -> dict[str, Any]:
    """The first GPU, and the libraries' versions; the name is null where torch has no CUDA or there is no card."""
    import torch

    found: dict[str, Any] = {"name": None, "versions": {name: _version(name) for name in _LIBRARIES}}
    if torch.cuda.is_available():
        first = torch.cuda.get_device_properties(0)
        found |= {"name": first.name, "memory_bytes": first.total_memory, "gpus": torch.cuda.device_count()}
        found |= {"driver": driver_version(), "expandable": _grows()}
    return found


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _grows() -> bool:
    """Whether the allocator's segments can, as the stages ask for; not every driver lets them."""
    import torch

    held = torch.empty(1, device=_DEVICE)
    return held.is_cuda and any(segment.get("is_expandable", False) for segment in torch.cuda.memory_snapshot())


def context() -> dict[str, Any]:
    """What the device has in use beyond the allocator's memory: with one tensor, and after products in two types."""
    import torch

    before = used_bytes()
    held = torch.empty(1, device=_DEVICE)
    bare = _beyond(before)
    for dtype in (torch.float32, torch.bfloat16):
        _backward(dtype)
    found = {"context, one tensor": bare, "context, after matrix products": _beyond(before)}
    del held
    return found


def _beyond(before: int | None, index: int = 0) -> int | None:
    import torch

    torch.cuda.synchronize()
    now = used_bytes(index)
    return None if now is None or before is None else now - before - torch.cuda.memory_reserved()


def workspaces(dtype: Any) -> dict[str, int]:
    """What torch's allocator holds for cuBLAS after the first product of that type, and what is added by one with a
    bias, which another library computes, and by a backward pass, whose thread has a handle of its own.

    `CUBLAS_WORKSPACE_CONFIG` must be as the train stage sets it before the process's first product.
    """
    import torch

    torch.cuda.init()
    found, before = {}, torch.cuda.memory_allocated()
    for name, run in (("first product", _product), ("a bias", _with_bias), ("backward", _backward)):
        run(dtype)
        after = torch.cuda.memory_allocated()
        found[f"cuBLAS, {str(dtype).removeprefix('torch.')}, {name}"], before = after - before, after
    return found


def _workspaces_of(name: str) -> dict[str, int]:
    import torch

    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    return workspaces(getattr(torch, name))


def _product(dtype: Any) -> None:
    import torch

    one = torch.ones(_WIDTH, _WIDTH, device=_DEVICE, dtype=dtype)
    torch.mm(one, one)


def _with_bias(dtype: Any) -> None:
    import torch

    one = torch.ones(_WIDTH, _WIDTH, device=_DEVICE, dtype=dtype)
    torch.nn.functional.linear(one, one, one[0])


def _backward(dtype: Any) -> None:
    import torch

    one = torch.ones(_WIDTH, _WIDTH, device=_DEVICE, dtype=dtype, requires_grad=True)
    torch.nn.functional.linear(one, one, one[0]).sum().backward()


def nccl() -> dict[str, Any]:
    """What one communicator group of two GPUs takes on each, after its first all-reduce."""
    import torch
    from torch import distributed

    rank = int(os.environ["LOCAL_RANK"])
    torch.cuda.set_device(rank)
    summed = torch.ones(2**20, device=_DEVICE)
    before = _beyond(0, rank)
    distributed.init_process_group("nccl")
    distributed.all_reduce(summed)
    after = _beyond(0, rank)
    distributed.barrier()
    distributed.destroy_process_group()
    return {"NCCL, two GPUs": None if before is None or after is None else after - before}


_VERBS: dict[str, Callable[[], dict[str, Any]]] = {
    "machine": machine,
    "context": context,
    "float32": partial(_workspaces_of, "float32"),
    "bfloat16": partial(_workspaces_of, "bfloat16"),
    "nccl": nccl,
}


def main() -> None:
    found = _VERBS[sys.argv[1]]()
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
