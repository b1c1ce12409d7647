"""Images of other kinds than those assessed, to measure whether they are refused.

Some are real (chest radiographs, projections of a CT, hands), the others are drawn here, each from
its own seed. Nothing is fitted to any of them. Images of other seeds were looked at while the
refusal was made; :data:`REPORTED` is the seed of those that are reported. What was learnt from
these all the same, :data:`evaluate.refusal.NOTES` says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from boneage import images, volumes
from boneage.errors import InputError
from boneage.images import Radiograph

COUNT = 100
"""Images of each kind."""
REPORTED = 2
CHEST = "chest radiographs"
CT = "CT projections"
HAND = "hand radiographs"

Draw = Callable[[np.random.Generator], np.ndarray]


def generate(kind: str, seed: int, count: int = COUNT) -> Iterator[Radiograph]:
    """Images of one of the drawn kinds, the same ones for a seed and a kind.

    Images without any contrast, which reading refuses, are drawn again.

    Args:
        kind: a key of :data:`DRAWN`.
        seed: :data:`REPORTED` or another.
        count: images.
    """
    place = list(DRAWN).index(kind)
    for number in range(count):
        rng = np.random.default_rng([seed, place, number])
        while True:
            try:
                yield images.from_array(DRAWN[kind](rng), id=f"{kind} {number}")
                break
            except InputError:
                continue


def chosen(paths: Sequence[Path], seed: int, count: int = COUNT) -> Iterator[Radiograph]:
    """So many of these radiographs, chosen at random; all of them if they are fewer."""
    order = np.random.default_rng(seed).permutation(len(paths))[:count]
    for place in order:
        yield images.read(paths[place])


def projections(volume: Path, seed: int, count: int = COUNT) -> Iterator[Radiograph]:
    """Frontal projections of a CT: bone or radiograph, cropped, mirrored and turned at random."""
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        pixels = _projected(volume, ("bone", "radiograph")[number % 2])
        height, width = pixels.shape
        rows, columns = (max(64, int(side * rng.uniform(0.5, 1))) for side in (height, width))
        top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
        part = pixels[top : top + rows, left : left + columns]
        if rng.random() < 0.5:
            part = part[:, ::-1]
        yield images.from_array(np.rot90(part, rng.integers(0, 4)), id=f"{CT} {number}")


@cache
def _projected(volume: Path, kind: str) -> np.ndarray:
    return volumes.project(volumes.read(volume), kind).pixels


def _size(rng: np.random.Generator, lowest: int = 160, highest: int = 640) -> tuple[int, int]:
    """Height and width, each at random."""
    height, width = rng.integers(lowest, highest, 2)
    return int(height), int(width)


def _grey(values: np.ndarray) -> np.ndarray:
    """Any range to uint8."""
    low, high = values.min(), values.max()
    return np.rint(255 * (values - low) / (high - low or 1)).astype(np.uint8)


def _coloured_noise(rng: np.random.Generator, shape: tuple[int, int], slope: float) -> np.ndarray:
    """Gaussian noise whose amplitude falls with the frequency to the power of ``slope``."""
    frequency = np.hypot(*np.meshgrid(*(np.fft.fftfreq(n) for n in shape), indexing="ij"))
    frequency[0, 0] = 1 / max(shape)
    spectrum = np.fft.fft2(rng.standard_normal(shape)) / frequency**slope
    return np.real(np.fft.ifft2(spectrum))


def noise(rng: np.random.Generator) -> np.ndarray:
    """White (normal, uniform, salt and pepper), coloured, in lines, or in blocks."""
    shape = _size(rng)
    match rng.integers(6):
        case 0:
            return np.clip(rng.normal(128, rng.uniform(5, 80), shape), 0, 255).astype(np.uint8)
        case 1:
            return rng.integers(0, 256, shape, dtype=np.uint8)
        case 2:
            return np.where(rng.random(shape) < rng.uniform(0.01, 0.5), 255, 0).astype(np.uint8)
        case 3:
            return _grey(_coloured_noise(rng, shape, rng.uniform(0.5, 2.5)))
        case 4:
            lines = rng.normal(128, 40, (shape[0], 1)) + rng.normal(0, 5, shape)
            lines = np.clip(lines, 0, 255).astype(np.uint8)
            return lines if rng.random() < 0.5 else lines.T.copy()
        case _:
            block = int(rng.integers(4, 40))
            small = rng.integers(0, 256, (-(-shape[0] // block), -(-shape[1] // block)), np.uint8)
            return np.kron(small, np.ones((block, block), np.uint8))[: shape[0], : shape[1]]


@cache
def _font(family: str, size: int) -> ImageFont.FreeTypeFont:
    from matplotlib import font_manager

    path = font_manager.findfont(font_manager.FontProperties(family=family))
    return ImageFont.truetype(path, size)


def _words(rng: np.random.Generator, count: int) -> str:
    letters = np.array(list("eeeettaaooiinnsshhrrddllcumwfgypbvk"))
    words = ["".join(rng.choice(letters, rng.integers(1, 11))) for _ in range(count)]
    return " ".join(word.capitalize() if rng.random() < 0.1 else word for word in words)


def _paragraph(
    draw: ImageDraw.ImageDraw, rng: np.random.Generator, box: Sequence[int], size: int, ink: int
) -> None:
    """Lines of words into (x0, y0, x1, y1)."""
    font = _font(str(rng.choice(["DejaVu Sans", "DejaVu Serif", "DejaVu Sans Mono"])), size)
    for y in range(box[1], box[3] - size, int(1.35 * size)):
        if rng.random() < 0.9:
            line = _words(rng, 30)
            fitting = line[: max(1, int((box[2] - box[0]) / (0.58 * size)))]
            draw.text((box[0], y), fitting, ink, font)


def text(rng: np.random.Generator) -> np.ndarray:
    """A printed page in one to three columns, dark on bright or bright on dark."""
    height, width = _size(rng, 320, 900)
    paper, ink = (245, 20) if rng.random() < 0.7 else (15, 235)
    image = Image.new("L", (width, height), paper)
    draw = ImageDraw.Draw(image)
    columns, margin = int(rng.integers(1, 4)), int(rng.integers(10, 60))
    size = int(rng.integers(9, 34))
    wide = (width - 2 * margin) // columns
    for column in range(columns):
        left = margin + column * wide
        _paragraph(draw, rng, (left, margin, left + wide - 10, height - margin), size, ink)
    return np.asarray(image)


def plot(rng: np.random.Generator) -> np.ndarray:
    """A chart: lines, points, bars, a histogram, a pie, or contours."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.style import context

    with context("dark_background" if rng.random() < 0.3 else "default"):
        figure = Figure(figsize=tuple(rng.uniform(3, 6, 2)), dpi=80)
        axes = figure.add_subplot()
        x = np.linspace(0, 10, 60)
        match rng.integers(6):
            case 0:
                for _ in range(rng.integers(1, 5)):
                    axes.plot(x, np.cumsum(rng.normal(size=60)), label=_words(rng, 1))
                axes.legend()
            case 1:
                axes.scatter(*rng.normal(size=(2, rng.integers(20, 300))))
            case 2:
                axes.bar(range(7), rng.uniform(1, 9, 7))
            case 3:
                axes.hist(rng.normal(size=300), 20)
            case 4:
                axes.pie(rng.uniform(1, 5, rng.integers(3, 8)))
            case _:
                axes.contourf(_coloured_noise(rng, (40, 40), 2))
        axes.set(title=_words(rng, 3), xlabel=_words(rng, 1), ylabel=_words(rng, 1))
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return images.luma(np.asarray(canvas.buffer_rgba()))


