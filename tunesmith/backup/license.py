"""The base model's license, where it says one."""

from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, ModelCard

from tunesmith.artifacts import ModelSource
from tunesmith.hub.client import Hub

_KEYS = ("license", "license_name", "license_link")


def license_of(source: ModelSource) -> dict[str, str]:
    """As the front matter of the base's own card names it; empty where it is not known, for whatever reason."""
    try:
        data = _from_folder(Path(source.path)) if source.path else _from_hub(source)
    except Exception:
        # A card is worth having without it.
        return {}
    return {key: value for key in _KEYS if isinstance(value := data.get(key), str)}


def _from_folder(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = ModelCard.load(folder / "README.md").data.to_dict()
    return found


def _from_hub(source: ModelSource) -> dict[str, Any]:
    """Of the hub that listed the model; where something else did, of the first hub among the sources."""
    hubs = [word for word in (source.endpoint, *source.sources) if word is None or word.startswith("http")]
    hub = Hub(hubs[0])
    revision = source.commit if hubs[0] == source.endpoint else source.revision
    info = HfApi(endpoint=hub.address, token=hub.token).model_info(source.repo, revision=revision, timeout=20)
    return dict(info.card_data.to_dict()) if info.card_data else {}  # type: ignore[no-untyped-call]
