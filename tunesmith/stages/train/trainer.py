"""Training: transformers.Trainer and PEFT, resumed from the newest whole checkpoint, bit for bit."""

import os
from pathlib import Path

from tunesmith.stages import lean  # noqa: F401  # isort: skip
import torch
import transformers
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from tunesmith import worker
from tunesmith.artifacts import Plan, Tuned
from tunesmith.errors import RecipeError
from tunesmith.jobs import TrainJob
from tunesmith.pipeline import expected_tuned
from tunesmith.specs.train import SettledTrain
from tunesmith.stages.chat import load_tokenizer
from tunesmith.stages.train.checkpoints import SealCheckpoints, newest_whole
from tunesmith.stages.train.data import Collator, Rows, load_rows
from tunesmith.stages.train.loss import ChunkedLoss
from tunesmith.stages.train.model import load_model
from tunesmith.stages.train.progress import LOG_STEPS, Progress, mean_loss
from tunesmith.worker import Made, Room

_SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
_OPTIMIZERS = {
    "adamw_fused": "adamw_torch_fused",
    "adamw_foreach": "adamw_torch",
    "adamw_8bit": "adamw_bnb_8bit",
    "paged_adamw_8bit": "paged_adamw_8bit",
}
"""transformers' names."""


def train(job: TrainJob, room: Room) -> Made:
    """An adapter, or all weights, in `room.out`.

    Raises DataError or RecipeError for rows or targets that cannot be used, and Never when the loss diverges.
    """
    _check_batch(job.spec, job.plan)
    settle(job.spec.seed, job.plan)
    base = room.store.out(job.base)
    tokenizer = load_tokenizer(base)
    rows = load_rows(room.store.out(job.data) / "train.jsonl", tokenizer, job.spec.max_length, job.too_long)
    model = load_model(base, job.spec, job.plan)
    print(_decision(job, rows, model), flush=True)
    progress = Progress(room)
    trainer = Trainer(
        model=model,
        args=training_arguments(job.spec, job.plan, room.scratch / "checkpoints"),
        train_dataset=rows,
        data_collator=Collator(tokenizer.pad_token_id),
        compute_loss_func=ChunkedLoss(model, job.plan.step.arithmetic == "amp") if _in_pieces(job.plan) else None,
        callbacks=[SealCheckpoints(), progress],
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train(resume_from_checkpoint=_checkpoint(room))
    tuned = expected_tuned(job)
    _save(model, tokenizer, tuned, room.out)
    return Made(tuned, _figures(trainer, progress, rows, job.plan))


def _in_pieces(plan: Plan) -> bool:
    return plan.step.loss == "chunked"


def _check_batch(spec: SettledTrain, plan: Plan) -> None:
    if plan.micro_batch_size * plan.accumulation_steps != spec.batch_size:
        raise RecipeError(
            f"The plan's {plan.micro_batch_size} rows x {plan.accumulation_steps} steps are not train.batch_size "
            f"{spec.batch_size}: choose a train.batch_size that train.micro_batch_size divides."
        )


def settle(seed: int, plan: Plan) -> None:
    """Everything random seeded and every kernel with a choice told to take the repeatable one."""
    if plan.device == "cuda":
        # The plan is for one device; seeing more, the trainer would split the batch over them.
        os.environ["CUDA_VISIBLE_DEVICES"] = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.set_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = False


def training_arguments(spec: SettledTrain, plan: Plan, checkpoints: Path) -> TrainingArguments:
    """The recipe and the plan in transformers' words."""
    return TrainingArguments(
        output_dir=str(checkpoints),
        num_train_epochs=spec.epochs or 1.0,
        max_steps=spec.max_steps or -1,
        per_device_train_batch_size=plan.micro_batch_size,
        gradient_accumulation_steps=plan.accumulation_steps,
        activation_checkpointing=plan.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        learning_rate=spec.learning_rate,
        lr_scheduler_type=_SCHEDULES[spec.schedule],
        warmup_steps=spec.warmup_ratio,
        weight_decay=spec.weight_decay,
        max_grad_norm=spec.max_grad_norm,
        optim=_OPTIMIZERS[plan.step.optimizer],
        seed=spec.seed,
        bf16=plan.step.arithmetic == "amp",
        use_cpu=plan.device == "cpu",
        save_steps=spec.checkpoint_steps,
        save_total_limit=2,
        logging_steps=LOG_STEPS,
        # The filter would replace a loss that is not a number by the mean so far, and hide it.
        logging_nan_inf_filter=False,
        include_num_input_tokens_seen="non_padding",
        dataloader_pin_memory=plan.device == "cuda",
        remove_unused_columns=False,
        disable_tqdm=True,
        report_to="none",
    )


def _decision(job: TrainJob, rows: Rows, model: PreTrainedModel | PeftModel) -> str:
    """What is about to be trained, in numbers."""
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    left_out = (
        f" ({rows.num_dropped} dropped, {rows.num_truncated} cut)" if rows.num_dropped + rows.num_truncated else ""
    )
    return (
        f"train: {job.spec.method} of {job.base.repo}, {trained / 1e6:.2f} M weights trained on {len(rows)} rows"
        f"{left_out}, micro-batch {job.plan.micro_batch_size} x {job.plan.accumulation_steps}, {job.plan.precision}"
    )


def _checkpoint(room: Room) -> str | None:
    found = newest_whole(room.scratch / "checkpoints")
    if found:
        print(f"Resuming from {found.name}.", flush=True)
    return str(found) if found else None


def _save(model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, tuned: Tuned, out: Path) -> None:
    """The finished files; an adapter names its base by repo, for a path of this machine means nothing elsewhere."""
    if not isinstance(model, PeftModel):
        model.config.use_cache = True
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        return
    config = model.peft_config["default"]
    config.base_model_name_or_path = tuned.base.repo
    # A set in PEFT's hands: sorted, the same adapter is the same file.
    config.target_modules = sorted(config.target_modules)
    model.save_pretrained(out, save_embedding_layers=False)
    (out / "README.md").unlink(missing_ok=True)


def _figures(trainer: Trainer, progress: Progress, rows: Rows, plan: Plan) -> dict[str, float]:
    figures = {
        "train_loss": mean_loss(trainer.state),
        "steps": trainer.state.global_step,
        "tokens": int(trainer.state.num_input_tokens_seen),
        "tokens_per_second": round(progress.tokens_per_second(trainer.state), 1),
        "rows": len(rows),
        "rows_dropped": rows.num_dropped,
        "rows_truncated": rows.num_truncated,
    }
    if plan.device == "cuda":
        figures["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
        figures["peak_gpu_reserved_bytes"] = torch.cuda.max_memory_reserved()
    return figures


if __name__ == "__main__":
    worker.main(train)
