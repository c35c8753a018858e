"""Which base model to start from."""

from pydantic import model_validator

from tunesmith.specs.spec import Spec, Where


class ModelSpec(Spec):
    """A repo on a hub, or a folder on this machine."""

    repo: str | None = None
    """`owner/name` on the hub."""
    path: Where[str | None] = None
    """A folder with config.json and safetensors, instead of a repo."""
    revision: str = "main"
    """Branch, tag or commit; resolved to a commit before anything moves."""
    hub: Where[str | None] = None
    """The hub's address; unset, HF_ENDPOINT or huggingface.co."""

    @model_validator(mode="after")
    def _one_source(self) -> "ModelSpec":
        if (self.repo is None) == (self.path is None):
            raise ValueError("give exactly one of model.repo and model.path")
        return self
