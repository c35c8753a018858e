"""Training on the tiny model: what is left behind, what is learnt from, what a kill costs, what is refused."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.rooms import chat, counting_rows, cpu_plan, finished_dataset, finished_snapshot, in_environment
from tests.stages.conftest import SPEC, Heard, Trained, one_thread, train_job
from tunesmith.artifacts import Adapter
from tunesmith.errors import StageCrashed
from tunesmith.jobs import TrainJob
from tunesmith.runner import run
from tunesmith.specs.train import Full, Lora, QLora, Train
from tunesmith.store import OUT, Store, sha256

pytestmark = pytest.mark.env

IN_PROCESS = """
import json, sys
from pathlib import Path
from pydantic import TypeAdapter
from tunesmith.stages.train.trainer import train
from tunesmith.errors import TunesmithError
from tunesmith.jobs import TrainJob
from tunesmith.store import Store
from tunesmith.worker import Room

def attempt(job, store):
    room = Room(store.room(job.room_name), store)
    room.path.mkdir(exist_ok=True)
    try:
        made = train(job, room)
    except TunesmithError as error:
        return {"error": type(error).__name__, "message": error.message}
    return {"metrics": made.metrics, "files": sorted(path.name for path in room.out.iterdir())}

store = Store(Path(sys.argv[1]))
jobs = json.loads(Path(sys.argv[2]).read_text())
print(json.dumps({name: attempt(TrainJob.model_validate(job), store) for name, job in jobs.items()}))
"""

LONG = chat("lamps " * 80, "yes")


def test_an_adapter_is_two_files_and_names_its_base_by_repo(trained: Trained) -> None:
    out = trained.store.out(trained.outcome.artifact)
    config = json.loads((out / "adapter_config.json").read_text())
    assert isinstance(trained.outcome.artifact, Adapter)
    assert sorted(path.name for path in out.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("someone/tiny", 4, 32)
    assert len(config["target_modules"]) == 14 and not any("lm_head" in name for name in config["target_modules"])


def test_the_artifact_is_found_by_the_fingerprint_the_near_side_knows(trained: Trained) -> None:
    assert trained.outcome.artifact.fingerprint == trained.job.fingerprint


def test_the_manifest_tells_steps_tokens_and_loss(trained: Trained) -> None:
    manifest = trained.store.manifest(trained.outcome.room)
    assert manifest is not None
    metrics = manifest.metrics
    assert metrics["steps"] == 40 and metrics["rows"] == 30 and metrics["tokens"] > 40 * 4 * 20
    logged = [event["loss"] for event in trained.heard.of("metrics")]
    assert metrics["train_loss"] == pytest.approx(sum(logged) / len(logged))
    assert logged[-1] < logged[0]


def test_progress_runs_from_nothing_to_all_steps(trained: Trained) -> None:
    done = [event["done"] for event in trained.heard.of("progress")]
    assert done[0] == 0 and done[-1] == 40 and done == sorted(done)
    assert [event["step"] for event in trained.heard.of("metrics")] == [10, 20, 30, 40]
    assert any(line.startswith("step 40/40  loss ") for line in trained.heard.lines)


def test_killed_and_damaged_it_ends_in_the_same_bytes(trained: Trained, tiny_model: Path, tmp_path: Path) -> None:
    """kill -9 after the second checkpoint, that checkpoint damaged: the rerun goes on from the first."""
    store = Store(tmp_path).open()
    job = train_job(store, tiny_model)
    checkpoints = store.room(job.room_name) / "scratch/checkpoints"
    killer = threading.Thread(target=_kill_once, args=(checkpoints / "checkpoint-20/files.json",))
    killer.start()
    with one_thread(), pytest.raises(StageCrashed, match="train was killed by signal 9"):
        run(job, store)
    killer.join()
    newest = max(checkpoints.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    _damage(newest / "optimizer.pt")
    heard = Heard()
    with one_thread():
        outcome = run(job, store, heard)
    assert f"{newest.name} is damaged or was not finished: going back to the one before it." in heard.lines
    assert heard.of("progress")[0]["done"] >= 10
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        first, again = (one.out(outcome.artifact) / name for one in (trained.store, store))
        assert sha256(first) == sha256(again), name
    whole, resumed = trained.store.manifest(trained.outcome.room), store.manifest(outcome.room)
    assert whole is not None and resumed is not None
    assert resumed.metrics["train_loss"] == whole.metrics["train_loss"]
    assert resumed.metrics["tokens"] == whole.metrics["tokens"]


def _kill_once(sealed: Path) -> None:
    """Waits for a sealed checkpoint and kills the stage that wrote it."""
    deadline = time.monotonic() + 300
    while not sealed.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    for process in psutil.Process().children(recursive=True):
        if "tunesmith.stages.train.trainer" in process.cmdline():
            process.kill()


def _damage(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(bytes(64))


class Bench:
    """Jobs over one store, run one after the other in one process of the training environment."""

    def __init__(self, store: Store, model: Path) -> None:
        self.store = store
        self.snapshot = finished_snapshot(store, model)
        self.jobs: dict[str, TrainJob] = {}

    def add(self, name: str, spec: Train, rows: list[Any] | None = None, too_long: Any = "refuse", **plan: Any) -> None:
        self.jobs[name] = TrainJob(
            spec=spec,
            too_long=too_long,
            base=self.snapshot,
            data=finished_dataset(self.store, counting_rows(12) if rows is None else rows),
            plan=cpu_plan(self.store, **({"micro_batch_size": 4} | plan)),
        )

    def run(self) -> dict[str, Any]:
        path = self.store.root / "jobs.json"
        path.write_text(json.dumps({name: job.model_dump(mode="json") for name, job in self.jobs.items()}))
        with one_thread():
            found = in_environment("train", IN_PROCESS, str(self.store.root), str(path))
        assert isinstance(found, dict)
        return found


def spec(method: type[Lora] | type[QLora] | type[Full] = Lora, **fields: Any) -> Train:
    return method(**({"max_steps": 6, "batch_size": 4, "learning_rate": 1e-2, "max_length": 64} | fields))


@pytest.fixture(scope="module")
def bench(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    yield Bench(Store(tmp_path_factory.mktemp("bench")).open(), tiny_model)


@pytest.fixture(scope="module")
def results(bench: Bench) -> dict[str, Any]:
    some_long = [LONG, *counting_rows(11)]
    bench.add("at_once", spec())
    bench.add("in_parts", spec(seed=0, micro_batch_size=1), micro_batch_size=1, accumulation_steps=4)
    bench.add("epochs", spec(max_steps=None, epochs=2.0, batch_size=8), micro_batch_size=4, accumulation_steps=2)
    bench.add("checkpointed", spec(warmup_ratio=0.1), gradient_checkpointing=True)
    bench.add("chunked", spec(loss="chunked"), loss="chunked")
    bench.add("eager", spec(attention="eager"), attention="eager")
    bench.add("foreach", spec(optimizer="adamw_foreach"), optimizer="adamw_foreach")
    bench.add("qlora", spec(QLora, rank=4))
    bench.add("full", spec(Full))
    bench.add("named_targets", spec(targets=("q_proj", "layers.1.mlp.up_proj")))
    bench.add("refuse", spec(max_length=60), some_long)
    bench.add("drop", spec(max_length=60), some_long, too_long="drop")
    bench.add("truncate", spec(max_length=60), [*some_long, chat("short", "yes " * 60)], too_long="truncate")
    bench.add("nothing_left", spec(max_length=60), [LONG, LONG], too_long="drop")
    bench.add("unrenderable", spec(), [*counting_rows(2), {"messages": [{"role": "user", "content": "Hi"}]}])
    bench.add("targets", spec(targets=("q_proj", "qq_proj")))
    bench.add("batch", spec(batch_size=6))
    bench.add("diverges", spec(Full, learning_rate=1e30, max_grad_norm=1e30, max_steps=20, warmup_ratio=0.0))
    return bench.run()


def test_accumulation_does_not_change_what_is_learnt(results: dict[str, Any]) -> None:
    """The loss is a mean over the tokens of the effective batch, whatever parts it is computed in."""
    at_once, in_parts = (results[name]["metrics"]["train_loss"] for name in ("at_once", "in_parts"))
    assert at_once == pytest.approx(in_parts, rel=1e-5)


@pytest.mark.parametrize("name", ["chunked", "eager", "foreach"])
def test_how_it_is_computed_does_not_change_what_is_learnt(results: dict[str, Any], name: str) -> None:
    one, other = (results[name]["metrics"]["train_loss"] for name in ("at_once", name))
    assert one == pytest.approx(other, rel=1e-4)


def test_an_epoch_is_every_row_once(results: dict[str, Any]) -> None:
    assert results["epochs"]["metrics"]["steps"] == 4


def test_gradient_checkpointing_trains(results: dict[str, Any]) -> None:
    assert results["checkpointed"]["metrics"]["train_loss"] == pytest.approx(
        results["at_once"]["metrics"]["train_loss"], rel=0.05
    )


def test_qlora_leaves_an_adapter(results: dict[str, Any]) -> None:
    assert results["qlora"]["files"] == ["adapter_config.json", "adapter_model.safetensors"]
    assert results["qlora"]["metrics"]["steps"] == 6


def test_full_fine_tuning_leaves_a_model_with_its_tokenizer(results: dict[str, Any]) -> None:
    expected = {"chat_template.jinja", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert expected <= set(results["full"]["files"])
    assert results["full"]["metrics"]["train_loss"] < results["at_once"]["metrics"]["train_loss"]


def test_targets_may_be_named(results: dict[str, Any], bench: Bench) -> None:
    out = bench.store.room(bench.jobs["named_targets"].room_name) / OUT
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["target_modules"] == ["layers.1.mlp.up_proj", "q_proj"]
    assert (out / "adapter_model.safetensors").stat().st_size < 40_000


def test_rows_too_long_are_dropped_or_cut_and_counted(results: dict[str, Any]) -> None:
    drop, truncate = results["drop"]["metrics"], results["truncate"]["metrics"]
    assert (drop["rows"], drop["rows_dropped"], drop["rows_truncated"]) == (11, 1, 0)
    # The long prompt leaves no room for its answer: that row would teach nothing. The long answer is cut.
    assert (truncate["rows"], truncate["rows_dropped"], truncate["rows_truncated"]) == (12, 1, 1)


def test_rows_too_long_are_refused_with_their_number(results: dict[str, Any]) -> None:
    assert results["refuse"]["error"] == "DataError"
    assert results["refuse"]["message"].startswith(
        "1 of 12 training rows are longer than train.max_length 60 tokens, the longest has "
    )
    assert results["refuse"]["message"].endswith(
        ": raise train.max_length to that, or set data.too_long to drop or truncate."
    )


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (
            "nothing_left",
            "DataError",
            "None of the 2 training rows has an answer within train.max_length 60 tokens: "
            "raise it, or shorten the prompts.",
        ),
        (
            "unrenderable",
            "DataError",
            "Training row 3: A row needs an assistant turn with a user turn before it: add one, or remove the row.",
        ),
        (
            "targets",
            "RecipeError",
            "train.targets: the model has no linear layer named qq_proj; choose from down_proj, gate_proj, k_proj, "
            "lm_head, o_proj, q_proj, up_proj, v_proj, or write all-linear.",
        ),
        (
            "batch",
            "RecipeError",
            "The plan's 4 rows x 1 steps are not train.batch_size 6: "
            "choose a train.batch_size that train.micro_batch_size divides.",
        ),
    ],
)
def test_a_job_that_cannot_be_done_says_why(results: dict[str, Any], name: str, error: str, message: str) -> None:
    assert results[name] == {"error": error, "message": message}


def test_a_loss_that_is_not_finite_ends_the_run(results: dict[str, Any]) -> None:
    assert results["diverges"]["error"] == "Never"
    assert results["diverges"]["message"].endswith(": lower train.learning_rate.")


def test_the_same_job_read_back_has_the_same_fingerprint() -> None:
    assert Lora.model_validate_json(SPEC.model_dump_json()).identity() == SPEC.identity()
    assert json.dumps(SPEC.identity()) == json.dumps(Lora.model_validate_json(SPEC.model_dump_json()).identity())


CHUNKED = """
import copy, json, sys
import torch
from tunesmith.stages import lean
from transformers import AutoModelForCausalLM
from tunesmith.stages.train.loss import ChunkedLoss
torch.manual_seed(0)
whole = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
pieces = copy.deepcopy(whole)
ids = torch.randint(0, whole.config.vocab_size, (3, 41))
labels = torch.where(torch.rand(ids.shape) < 0.4, ids, -100)
names = list(pieces.state_dict())
loss = ChunkedLoss(pieces, autocast=False, chunk_tokens=16)
found = {}
for count in (None, 77):
    for model in (whole, pieces):
        model.zero_grad()
    extra = {} if count is None else {"num_items_in_batch": torch.tensor(count)}
    one = whole(input_ids=ids, labels=labels, **extra).loss
    other = loss(pieces(input_ids=ids), labels, extra.get("num_items_in_batch"))
    one.backward(), other.backward()
    gradients = [(a.grad - b.grad).abs().max() / a.grad.abs().max()
                 for a, b in zip(whole.parameters(), pieces.parameters())]
    found[str(count)] = [float(one), float(other), float(max(gradients))]
print(json.dumps({"losses": found, "same_names": names == list(pieces.state_dict())}))
"""


@pytest.mark.parametrize("model", ["tiny_model", "untied_model"])
def test_a_loss_in_pieces_is_the_same_loss_with_the_same_gradients(model: str, request: pytest.FixtureRequest) -> None:
    found = in_environment("train", CHUNKED, str(request.getfixturevalue(model)))
    assert found["same_names"]
    for whole, pieces, gradient_error in found["losses"].values():
        assert pieces == pytest.approx(whole, rel=1e-5)
        assert gradient_error < 1e-4
