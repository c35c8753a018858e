"""Where things are kept when nobody says."""

import os
from pathlib import Path

import platformdirs


def store_root() -> Path:
    """The store: TUNESMITH_STORE, or `tunesmith/store` in the user's data folder."""
    if chosen := os.environ.get("TUNESMITH_STORE"):
        return Path(chosen)
    return platformdirs.user_data_path("tunesmith") / "store"
