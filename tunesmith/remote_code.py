"""Whether a model's folder brings Python of its own, which the recipe said may be run.

Only then does the download put any into the store, so the folder itself is the permission; all loading asks here and
says yes or no outright, for transformers would otherwise ask on a terminal that is not there.
"""

from pathlib import Path


def is_trusted(folder: Path) -> bool:
    """Whether what loads the model in `folder` may run code out of it."""
    return any(folder.glob("*.py"))
