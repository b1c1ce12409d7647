"""The training loop: one page, one network, any recipe."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast, gather_object
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from tqdm import tqdm

from boneage import hub
from boneage.card import model_card
from boneage.errors import InputError
from boneage.models.backbones import fold_in_training, freeze_batch_norm
from boneage.models.depthwise import hasten_strided_depthwise
from boneage.precision import forbid_tf32
from boneage.transforms import Preprocess
from train.data import Batch, Batches
from train.dropout import Places, share_dropout
from train.recipe import Optimisation, Recipe
from train.schedule import Schedule

CHECKPOINT = "checkpoint.pt"
CHECKPOINT_SECONDS = 300


class Trainer:
    """Trains a network and keeps its best weights.

    Several processes compute a share of each step's images; the gradient is that of all of them.
    With batch normalisation frozen their number changes nothing but the rounding. Where it is not,
    each normalises its share alone, and the running statistics are those of the main process.

    Args:
        model: the network, initialised.
        recipe: what to do.
        preprocess: the recipe's, with the resolution of the training images.
        batches: of the training split.
        validation: of the validation split.
        age_range: lowest and highest age that is reported, in the data's unit.
        config: what the weights config holds beside preprocessing, ages and metrics.
        out: the run's folder.
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
        accelerator: Accelerator,
    ) -> None:
        forbid_tf32()  # before the first step, so that all are alike
        self.recipe, self.preprocess = recipe, preprocess
        self.batches, self.validation = batches, validation
        self.out, self.accelerator = out, accelerator
        self.mean, self.sd = batches.ages.mean().item(), batches.ages.std().item()
        self.age_range = age_range
        lowest, highest = age_range
        selecting = {"selection_images": int(validation.choosing.sum())}
        self.config = config | {
            "provenance": config.get("provenance", {}) | selecting,
            "preprocess": asdict(preprocess),
            "age": {"mean": self.mean, "sd": self.sd, "lowest": lowest, "highest": highest},
        }
        settings = recipe.optimisation
        if hasattr(model, "set_ages"):  # its classes are ages, not standardised ones
            model.set_ages(self.mean, self.sd)
        self.raw = ready_to_train(model, settings, accelerator.device)
        self.at_once = settings.batch_size // settings.accumulate  # images that memory has to hold
        self.places = Places(batches.whole)
        share_dropout(self.raw, self.places)
        average = moving_average(settings.ema)
        self.ema = AveragedModel(self.raw, multi_avg_fn=average, use_buffers=True)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.raw, settings.weight_decay))
        self.model, self.optimizer = accelerator.prepare(self.raw, self.optimizer)
        self.schedule = Schedule(settings, settings.epochs * batches.steps)
        self.step = 0
        self.elapsed = 0.0
        self.records: list[dict[str, Any]] = []

    def train(self) -> None:
        """Train to the last epoch, from wherever the state is.

        Without epochs the network is measured and kept as it is.

        Raises:
            InputError: if the training diverges.
        """
        if not self.step and not self.records:
            self.save_checkpoint()  # so that no weights are ever there without one
            if not self.schedule.total:
                self.end_epoch({"epoch": 0})
        while self.step < self.schedule.total:
            epoch, first = divmod(self.step, self.batches.steps)
            self.end_epoch({"epoch": epoch + 1, **self.train_epoch(epoch, first)})

    def end_epoch(self, record: dict[str, Any]) -> None:
        """Validate, and keep the weights if they are the best so far.

        Args:
            record: what is known of the epoch.
        """
        record |= self.validate()
        record["seconds"] = round(self.elapsed)
        self.records.append(record)
        best = self.schedule.end_epoch(record["selection_mae"])
        if self.accelerator.is_main_process:
            self.keep(record, best)
        self.save_checkpoint()

    def train_epoch(self, epoch: int, first: int) -> dict[str, Any]:
        """One epoch from its batch ``first``; returns speed and mean losses from there on."""
        self.set_training(self.raw)  # named as in the recipe, where a wrapper adds a prefix
        self.batches.start(epoch, first)
        sums: dict[str, Tensor] = {}
        saved = started = time.monotonic()
        bar = tqdm(
            self.loader(),
            f"epoch {epoch + 1}/{self.recipe.optimisation.epochs}",
            mininterval=1,
            disable=not self.accelerator.is_main_process,
        )
        for batch in bar:
            for name, value in self.train_step(batch).items():
                sums[name] = sums.get(name, torch.zeros_like(value)) + value
            now = time.monotonic()
            # Not after the last step: a checkpoint there would skip the epoch's validation.
            if now - saved > CHECKPOINT_SECONDS and self.step % self.batches.steps:
                self.save_checkpoint(now - started)
                saved = now
        took = time.monotonic() - started
        self.elapsed += took
        sums = {name: self.accelerator.reduce(value) for name, value in sums.items()}
        losses = {f"loss_{k}": round(v.item() / len(self.batches), 5) for k, v in sums.items()}
        speed = len(self.batches) * self.batches.whole / took
        return {"step": self.step, "images_per_second": round(speed, 1), **losses}

    def set_training(self, network: nn.Module) -> None:
        """Put this network, or another like it, into the mode that the recipe trains in."""
        network.train()
        if self.recipe.optimisation.freeze_batch_norm:
            freeze_batch_norm(network)
        for module in freeze(network, self.recipe.optimisation.frozen):
            freeze_batch_norm(module)

    def loader(self) -> DataLoader[Batch]:
        """The training batches from the one that :meth:`Batches.start` began with."""
        # Made in this process: on a processor a batch takes a small part of a step.
        return DataLoader(self.batches, batch_size=None, pin_memory=torch.cuda.is_available())

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """One step; returns this process's share of its losses, detached."""
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.step)
        losses: dict[str, Tensor] = {}
        parts = batch.to(self.accelerator.device).parts(self.at_once)
        for number, part in enumerate(parts, 1):
            # The processes add their gradients up once a step, at its last part.
            last = number == len(parts)
            with nullcontext() if last else self.accelerator.no_sync(self.model):
                for name, loss in self.losses(part).items():
                    losses[name] = losses.get(name, 0) + loss
        clip = self.recipe.optimisation.clip
        self.accelerator.clip_grad_norm_(self.model.parameters(), clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.update_parameters(self.raw)
        self.step += 1
        return losses

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of a part of a step's batch, times its share of the step's images, detached.

        Their gradients are added to the parameters'.
        """
        share = len(batch.ages) / self.batches.whole
        # Dropout depends on seed, step and place alone, so a resumed run repeats it.
        torch.manual_seed(hash((self.batches.seed, self.step)))
        self.places.index = batch.places
        images = self.images_of(batch)
        with self.accelerator.autocast():
            output = self.model(images, batch.sex)
            losses = self.raw.loss(output, (batch.ages - self.mean) / self.sd)
        # The gradients of the processes are averaged, but their sum is what is wanted.
        processes = self.accelerator.num_processes
        self.accelerator.backward(processes * share * sum(losses.values()))
        return {name: share * loss.detach() for name, loss in losses.items()}

    def images_of(self, batch: Batch) -> Tensor:
        """The batch's images, augmented and ready for the network, (N, 3, S, S)."""
        size, margin = self.preprocess.size, self.preprocess.margin
        images = self.recipe.augmentation.apply(batch.images, batch.draws, size, margin)
        return self.preprocess.finish(images).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def validate(self) -> dict[str, Any]:
        """MAE of every component of the averaged weights on the validation split.

        In fp32 and preprocessed as in assessment: weights are selected on what users will get.
        They are selected by ``selection_mae``, that of the half that calibrates no interval.

        Raises:
            InputError: if it is not finite.
        """
        self.ema.eval()
        for buffer in self.ema.buffers():
            broadcast(buffer)  # running statistics: those that are kept
        self.validation.start(0)
        mine = range(
            self.accelerator.process_index, len(self.validation), self.accelerator.num_processes
        )
        found: list[tuple[int, dict[str, Tensor]]] = []
        for index in mine:
            batch = self.validation[index].to(self.accelerator.device)
            parts = [self.errors(part) for part in batch.parts(self.at_once)]
            found.append((index, {name: torch.cat([p[name] for p in parts]) for name in parts[0]}))
        ordered = [errors for _, errors in sorted(gather_object(found), key=lambda item: item[0])]
        maes = {name: torch.cat([errors[name] for errors in ordered]) for name in ordered[0]}
        mae = maes["assembled"].mean().item()
        if mae != mae:
            raise InputError(
                "The training diverged: the validation MAE is not a number. Try a lower learning "
                "rate."
            )
        record = {f"validation_mae_{name}": round(e.mean().item(), 3) for name, e in maes.items()}
        for index, sex in enumerate(self.config["sexes"]):
            chosen = maes["assembled"][self.validation.sex == index]
            if 0 < len(chosen) < len(maes["assembled"]):
                record[f"validation_mae_{sex}"] = round(chosen.mean().item(), 3)
        selection = maes["assembled"][self.validation.choosing].mean().item()
        return record | {"validation_mae": round(mae, 3), "selection_mae": round(selection, 3)}

    def errors(self, batch: Batch) -> dict[str, Tensor]:
        """How far the averaged weights err by each component, (N,) in the data's unit."""
        images = self.preprocess.finish(self.preprocess.resize(batch.images))
        images = images.contiguous(memory_format=torch.channels_last)
        errors = {}
        for name, age in self.ema(images, batch.sex).components.items():
            age = (age * self.sd + self.mean).clamp(*self.age_range)
            errors[name] = (age - batch.ages).abs().cpu()
        return errors

    def keep(self, record: Mapping[str, Any], best: bool) -> None:
        """Write ``metrics.jsonl``, and the weights folder if these are the best so far."""
        with (self.out / "metrics.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in self.records)
        tqdm.write(json.dumps(record))
        if best:
            self.config["provenance"]["metrics"] = dict(record)
            card = model_card(self.out.resolve().name, self.config, [])
            hub.save(self.out / "weights", self.ema.module, self.config, card)

    def fingerprint(self) -> dict[str, Any]:
        """What must be the same for a run to be continued."""
        return {
            "recipe": asdict(self.recipe),
            "size of the images": self.preprocess.resolution,
            "architecture": self.config["architecture"],
            "sexes": self.config["sexes"],
            "seed": self.batches.seed,
            "precision": self.config["provenance"].get("precision"),
            "training data": [len(self.batches.ages), self.mean, self.sd],
            "validation data": [len(self.validation.ages), self.validation.ages.sum().item()],
        }

    def save_checkpoint(self, since: float = 0.0) -> None:
        """Write the whole state; the old file is replaced only when the new one is whole.

        Args:
            since: seconds of the current epoch, not yet in ``elapsed``.
        """
        if not self.accelerator.is_main_process:
            return
        state = {
            "run": json.dumps(self.fingerprint()),
            "config": json.dumps(self.config),
            "model": self.raw.state_dict(),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state(),
            "step": self.step,
            "elapsed": self.elapsed + since,
            "records": json.dumps(self.records),
        }
        temporary = self.out / f"{CHECKPOINT}.part"
        torch.save(state, temporary)
        temporary.replace(self.out / CHECKPOINT)

    def resume(self, state: Mapping[str, Any]) -> None:
        """Continue from the run's checkpoint, with the provenance that the run began with.

        Args:
            state: of :func:`read_checkpoint`.

        Raises:
            InputError: if it is of another run.
        """
        before = json.loads(state["run"])
        # Through JSON, which makes lists of tuples, like the other.
        now = json.loads(json.dumps(self.fingerprint()))
        if now.keys() != before.keys():
            raise InputError(
                f"{self.out.name} was begun by another version of boneage; begin a new run."
            )
        different = [name for name in now if now[name] != before[name]]
        if different:
            raise InputError(
                f"{self.out.name} was begun with another {' and '.join(different)}; resume it with "
                "the same, or begin a new run."
            )
        self.config = json.loads(state["config"])
        self.raw.load_state_dict(state["model"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.restore(state["schedule"])
        self.step, self.elapsed = state["step"], state["elapsed"]
        self.records = json.loads(state["records"])


def read_checkpoint(out: Path) -> dict[str, Any]:
    """The checkpoint of a run's folder; ``run`` is its :meth:`Trainer.fingerprint` as JSON.

    Raises:
        InputError: if it is damaged.
    """
    try:
        state = torch.load(out / CHECKPOINT, map_location="cpu", weights_only=True)
        json.loads(state["run"])
        return state
    except Exception:  # torch, zipfile and pickle raise many types on a damaged file
        raise InputError(f"The checkpoint of {out.name} is damaged.") from None


def moving_average(decay: float) -> Callable[[Any, Any, Any], None]:
    """An exponential moving average that forgets the initial weights within a short training.

    After n updates the decay is at most (1 + n) / (10 + n); with a fixed decay of 0.998 the
    initial weights would still make an eighth of the average after 1,000 steps.
    """

    def update(averages: Any, current: Any, count: Any) -> None:
        now = min(decay, (1 + int(count)) / (10 + int(count)))
        get_ema_multi_avg_fn(now)(averages, current, count)

    return update


def ready_to_train(model: nn.Module, settings: Optimisation, device: torch.device) -> nn.Module:
    """The network on its device, with what the settings freeze, computing as fast as it can.

    Args:
        model: changed in place.
        settings: of the recipe.
        device: to train on.

    Raises:
        InputError: if the network has no module that the settings freeze.
    """
    model = model.to(device, memory_format=torch.channels_last)
    freeze(model, settings.frozen)
    if settings.freeze_batch_norm:
        fold_in_training(model)
    hasten_strided_depthwise(model)
    return model


def freeze(model: nn.Module, prefixes: Sequence[str]) -> list[nn.Module]:
    """Take the modules whose names begin with a prefix out of training; returns them.

    Raises:
        InputError: for a prefix that no module has.
    """
    found = []
    for prefix in prefixes:
        chosen = [m for name, m in model.named_modules() if f"{name}.".startswith(f"{prefix}.")]
        if not chosen:
            raise InputError(f"The network has no module {prefix} to keep frozen.")
        found += chosen
    for module in found:
        module.requires_grad_(False)
    return found


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Weight decay on matrices and kernels only."""
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.dim() > 1]
    others = [p for p in trained if p.dim() <= 1]
    return [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
