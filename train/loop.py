"""The training loop: one page, one network, any recipe."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from boneage import hub
from boneage.models.backbones import freeze_batch_norm
from boneage.transforms import Preprocess, stretch
from train.data import Batch, Batches
from train.recipe import Recipe

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SECONDS = 300


class Trainer:
    """Trains a network and keeps its best weights.

    Args:
        model: the network, initialised.
        recipe: what to do.
        preprocess: the recipe's, with the resolution of the training images.
        batches: of the training split.
        validation: of the validation split.
        age_range: lowest and highest age that is reported, in the data's unit.
        config: what the weights config holds beside the metrics.
        out: the run's folder.
        seed: of order, augmentation and dropout.
        accelerator: device, precision and processes.
    """

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        preprocess: Preprocess,
        batches: Batches,
        validation: Batches,
        age_range: tuple[float, float],
        config: dict[str, Any],
        out: Path,
        seed: int,
        accelerator: Accelerator,
    ) -> None:
        self.recipe, self.preprocess, self.config = recipe, preprocess, config
        self.batches, self.validation, self.age_range = batches, validation, age_range
        self.out, self.seed, self.accelerator = out, seed, accelerator
        self.mean, self.sd = batches.ages.mean().item(), batches.ages.std().item()
        settings = recipe.optimisation
        self.raw = model.to(accelerator.device, memory_format=torch.channels_last)
        average = get_ema_multi_avg_fn(settings.ema)
        self.ema = AveragedModel(self.raw, multi_avg_fn=average, use_buffers=True)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.raw, settings.weight_decay), lr=settings.learning_rate
        )
        self.model, self.optimizer = accelerator.prepare(self.raw, self.optimizer)
        self.plateau = torch.optim.lr_scheduler.ReduceLROnPlateau(
            self.optimizer, factor=settings.factor, patience=settings.patience, min_lr=1e-7
        )
        self.total = settings.epochs * batches.steps
        self.step = 0
        self.best = math.inf
        self.elapsed = 0.0
        self.records: list[dict[str, Any]] = []

    def learning_rate(self) -> float:
        """Rate of the coming step: linear warm-up, then the schedule."""
        settings = self.recipe.optimisation
        warmup = max(1, round(settings.warmup * self.total))
        if self.step < warmup:
            return settings.learning_rate * (self.step + 1) / warmup
        if settings.schedule == "plateau":
            return self.plateau.get_last_lr()[0]
        share = (self.step - warmup) / max(1, self.total - warmup)
        return settings.learning_rate * (1 + math.cos(math.pi * share)) / 2

    def train(self) -> None:
        """Train to the last epoch, from wherever the state is."""
        while self.step < self.total:
            epoch, first = divmod(self.step, self.batches.steps)
            record = {"epoch": epoch + 1, **self.train_epoch(epoch, first)}
            record |= self.validate()
            self.plateau.step(record["validation_mae"])
            record["seconds"] = round(self.elapsed)
            self.records.append(record)
            if self.accelerator.is_main_process:
                self.keep(record)
            self.save_checkpoint()

    def train_epoch(self, epoch: int, first: int) -> dict[str, Any]:
        """One epoch from its batch ``first``; returns mean losses and the speed."""
        self.model.train()
        if self.recipe.optimisation.freeze_batch_norm:
            freeze_batch_norm(self.model)
        self.batches.start(epoch, first)
        loader = DataLoader(self.batches, batch_size=None, pin_memory=torch.cuda.is_available())
        sums: dict[str, Tensor] = {}
        saved = started = time.monotonic()
        bar = tqdm(
            loader,
            f"epoch {epoch + 1}/{self.recipe.optimisation.epochs}",
            mininterval=10,
            disable=not self.accelerator.is_main_process,
        )
        for batch in bar:
            for name, value in self.train_step(batch).items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
            now = time.monotonic()
            if now - saved > CHECKPOINT_SECONDS:
                self.elapsed, before = self.elapsed + now - started, self.elapsed
                self.save_checkpoint()
                self.elapsed, saved = before, now
        took = time.monotonic() - started
        self.elapsed += took
        losses = {f"loss_{k}": round(v.item() / len(self.batches), 5) for k, v in sums.items()}
        speed = len(self.batches) * self.batches.batch_size / took
        return {"step": self.step, "images_per_second": round(speed, 1), **losses}

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """One step; returns its losses, detached."""
        settings = self.recipe.optimisation
        # Dropout depends on seed and step alone, so a resumed run repeats it.
        torch.manual_seed(hash((self.seed, self.step)))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate()
        batch = batch.to(self.accelerator.device)
        images = self.recipe.augmentation.apply(
            stretch(batch.pixels, batch.levels), batch.draws, self.preprocess.size
        )
        images = self.preprocess.finish(images).contiguous(memory_format=torch.channels_last)
        with self.accelerator.autocast():
            output = self.model(images, batch.sex)
            losses = self.raw.loss(output, (batch.ages - self.mean) / self.sd)
        self.accelerator.backward(sum(losses.values()))
        self.accelerator.clip_grad_norm_(self.model.parameters(), settings.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update_parameters(self.raw)
        self.step += 1
        return {name: loss.detach() for name, loss in losses.items()}

    @torch.inference_mode()
    def validate(self) -> dict[str, Any]:
        """MAE of every component of the averaged weights on the validation split."""
        self.ema.eval()
        self.validation.start(0)
        errors: dict[str, list[Tensor]] = {}
        nothing = type(self.recipe.augmentation).none()
        for batch in self.validation:
            batch = batch.to(self.accelerator.device)
            images = stretch(batch.pixels, batch.levels)
            images = nothing.apply(images, batch.draws, self.preprocess.size)
            images = self.preprocess.finish(images).contiguous(memory_format=torch.channels_last)
            with self.accelerator.autocast():
                output = self.ema(images, batch.sex)
            for name, age in output.components.items():
                age = (age * self.sd + self.mean).clamp(*self.age_range)
                errors.setdefault(name, []).append((age - batch.ages).abs().cpu())
        maes = {name: torch.cat(parts) for name, parts in errors.items()}
        record = {f"validation_mae_{name}": round(e.mean().item(), 3) for name, e in maes.items()}
        for index, sex in enumerate(self.config["sexes"]):
            if len(self.config["sexes"]) > 1:
                chosen = maes["assembled"][self.validation.sex == index]
                record[f"validation_mae_{sex}"] = round(chosen.mean().item(), 3)
        return record | {"validation_mae": round(maes["assembled"].mean().item(), 3)}

    def keep(self, record: Mapping[str, Any]) -> None:
        """Append to ``metrics.jsonl``; write the weights folder if they are the best so far."""
        with (self.out / "metrics.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in self.records)
        tqdm.write(json.dumps(record))
        if record["validation_mae"] < self.best:
            self.best = record["validation_mae"]
            self.config["preprocess"] = asdict(self.preprocess)
            self.config["age"] = {
                "mean": self.mean,
                "sd": self.sd,
                "lowest": self.age_range[0],
                "highest": self.age_range[1],
            }
            self.config["provenance"]["metrics"] = dict(record)
            hub.save(self.out / "weights", self.ema.module, self.config)

    def save_checkpoint(self) -> None:
        """Write the whole state; the old file is replaced only when the new one is whole."""
        if not self.accelerator.is_main_process:
            return
        state = {
            "model": self.raw.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "plateau": self.plateau.state_dict(),
            "step": self.step,
            "best": self.best,
            "elapsed": self.elapsed,
            "records": json.dumps(self.records),
        }
        temporary = self.out / f"{CHECKPOINT}.part"
        torch.save(state, temporary)
        temporary.replace(self.out / CHECKPOINT)

    def resume(self) -> bool:
        """Continue from the run's checkpoint; says whether there was one."""
        path = self.out / CHECKPOINT
        if not path.is_file():
            return False
        state = torch.load(path, map_location=self.accelerator.device, weights_only=True)
        self.raw.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.plateau.load_state_dict(state["plateau"])
        self.step, self.best, self.elapsed = state["step"], state["best"], state["elapsed"]
        self.records = json.loads(state["records"])
        return True


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only."""
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
