"""Evaluation on the tiny model: the answers and losses of the plainest loop there is, whatever the shortcuts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest

from tests.rooms import Row, chat, counting_rows, cpu_plan, finished_dataset, finished_snapshot, in_environment
from tests.stages.conftest import Heard, one_thread
from tests.stages.taught import finished_model, questions
from tunesmith.artifacts import Model, ModelSnapshot, Score, TunedModel
from tunesmith.errors import DataError, StageCrashed
from tunesmith.jobs import ScoreJob
from tunesmith.runner import Outcome, run
from tunesmith.specs.evaluate import EvaluateSpec
from tunesmith.store import Store

pytestmark = pytest.mark.env

NEW_TOKENS, MAX_LENGTH = 40, 120

PLAINLY = """
import json, sys
import torch
from pathlib import Path
from tunesmith.stages import lean
from transformers import AutoModelForCausalLM
from peft import PeftModel
from tunesmith.artifacts import Plan
from tunesmith.specs.train import Lora, QLora
from tunesmith.stages.chat import load_tokenizer, render, render_prompt
from tunesmith.stages.evaluate.adapted import load_adapted
from tunesmith.stages.train.model import load_model

base, taught, scratch = map(Path, sys.argv[1:4])
plan, rows, new_tokens = Plan.model_validate_json(sys.argv[4]), json.loads(sys.argv[5]), int(sys.argv[6])
tokenizer = load_tokenizer(base)

def plainly(folder):
    model, found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), []
    for row in rows:
        prompt, whole = torch.tensor([render_prompt(tokenizer, row)]), render(tokenizer, row)
        said = model.generate(
            input_ids=prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=new_tokens, do_sample=False
        )[0, prompt.shape[1]:]
        chances = model(torch.tensor([whole.input_ids])).logits[0].double().log_softmax(-1)
        learnt = [(i - 1, token) for i, token in enumerate(whole.labels) if token >= 0]
        nll = -sum(chances[i, token].item() for i, token in learnt)
        found.append([tokenizer.decode(said, skip_special_tokens=True), nll, len(learnt)])
    return found

def apart(one, other):
    tokens = torch.arange(60).view(2, 30) + 3
    return (one(tokens).logits - other(tokens).logits).abs().max().item()

def adapted(spec, other):
    # In training mode: bitsandbytes' kernel for inference computes in bfloat16 on CPUs that can.
    as_trained = load_model(base, spec, plan).train()
    for name, weight in as_trained.named_parameters():
        if "lora_B" in name:
            weight.normal_(0, 0.05)
    as_trained.save_pretrained(scratch / spec.method)
    ours = load_adapted(spec.method, base, scratch / spec.method, "cpu", torch.float32).eval()
    theirs = load_adapted(other, base, scratch / spec.method, "cpu", torch.float32).eval()
    layers = {type(module).__name__ for module in ours.modules() if "Linear" in type(module).__name__}
    return {"ours": apart(as_trained, ours), "on_the_other_base": apart(as_trained, theirs), "layers": sorted(layers)}

with torch.no_grad():
    found = {"base": plainly(base), "taught": plainly(taught)}
    found["qlora"] = adapted(QLora(rank=4, max_steps=1), "lora")
    found["lora"] = adapted(Lora(rank=4, max_steps=1), "qlora")
print(json.dumps(found))
"""


def score_job(store: Store, model: Model, batch_size: int, rows: list[Row] | None = None) -> ScoreJob:
    data = finished_dataset(store, counting_rows(1), questions() if rows is None else rows)
    spec = EvaluateSpec(batch_size=batch_size, max_new_tokens=NEW_TOKENS)
    return ScoreJob(spec=spec, max_length=MAX_LENGTH, model=model, data=data, device="cpu")


class KillsAtFirstProgress(Heard):
    """Ends the stage's process, unasked and at once, when its first progress is heard."""

    def event(self, event: Mapping[str, Any]) -> None:
        super().event(event)
        for process in psutil.Process().children(recursive=True):
            process.kill()


class Scored(NamedTuple):
    outcome: Outcome
    answers: list[dict[str, Any]]
    heard: Heard

    @property
    def score(self) -> Score:
        assert isinstance(self.outcome.artifact, Score)
        return self.outcome.artifact


def scored(store: Store, job: ScoreJob) -> Scored:
    heard = Heard()
    with one_thread():
        outcome = run(job, store, heard)
    lines = (store.out(outcome.artifact) / "answers.jsonl").read_text().splitlines()
    return Scored(outcome, [json.loads(line) for line in lines], heard)


class Rooms(NamedTuple):
    store: Store
    base: ModelSnapshot
    taught: TunedModel


