"""What a user types, against a real server and a real worker: one deployment runs to the served end, one is refused."""

import json

import pytest
from openai import OpenAI
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.e2e.conftest import Box
from tunesmith.environments import CHECKOUT
from tunesmith.store import Store

pytestmark = [pytest.mark.env("train"), pytest.mark.env("serve")]


def only_run(box: Box, recipe: str) -> FlowRun:
    """The recipe's one run; the server lists runs in no order of time, scheduled ones among them."""
    named = FlowRunFilter(name=FlowRunFilterName(any_=[f"finetune-{recipe}"]))
    with temporary_settings({PREFECT_API_URL: box.environment["PREFECT_API_URL"]}), get_client(sync_client=True) as c:
        [run] = c.read_flow_runs(flow_run_filter=named)
    return run


def artifacts(box: Box, key: str):
    with temporary_settings({PREFECT_API_URL: box.environment["PREFECT_API_URL"]}), get_client(sync_client=True) as c:
        return [a for a in c.read_artifacts() if a.key == key]


def test_a_job_that_cannot_fit_is_refused_before_a_weight_moves(box: Box) -> None:
    done = box.prefect("deployment", "run", "finetune/qwen7b", "--watch", check=False)
    assert done.returncode != 0
    state = only_run(box, "qwen7b").state
    assert state is not None
    assert state.is_failed()
    assert "Qwen/Qwen2.5-7B-Instruct" in state.message
    assert "nearest plan that fits" in state.message
    assert "Traceback" not in state.message
    assert "| weights" in artifacts(box, "bill")[0].data
    assert not list(box.hf_home.rglob("*.safetensors")), "a weight was downloaded"


def test_the_demonstration_runs_to_the_served_end_and_again_changes_nothing(box: Box) -> None:
    overrides = f'overrides={{"serve.port": {box.port}}}'
    done = box.prefect("deployment", "run", "finetune/smollm2", "--watch", "--param", overrides, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert only_run(box, "smollm2").state.is_completed()

    rows = [json.loads(line)["messages"] for line in (CHECKOUT / "configs/orders/heldout.jsonl").open()][-8:]
    answers = [_ask(box, row) for row in rows]
    right = sum(answer.strip() == row[-1]["content"] for answer, row in zip(answers, rows, strict=True))
    assert right >= 6, f"the endpoint answers {answers}"

    scores = _scores(box)
    assert scores["base"] <= 0.05
    assert scores["tuned"] >= 0.9
    before = box.tunesmith("status", "--json", "--store", str(box.store)).stdout
    again = box.prefect("deployment", "run", "finetune/smollm2", "--watch", "--param", overrides, check=False)
    assert again.returncode == 0, again.stdout[-4000:]
    after = box.tunesmith("status", "--json", "--store", str(box.store)).stdout
    assert json.loads(after) == json.loads(before), "the second run made something, or restarted the endpoint"


def _ask(box: Box, row: list[dict[str, str]]) -> str:
    client = OpenAI(base_url=f"http://127.0.0.1:{box.port}/v1", api_key="none")
    reply = client.chat.completions.create(model="smollm2", messages=row[:-1], temperature=0, max_tokens=64)
    return reply.choices[0].message.content or ""


def _scores(box: Box) -> dict[str, float]:
    store = Store(box.store)
    evaluation = next(m.artifact for _, m in store.manifests() if m.artifact.type == "evaluation")
    return {name: score.score for name, score in evaluation.scores.items()}
