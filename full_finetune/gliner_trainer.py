"""Full fine-tuning by gliner's own Trainer, with our selection of the best epoch, to compare our loop with."""

from __future__ import annotations

import tempfile
import time
from typing import Any

import torch
from gliner.training import Trainer
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from common.approach import freeze_all_but
from common.config import TrainConfig
from common.data.dataset import Dataset
from common.device import make_accelerator, precision_name, seed_everything
from common.errors import InputError, TrainingError
from common.models.span_model import SpanModel
from common.training.recorder import Recorder
from common.training.run_folder import Run
from full_finetune.config import Config


class _Trainer(Trainer):
    """gliner's Trainer, which also adds up the losses and counts the sentences of an epoch."""

    loss_sum: Tensor | float = 0.0
    n_sentences = 0

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *more: Any, **options: Any) -> Tensor:
        loss = super().training_step(model, inputs, *more, **options)
        # gliner skips a batch that does not fit into memory and calls its loss 0, which no real batch has.
        if not torch.isfinite(loss) or loss == 0:
            raise TrainingError(f"loss is {float(loss)} at step {self.state.global_step + 1} of gliner's trainer")
        self.loss_sum = self.loss_sum + loss * self.args.gradient_accumulation_steps
        self.n_sentences += len(inputs["input_ids"])
        return loss


class _EpochEnd(TrainerCallback):
    """Ends each epoch as our loop does: validation, best weights, record, patience."""

    trainer: _Trainer

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.start = 0.0

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.start = time.perf_counter()
        self.trainer.loss_sum, self.trainer.n_sentences = 0.0, 0

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.recorder.count_gradients()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        seconds = time.perf_counter() - self.start
        epoch, n_sentences = round(state.epoch or 0), self.trainer.n_sentences
        # gliner sums over the batch; ours is a mean over its sentences.
        train_loss = float(self.trainer.loss_sum) / n_sentences
        self.recorder.progress.step, self.recorder.progress.epoch = state.global_step, epoch
        self.recorder.validated(
            {
                "epoch": epoch,
                "epochs": float(epoch),
                "step": state.global_step,
                "train_loss": train_loss,
                "train_seconds": seconds,
                "sentences_per_second": n_sentences * args.world_size / seconds,
            }
        )
        control.should_training_stop = self.recorder.out_of_patience()
        return control


def fit_with_gliner(model: SpanModel, data: Dataset, config: Config, run: Run) -> Run:
    """Trains ``model`` by gliner's Trainer and keeps its best epoch; the same arguments and record as our loop.

    Each sentence carries the texts of all types that it is asked for, so that none is sampled away.

    Raises:
        TrainingError: If the loss is not finite.
        KeyboardInterrupt: Passed on; the best checkpoint so far is kept.
    """
    with run.session():
        return _fit(model, data, config, run)


def _fit(model: SpanModel, data: Dataset, config: Config, run: Run) -> Run:
    train = config.train
    for name in ("max_steps", "eval_every", "optimizer", "gradient_checkpointing", "track"):
        if getattr(train, name) != getattr(TrainConfig, name):
            raise InputError(f"--{name.replace('_', '-')} needs --trainer common")
    if config.data.sampling != "size":
        raise InputError("--sampling needs --trainer common")
    seed_everything(train.seed)
    accelerator = make_accelerator(config.runtime)
    freeze_all_but(model, model.parts)
    model.to(accelerator.device)
    recorder = Recorder(model, data, train, config.runtime, accelerator, run)
    recorder.score_untrained()
    label_key = "ner_label" if config.encoder == "bi" else "ner_labels"
    texts = dict(zip(data.labels.names, model.label_texts, strict=True))
    records = [
        {
            "tokenized_text": list(sentence.words),
            "ner": [[span.start, span.end, texts[span.label]] for span in sentence.spans],
            label_key: [texts[name] for name in data.labels.names if name in (sentence.types or data.labels.names)],
        }
        for sentence in data.train
    ]
    gliner = model.base.gliner
    with tempfile.TemporaryDirectory() as folder:
        arguments = gliner.create_training_args(
            output_dir=folder,
            learning_rate=config.encoder_lr,
            others_lr=config.others_lr,
            weight_decay=train.weight_decay,
            others_weight_decay=train.weight_decay,
            focal_loss_alpha=-1 if config.focal_alpha is None else config.focal_alpha,
            focal_loss_gamma=config.focal_gamma,
            warmup_ratio=train.warmup_ratio,
            lr_scheduler_type="constant_with_warmup" if train.schedule == "constant" else train.schedule,
            per_device_train_batch_size=train.batch_size,
            gradient_accumulation_steps=train.grad_accumulation,
            max_grad_norm=train.max_grad_norm,
            num_train_epochs=train.epochs,
            # Its default of 10,000 steps would override the epochs.
            max_steps=-1,
            save_strategy="no",
            logging_strategy="no",
            seed=train.seed,
            use_cpu=accelerator.device.type == "cpu",
            bf16=precision_name(accelerator) == "bf16",
            fp16=precision_name(accelerator) == "fp16",
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            disable_tqdm=not config.runtime.progress,
        )
        if arguments.n_gpu > 1:
            raise InputError(
                "--trainer gliner in one process uses one GPU: set CUDA_VISIBLE_DEVICES, or use accelerate launch"
            )
        epoch_end = _EpochEnd(recorder)
        trainer = epoch_end.trainer = _Trainer(
            model=gliner,
            args=arguments,
            train_dataset=records,
            data_collator=gliner._create_data_collator(),
            callbacks=[epoch_end],
        )
        trainer.train()
    recorder.finish()
    return run
