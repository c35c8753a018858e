"""Which base model to start from."""

import re

from pydantic import model_validator

from tunesmith.specs.sources import Sources
from tunesmith.specs.spec import Spec, Where

_COMMIT = re.compile(r"[0-9a-f]{40}")


class ModelSpec(Spec):
    """A repo on a hub, or a folder on this machine."""

    repo: str | None = None
    """`owner/name` on the hub."""
    path: Where[str | None] = None
    """A folder with config.json and safetensors, or a GGUF file, instead of a repo."""
    gguf: str | None = None
    """A GGUF file of the repo or the folder: its weights are taken, unpacked to 16 bits."""
    revision: str = "main"
    """Branch, tag or commit; resolved to a commit before anything moves."""
    trust_remote_code: bool = False
    """Run the repo's own Python where transformers has no class for the model; only at a fixed commit."""
    allow_pickles: bool = False
    """Take weights that are there as pickles only, and make safetensors of them; nothing in them is run."""
    hub: Where[str | None] = None
    """The hub's address; unset, HF_ENDPOINT or huggingface.co."""
    sources: Sources = None
    """Instead of model.hub, several, tried in order: `hf`, `modelscope`, `modelscope=URL`, a hub's URL, a folder."""
    xet: Where[bool] = False
    """Bring through hf_xet what the hub has in Xet; the rest comes over HTTP, as everything does otherwise."""

    @model_validator(mode="after")
    def _one_source(self) -> "ModelSpec":
        if (self.repo is None) == (self.path is None):
            raise ValueError("give exactly one of model.repo and model.path")
        return self

    @property
    def is_gguf(self) -> bool:
        """Whether a GGUF is named: by `gguf`, or by `path` itself."""
        return self.gguf is not None or (self.path or "").endswith(".gguf")

    @model_validator(mode="after")
    def _one_gguf(self) -> "ModelSpec":
        if self.gguf is not None and (self.path or "").endswith(".gguf"):
            raise ValueError("model.path names a GGUF already: leave out model.gguf, or let model.path be its folder")
        if self.gguf is not None and not self.gguf.endswith(".gguf"):
            raise ValueError(f"model.gguf {self.gguf!r} is no GGUF: name a file that ends in .gguf")
        if self.is_gguf and self.trust_remote_code:
            raise ValueError("model.trust_remote_code has nothing to run: a GGUF brings no code; leave it out")
        return self

    @model_validator(mode="after")
    def _one_list_of_sources(self) -> "ModelSpec":
        if self.hub is not None and self.sources is not None:
            raise ValueError(f"give model.hub or model.sources, not both: model.sources may hold {self.hub} too")
        return self

    @property
    def words(self) -> tuple[str, ...]:
        """The sources that are named; none of them is `hf`."""
        return self.sources or ((self.hub,) if self.hub else ())

    @model_validator(mode="after")
    def _code_that_does_not_move(self) -> "ModelSpec":
        if self.trust_remote_code and not _COMMIT.fullmatch(self.revision):
            raise ValueError(
                "model.trust_remote_code runs the repo's own code: set model.revision to the commit you have read, "
                "40 hex digits"
            )
        return self