def shapes(rng: np.random.Generator) -> np.ndarray:
    """Filled and empty ellipses, boxes, polygons and lines; some are blurred."""
    height, width = _size(rng)
    image = Image.new("L", (width, height), int(rng.choice([0, 0, 255, rng.integers(256)])))
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 16)):
        points = (rng.random((rng.integers(3, 7), 2)) * [width, height]).astype(int)
        corners = [*points[:2].min(axis=0).tolist(), *points[:2].max(axis=0).tolist()]
        grey, line = int(rng.integers(256)), int(rng.integers(1, 12))
        fill = grey if rng.random() < 0.6 else None
        match rng.integers(4):
            case 0:
                draw.ellipse(corners, fill, grey, line)
            case 1:
                draw.rectangle(corners, fill, grey, line)
            case 2:
                draw.polygon([tuple(p) for p in points.tolist()], fill, grey)
            case _:
                draw.line([tuple(p) for p in points.tolist()], grey, line)
    if rng.random() < 0.4:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(1, 12)))
    return np.asarray(image)


def drawn_hand(rng: np.random.Generator) -> np.ndarray:
    """A schematic hand: a palm, five straight fingers, a forearm; silhouette or outline."""
    side = int(rng.integers(200, 500))
    image = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(image)
    grey, width = int(rng.integers(120, 256)), int(side * rng.uniform(0.05, 0.1))
    palm = side * np.array([rng.uniform(0.3, 0.36), rng.uniform(0.5, 0.56), 0.66, 0.8])
    ends = [(0.12, 0.45), (0.33, 0.15), (0.48, 0.08), (0.6, 0.13), (0.74, 0.27)]
    starts = [(0.36, 0.72), (0.38, 0.55), (0.47, 0.55), (0.55, 0.55), (0.63, 0.58)]
    for start, end in zip(starts, ends, strict=True):
        tip = side * (np.array(end) + rng.normal(0, 0.02, 2))
        root = side * np.array(start)
        draw.line([*root.tolist(), *tip.tolist()], grey, width)
        draw.ellipse([*(tip - width / 2).tolist(), *(tip + width / 2).tolist()], grey)
    draw.rounded_rectangle(palm.tolist(), width, grey)
    draw.rectangle([0.4 * side, 0.75 * side, 0.6 * side, side], grey)
    if rng.random() < 0.3:
        image = image.filter(ImageFilter.FIND_EDGES)
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(1, 6)))
    return np.asarray(image)


