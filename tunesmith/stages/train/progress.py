"""What the run says while it trains: events for whoever follows it, a line for whoever reads the log."""

import math
import time

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from tunesmith.errors import Never
from tunesmith.worker import Room

LOG_STEPS = 10
_PROGRESS_SECONDS = 1.0


class Progress(TrainerCallback):  # type: ignore[misc]
    """Emits `progress` at most once a second and `metrics` at every log; raises Never on a loss that is not finite."""

    def __init__(self, room: Room) -> None:
        self.room = room
        self.told = 0.0
        self.began = self.since = 0.0
        self.tokens_at_start = self.tokens_told = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> TrainerControl:
        self.began = self.since = time.monotonic()
        self.tokens_at_start = self.tokens_told = state.num_input_tokens_seen
        self._tell(state)
        return control

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> TrainerControl:
        last = state.global_step >= state.max_steps
        # The mean since the last log is not part of a checkpoint: close it with one, so that a resumed run's figures
        # are those of an uninterrupted one.
        if last or state.global_step % args.save_steps == 0:
            control.should_log = True
        if last or time.monotonic() - self.told > _PROGRESS_SECONDS:
            self._tell(state)
        return control

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> TrainerControl:
        logs = state.log_history[-1]
        if "loss" not in logs:
            return control
        if not math.isfinite(logs["loss"]):
            raise Never(
                f"The loss is no longer a finite number at step {state.global_step}: lower train.learning_rate."
            )
        speed = (state.num_input_tokens_seen - self.tokens_told) / max(time.monotonic() - self.since, 1e-9)
        self.since, self.tokens_told = time.monotonic(), state.num_input_tokens_seen
        rate = logs["learning_rate"]
        self.room.emit(
            "metrics", step=state.global_step, loss=logs["loss"], learning_rate=rate, tokens_per_second=round(speed, 1)
        )
        print(
            f"step {state.global_step}/{state.max_steps}  loss {logs['loss']:.4f}  lr {rate:.2e}  {speed:.0f} tokens/s",
            flush=True,
        )
        return control

    def tokens_per_second(self, state: TrainerState) -> float:
        """Mean over this process's share of the run, padding not counted."""
        tokens = int(state.num_input_tokens_seen) - self.tokens_at_start
        return tokens / max(self.since - self.began, 1e-9)

    def _tell(self, state: TrainerState) -> None:
        self.told = time.monotonic()
        self.room.emit("progress", done=state.global_step, total=state.max_steps, unit="step")


def mean_loss(state: TrainerState) -> float:
    """Mean training loss over all steps, resumed ones included, nats per token."""
    logged = [(int(entry["step"]), float(entry["loss"])) for entry in state.log_history if "loss" in entry]
    starts = [0, *(step for step, _ in logged)]
    total = sum(loss * (step - start) for start, (step, loss) in zip(starts, logged, strict=False))
    return total / max(starts[-1], 1)
