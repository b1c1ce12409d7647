"""One assessment as a page to be printed or filed (PDF), and as JSON.

Everything is made in memory: nothing is written to disk, and of the patient a report holds what an
assessment holds. The page is A4 with margins wide enough for US Letter.
"""

from __future__ import annotations

import io
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from functools import cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

from PIL import Image

import boneage
from boneage import explain
from boneage.growth import CAUTION
from boneage.sex import SEX_NAMES
from boneage.wording import age_in_short, age_in_words, meaning_of, part_of

if TYPE_CHECKING:
    from reportlab.pdfgen.canvas import Canvas

    from boneage.growth import Comparison
    from boneage.images import Radiograph
    from boneage.predictor import Assessment

PURPOSE = "For research, not for diagnosis"
HEAT_MAP_OPACITY = 0.45  # bones stay visible below the map
PICTURE_SIDE = 900  # px; some 200 to the inch as printed

# Points (1/72 inch) from the left and lower edge of A4. A printer that puts the page on Letter
# without shrinking it cuts off 50 points of the height at most, on one side or on both.
PAGE = (595.28, 841.89)
LEFT, RIGHT = 51.0, PAGE[0] - 51.0
TOP, BOTTOM = PAGE[1] - 57.0, 57.0
GAP = 14.0
COLUMN = 0.5  # of the width, for the age; the rest is the components'
MIN_FIGURES = 190.0  # height that is kept for the pictures
FRAME = 0.5

INK, GREY, ACCENT, RULE = "#1B2733", "#58656F", "#0B4A6F", "#C9D3DA"
CAUTIOUS = ("#FFF7E0", "#C98A00")  # ground and bar of a notice
REFUSING = ("#FDECEA", "#B3261E")

REGULAR, BOLD = "DejaVuSans", "DejaVuSans-Bold"
RIGHT_TO_LEFT = ("R", "AL")  # bidirectional classes of Hebrew and Arabic
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
# What DejaVu lacks. These fonts come with the readers of PDF files and are not embedded; the codec
# holds the characters that each is sure to have.
EAST_ASIAN = (
    ("HeiseiKakuGo-W5", "shift_jis"),
    ("STSong-Light", "gb2312"),
    ("MSung-Light", "big5"),
    ("HYGothic-Medium", "cp949"),
)
# reportlab keeps fonts in one place for all documents.
_drawing = Lock()


@dataclass(frozen=True)
class Style:
    """How a text is set: sizes in points, leading from line to line."""

    size: float
    leading: float
    colour: str = INK
    font: str = REGULAR


TITLE = Style(17, 22, ACCENT, BOLD)
HEADING = Style(9.5, 14, ACCENT, BOLD)
LARGE = Style(22, 29, INK, BOLD)
STRONG = Style(9, 12.5, INK, BOLD)
BODY = Style(9, 12.5)
SMALL = Style(7.5, 10, GREY)
FINE = Style(7.5, 12.5, GREY)  # beside BODY, on its line


@dataclass(frozen=True)
class Line:
    """A line of text, laid out; ``indent`` in points."""

    text: str
    style: Style
    indent: float = 0


@dataclass(frozen=True)
class Figure:
    """A picture with a title above and a note below."""

    title: str
    picture: Image.Image
    note: str = ""


def to_json(assessment: Assessment) -> str:
    """The text of :meth:`Assessment.to_dict`, as the page offers it and the command line writes."""
    return json.dumps(assessment.to_dict(), indent=2) + "\n"


