"""Other people's exceptions, mapped to ours in this one place.

Matching is by class name and errno, so nothing heavy is imported to recognise a library's error.
"""

import errno

from tunesmith import errors

_BY_CLASS: dict[str, type[errors.TunesmithError]] = {
    "GatedRepoError": errors.GatedRepo,
    "RepositoryNotFoundError": errors.RepoNotFound,
    "RevisionNotFoundError": errors.RepoNotFound,
    "OutOfMemoryError": errors.OutOfMemory,
    "LocalEntryNotFoundError": errors.HubUnavailable,
    "OfflineModeIsEnabled": errors.ModelError,
    "TransportError": errors.HubUnavailable,
    "HfHubHTTPError": errors.HubUnavailable,
    "MemoryError": errors.OutOfMemory,
}
_CPU_OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory"


def translate(error: BaseException) -> errors.TunesmithError | None:
    """Our error for a foreign one, or None when it is not one we know (a crash)."""
    if isinstance(error, errors.TunesmithError):
        return error
    if isinstance(error, OSError) and (ours := _from_errno(error)):
        return ours
    if _CPU_OUT_OF_MEMORY in str(error):
        return errors.OutOfMemory(f"The host ran out of memory: {error}.")
    for base in type(error).__mro__:
        if base.__name__ in _BY_CLASS:
            return _BY_CLASS[base.__name__](_first_line(error))
    return None


def _from_errno(error: OSError) -> errors.TunesmithError | None:
    where = error.filename or "the store"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.DiskFull(
            f"The disk is full at {where}: free some space and run the same command; finished stages are kept."
        )
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return errors.StoreNotWritable(
            f"{where} cannot be written ({error.strerror}): fix its permissions or choose another --store."
        )
    return None


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