def gradient(rng: np.random.Generator) -> np.ndarray:
    """A linear, radial or wavy gradient, some with a little noise."""
    height, width = _size(rng)
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    centre = rng.uniform(-0.5, 0.5, 2)
    match rng.integers(3):
        case 0:
            values = along ** rng.choice([1, 3])
        case 1:
            values = np.hypot(x - centre[0], y - centre[1])
        case _:
            values = np.sin(along * rng.uniform(2, 30)) + rng.uniform(-1, 1) * x
    return _grey(values + rng.choice([0, 0.02]) * rng.standard_normal(values.shape))


def blank(rng: np.random.Generator) -> np.ndarray:
    """Nearly nothing: one grey with a trace of noise, a speck, a border, a marker; two halves."""
    shape = _size(rng)
    grey = int(rng.integers(0, 250))
    pixels = np.full(shape, grey, np.uint8)
    match rng.integers(5):
        case 0:
            pixels = pixels + rng.integers(0, 2 + rng.integers(3), shape, dtype=np.uint8)
        case 1:
            pixels[tuple(rng.integers(0, side) for side in shape)] = 255
        case 2:
            wide = int(rng.integers(2, 20))
            pixels[:wide] = pixels[-wide:] = 255
            pixels[:, :wide] = pixels[:, -wide:] = 255
        case 3:
            top, left = (int(rng.integers(0, side - 40)) for side in shape)
            pixels[top : top + 30, left : left + 15] = 255
        case _:
            pixels[:, : int(shape[1] * rng.uniform(0.1, 0.9))] = 255 - grey
    return pixels


def spectrogram(rng: np.random.Generator) -> np.ndarray:
    """Harmonics that rise and fall over time, above a noise that falls with the frequency."""
    height, width = _size(rng)
    time = np.linspace(0, 1, width)
    pitch = 0.05 + 0.05 * np.cumsum(rng.normal(0, 0.05, width))
    frequency = np.linspace(1, 0, height)[:, None]
    values = 0.3 * rng.random((height, width)) + (1 - frequency)
    for harmonic in range(1, 12):
        loud = np.clip(np.sin(2 * np.pi * rng.uniform(1, 5) * time + rng.uniform(0, 6)), 0, 1)
        distance = frequency - harmonic * np.abs(pitch)
        values = values + 2 / harmonic * loud * np.exp(-((distance / 0.01) ** 2))
    return _grey(np.log1p(values))


def checkerboard(rng: np.random.Generator) -> np.ndarray:
    """A checkerboard, a brick wall, or a grid of dots; some turned."""
    height, width = _size(rng)
    y, x = np.mgrid[:height, :width].astype(float)
    angle = rng.choice([0, rng.uniform(0, np.pi)])
    u, v = np.cos(angle) * x - np.sin(angle) * y, np.sin(angle) * x + np.cos(angle) * y
    side = rng.uniform(6, 60)
    row = np.floor(v / side)
    match rng.integers(3):
        case 0:
            values = (np.floor(u / side) + row) % 2
        case 1:
            across = (u / side / 2 + 0.5 * (row % 2)) % 1
            values = (across > 0.06) & ((v / side) % 1 > 0.12)
        case _:
            values = np.hypot((u / side) % 1 - 0.5, (v / side) % 1 - 0.5) < 0.35
    return np.where(values, rng.integers(150, 256), rng.integers(0, 100)).astype(np.uint8)