def to_pdf(
    assessment: Assessment,
    radiograph: Radiograph,
    *,
    growth: Comparison | None = None,
    error: str = "",
    created: date | None = None,
) -> bytes:
    """A report of one page, A4.

    What is too long for its place ends in an ellipsis, warnings that find no room are counted. A
    character that no font has becomes a replacement sign, as does any of a script written from
    right to left.

    Args:
        assessment: of the radiograph; with its heat map, if that is to be shown.
        radiograph: what was assessed.
        growth: the bone age beside the chronological age.
        error: how far these weights err, in a sentence.
        created: date of the report; today by default.

    Returns:
        The PDF file. Its title names the assessment's id, and nothing else is of the patient.
    """
    from reportlab.pdfgen.canvas import Canvas

    figures = _figures(assessment, radiograph)
    created = created or date.today()
    buffer = io.BytesIO()
    with _drawing:
        _fonts()
        canvas = Canvas(buffer, pagesize=PAGE, lang="en", initialFontName=REGULAR)
        title = _title(assessment)
        canvas.setTitle(f"{title}: {_one_line(assessment.id)}")
        canvas.setAuthor("")
        canvas.setSubject("")
        canvas.setCreator("boneage")
        canvas.setProducer(f"boneage {boneage.__version__}")
        y = _header(canvas, title, created)
        y = _facts(canvas, y, assessment, radiograph)
        y = _columns(canvas, y, assessment, growth, error)
        bottom = _footer(canvas, assessment)
        y = _warnings(canvas, y, assessment.warnings, y - bottom - MIN_FIGURES)
        _draw_figures(canvas, figures, y, bottom)
        canvas.save()
    return buffer.getvalue()


def _title(assessment: Assessment) -> str:
    return "Bone age report" if assessment.task == "hand" else "Age report"


def _header(canvas: Canvas, title: str, created: date) -> float:
    _text(canvas, LEFT, TOP, [Line(title, TITLE)])
    day = f"Report created on {created.isoformat()}"
    x = RIGHT - _width(day, BODY)
    _text(canvas, x, TOP - TITLE.leading + BODY.leading, [Line(day, BODY)])
    return _rule(canvas, TOP - TITLE.leading - 5) - 8


def _facts(canvas: Canvas, y: float, assessment: Assessment, radiograph: Radiograph) -> float:
    """Whose assessment this is: file, sex and kind of image, side by side."""
    sex = SEX_NAMES.get(assessment.sex or "", "not used").capitalize()
    width = RIGHT - LEFT
    facts = (
        ("File", assessment.id, STRONG, 0.0, 0.46),
        ("Sex", sex, BODY, 0.49, 0.12),
        ("Image", radiograph.description, BODY, 0.64, 0.36),
    )
    lowest = y
    for label, value, style, start, share in facts:
        lines = [Line(label, SMALL), *_wrap(value, style, share * width, 3)]
        lowest = min(lowest, _text(canvas, LEFT + start * width, y, lines))
    return lowest - GAP


def _columns(
    canvas: Canvas, y: float, assessment: Assessment, growth: Comparison | None, error: str
) -> float:
    """The age at the left, the components' at the right; all the width where there are none."""
    table = len(set(assessment.components.values())) > 1
    width = (RIGHT - LEFT) * (COLUMN if table else 1)
    if assessment.age is None:
        reason = assessment.refused or ""
        lines = [
            Line("No age is given for this image", STRONG),
            *_wrap(reason, BODY, width - 20, 5),
        ]
        lowest = _notice(canvas, y, width, lines, REFUSING)
    else:
        lowest = _text(canvas, LEFT, y, _age_lines(assessment, assessment.age, width))
        lowest = _text(canvas, LEFT, lowest - 4, _wrap(error, SMALL, width, 4))
    if table:
        lowest = min(lowest, _table(canvas, LEFT + width + 2 * GAP, y, assessment))
    if growth is not None and assessment.age is not None:
        lowest = _text(canvas, LEFT, lowest - GAP + 4, _growth_lines(growth))
    return lowest - GAP


def _age_lines(assessment: Assessment, age: float, width: float) -> list[Line]:
    months = assessment.unit == "months"
    exact = f"{age:.1f} {assessment.unit}"
    lines = [
        Line("Bone age" if assessment.task == "hand" else "Age", HEADING),
        *_wrap(age_in_words(age) if months else exact, LARGE, width, 1),
    ]
    if months:
        lines.append(Line(exact, BODY))
    if interval := assessment.interval:
        span = f"{interval.low:.1f} to {interval.high:.1f} {assessment.unit}"
        if months:
            span = f"{age_in_words(interval.low)} to {age_in_words(interval.high)} ({span})"
        lines += _wrap(f"{100 * interval.coverage:g} % prediction interval: {span}", BODY, width, 3)
    return lines


