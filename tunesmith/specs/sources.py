"""The list of places that bytes may come from."""

from typing import Annotated, Any

from pydantic import BeforeValidator

from tunesmith.specs.spec import Where


def _listed(value: Any) -> Any:
    if isinstance(value, str):
        raise ValueError(f"it is a list: write [{value}]")
    if isinstance(value, list | tuple) and not value:
        raise ValueError("the list is empty: name hf, modelscope, the URL of a hub or a folder, or leave the key out")
    return value


Sources = Where[Annotated[tuple[str, ...] | None, BeforeValidator(_listed)]]
"""In the order they are tried: `hf`, `modelscope`, `modelscope=https://…`, `https://…`, or a folder."""