def matrix_code(rng: np.random.Generator) -> np.ndarray:
    """What looks like a QR code, in a quiet zone of random width."""
    cells = int(rng.integers(21, 60))
    code = rng.random((cells, cells)) < 0.5
    finder = np.ones((7, 7), bool)
    finder[1:-1, 1:-1] = False
    finder[2:-2, 2:-2] = True
    code[:7, :7] = code[:7, -7:] = code[-7:, :7] = finder
    zoom, quiet = int(rng.integers(4, 12)), int(rng.integers(0, 60))
    pixels = np.where(np.kron(code, np.ones((zoom, zoom), bool)), 0, 255).astype(np.uint8)
    return np.pad(pixels, quiet, constant_values=255)


def screenshot(rng: np.random.Generator) -> np.ndarray:
    """A window: a title bar, a list at the side, lines of text, buttons and a picture frame."""
    height, width = int(rng.integers(300, 800)), int(rng.integers(400, 1000))
    dark = rng.random() < 0.4
    paper, panel, ink = (30, 55, 220) if dark else (250, 225, 30)
    image = Image.new("L", (width, height), paper)
    draw = ImageDraw.Draw(image)
    bar, side = int(rng.integers(20, 50)), int(width * rng.uniform(0.15, 0.35))
    draw.rectangle((0, 0, width, bar), panel)
    draw.rectangle((0, bar, side, height), (panel + paper) // 2)
    _paragraph(draw, rng, (10, bar // 4, width, bar + 8), bar // 2, ink)
    _paragraph(draw, rng, (10, bar + 10, side - 5, height - 10), int(rng.integers(9, 16)), ink)
    middle = int(height * rng.uniform(0.4, 0.8))
    _paragraph(draw, rng, (side + 15, bar + 15, width - 15, middle), int(rng.integers(9, 20)), ink)
    for _ in range(rng.integers(2, 6)):
        x, y = int(rng.integers(side, width - 60)), int(rng.integers(middle, height - 20))
        draw.rounded_rectangle((x, y, x + 90, y + 24), 6, panel, ink)
        draw.text((x + 8, y + 5), _words(rng, 1), ink, _font("DejaVu Sans", 11))
    return np.asarray(image)


def scene(rng: np.random.Generator) -> np.ndarray:
    """What has the statistics of a photograph: leaves that cover each other, or hills and sky.

    Leaves: discs whose radii follow a power law (Lee, Mumford and Huang, "Occlusion models for
    natural images", IJCV 2001).
    """
    height, width = _size(rng, 200, 500)
    if rng.random() < 0.5:
        image = Image.new("L", (width, height))
        draw = ImageDraw.Draw(image)
        for _ in range(2000):
            radius = 4 / rng.uniform(0.02, 1) ** 0.6
            y, x = rng.uniform(0, height), rng.uniform(0, width)
            box = (x - radius, y - radius, x + radius, y + radius)
            draw.ellipse(box, int(rng.integers(256)))
        values = np.asarray(image) + 12 * _coloured_noise(rng, (height, width), 1)
        return np.clip(values, 0, 255).astype(np.uint8)
    values = np.linspace(220, 160, height)[:, None] + 8 * _coloured_noise(rng, (height, width), 1.5)
    for layer in range(rng.integers(2, 6)):
        steps = np.cumsum(rng.normal(0, 1, width))
        line = height * (0.3 + 0.13 * layer) + 0.4 * (steps - steps.mean())
        texture = _coloured_noise(rng, (height, width), rng.uniform(0.6, 1.4))
        ground = rng.uniform(20, 170) + 25 * texture / texture.std()
        values = np.where(np.arange(height)[:, None] > line, ground, values)
    return np.clip(values, 0, 255).astype(np.uint8)


DRAWN: dict[str, Draw] = {
    "noise": noise,
    "text pages": text,
    "plots": plot,
    "shapes": shapes,
    "drawn hands": drawn_hand,
    "gradients": gradient,
    "blank images": blank,
    "spectrograms": spectrogram,
    "checkerboards": checkerboard,
    "matrix codes": matrix_code,
    "screenshots": screenshot,
    "natural scenes": scene,
}
"""What is drawn, by kind."""
