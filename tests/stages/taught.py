"""A tiny model that knows some answers by heart, for tests of what is done to a model that has learnt."""

import json
import shutil
from pathlib import Path
from typing import TypeVar

from tests.rooms import Row, chat, counting_rows, in_environment
from tunesmith.artifacts import Artifact
from tunesmith.conclude import conclude
from tunesmith.store import OUT, Store

A = TypeVar("A", bound=Artifact)

TEACH = """
import json, sys
import torch
from pathlib import Path
from tunesmith.stages import lean
from transformers import AutoModelForCausalLM
from tunesmith.stages.chat import load_tokenizer, render
base, out, rows = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
model, tokenizer = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), load_tokenizer(base)
optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
for step in range(60):
    for row in (render(tokenizer, messages) for messages in rows):
        model(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss.backward()
    optimizer.step()
    optimizer.zero_grad()
model.to(torch.bfloat16).save_pretrained(out)
print("null")
"""


def questions() -> list[Row]:
    """Prompts of many lengths, one with an earlier turn, the last one very long."""
    lamps = chat("Send 3 lamps to Porto, thank you.", '{"count": 3}')
    talk = [*chat("Hello!", "Hello.")["messages"], *lamps["messages"]]
    wordy = [chat(f"Please send{', please send' * (number % 5)} {number} chairs.", "{}") for number in range(5)]
    return [*counting_rows(24), {"messages": talk}, *wordy, chat("please " * 200, "No.")]


def by_heart() -> list[Row]:
    """Those of the questions that the taught model was taught."""
    return [*questions()[:8], *questions()[24:26]]


def teach(tiny_model: Path, out: Path) -> Path:
    """Full fine-tuning of the tiny model on a few rows, in a few seconds; bfloat16 weights."""
    shutil.copytree(tiny_model, out, dirs_exist_ok=True)
    in_environment("train", TEACH, str(tiny_model), str(out), json.dumps([row["messages"] for row in by_heart()]))
    return out


def finished_model(store: Store, folder: Path, artifact: A) -> A:
    """A room that holds the model in `folder` as this artifact."""
    name = f"made-{artifact.fingerprint}"
    shutil.copytree(folder, store.room(name) / OUT)
    conclude(store, name, artifact, environment="train", seconds=0)
    return artifact
