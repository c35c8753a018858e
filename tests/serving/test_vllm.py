"""The real engine, on a random model: what the fake one only imitates."""

import json
import shutil
import threading
from pathlib import Path

import httpx
import openai
import pytest

from tests.rooms import finished_dataset
from tests.serving.conftest import processes_of
from tests.serving.releases import ROWS, evaluation
from tunesmith.artifacts import MergedModel, ModelSnapshot, Release
from tunesmith.conclude import conclude
from tunesmith.jobs import ServeJob
from tunesmith.runner import run
from tunesmith.serving import endpoint
from tunesmith.serving.ports import free_port
from tunesmith.specs.evaluate import EvaluateSpec, Gate
from tunesmith.specs.serve import Vllm
from tunesmith.specs.spec import fingerprint
from tunesmith.store import OUT, Store

pytestmark = [pytest.mark.slow, pytest.mark.env("serve"), pytest.mark.env("train")]
KEY = "sesame-4711"


@pytest.fixture
def job(store: Store, tiny_model: Path) -> ServeJob:
    return ServeJob(
        name="orders",
        spec=Vllm(port=free_port(), api_key_env="ORDERS_KEY", drain_seconds=60),
        evaluate=EvaluateSpec(served_rows=4, max_new_tokens=16, gate=Gate(max_drop=None)),
        evaluation=evaluation(store),
        max_model_len=256,
        model=_room_of(store, tiny_model),
        data=finished_dataset(store, ROWS, ROWS),
        device="cpu",
    )


def test_vllm_serves_guards_and_drains(store: Store, job: ServeJob) -> None:
    try:
        release = run(job, store, secrets={"ORDERS_KEY": KEY}).artifact
        assert isinstance(release, Release)
        client = openai.OpenAI(base_url=release.endpoint, api_key=KEY, max_retries=0)
        messages = [{"role": "user", "content": "How many are 2 lamps?"}]
        said = client.chat.completions.create(model="orders", messages=messages, max_tokens=8, temperature=0)
        assert 1 <= said.usage.completion_tokens <= 8
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="guessed").models.list()
        state = endpoint.current(store)
        assert httpx.get(f"{state.engine_url}/v1/models").status_code == 401, "the engine itself wants the key too"

        pieces = client.chat.completions.create(
            model="orders", messages=messages, max_tokens=150, stream=True, extra_body={"ignore_eos": True}
        )
        next(pieces)
        stopping = threading.Thread(target=endpoint.stop, args=(store,))
        stopping.start()
        finished = [piece.choices[0].finish_reason for piece in pieces if piece.choices]
        assert finished[-1] == "length", "an open stream ends by itself before the engine goes"
        stopping.join()
    finally:
        endpoint.stop(store)
    assert not processes_of(store)


def _room_of(store: Store, folder: Path) -> MergedModel:
    base = ModelSnapshot(fingerprint=fingerprint("base"), repo="someone/tiny", commit="0" * 40)
    conclude(store, f"download-{base.fingerprint}", base, environment="main", seconds=0)
    model = MergedModel(fingerprint=fingerprint("merge"), base=base)
    out = store.room(f"merge-{model.fingerprint}") / OUT
    shutil.copytree(folder, out)
    config = json.loads((out / "config.json").read_text())
    # The same weights read as fewer, wider heads: vLLM's attention on a CPU knows no heads of 16.
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    (out / "config.json").write_text(json.dumps(config))
    conclude(store, out.parent.name, model, environment="train", seconds=0)
    return model
