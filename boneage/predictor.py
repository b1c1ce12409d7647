"""The one way from a file to an age: page, command line, evaluator and Python all use it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from boneage import bundled, hub, images, quality, volumes
from boneage.calibration import Intervals
from boneage.chunks import chunks
from boneage.errors import InputError
from boneage.images import Radiograph
from boneage.models import registry
from boneage.precision import PRECISIONS, choose_precision, computing_in, forbid_tf32
from boneage.refusal import Features, Judgement, Refusal, refusal_of, tapped
from boneage.sex import SEX_NAMES
from boneage.transforms import Preprocess
from boneage.views import PROJECTIONS

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

NOT_CT = (
    "This image was computed from CT. The weights were trained on real chest radiographs, not on "
    "CT; their error on CT was not measured."
)

DEVICES = ("cpu", "cuda", "mps", "xpu")
_VOLUME = Lock()  # a volume takes gigabytes, so one at a time is read
_OTHER_SEX = {
    named: f"The file says that the patient is {SEX_NAMES[named]}, but the age was assessed for a "
    f"{SEX_NAMES[given]} patient, as requested."
    for named, given in ("FM", "MF")
}


@dataclass(frozen=True)
class Box:
    """A region that decided the age.

    Attributes:
        x0, y0, x1, y1: in pixels of the source image.
        score: objectness of the attention agent, no unit; higher is better.
        age: the age assessed from this region alone, in the assessment's unit.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    score: float
    age: float


@dataclass(frozen=True)
class Interval:
    """A prediction interval.

    Attributes:
        low, high: in the assessment's unit.
        coverage: nominal share of cases whose age lies inside.
    """

    low: float
    high: float
    coverage: float


@dataclass(frozen=True)
class ModelReference:
    """Which weights an assessment comes from.

    Attributes:
        id: name of the weights folder or Hub repository.
        revision: commit on the Hub, or the first digits of the tensors' SHA-256.
    """

    id: str
    revision: str


@dataclass(frozen=True)
class Assessment:
    """An age and the evidence for it.

    Attributes:
        id: the radiograph's.
        task: ``hand`` or ``adult``.
        sex: ``F``, ``M``, or ``None`` where the model takes none.
        age: in ``unit``; ``None`` if refused.
        unit: ``months`` or ``years``.
        interval: prediction interval where the weights carry one.
        components: every component's own age by the papers' names, in ``unit``; each is limited
            to the range of ages for itself, ``assembled`` is averaged before.
        boxes: the regions used, best first; box i belongs to component ``R{i + 1}``.
        warnings: what may make the age less reliable.
        refused: the reason if no age is given.
        model: the weights.
        heat_map: (h, w) float32 in [0, 1] over the whole image, where asked for.
    """

    id: str
    task: str
    sex: str | None
    age: float | None
    unit: str
    interval: Interval | None
    components: dict[str, float]
    boxes: tuple[Box, ...]
    warnings: tuple[str, ...]
    refused: str | None
    model: ModelReference
    heat_map: np.ndarray | None = None

    def to_dict(self) -> dict[str, Any]:
        """The JSON of command line and API: ages to 0.01, boxes to 0.1 px, no heat map."""
        interval = self.interval
        return {
            "id": self.id,
            "task": self.task,
            "sex": self.sex,
            "age": None if self.age is None else round(self.age, 2),
            "unit": self.unit,
            "interval": interval
            and {
                "low": round(interval.low, 2),
                "high": round(interval.high, 2),
                "coverage": interval.coverage,
            },
            "components": {name: round(age, 2) for name, age in self.components.items()},
            "boxes": [
                {
                    **{key: round(getattr(box, key), 1) for key in ("x0", "y0", "x1", "y1")},
                    "score": round(box.score, 4),
                    "age": round(box.age, 2),
                }
                for box in self.boxes
            ],
            "warnings": list(self.warnings),
            "refused": self.refused,
            "model": {"id": self.model.id, "revision": self.model.revision},
        }


@dataclass(frozen=True)
class _Network:
    """What a predictor computes with, where and in which precision."""

    model: nn.Module
    device: torch.device
    precision: str


