"""Training images, decoded once, and the batches made from them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from boneage import images
from boneage.datasets import Case, LabelledFolder
from boneage.transforms import Augmentation, Preprocess


def build_cache(data: LabelledFolder, preprocess: Preprocess, folder: Path) -> np.ndarray:
    """Decode, shrink and stretch every image once; a later run with the same images finds it.

    Returns:
        (n, R, R) uint8, memory-mapped, in the order of the cases; 0 to 255 stand for 0 to 1.

    Raises:
        InputError: if an image cannot be read.
    """
    settings = (preprocess.resolution, preprocess.percentiles, preprocess.region)
    key = hashlib.sha256(repr(settings).encode())
    for case in data.cases:
        status = case.path.stat()
        key.update(f"{case.id} {status.st_size} {status.st_mtime_ns}\n".encode())
    file = folder / f"{key.hexdigest()[:16]}.npy"
    if not file.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        shape = (len(data.cases), preprocess.resolution, preprocess.resolution)
        # Runs that start together each make their own, and the last one stays.
        temporary = folder / f"{file.name}.{os.getpid()}"
        pixels = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)

        def decode(case: Case) -> np.ndarray:
            shrunk = preprocess.shrink(images.read(case.path).pixels)
            return np.rint(preprocess.stretch(shrunk) * 255).astype(np.uint8)

        try:
            with ThreadPoolExecutor() as pool:
                decoded = pool.map(decode, data.cases)
                for index, image in enumerate(tqdm(decoded, "decoding", len(data.cases))):
                    pixels[index] = image
            pixels.flush()
            temporary.replace(file)
        finally:
            temporary.unlink(missing_ok=True)
    return np.load(file, mmap_mode="r")


@dataclass(frozen=True)
class Batch:
    """What a step needs, still unprocessed so that it crosses to the device as bytes.

    Attributes:
        pixels: (N, 1, R, R) uint8, stretched; 0 to 255 stand for 0 to 1.
        draws: (N, DRAWS) float32, random numbers of the augmentation.
        ages: (N,) float32 in the data's unit.
        sex: (N,) int64, index into the model's sexes; 0 for a model that takes none.
    """

    pixels: Tensor
    draws: Tensor
    ages: Tensor
    sex: Tensor

    def to(self, device: torch.device) -> Batch:
        """The batch on ``device``."""
        return Batch(*(t.to(device, non_blocking=True) for t in vars(self).values()))

    def parts(self, count: int) -> list[Batch]:
        """The batch cut into ``count`` parts."""
        chunks = zip(*(t.chunk(count) for t in vars(self).values()), strict=True)
        return [Batch(*chunk) for chunk in chunks]

    @property
    def images(self) -> Tensor:
        """(N, 1, R, R) float32 in [0, 1]."""
        return self.pixels.float() / 255


class Batches(Dataset[Batch]):
    """The batches of an epoch, each made at once from the cache.

    The order is a permutation drawn from seed and epoch, so a run that is resumed in the middle of
    an epoch sees the same batches as one that was not. An item of this data set is a whole batch.

    Args:
        data: the cases, in the cache's order.
        cache: their images, from :func:`build_cache`.
        sexes: the model's sexes, in the order of its outputs; empty if it takes none.
        batch_size: images a batch.
        augmentation: whose numbers are drawn here; ``None`` for validation, in order.
        seed: of the run.
    """

    def __init__(
        self,
        data: LabelledFolder,
        cache: np.ndarray,
        sexes: list[str],
        batch_size: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.cache = cache
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.seed = seed
        self.ages = torch.tensor([case.age for case in data.cases], dtype=torch.float32)
        self.sex = torch.zeros(len(data.cases), dtype=torch.int64)
        if sexes:
            self.sex = torch.tensor([sexes.index(case.sex or "") for case in data.cases])
        self.start(0)

    @property
    def steps(self) -> int:
        """Batches an epoch; in training an incomplete last one is left out."""
        whole, rest = divmod(len(self.ages), self.batch_size)
        return whole + bool(rest and (self.augmentation is None or not whole))

    def start(self, epoch: int, first: int = 0) -> None:
        """Begin an epoch at its batch ``first``."""
        self.epoch, self.first = epoch, first
        self.order = np.arange(len(self.ages))
        if self.augmentation is not None:
            self.order = np.random.default_rng((self.seed, epoch)).permutation(self.order)

    def __len__(self) -> int:
        return self.steps - self.first

    def __getitem__(self, item: int) -> Batch:
        if not 0 <= item < len(self):
            raise IndexError(item)
        first = (self.first + item) * self.batch_size
        index = self.order[first : first + self.batch_size]
        draws = np.zeros((len(index), Augmentation.DRAWS), np.float32)
        if self.augmentation is not None:
            draws = np.stack([self.augmentation.draw(self.seed, self.epoch, i) for i in index])
        return Batch(
            torch.from_numpy(np.stack([self.cache[i] for i in index]))[:, None],
            torch.from_numpy(draws),
            self.ages[index],
            self.sex[index],
        )

    def __iter__(self) -> Iterator[Batch]:
        return (self[i] for i in range(len(self)))
