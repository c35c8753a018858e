"""What can go wrong, and what the caller may do about it.

TunesmithError
├── Never            exit 78: the same job will fail the same way; change something first
│   ├── RecipeError          a recipe key, type or value is wrong
│   ├── DataError            a data file or row cannot be used
│   ├── ModelError           the model repo or folder cannot be used
│   │   ├── RepoNotFound         no such repo or revision on the hub
│   │   ├── GatedRepo            the repo wants a token, or its terms accepted
│   │   ├── OnlyPickles          no safetensors in the repo
│   │   ├── NoChatTemplate       the tokenizer cannot render chat rows
│   │   └── UnknownArchitecture  the installed transformers has no such model class
│   ├── DoesNotFit           the estimate says it will not fit the hardware
│   ├── BillDiffers          the bill and the simulation of the same step do not agree
│   ├── GroupSizeError       the quantization group does not divide the model's width
│   ├── GateFailed           the evaluation gate of the recipe did not hold
│   ├── DiskFull             no space left; finished stages stay
│   ├── StoreNotWritable     the store cannot be written
│   ├── PortBusy             somebody else listens on the endpoint's port
│   ├── EnvironmentMissing   a stage environment is not built, or broken
│   ├── CorruptArtifact      an input file is missing or altered
│   ├── ServeRefused         the engine cannot serve this as asked
│   └── BackupRefused        the hub does not take the backup
└── TryAgain         exit 75: the same job may pass later
    ├── HubUnavailable       the hub did not answer, or broke off
    ├── OutOfMemory          the device or the host ran out of memory
    ├── StageCrashed         the stage's process died; its room keeps the partial work
    └── EngineUnhealthy      the serving engine did not become healthy

A message is one sentence: what was wrong, and what to do.
"""

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from tunesmith.artifacts import Plan
    from tunesmith.memory.said import BillItem


class TunesmithError(Exception):
    """Root of the tree; `exit_code` is what a process ends with when this reaches its top."""

    exit_code: ClassVar[int] = 70

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Never(TunesmithError):
    exit_code = 78


class TryAgain(TunesmithError):
    exit_code = 75


class RecipeError(Never): ...


class DataError(Never): ...


class ModelError(Never): ...


class RepoNotFound(ModelError): ...


class GatedRepo(ModelError): ...


class OnlyPickles(ModelError): ...


class NoChatTemplate(ModelError): ...


class UnknownArchitecture(ModelError): ...


class DoesNotFit(Never):
    """Carries the bill that was too high, the most frugal plan on the hardware asked about, which it belongs to, and
    the nearest plan that would fit; each where there is one.
    """

    def __init__(
        self,
        message: str,
        *,
        bill: "tuple[BillItem, ...]" = (),
        closest: "Plan | None" = None,
        plan: "Plan | None" = None,
    ) -> None:
        super().__init__(message)
        self.bill = bill
        self.closest = closest
        self.plan = plan


class BillDiffers(Never): ...


class GroupSizeError(Never): ...


class GateFailed(Never): ...


class DiskFull(Never): ...


class StoreNotWritable(Never): ...


class PortBusy(Never): ...


class EnvironmentMissing(Never): ...


class CorruptArtifact(Never): ...


class ServeRefused(Never): ...


class BackupRefused(Never): ...


class HubUnavailable(TryAgain):
    retry_after: str | None = None
    """What the hub's Retry-After header said."""


class OutOfMemory(TryAgain): ...


class StageCrashed(TryAgain): ...


class EngineUnhealthy(TryAgain): ...


def tree(root: type[TunesmithError] = TunesmithError) -> dict[str, type[TunesmithError]]:
    """Every class of the tree by name, root included."""
    found = {root.__name__: root}
    for child in root.__subclasses__():
        found |= tree(child)
    return found


def revive(name: str, message: str) -> TunesmithError:
    """The error a stage's process wrote down, as the same class on this side; unknown names become StageCrashed."""
    return tree().get(name, StageCrashed)(message)
