"""How vLLM is started."""

import os
from collections.abc import Mapping

from tunesmith.environments import interpreter
from tunesmith.errors import ServeRefused
from tunesmith.jobs import ServeJob
from tunesmith.remote_code import is_trusted
from tunesmith.serving.control import KEY
from tunesmith.serving.endpoint import engine_name
from tunesmith.serving.program import Program
from tunesmith.store import Store

Value = str | int | float | bool
_FOLLOWED = ("CUDA_", "VLLM_", "OMP_", "NCCL_", "NVIDIA_")
"""Variables of the run that steer an engine, also under a supervisor that was started earlier."""
_ON_CPU: dict[str, Value] = {"enforce-eager": True, "dtype": "bfloat16", "max-num-seqs": 32}
# Compiling takes minutes on a CPU and gains little; packed 4-bit layers refuse float32.
_OURS = ("model", "served-model-name", "host", "port", "api-key", "shutdown-timeout", "trust-remote-code")
_KILL_AFTER_SECONDS = 30
"""How much longer than its drain the engine may take to go."""


def served_name(job: ServeJob) -> str:
    """The model name clients use."""
    return job.spec.served_name or job.name


def engine_program(job: ServeJob, store: Store, port: int) -> Program:
    """The job's engine on that loopback port.

    Raises EnvironmentMissing when the `serve` environment is not built, ServeRefused for an argument that is not the
    recipe's to pass.
    """
    folder = store.out(job.model)
    arguments: dict[str, Value] = {
        "model": str(folder),
        "served-model-name": served_name(job),
        "host": "127.0.0.1",
        "port": port,
        "max-model-len": job.max_model_len,
        "shutdown-timeout": job.spec.drain_seconds,
        **({"trust-remote-code": True} if is_trusted(folder) else {}),
        **(_ON_CPU if job.device == "cpu" else {}),
        **_asked(job),
    }
    words = [word for name, value in arguments.items() for word in _flag(name, value)]
    return Program(
        name=engine_name(job.fingerprint),
        command=(str(interpreter("serve")), "-m", "vllm.entrypoints.openai.api_server", *words),
        environment=_environment(job, os.environ),
        stop_seconds=job.spec.drain_seconds + _KILL_AFTER_SECONDS,
    )


def _asked(job: ServeJob) -> dict[str, Value]:
    asked = {name.replace("_", "-"): value for name, value in job.spec.engine_args.items()}
    if taken := next((name for name in _OURS if name in asked), None):
        raise ServeRefused(
            f"serve.engine_args: {taken} is set by Tunesmith: remove it, and use serve's own keys (host, port, "
            "served_name, api_key_env, drain_seconds)."
        )
    return asked


def port_of(program: Program) -> int:
    return int(program.command[program.command.index("--port") + 1])


def _flag(name: str, value: Value) -> tuple[str, ...]:
    if isinstance(value, bool):
        return (f"--{name}" if value else f"--no-{name}",)
    return f"--{name}", str(value)


def _environment(job: ServeJob, ours: Mapping[str, str]) -> dict[str, str]:
    """The engine looks nothing up on a network and reports to nobody. This ends up in a file, so the key stays out."""
    followed = {name: value for name, value in ours.items() if name.startswith(_FOLLOWED) and name != KEY}
    fixed = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    cache = {"VLLM_CPU_KVCACHE_SPACE": str(job.spec.kv_cache_gib)} if job.device == "cpu" else {}
    return {**followed, **fixed, **cache}
