"""How the model is served: one class per engine."""

from typing import Literal

from pydantic import Field, model_validator

from tunesmith.specs.spec import Spec

LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Vllm(Spec):
    """vLLM (PagedAttention, arXiv 2309.06180) behind vllm-router."""

    engine: Literal["vllm"] = "vllm"
    host: str = "127.0.0.1"
    """Address the endpoint listens on; anything but loopback needs `api_key_env`."""
    port: int = Field(8000, ge=1, le=65535)
    """The endpoint's port; the engine itself takes a free one on loopback."""
    api_key_env: str | None = None
    """Name of the environment variable that holds the API key; the key itself is written nowhere."""
    served_name: str | None = None
    """Model name clients use; unset, the recipe's name."""
    max_model_len: int | None = Field(None, ge=16)
    """Longest sequence in tokens; unset, train.max_length and evaluate.max_new_tokens together."""
    kv_cache_gib: int = Field(1, ge=1)
    """KV cache on a CPU, GiB; a GPU takes what gpu_memory_utilization leaves."""
    start_seconds: int = Field(900, ge=10)
    """How long the engine may take to become healthy."""
    drain_seconds: int = Field(60, ge=0)
    """How long open streams may finish when it is stopped."""
    engine_args: dict[str, str | int | float | bool] = Field(default_factory=dict)
    """Passed verbatim to the engine, under its own names (`gpu-memory-utilization: 0.9`)."""

    @model_validator(mode="after")
    def _key_beyond_loopback(self) -> "Vllm":
        if self.host not in LOOPBACK and not self.api_key_env:
            raise ValueError(
                f"serve.host {self.host} is reachable from outside: "
                "name the variable that holds the API key in serve.api_key_env"
            )
        return self


Serve = Vllm
