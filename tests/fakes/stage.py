"""A far side that keeps the contract and does no work: the real worker around a verb that makes its artifact at once.

What it should do besides is a JSON file named by TUNESMITH_FAKE: {"<stage>": {"fail": "OutOfMemory", "times": 1},
"evaluate": {"scores": {"base": 0.0}}, "<stage>": {"sleep": 30}}. Every start is noted in `starts.txt` beside it.
"""

import json
import os
import time
from pathlib import Path

from tunesmith import worker
from tunesmith.artifacts import Artifact, MergedModel, ModelSnapshot, QuantizedModel, Release, Score
from tunesmith.errors import tree
from tunesmith.jobs import AnyJob, ConvertJob, DownloadJob, GptqJob, MergeJob, ScoreJob, TrainJob
from tunesmith.pipeline import expected_tuned

SCRIPT = Path(os.environ["TUNESMITH_FAKE"])


def pretend(job: AnyJob, room: worker.Room) -> worker.Made:
    with (SCRIPT.parent / "starts.txt").open("a") as starts:
        starts.write(job.stage + "\n")
    orders = json.loads(SCRIPT.read_text()).get(job.stage, {})
    print(f"pretending to {job.stage}", flush=True)
    room.emit("progress", done=1, total=2, unit="step")
    time.sleep(orders.get("sleep", 0))
    if attempts_so_far(room) <= orders.get("times", 0):
        raise tree()[orders["fail"]]("it was asked to fail.")
    (room.out / "model.txt").write_text(job.stage)
    return worker.Made(artifact(job, orders), {"pretended": 1.0})


def attempts_so_far(room: worker.Room) -> int:
    path = room.path / "attempts"
    count = int(path.read_text()) + 1 if path.exists() else 1
    path.write_text(str(count))
    return count


def artifact(job: AnyJob, orders: dict) -> Artifact:
    match job:
        case DownloadJob():
            return ModelSnapshot(fingerprint=job.fingerprint, repo=job.source.repo, commit=job.source.commit)
        case ConvertJob():
            return job.base.model_copy(update={"fingerprint": job.fingerprint})
        case TrainJob():
            return expected_tuned(job)
        case MergeJob():
            return MergedModel(fingerprint=job.fingerprint, base=job.tuned.base)
        case GptqJob():
            return QuantizedModel(fingerprint=job.fingerprint, method="gptq", base=job.model.base)
        case ScoreJob():
            score = orders.get("scores", {}).get(job.model.type, 0.0 if job.model.type == "snapshot" else 0.95)
            return Score(fingerprint=job.fingerprint, score=score, nll=0.1, num_rows=4)
    return Release(
        fingerprint=job.fingerprint,
        name=f"{job.name}-{job.fingerprint}",
        served_name=job.name,
        endpoint="http://127.0.0.1:1/v1",
        score=0.95,
        answers=(("q", "a"),),
    )


if __name__ == "__main__":
    worker.main(pretend)
