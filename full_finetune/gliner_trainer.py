"""Full fine-tuning by gliner's own Trainer, with our selection of the best epoch: the reference that our loop is compared with."""

from __future__ import annotations

import tempfile
import time
from typing import Any

from gliner.training import Trainer
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from common.approach import freeze_all_but
from common.checkpoint import Run
from common.data import Dataset
from common.device import make_accelerator, precision_name, seed_everything
from common.span_model import SpanModel
from common.training import Recorder
from full_finetune.config import Config


class _EpochEnd(TrainerCallback):
    """Ends each epoch as our loop does: validation, best weights, record, patience."""

    def __init__(self, recorder: Recorder, n_sentences: int) -> None:
        self.recorder, self.n_sentences = recorder, n_sentences
        self.start = 0.0
        self.last_loss_log = 0

    def on_epoch_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self.start = time.perf_counter()

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        self.recorder.count_gradients()

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> TrainerControl:
        seconds = time.perf_counter() - self.start
        losses = [entry["loss"] for entry in state.log_history[self.last_loss_log :] if "loss" in entry]
        self.last_loss_log = len(state.log_history)
        self.recorder.progress.step = state.global_step
        self.recorder.end_epoch(
            {
                "epoch": round(state.epoch or 0),
                # gliner sums over the batch; ours is a mean over its sentences.
                "train_loss": sum(losses) / max(1, len(losses)) / args.per_device_train_batch_size,
                "train_seconds": seconds,
                "sentences_per_second": self.n_sentences / seconds,
            }
        )
        control.should_training_stop = self.recorder.out_of_patience()
        return control


def fit_with_gliner(model: SpanModel, data: Dataset, config: Config, run: Run) -> Run:
    """Trains ``model`` by gliner's Trainer and keeps its best epoch; the same arguments and record as our loop.

    Each sentence carries the full label list, so that no type is sampled away.

    Raises:
        KeyboardInterrupt: As it came; the best checkpoint so far is kept.
    """
    train = config.train
    seed_everything(train.seed)
    accelerator = make_accelerator(config.runtime)
    freeze_all_but(model, model.parts)
    model.to(accelerator.device)
    recorder = Recorder(model, data, train, config.runtime, accelerator, run)
    label_key = "ner_label" if config.encoder == "bi" else "ner_labels"
    records = [
        {
            "tokenized_text": list(sentence.words),
            "ner": [list(span) for span in sentence.spans],
            label_key: list(data.labels.names),
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
            per_device_train_batch_size=train.batch_size,
            gradient_accumulation_steps=train.grad_accumulation,
            max_grad_norm=train.max_grad_norm,
            num_train_epochs=train.epochs,
            # Its default of 10,000 steps would override the epochs.
            max_steps=-1,
            save_strategy="no",
            logging_steps=10,
            seed=train.seed,
            use_cpu=accelerator.device.type == "cpu",
            bf16=precision_name(accelerator) == "bf16",
            fp16=precision_name(accelerator) == "fp16",
            dataloader_num_workers=0,
            dataloader_pin_memory=False,
            disable_tqdm=not config.runtime.progress,
        )
        trainer = Trainer(
            model=gliner,
            args=arguments,
            train_dataset=records,
            data_collator=gliner._create_data_collator(),
            callbacks=[_EpochEnd(recorder, len(records))],
        )
        try:
            trainer.train()
        except KeyboardInterrupt:
            recorder.interrupted()
            raise
    recorder.finish()
    return run
