"""What a run leaves behind, without running it."""

from pathlib import Path
from typing import Any, NamedTuple

from tunesmith.artifacts import Artifact, MergedModel, ModelSnapshot, Plan, QuantizedModel, Resolved, Score
from tunesmith.backup.parts import rooms_of
from tunesmith.backup.request import Request
from tunesmith.conclude import conclude
from tunesmith.jobs import Job, MergeJob, ScoreJob, TrainJob
from tunesmith.nearside import estimate_into
from tunesmith.pipeline import expected_tuned, lay_out
from tunesmith.resolve import resolve
from tunesmith.seals import seal
from tunesmith.specs.load import load_recipe
from tunesmith.specs.recipe import Recipe
from tunesmith.store import OUT, Store

SCORES = {"snapshot": 0.125, "adapter": 0.9375, "merged": 0.9365, "quantized": 0.9125}
WEIGHTS = bytes(range(256)) * 400


class Past(NamedTuple):
    """A run whose plan is known; `make` finishes one of its stages."""

    recipe: Recipe
    store: Store
    jobs: dict[str, Job]
    rooms: dict[str, str]

    def request(self) -> Request:
        return Request(recipe=self.recipe, store=str(self.store.root), rooms=self.rooms)

    def make(self, *stages: str) -> None:
        for stage in stages:
            room = self.store.room(self.rooms[stage])
            (room / OUT).mkdir(parents=True)
            if not stage.startswith("evaluate/"):
                (room / OUT / "model.safetensors").write_bytes(stage.encode() + WEIGHTS)
                (room / OUT / "config.json").write_text('{"model_type": "llama"}')
            conclude(self.store, room.name, _artifact(self.jobs[stage]), environment="train", seconds=1)

    def checkpoint(self, step: int, sealed: bool = True) -> Path:
        folder = self.store.room(self.rooms["train"]) / "scratch" / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "optimizer.pt").write_bytes(f"step {step}".encode() * 5000)
        (folder / "trainer_state.json").write_text(f'{{"global_step": {step}}}')
        if sealed:
            seal(folder)
        return folder


def past_run(store: Store, path: Path, to: str = "hf:me/kept", **backup: Any) -> Past:
    keys = {f"backup.{key}": value for key, value in {"to": to, **backup}.items()}
    recipe = load_recipe(str(path), keys)
    resolved = resolve(recipe, store).artifact
    assert isinstance(resolved, Resolved)
    plan = estimate_into(store, recipe, resolved).artifact
    assert isinstance(plan, Plan)
    return Past(recipe, store, dict(lay_out(recipe, resolved, plan)), rooms_of(recipe, resolved, plan))


def _artifact(job: Job) -> Artifact:
    if isinstance(job, TrainJob):
        return expected_tuned(job)
    if isinstance(job, ScoreJob):
        return Score(fingerprint=job.fingerprint, score=SCORES[job.model.type], nll=0.25, num_rows=8)
    base = ModelSnapshot(fingerprint="0" * 16, repo="local/x", commit="0" * 40)
    if isinstance(job, MergeJob):
        return MergedModel(fingerprint=job.fingerprint, base=base)
    return QuantizedModel(fingerprint=job.fingerprint, method="gptq", base=base)