def _growth_lines(growth: Comparison) -> list[Line]:
    width = RIGHT - LEFT
    lines = [
        Line("Compared with the chronological age", HEADING),
        *_wrap(growth.sentence, BODY, width, 4),
    ]
    if growth.reading:
        lines += _wrap(growth.reading, BODY, width, 2) + _wrap(CAUTION, SMALL, width, 3)
    return lines


def _table(canvas: Canvas, x: float, y: float, assessment: Assessment) -> float:
    """Every component's age; the parts with the colours of their boxes."""
    y = _text(canvas, x, y, [Line("Age by each component", HEADING)])
    months = assessment.unit == "months"
    for name, age in assessment.components.items():
        last = name == "assembled"
        style = STRONG if last else BODY
        canvas.setStrokeColor(RULE)
        canvas.setLineWidth(FRAME)
        canvas.line(x, y, RIGHT, y)
        if part := part_of(name):
            canvas.setFillColor(explain.BOX_COLOURS[(part - 1) % len(explain.BOX_COLOURS)])
            canvas.rect(x, y - 12, 7, 7, stroke=0, fill=1)
        value = age_in_short(age) if months else f"{age:.1f} years"
        exact = f"{age:.1f}" if months else ""
        start = RIGHT - _width(exact, SMALL)
        _text(canvas, start, y - 2.5, [Line(exact, FINE)])
        start = RIGHT - 34 * months - _width(value, style)
        _text(canvas, start, y - 2.5, [Line(value, style)])
        (label,) = _wrap(name, style, 60, 1)
        _text(canvas, x + 12, y - 2.5, [label])
        meant = x + 16 + _width(label.text, style)
        meaning = _wrap(meaning_of(name), FINE, start - meant - 6, 1)
        _text(canvas, meant, y - 2.5, [] if last else meaning)
        y -= 16.5
    return y


def _warnings(canvas: Canvas, y: float, warnings: Sequence[str], room: float) -> float:
    """As many of the warnings as there is room for, and how many more there are."""
    width = RIGHT - LEFT
    if not warnings:
        return y
    title = [Line("Caution", STRONG)]
    bullet = "• "
    indent = _width(bullet, BODY)
    items = []
    for warning in warnings:
        first, *more = _wrap(warning, BODY, width - 20 - indent, 3) or [Line("", BODY)]
        items.append([Line(bullet + first.text, BODY), *(replace(m, indent=indent) for m in more)])
    shown = len(items)
    while True:
        lines = title + [line for item in items[:shown] for line in item]
        if left := len(items) - shown:
            lines.append(Line(f"and {left} more; the JSON holds them all.", SMALL))
        if _height(lines) + 14 + GAP <= room or shown == 0:
            return _notice(canvas, y, width, lines, CAUTIOUS) - GAP
        shown -= 1


def _footer(canvas: Canvas, assessment: Assessment) -> float:
    """Purpose and weights at the page's foot; returns where it begins."""
    y = BOTTOM + BODY.leading + 7
    _rule(canvas, y)
    _text(canvas, LEFT, y - 5, [Line(PURPOSE, STRONG)])
    model = f"{assessment.model.id}, revision {assessment.model.revision[:12]}"
    (line,) = _wrap(model, SMALL, RIGHT - LEFT - _width(PURPOSE, STRONG) - 2 * GAP, 1)
    _text(canvas, RIGHT - _width(line.text, SMALL), y - 6.5, [line])
    return y + GAP


