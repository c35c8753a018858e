"""Serve jobs whose inputs lie finished in a store, with a fake engine where the real one would be started."""

import json
import sys
from pathlib import Path

from tests.rooms import Row, chat, finished_dataset
from tunesmith.artifacts import Evaluation, MergedModel, ModelSnapshot, Score
from tunesmith.conclude import conclude
from tunesmith.environments import CHECKOUT, interpreter
from tunesmith.jobs import ServeJob
from tunesmith.serving.ports import free_port
from tunesmith.specs.evaluate import EvaluateSpec, Gate
from tunesmith.specs.serve import Vllm
from tunesmith.specs.spec import fingerprint
from tunesmith.store import OUT, Store

ROWS: list[Row] = [chat(f"How many are {number} lamps?", str(number)) for number in range(6)]
RIGHT = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in ROWS}


def fake_interpreter(path: Path) -> Path:
    """An interpreter of the `serve` environment, except that vLLM is the fake engine; the router is the real one."""
    engine = [sys.executable, str(CHECKOUT / "tests" / "fakes" / "engine.py")]
    real = [str(interpreter("serve"))]
    path.write_text(
        f"#!{sys.executable}\n"
        "import os, sys\n"
        "words = sys.argv[1:]\n"
        f"fake = {engine!r} + words[2:] if words[1] == 'vllm.entrypoints.openai.api_server' else {real!r} + words\n"
        "os.execv(fake[0], fake)\n"
    )
    path.chmod(0o755)
    return path


def merged_model(store: Store, **manners: object) -> MergedModel:
    """A model room that holds no model but the fake engine's manners; `answers` are right unless said otherwise."""
    said = {"answers": RIGHT, **manners}
    base = ModelSnapshot(fingerprint=fingerprint("base"), repo="someone/tiny", commit="0" * 40)
    conclude(store, f"download-{base.fingerprint}", base, environment="main", seconds=0)
    model = MergedModel(fingerprint=fingerprint("merge", said), base=base)
    name = f"merge-{model.fingerprint}"
    (store.room(name) / OUT).mkdir(parents=True, exist_ok=True)
    (store.room(name) / OUT / "fake.json").write_text(json.dumps(said))
    conclude(store, name, model, environment="train", seconds=0)
    return model


def evaluation(store: Store, tuned: float = 1.0) -> Evaluation:
    """Finished, with the tuned model's score."""
    score = Score(fingerprint=fingerprint("score", tuned), score=tuned, nll=0.1, num_rows=len(ROWS))
    conclude(store, f"evaluate-{score.fingerprint}", score, environment="train", seconds=0)
    made = Evaluation(fingerprint=fingerprint("evaluation", tuned), scores={"tuned": score}, objections=())
    conclude(store, f"evaluation-{made.fingerprint}", made, environment="main", seconds=0)
    return made


def serve_job(store: Store, model: MergedModel, port: int | None = None, **spec: object) -> ServeJob:
    """A job that serves `model` as `orders` on a free port of loopback."""
    return ServeJob(
        name="orders",
        spec=Vllm.model_validate({"port": port or free_port(), "drain_seconds": 20, "start_seconds": 60, **spec}),
        evaluate=EvaluateSpec(served_rows=4, max_new_tokens=16, gate=Gate(max_drop=0.05)),
        evaluation=evaluation(store),
        max_model_len=256,
        model=model,
        data=finished_dataset(store, ROWS, ROWS),
        device="cpu",
    )
