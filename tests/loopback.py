"""A real hub on a free loopback port, and tiny repos to serve from it."""

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from tunesmith.hub.server import build_app, listen

CONFIG = {"model_type": "llama", "hidden_size": 8, "num_hidden_layers": 1}
TOKENIZER_CONFIG = {"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}


@contextmanager
def loopback_hub(folder: Path, wrap: Callable[[Any], Any] = lambda app: app) -> Iterator[str]:
    """The address of a hub that serves `folder` until the block ends; `wrap` may put ASGI middleware around it."""
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        wrap(build_app(folder)), log_level="critical", access_log=False, lifespan="off", interface="asgi3"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(timeout=10)


def write_model(folder: Path, weight_bytes: int = 4096, seed: int = 0) -> Path:
    """A repo with everything a model needs to be listed and downloaded; the weights are noise."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENIZER_CONFIG))
    (folder / "model.safetensors").write_bytes(safetensors(weight_bytes, seed))
    return folder


def safetensors(num_bytes: int, seed: int = 0) -> bytes:
    """One tensor of bytes in the safetensors layout: header length, JSON header, data."""
    tensor = {"dtype": "U8", "shape": [num_bytes], "data_offsets": [0, num_bytes]}
    header = json.dumps({"weight": tensor}).encode()
    block = bytes((index * 31 + seed) % 256 for index in range(min(num_bytes, 65536)))
    data = (block * (num_bytes // max(len(block), 1) + 1))[:num_bytes]
    return len(header).to_bytes(8, "little") + header + data


def flip_byte(path: Path, offset: int = -1) -> None:
    """Damages one byte and keeps size and mtime, as a bad disk or a bad mirror would."""
    stat = path.stat()
    content = bytearray(path.read_bytes())
    content[offset] ^= 0xFF
    path.write_bytes(content)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