def _figures(assessment: Assessment, radiograph: Radiograph) -> list[Figure]:
    """The radiograph with its boxes, if it has any, and with its heat map, if there is one."""
    hand = assessment.task == "hand"
    picture = explain.display_image(radiograph.pixels, PICTURE_SIDE)
    if max(picture.size) < PICTURE_SIDE:  # so that names and lines are sharp on small images too
        factor = PICTURE_SIDE / max(picture.size)
        size = [max(1, round(side * factor)) for side in picture.size]
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    if assessment.boxes:
        figures = [
            Figure(
                "Where the network looked",
                explain.draw_boxes(picture, assessment, (radiograph.width, radiograph.height)),
                "Chosen by the network itself, best first, each with the age that it alone "
                "suggests.",
            )
        ]
    else:
        figures = [Figure("Projection" if radiograph.format == "CT" else "Image", picture)]
    if assessment.heat_map is not None:
        what = "whole-hand component (X)" if hand else "network's last convolutional block"
        figures.append(
            Figure(
                "What raised the age",
                explain.overlay_heat_map(picture, assessment.heat_map, HEAT_MAP_OPACITY),
                f"Grad-CAM of the {what}, brighter where the image raised the age more.",
            )
        )
    return figures


def _draw_figures(canvas: Canvas, figures: Sequence[Figure], top: float, bottom: float) -> None:
    """Side by side or one below the other, whichever shows them larger."""
    count = len(figures)
    width, height = RIGHT - LEFT, top - bottom
    text = HEADING.leading + 2 * SMALL.leading + 7  # title above, two lines of note below
    beside = ((width - GAP * (count - 1)) / count, height - text)
    below = (width, (height - GAP * (count - 1)) / count - text)
    wide, high = max(beside, below, key=lambda place: min(map(_scale, figures, [place] * count)))
    stacked = (wide, high) == below
    x, y = LEFT, top
    for figure in figures:
        y = _text(canvas, x, y, _wrap(figure.title, HEADING, wide, 1)) - 2
        scale = _scale(figure, (wide, high))
        w, h = (side * scale for side in figure.picture.size)
        canvas.drawImage(_jpeg(figure.picture), x, y - h, w, h)
        canvas.setStrokeColor(RULE)
        canvas.setLineWidth(FRAME)
        canvas.rect(x, y - h, w, h)
        y = _text(canvas, x, y - h - 3, _wrap(figure.note, SMALL, wide, 2))
        x, y = (LEFT, y - GAP) if stacked else (x + wide + GAP, top)


def _scale(figure: Figure, place: tuple[float, float]) -> float:
    """Points to a pixel, so that the picture just fits."""
    return min(room / side for room, side in zip(place, figure.picture.size, strict=True))


def _jpeg(picture: Image.Image) -> object:
    from reportlab.lib.utils import ImageReader

    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=88, subsampling=0)
    return ImageReader(buffer)


def _notice(
    canvas: Canvas, y: float, width: float, lines: Sequence[Line], colours: tuple[str, str]
) -> float:
    """Lines on a coloured ground with a bar at the left; returns where it ends."""
    ground, bar = colours
    height = _height(lines) + 14
    canvas.setFillColor(ground)
    canvas.rect(LEFT, y - height, width, height, stroke=0, fill=1)
    canvas.setFillColor(bar)
    canvas.rect(LEFT, y - height, 3, height, stroke=0, fill=1)
    _text(canvas, LEFT + 11, y - 6, lines)
    return y - height


def _rule(canvas: Canvas, y: float) -> float:
    canvas.setStrokeColor(RULE)
    canvas.setLineWidth(0.8)
    canvas.line(LEFT, y, RIGHT, y)
    return y


def _height(lines: Sequence[Line]) -> float:
    return sum(line.style.leading for line in lines)


def _text(canvas: Canvas, x: float, top: float, lines: Sequence[Line]) -> float:
    """Set lines below ``top``; returns where they end."""
    for line in lines:
        style = line.style
        canvas.setFillColor(style.colour)
        at, baseline = x + line.indent, top - 0.5 * (style.leading + 0.72 * style.size)
        for font, run in _runs(line.text, style.font):
            canvas.setFont(font, style.size)
            canvas.drawString(at, baseline, run)
            at += canvas.stringWidth(run, font, style.size)
        top -= style.leading
    return top


