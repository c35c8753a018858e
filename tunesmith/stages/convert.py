"""Weights that come as pickles or as a GGUF, made into safetensors.

Of pickles torch reads the tensors and refuses whatever would run; a GGUF is unpacked to 16 bits (`stages/gguf.py`).
"""

import errno
import json
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from tunesmith import worker
from tunesmith.errors import ModelError
from tunesmith.hub.choose import INDEX, PICKLED, PICKLED_INDEX, WHOLE
from tunesmith.hub.gguf_names import SUFFIX
from tunesmith.jobs import ConvertJob
from tunesmith.stages.gguf import write_model
from tunesmith.worker import Made, Room

_SUFFIX = ".bin"


def convert(job: ConvertJob, room: Room) -> Made:
    """The same model in `room.out`, with everything else that it needs.

    Raises ModelError for a pickle that holds more than tensors, and for a file that is damaged or cannot be read.
    """
    base = room.store.out(job.base)
    shutil.rmtree(room.out)
    packed = next(base.rglob(f"*{SUFFIX}"), None)
    number = write_model(packed, room.out) if packed else _unpickle(base, room)
    return Made(job.base.model_copy(update={"fingerprint": job.fingerprint}), {"tensors": number})


def _unpickle(base: Path, room: Room) -> int:
    """The tensors of the pickles as they are, and all else copied; returns how many tensors there are."""
    pickles = sorted(base.glob(f"*{_SUFFIX}"))
    homes: dict[str, str] = {}
    for number, path in enumerate(pickles):
        name = _new_name(path)
        tensors = dict(_distinct(_read(path)))
        save_file(tensors, room.out / name, metadata={"format": "pt"})
        homes |= dict.fromkeys(tensors, name)
        room.emit("progress", done=number + 1, total=len(pickles), unit="file")
    if len(pickles) > 1:
        (room.out / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": homes}, indent=1))
    _copy_the_rest(base, room.out)
    return len(homes)


def _new_name(path: Path) -> str:
    return WHOLE if path.name == PICKLED else path.name.removeprefix("pytorch_").removesuffix(_SUFFIX) + ".safetensors"


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, OSError) as error:
        # torch looks for the end of a file that was cut off where there is none.
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        said = str(error).strip().splitlines()
        raise ModelError(
            f"{path.name} holds more than tensors, or is damaged ({said[0] if said else type(error).__name__}): "
            "nothing of it was run; name a repo with safetensors."
        ) from error
    if not isinstance(found, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in found.values()):
        raise ModelError(f"{path.name} is no table of tensors: name a repo with safetensors.")
    return found


def _distinct(tensors: dict[str, torch.Tensor]) -> Iterator[tuple[str, torch.Tensor]]:
    """Two names for the same memory become two tensors, for a safetensors file knows no sharing."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        shared = tensor.untyped_storage().data_ptr() in seen
        seen.add(tensor.untyped_storage().data_ptr())
        yield name, tensor.clone() if shared else tensor.contiguous()


def _copy_the_rest(base: Path, out: Path) -> None:
    for path in (path for path in base.rglob("*") if path.is_file()):
        if path.suffix != _SUFFIX and path.name != PICKLED_INDEX:
            target = out / path.relative_to(base)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


if __name__ == "__main__":
    worker.main(convert)