@pytest.fixture(scope="module")
def rooms(tiny_model: Path, taught_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Rooms:
    store = Store(tmp_path_factory.mktemp("evaluate")).open()
    base = finished_snapshot(store, tiny_model)
    taught = TunedModel(fingerprint="a" * 16, base=base)
    return Rooms(store, base, finished_model(store, taught_model, taught))


@pytest.fixture(scope="module")
def resumed(rooms: Rooms) -> tuple[list[dict[str, Any]], Scored]:
    """The base, its evaluation killed after the first batches: what was kept then, and the second attempt.

    What was kept is marked in between, to be known again, and followed by half a line.
    """
    job = score_job(rooms.store, rooms.base, batch_size=2)
    with one_thread(), pytest.raises(StageCrashed, match="killed by signal 9"):
        run(job, rooms.store, KillsAtFirstProgress())
    partial = rooms.store.room(job.room_name) / "scratch" / "answers.jsonl"
    lines = [line for line in partial.read_text().splitlines(keepends=True) if line.endswith("\n")]
    kept = [json.loads(line) | {"prompt": "kept"} for line in lines]
    partial.write_text("".join(json.dumps(line) + "\n" for line in kept) + '{"row": 1, "pro')
    return kept, scored(rooms.store, job)


@pytest.fixture(scope="module")
def taught(rooms: Rooms) -> Scored:
    return scored(rooms.store, score_job(rooms.store, rooms.taught, batch_size=7))


@pytest.fixture(scope="module")
def plainly(rooms: Rooms, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One row at a time through `generate`, with losses in double precision; and adapters beside their base."""
    folders = (rooms.store.out(rooms.base), rooms.store.out(rooms.taught), tmp_path_factory.mktemp("adapters"))
    rows = json.dumps([row["messages"] for row in questions()[:-1]])
    plan = cpu_plan(rooms.store).model_dump_json()
    with one_thread():
        found = in_environment("train", PLAINLY, *map(str, folders), plan, rows, str(NEW_TOKENS))
    assert isinstance(found, dict)
    return found


def agree(one: Scored, plainly: list[Any]) -> None:
    assert [line["answer"] for line in one.answers] == [answer for answer, _, _ in plainly]
    assert [line["num_tokens"] for line in one.answers] == [count for _, _, count in plainly]
    assert [line["nll"] for line in one.answers] == pytest.approx([nll for _, nll, _ in plainly], rel=1e-4, abs=1e-5)
    whole = sum(nll for _, nll, _ in plainly) / sum(count for _, _, count in plainly)
    assert one.score.nll == pytest.approx(whole, rel=1e-4)


def test_a_babbling_model_s_answers_and_losses_are_those_of_the_plain_loop(
    resumed: tuple[list[dict[str, Any]], Scored], plainly: dict[str, Any]
) -> None:
    agree(resumed[1], plainly["base"])


def test_so_are_those_of_a_model_that_says_some_of_what_was_expected(taught: Scored, plainly: dict[str, Any]) -> None:
    agree(taught, plainly["taught"])
    assert 0 < taught.score.score < 1


def test_the_score_is_the_share_of_right_answers(taught: Scored) -> None:
    right = [line["answer"] == line["expected"] for line in taught.answers]
    assert [line["correct"] for line in taught.answers] == right
    assert taught.score.score == pytest.approx(sum(right) / len(right))


def test_rows_over_the_limit_are_left_out_and_counted(rooms: Rooms, taught: Scored) -> None:
    assert taught.score.num_rows == len(taught.answers) == len(questions()) - 1
    manifest = rooms.store.manifest(taught.outcome.room)
    assert manifest and manifest.metrics["rows_too_long"] == 1
    assert taught.heard.of("progress")[-1]["done"] == len(questions()) - 1


def test_a_killed_evaluation_asks_only_what_is_left(resumed: tuple[list[dict[str, Any]], Scored]) -> None:
    kept, second = resumed
    assert 0 < len(kept) < len(second.answers)
    assert [line for line in second.answers if line["prompt"] == "kept"] == sorted(kept, key=lambda line: line["row"])
    assert second.heard.of("progress")[0]["done"] == len(kept) + 2


@pytest.mark.parametrize("method", ["lora", "qlora"])
def test_an_adapter_is_judged_on_the_weights_it_was_trained_on(plainly: dict[str, Any], method: str) -> None:
    """Added once it is the trained forward pass, up to rounding; on the other of NF4 and original it is another."""
    assert plainly[method]["layers"] == ["Linear"]
    assert plainly[method]["ours"] < 1e-4
    assert plainly[method]["on_the_other_base"] > 100 * plainly[method]["ours"]


def test_held_out_rows_that_are_all_too_long_are_refused(rooms: Rooms) -> None:
    job = score_job(rooms.store, rooms.base, 4, [chat("please " * 200, "No.")])
    with pytest.raises(DataError, match="None of the 1 held-out rows fits into 120 tokens"):
        run(job, rooms.store)