def _wrap(text: str, style: Style, width: float, most: int) -> list[Line]:
    """Break a text into lines no wider than ``width``, at most ``most``, the last one shortened.

    It breaks at spaces, and anywhere in a word that is wider than a line.
    """
    text = _plain(text)
    lines = []
    while text:
        end = _fitting(text, style, width)
        if end < len(text):
            if len(lines) == most - 1:
                end = _fitting(text, style, width - _width("…", style))
                lines.append(text[:end].rstrip() + "…")
                break
            space = text.rfind(" ", 0, end + 1)
            end = space if space > 0 else end
        lines.append(text[:end])
        text = text[end:].lstrip(" ")
    return [Line(line, style) for line in lines]


def _fitting(text: str, style: Style, width: float) -> int:
    """How many of the first characters are together no wider than ``width``; at least one."""
    used = 0.0
    for i, character in enumerate(text):
        used += _width(character, style)
        if used > width:
            return max(i, 1)
    return len(text)


def _width(text: str, style: Style) -> float:
    from reportlab.pdfbase.pdfmetrics import stringWidth

    return sum(stringWidth(run, font, style.size) for font, run in _runs(text, style.font))


def _one_line(text: str) -> str:
    """The text composed, with blanks for its line breaks and no other signs of control."""
    text = unicodedata.normalize("NFC", re.sub("[\\t\\n\\r]+", " ", text))
    return "".join(REPLACEMENT if unicodedata.category(c)[0] == "C" else c for c in text)


def _plain(text: str) -> str:
    """The text in one line, with a replacement sign for what cannot be set."""
    return "".join(c if _can_be_set(c) else REPLACEMENT for c in _one_line(text))


def _can_be_set(character: str) -> bool:
    if unicodedata.bidirectional(character) in RIGHT_TO_LEFT:
        return False
    return ord(character) in _fonts() or any(_has(codec, character) for _, codec in EAST_ASIAN)


def _has(codec: str, character: str) -> bool:
    try:
        character.encode(codec)
    except UnicodeEncodeError:
        return False
    return True


def _runs(text: str, font: str) -> Iterator[tuple[str, str]]:
    """The text, all of which can be set, in pieces of one font each."""
    missing = [character for character in text if ord(character) not in _fonts()]
    # First the font that has most of them, so that a name is set in as few as possible.
    fonts = sorted(EAST_ASIAN, key=lambda font: -sum(_has(font[1], c) for c in missing))

    def font_of(character: str) -> str:
        if ord(character) in _fonts():
            return font
        return next(name for name, codec in fonts if _has(codec, character))

    for name, run in groupby(text, font_of):
        yield name, "".join(run)


@cache
def _fonts() -> frozenset[int]:
    """Register the fonts; returns the characters that DejaVu Sans has, regular and bold."""
    from reportlab import rl_config
    from reportlab.pdfbase.cidfonts import UnicodeCIDFont
    from reportlab.pdfbase.pdfmetrics import registerFont
    from reportlab.pdfbase.ttfonts import TTFont

    # Pictures as text would take half of the time and a quarter more of the file.
    rl_config.useA85 = 0
    # matplotlib brings the font; to import it for its folder would take longer than the page.
    spec = find_spec("matplotlib")
    assert spec is not None
    assert spec.origin is not None
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    known = []
    for name in (REGULAR, BOLD):
        font = TTFont(name, str(folder / f"{name}.ttf"))
        registerFont(font)
        known.append(font.face.charToGlyph)
    for name, _ in EAST_ASIAN:
        registerFont(UnicodeCIDFont(name))
    # Beyond U+FFFF reportlab writes codes from which no reader gets the text back.
    return frozenset(code for code in known[0] if code in known[1] and code <= 0xFFFF)