class Predictor:
    """Released weights, ready to assess.

    Args:
        model: the network, or what builds it; it becomes the predictor's own, which folds batch
            normalisation into convolutions.
        config: of its weights folder.
        id: name shown with every assessment.
        revision: of the weights, likewise.
        device: where to compute; the GPU if there is one.
        precision: one of :data:`boneage.precision.PRECISIONS`.
        calibration: the arrays of its weights folder; without them no image is refused as foreign.

    Safe to share between threads.
    """

    def __init__(
        self,
        model: nn.Module | Callable[[], nn.Module],
        config: dict[str, Any],
        id: str,
        revision: str,
        device: str | None = None,
        precision: str = "auto",
        calibration: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        self._given: tuple[Any, ...] = model, device, precision
        self._network: _Network | None = None
        self._preparing = Lock()
        # Grad-CAM hooks into the network, so threads that share it must take turns.
        self._computing = Lock()
        self.config = config
        self.id = id
        self.revision = revision
        self.sexes: list[str] = config["sexes"]
        preprocess = dict(config["preprocess"])
        preprocess["percentiles"] = tuple(preprocess["percentiles"])
        self.preprocess = Preprocess(**preprocess)
        self._ages = tuple(float(config["age"][key]) for key in ("mean", "sd", "lowest", "highest"))
        self.intervals = Intervals.of(config)
        self.refusal = refusal_of(config, calibration) if calibration else None

    def prepare(self) -> _Network:
        """Build the network unless it is there; others who need it wait meanwhile.

        Raises:
            InputError: for a device that is not there, another precision, or tensors that do not
                fit the architecture.
        """
        with self._preparing:
            if self._network is None:
                self._network = self._built(*self._given)
                self._given = ()  # the tensors' bytes are needed no more
            return self._network

    def _built(
        self, model: nn.Module | Callable[[], nn.Module], device: str | None, precision: str
    ) -> _Network:
        import torch
        from torch import nn

        from boneage.models.backbones import fold_batch_norm

        network = model if isinstance(model, nn.Module) else model()
        try:
            place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            if place.type not in DEVICES:
                raise ValueError(device)
            network = network.to(place, memory_format=torch.channels_last)
        # torch's own for a name or a device it lacks
        except (RuntimeError, AssertionError, ValueError, ImportError):
            raise InputError(
                f"There is no device {device!r} here. Known: {', '.join(DEVICES)}, "
                "where the machine has them."
            ) from None
        network.eval().requires_grad_(False)
        fold_batch_norm(network)
        forbid_tf32()

        @torch.inference_mode()
        def trial() -> None:
            size, sex = self.preprocess.size, None
            image = torch.zeros(1, 3, size, size, device=place)
            if self.sexes:
                sex = torch.zeros(1, dtype=torch.int64, device=place)
            network(image.contiguous(memory_format=torch.channels_last), sex)

        return _Network(network, place, choose_precision(precision, place, trial))

    @property
    def model(self) -> nn.Module:
        """The network, built when it is first needed or by :meth:`prepare`."""
        return self.prepare().model

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return self.prepare().device

    @property
    def precision(self) -> str:
        """``bf16`` or ``fp32``."""
        return self.prepare().precision

    @property
    def settings(self) -> str:
        """What an assessment depends on beside the tensors, which ``revision`` names.

        The first 12 hexadecimal digits of the SHA-256 of the config as canonical JSON (sorted keys,
        no spaces) and of the precision.
        """
        return self._settings_in(self.precision)

    def _settings_in(self, precision: str) -> str:
        config = json.dumps(self.config, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(f"{config} {precision}".encode()).hexdigest()[:12]

    def resume(self, settings: str | None) -> None:
        """Compute in the precision of an earlier run, if it was ``auto`` that was to choose one.

        Measured anew, its choice could differ. Once the network is built, nothing is changed.

        Args:
            settings: of the earlier run; those of another config change nothing.
        """
        with self._preparing:
            if self._network is None and self._given[-1] == "auto":
                for precision in PRECISIONS[1:]:
                    if self._settings_in(precision) == settings:
                        self._given = (*self._given[:-1], precision)

    @classmethod
    def load(
        cls,
        weights: str | Path | None = None,
        *,
        task: str = "hand",
        region: str = "whole",
        revision: str | None = None,
        device: str | None = None,
        precision: str = "auto",
        wait: bool = True,
    ) -> Predictor:
        """Read a weights folder, here or on the Hugging Face Hub.

        Args:
            weights: a folder, or ``organisation/name`` on the Hub; ``None`` for the weights
                released with the project.
            task: ``hand`` or ``adult``: which released weights, and what given ones must be for.
            region: ``whole``, ``upper`` or ``lower``: the part of the image that the released
                weights see; of no matter to given ones.
            revision: commit, branch or tag on the Hub.
            device: ``cpu``, ``cuda``, ...; the GPU if there is one.
            precision: one of :data:`boneage.precision.PRECISIONS`; ``auto`` takes bf16 where the
                processor is fast at it.
            wait: build the network at once. Without, its files are read and checked, which takes
                no import of torch; that they fit their architecture is seen when it is built, by
                :meth:`prepare` or the first assessment.

        Raises:
            InputError: if there are no such weights or they are damaged or for another task.
        """
        folder = released(task, region) if weights is None else Path(weights)
        id, commit = name_of(folder), None
        if revision is not None and folder.is_dir():
            raise InputError(f"The weights {id} are a folder here, which has no revisions.")
        if not folder.is_dir():
            if len(folder.parts) != 2 or folder.is_absolute():
                raise InputError(f"There is no weights folder {folder.name}.")
            id = str(weights)
            folder, commit = hub.fetch(id, revision)
        config = hub.load_config(folder)
        if config["task"] != task:
            raise InputError(f"The weights {id} are for the task {config['task']}, not {task}.")
        registry.entry(config["architecture"]["name"])
        model = partial(hub.build_network, folder, config, hub.checked_data(folder, config))
        with hub.entries_of(folder):
            calibration = hub.load_calibration(folder, config)
            predictor = cls(
                model, config, id, commit or config["sha256"][:12], device, precision, calibration
            )
        if wait:
            predictor.prepare()
        return predictor

    def read(self, source: str | Path | bytes, *, id: str | None = None) -> Radiograph:
        """Read what these weights can assess: a radiograph, or a CT volume as they know it.

        Args:
            source: a radiograph's path or content (see :func:`boneage.images.read`), or a CT
                volume's (see :func:`boneage.volumes.read`).
            id: the name to show; by default that of the file.

        Raises:
            InputError: if it cannot be read, or is a volume and the weights know none.
        """
        projection = self.config.get("projection")
        if self.config["task"] != "adult" or not volumes.is_volume(source):
            volume = f" and, of CT volumes, {volumes.ACCEPTED}" if projection else ""
            return images.read(source, id=id, accepted=f"{images.ACCEPTED}{volume}")
        if projection is None:
            raise InputError("This is a CT volume; these weights assess plain images only.")
        kind, extent = PROJECTIONS[projection]
        with _VOLUME:
            radiograph = volumes.project(volumes.read(source, id=id), kind, extent)
        if projection != "thorax" or self.config["provenance"].get("from_ct"):
            return radiograph
        return replace(radiograph, warnings=(*radiograph.warnings, NOT_CT))

    def assess(
        self,
        radiographs: Radiograph | Iterable[Radiograph],
        sex: str | Sequence[str | None] | None = None,
        *,
        heat_map: bool | str = False,
        batch_size: int = 16,
    ) -> list[Assessment]:
        """Assess one radiograph or many.

        Args:
            radiographs: from :func:`boneage.images.read` or :func:`boneage.images.from_array`.
            sex: ``F`` or ``M``, one for all or one for each; where ``None``, the radiograph's own
                (from DICOM tags). Of no matter to weights that take no sex.
            heat_map: also explain the whole-image branch by Grad-CAM, at the network's last
                convolutional block or at the layer of this name.
            batch_size: radiographs computed together.

        Returns:
            One assessment for each radiograph, in order.

        Raises:
            InputError: for anything but radiographs; if the model needs a sex that is not given, or
                serves another; what
                :meth:`prepare` raises where nothing was computed before.
        """
        radiographs = list(radiographs) if isinstance(radiographs, Iterable) else [radiographs]
        for each in radiographs:
            if not isinstance(each, Radiograph):
                raise InputError(
                    f"A radiograph comes from read or from_array; this is a {type(each).__name__}."
                )
        if batch_size < 1:
            raise InputError(f"The batch size is {batch_size}; it must be at least 1.")
        is_each = isinstance(sex, Iterable) and not isinstance(sex, str)
        given = list(sex) if is_each else [sex] * len(radiographs)
        if len(given) != len(radiographs):
            raise InputError(f"{len(radiographs)} radiographs but {len(given)} sexes were given.")
        sexes = [self._sex(r, s) for r, s in zip(radiographs, given, strict=True)]
        assessments: list[Assessment] = []
        for chunk in chunks(zip(radiographs, sexes, strict=True), batch_size):
            assessments += self._assess_batch(chunk, heat_map)
        return assessments

    def _sex(self, radiograph: Radiograph, given: str | None) -> str | None:
        if not self.sexes:
            return None
        sex = given or radiograph.sex
        if sex not in SEX_NAMES:
            raise InputError(
                f"The sex for {radiograph.id} is {'missing' if sex is None else repr(sex)}; this "
                "model needs it: F or M."
            )
        if sex not in self.sexes:
            served = " and ".join(SEX_NAMES[s] for s in self.sexes)
            raise InputError(f"These weights are for {served} cases only.")
        return sex

    def _assess_batch(
        self, batch: list[tuple[Radiograph, str | None]], heat_map: bool | str
    ) -> list[Assessment]:
        import torch

        batched = self._pixels([radiograph for radiograph, _ in batch])
        sex = None
        if self.sexes:
            sex = torch.tensor([self.sexes.index(s) for _, s in batch], device=self.device)
        judged = [Judgement()] * len(batch)
        with self._computing, tapped(self.model) if self.refusal else nullcontext() as stages:
            if heat_map:
                layer = heat_map if isinstance(heat_map, str) else None
                output, maps = self._explained(batched, sex, layer)
            else:
                with torch.inference_mode(), computing_in(self.device, self.precision):
                    output, maps = self.model(batched, sex), None
        if self.refusal and stages:
            judged = self._judge(self.refusal, [r for r, _ in batch], Features.of(stages))
        # One transfer for everything the batch has to say.
        components = {name: self._age(age).tolist() for name, age in output.components.items()}
        proposals = getattr(output, "proposals", None)
        boxes = scores = None
        if proposals is not None:
            boxes = self.preprocess.locate(proposals.boxes.cpu().numpy()).tolist()
            scores = proposals.scores.tolist()
        return [
            self._assessment(
                radiograph,
                s,
                judged[i],
                {name: ages[i] for name, ages in components.items()},
                boxes[i] if boxes else [],
                scores[i] if scores else [],
                None if maps is None else maps[i],
            )
            for i, (radiograph, s) in enumerate(batch)
        ]

    def features(self, radiographs: Sequence[Radiograph]) -> Features:
        """What refusals are judged by, of radiographs that are computed together; no age."""
        import torch

        with (
            self._computing,
            tapped(self.model) as stages,
            torch.inference_mode(),
            computing_in(self.device, self.precision),
        ):
            self.model.backbone(self._pixels(radiographs))
        return Features.of(stages)

    def _pixels(self, radiographs: Sequence[Radiograph]) -> Tensor:
        """The network's input, (N, 3, S, S)."""
        import torch

        batched = self.preprocess([radiograph.pixels for radiograph in radiographs])
        return batched.to(self.device, memory_format=torch.channels_last)

    def _judge(
        self, refusal: Refusal, radiographs: Sequence[Radiograph], features: Features
    ) -> list[Judgement]:
        """As :meth:`Refusal.judge`; what seems to be turned is righted and looked at again.

        A plot or a drawing may resemble a turned hand, and righted show that it is none: nobody
        should be asked to turn it. Of weights that were trained on radiographs of adults a CT's
        projection is not judged: it is unlike these, and what it shows is known from the volume.
        """
        from_ct = self.config["provenance"].get("from_ct")
        unlike = self.config["task"] == "adult" and not from_ct
        judged = [
            Judgement() if unlike and radiograph.format == "CT" else judgement
            for radiograph, judgement in zip(radiographs, refusal.judge(features), strict=True)
        ]
        turned = [
            i for i, found in enumerate(judged) if found.reason not in (None, refusal.FOREIGN)
        ]
        if turned:
            poses = refusal.poses(features)[1]
            righted = [
                replace(radiographs[i], pixels=refusal.POSES[poses[i]].right(radiographs[i].pixels))
                for i in turned
            ]
            again = refusal.judge(self.features(righted))
            for i, judgement in zip(turned, again, strict=True):
                if judgement.reason == refusal.FOREIGN:
                    judged[i] = judgement
        return judged

    def _explained(
        self, batched: Tensor, sex: Tensor | None, layer: str | None
    ) -> tuple[Any, list[np.ndarray]]:
        from boneage.explain import grad_cam, layer_of

        outputs = []

        def forward() -> Tensor:
            outputs.append(self.model(batched, sex))
            return outputs[0].components["X"]

        with computing_in(self.device, self.precision):
            maps = grad_cam(layer_of(self.model, layer), forward)
        seen = self.preprocess
        if hasattr(self.model, "view_of"):  # the part of the image that a fusion's member sees
            size, margin = self.model.view_of(layer)
            seen = replace(seen, size=size, margin=margin)
        return outputs[0], [seen.unfold(heat_map) for heat_map in maps.cpu().numpy()]

    def _age(self, standardised: Tensor) -> Tensor:
        mean, sd, lowest, highest = self._ages
        return (standardised.detach() * sd + mean).clamp(lowest, highest)

    def _assessment(
        self,
        radiograph: Radiograph,
        sex: str | None,
        judgement: Judgement,
        components: dict[str, float],
        boxes: list[list[float]],
        scores: list[float],
        heat_map: np.ndarray | None,
    ) -> Assessment:
        side = np.array([radiograph.width, radiograph.height] * 2)
        if refused := radiograph.unassessable or judgement.reason:
            components, boxes, scores, heat_map = {}, [], [], None
        age, interval = components.get("assembled"), None
        if self.intervals and age is not None:
            interval = Interval(*self.intervals.around(age), self.intervals.coverage)
        return Assessment(
            id=radiograph.id,
            task=self.config["task"],
            sex=sex,
            age=age,
            unit=self.config["unit"],
            interval=interval,
            components=components,
            boxes=tuple(
                Box(*(np.array(box) * side).tolist(), score, components[f"R{i + 1}"])
                for i, (box, score) in enumerate(zip(boxes, scores, strict=True))
            ),
            warnings=radiograph.warnings
            + ((_OTHER_SEX[radiograph.sex],) if {sex, radiograph.sex} == {"F", "M"} else ())
            + quality.warnings_for(radiograph, self.preprocess.resolution, self.config["task"])
            + judgement.warnings
            + quality.warnings_of_parts(components, self.config["unit"]),
            refused=refused,
            model=ModelReference(self.id, self.revision),
            heat_map=heat_map,
        )


def name_of(folder: Path) -> str:
    """What a weights folder is called in results: its name, or its training run's."""
    path = folder.resolve()
    return path.parent.name if path.name == "weights" else path.name


def released(task: str, region: str = "whole") -> Path:
    """The weights folder released with the project for a task and a region of the image.

    Raises:
        InputError: if there is none.
    """
    for path in sorted(bundled.folder("weights").glob(f"*/{hub.CONFIG}")):
        config = hub.load_config(path.parent)
        if (config["task"], config["preprocess"].get("region", "whole")) == (task, region):
            return path.parent
    part = "" if region == "whole" else f" and the {region} half of the image"
    raise InputError(f"No weights for the task {task}{part} are released with this version.")
