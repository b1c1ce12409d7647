from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from boneage import losses
from boneage.augmentation import Augmentation, compressed
from boneage.transforms import Preprocess

EVERYTHING = Augmentation(
    rotation=20, scale=0.15, aspect=0.05, shift=0.06, flip=0.5, gamma=0.3, contrast=0.2,
    brightness=0.1, border=0.5, marker=0.5, sharpness=0.8, noise=0.02, frame=0.5, jpeg=0.5,
)  # fmt: skip


@pytest.fixture
def radiograph(rsna_test_dir: Path) -> np.ndarray:
    return np.asarray(Image.open(rsna_test_dir / "images" / "4400.webp").convert("L"))


class TestAugmentation:
    def apply(self, augmentation: Augmentation, pixels: np.ndarray, *seed: int) -> torch.Tensor:
        stretched = torch.from_numpy(Preprocess(size=1, resolution=299).stretch(pixels))
        draws = torch.from_numpy(augmentation.draw(*seed))[None]
        return augmentation.apply(stretched[None, None], draws, 128)

    def test_nothing_is_the_preprocessing(self, radiograph: np.ndarray) -> None:
        preprocess = Preprocess(size=128, resolution=299)
        augmented = preprocess.finish(self.apply(Augmentation(), radiograph, 1))[0]
        assert torch.allclose(augmented, preprocess([radiograph])[0], atol=1e-3)

    def test_same_seed_same_image(self, radiograph: np.ndarray) -> None:
        first, again, other = (
            self.apply(EVERYTHING, radiograph, *seed) for seed in ((1, 2), (1, 2), (1, 3))
        )
        assert torch.equal(first, again)
        assert not torch.allclose(first, other)

    def test_an_image_does_not_depend_on_its_batch(self, radiograph: np.ndarray) -> None:
        images = torch.from_numpy(np.stack([radiograph, radiograph.T]))[:, None].float() / 255
        draws = torch.from_numpy(np.stack([EVERYTHING.draw(0, i) for i in range(2)]))
        together = EVERYTHING.apply(images, draws, 96)
        alone = EVERYTHING.apply(images[1:], draws[1:], 96)
        assert torch.allclose(together[1:], alone, atol=1e-6)

    def test_stays_in_range(self, radiograph: np.ndarray) -> None:
        for seed in range(20):
            image = self.apply(EVERYTHING, radiograph, seed)
            assert image.min() >= 0
            assert image.max() <= 1

    def test_flip_mirrors(self, radiograph: np.ndarray) -> None:
        plain = self.apply(Augmentation(), radiograph, 0)
        mirrored = self.apply(Augmentation(flip=1.0), radiograph, 0)
        assert torch.allclose(mirrored, plain.flip(-1), atol=1e-4)

    def test_random_crop_shows_another_part_each_time(self, radiograph: np.ndarray) -> None:
        """The 224 px of 256: what is seen lies inside the image and is not enlarged otherwise."""
        stretched = torch.tensor(radiograph)[None, None].float() / 255
        whole = Preprocess(size=128, resolution=299).resize(stretched)
        for corner, share in ((0, 0.0), (32, 1 - 1e-6)):
            draws = torch.full((1, Augmentation.DRAWS), 0.5)
            draws[0, 19:21] = share
            crop = Augmentation().apply(stretched, draws, 96, margin=16)
            expected = whole[..., corner : corner + 96, corner : corner + 96]
            assert torch.allclose(crop, expected, atol=2e-3)

    def test_rotation_keeps_shapes(self) -> None:
        """A turned square stays a square: rotation is not mixed with the mirror or the scale."""
        image = torch.zeros(1, 1, 201, 201)
        image[..., 60:141, 60:141] = 1
        draws = torch.full((1, Augmentation.DRAWS), 0.5)
        draws[0, 0] = 1.0  # the full 45 degrees
        turned = Augmentation(rotation=45).apply(image, draws, 201)[0, 0] > 0.5
        assert turned.sum().item() == pytest.approx(81**2, rel=0.02)
        rows, columns = turned.nonzero().T
        half_diagonal = 81 / 2**0.5
        for extent in (rows.max() - rows.min(), columns.max() - columns.min()):
            assert extent.item() == pytest.approx(2 * half_diagonal, abs=3)

    @pytest.mark.parametrize(("share", "sharper"), [(0.0, False), (1 - 1e-6, True)])
    def test_sharpness_changes_the_finest_details_alone(
        self, radiograph: np.ndarray, share: float, sharper: bool
    ) -> None:
        image = torch.tensor(radiograph)[None, None].float() / 255
        draws = torch.full((1, Augmentation.DRAWS), 0.5)
        plain = Augmentation().apply(image, draws, 128)
        draws[0, 21] = share
        changed = Augmentation(sharpness=0.8).apply(image, draws, 128)
        steps = [x.diff(dim=-1).abs().mean().item() for x in (changed, plain)]
        assert (steps[0] > 1.05 * steps[1]) if sharper else (steps[0] < 0.95 * steps[1])
        coarse = [torch.nn.functional.avg_pool2d(x, 16) for x in (changed, plain)]
        assert torch.allclose(*coarse, atol=0.01)

    def test_noise_differs_between_images_and_has_its_standard_deviation(self) -> None:
        image = torch.full((2, 1, 299, 299), 0.5)
        draws = torch.full((2, Augmentation.DRAWS), 0.5)
        draws[:, 22] = 1 - 1e-6
        draws[1, 23] = 0.25
        one, other = Augmentation(noise=0.05).apply(image, draws, 128)
        assert one.std().item() == pytest.approx(0.05, rel=0.03)
        correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation.item()) < 0.05

    def test_border_and_marker(self, radiograph: np.ndarray) -> None:
        dark = np.zeros_like(radiograph)
        dark[0, 0] = 1
        brightest = [
            self.apply(Augmentation(marker=1.0), dark, seed).max().item() for seed in range(5)
        ]
        assert min(brightest) == 1
        edges = [
            self.apply(Augmentation(border=1.0), np.full_like(radiograph, 128), seed)[0, 0, :, 0]
            for seed in range(8)
        ]
        assert {round(edge[64].item(), 1) for edge in edges} >= {0.0, 1.0}

    def test_jpeg_leaves_what_a_file_would(self, radiograph: np.ndarray) -> None:
        image = torch.tensor(radiograph)[None, None].float() / 255
        for quality in (30, 75, 95):
            file = losses.jpeg(radiograph, quality).astype(np.float32)
            kept = compressed(image, torch.tensor([float(quality)]))[0, 0].numpy() * 255
            assert np.abs(kept - file).mean() < 0.4 * np.abs(radiograph - file).mean()

    def test_jpeg_takes_the_more_the_fewer_grey_values_a_film_uses(
        self, radiograph: np.ndarray
    ) -> None:
        image = torch.tensor(radiograph)[None, None].float() / 255
        draws = torch.full((1, Augmentation.DRAWS), 0.5)
        plain = Augmentation().apply(image, draws, 299)
        lost = []
        for used in (1 - 1e-6, 0.5, 0.0):
            draws[0, 27] = used
            filed = Augmentation(jpeg=1.0).apply(image, draws, 299)
            lost.append((filed - plain).abs().mean().item())
        assert 0 < 2 * lost[0] < lost[1] < lost[2] / 2 < 0.05

    def test_an_image_without_jpeg_is_as_it_was(self, radiograph: np.ndarray) -> None:
        images = torch.tensor(np.stack([radiograph, radiograph]))[:, None].float() / 255
        draws = torch.full((2, Augmentation.DRAWS), 0.5)
        draws[0, 25] = 0.0
        plain = Augmentation().apply(images, draws, 96)
        filed = Augmentation(jpeg=0.25).apply(images, draws, 96)
        assert not torch.equal(filed[0], plain[0])
        assert torch.equal(filed[1], plain[1])

    def test_a_dark_frame_makes_the_film_smaller(self) -> None:
        image = torch.ones(1, 1, 280, 280)
        draws = torch.full((1, Augmentation.DRAWS), 0.5)
        draws[0, 28:30] = torch.tensor([0.1, 1.0])  # the widest, 20 % of the film on each side
        framed = Augmentation(frame=0.2).apply(image, draws, 140)[0, 0]
        assert framed.sum().item() == pytest.approx((140 / 1.4) ** 2, rel=0.01)
        assert framed[19].max() < 1e-3
        assert framed[70, 70] == 1
        draws[0, 28] = 0.3
        assert Augmentation(frame=0.2).apply(image, draws, 140).min() == 1
