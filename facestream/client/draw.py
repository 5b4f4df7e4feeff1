"""Draws boxes and names on a photo: `facestream recognize --draw`.

The pixels come from the service's own decoder, so that they have the same orientation and the boxes fit.
"""

import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from facestream.client.http import read_photo
from processors.decoding.encoded_image import EncodedImage, ImageRefused, set_up_pillow
from schemas.answers import RecognizedPerson
from schemas.errors import ConfigurationError, FacestreamError
from schemas.media import SUFFIXES

QUALITY = 92
NAMED, UNKNOWN, INK = (
    (0, 114, 62),
    (176, 72, 0),
    (255, 255, 255),
)  # white text on either can be read by colour-blind people
LONGEST_LABEL = 40  # characters
SMALLEST_FONT = 10.0  # pixels, below which the built-in font cannot be read


Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
# The built-in font has few characters beyond ASCII. For other names, system fonts are tried, those with many characters
# first.
FONTS = (
    "NotoSansCJK-Regular.ttc",
    "NotoSans-Regular.ttf",
    "DejaVuSans.ttf",
    "Arial Unicode.ttf",
    "LiberationSans-Regular.ttf",
)


class NotDrawn(FacestreamError):
    code = "not_drawn"


def drawing_paths(out: str, photos: Sequence[str]) -> list[Path]:
    """The path of each photo's drawing: `out` itself for one photo, for several a file with the photo's name in the
    folder `out`.

    Raises ConfigurationError when the format of `out` cannot be written, or a drawing would replace a photo.
    """
    folder = len(photos) > 1 or out.endswith("/") or os.path.isdir(out)
    paths = _paths_in_folder(Path(out), photos) if folder else [Path(out)]
    if folder and os.path.exists(out) and not os.path.isdir(out):
        raise ConfigurationError(f"--draw {out}: the drawings of several photos need a folder, this is a file")
    if paths[0].suffix.lower() not in SUFFIXES:
        raise ConfigurationError(f"--draw {out}: its suffix says the format, one of {' '.join(SUFFIXES)}")
    originals = {Path(photo).resolve() for photo in photos}
    for path in paths:
        if path.resolve() in originals:
            raise ConfigurationError(f"--draw {out}: the drawing would replace the photo {path}: choose another place")
    return paths


def _paths_in_folder(folder: Path, photos: Sequence[str]) -> list[Path]:
    """The paths of drawings in a folder. Photos with the same name in different folders get different drawings."""
    paths: list[Path] = []
    taken: set[Path] = set()
    for photo in photos:
        name = Path(photo)
        suffix = name.suffix if name.suffix.lower() in SUFFIXES else f"{name.suffix}.png"
        path, number = folder / f"{name.stem}{suffix}", 1
        while path in taken:
            number += 1
            path = folder / f"{name.stem}-{number}{suffix}"
        taken.add(path)
        paths.append(path)
    return paths


def draw(photo: str, persons: Sequence[RecognizedPerson], path: Path) -> None:
    """Writes the photo with the `persons` of its answer. Raises UnreadablePhoto, NotDrawn."""
    try:
        image = decode_upright(read_photo(photo))
        drawing = ImageDraw.Draw(image)
        for person in sorted(persons, key=lambda it: it.id is not None):  # names are drawn last, on top
            _draw_person(drawing, image.size, person)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=QUALITY)
    except ImageRefused as refused:
        raise NotDrawn(f"{path} was not drawn: {refused}") from None
    except (OSError, ValueError, MemoryError) as error:
        raise NotDrawn(f"{path} was not drawn: {getattr(error, 'strerror', None) or error}") from None


def decode_upright(data: bytes) -> Image.Image:
    """The upright RGB picture, as the service decodes it. Raises ImageRefused."""
    set_up_pillow()
    with tempfile.TemporaryFile(buffering=0) as file:
        EncodedImage(data, full=True, detail="normal", max_pixels=1 << 40).decode(file)
        file.seek(0)
        with Image.open(file, formats=("PPM",)) as image:
            image.load()
            return image.copy()


def label_of(person: RecognizedPerson) -> str:
    """The name with its probability, or '?' with the similarity if that was too low."""
    if person.id is None:
        return "?" if person.similarity is None else f"? {person.similarity:.2f}"
    name = person.id if len(person.id) <= LONGEST_LABEL else f"{person.id[: LONGEST_LABEL - 1]}…"
    return name if person.probability is None else f"{name} {person.probability:.0%}"


def _draw_person(drawing: ImageDraw.ImageDraw, size: tuple[int, int], person: RecognizedPerson) -> None:
    width, height = size
    x1, y1, x2, y2 = person.box
    colour = UNKNOWN if person.id is None else NAMED
    line = max(1, round(min(max(size) / 300, (x2 - x1) / 12)))
    drawing.rectangle((x1, y1, max(x1, x2 - 1), max(y1, y2 - 1)), outline=colour, width=line)

    # As large as the face allows, but large enough to read and not so large that it covers the picture.
    height_of_font = max(SMALLEST_FONT, min((x2 - x1) / 5, max(size) / 35))
    text, margin = label_of(person), round(height_of_font / 4)
    font = font_for(text, height_of_font)
    left, top, right, bottom = drawing.textbbox((0, 0), text, font=font)
    wide, high = right - left + 2 * margin, bottom - top + 2 * margin
    x = max(0, min(x1, width - wide))
    y = y1 - high if y1 >= high else min(y2, height - high)
    drawing.rectangle((x, y, x + wide, y + high), fill=colour)
    drawing.text((x + margin - left, y + margin - top), text, fill=INK, font=font)


def font_for(text: str, size: float) -> Font:
    """The font that has the most characters of the text. Missing ones are drawn as empty boxes."""
    built_in = ImageFont.load_default(size)
    if text.isascii():
        return built_in
    fonts = [built_in, *(font.font_variant(size=size) for name in FONTS if (font := _system_font(name)) is not None)]
    return min(fonts, key=lambda font: _count_missing(font, text))  # the first of the best


@cache
def _system_font(name: str) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(name)
    except OSError:
        return None


def _count_missing(font: Font, text: str) -> int:
    """The number of characters that the font lacks: it draws them like a character that no font has."""
    nothing = bytes(font.getmask("\U0010ffff"))
    return sum(bytes(font.getmask(it)) == nothing for it in text if not it.isspace())
