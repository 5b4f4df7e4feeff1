"""Draws a sheet of the faces on which two generations differ: each face next to the two predicted people."""

import asyncio
import io
import os
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from backends.objects import ObjectReader
from facestream.admin.comparison import select_differences
from facestream.admin.comparison_report import predicted_person
from facestream.client.draw import INK, NAMED, QUALITY, UNKNOWN, NotDrawn, font_for
from facestream.progress import progress_bar
from schemas.errors import ConfigurationError, ObjectMissing
from schemas.ids import crop_key
from sink.evaluate.comparing import BestMatch, Difference

FORMATS = (".jpg", ".jpeg", ".png", ".webp")
MOST_DRAWN = 100  # differences: nobody looks at more than this one by one
COLUMNS = 2  # differences in a row
CELL, LINE, GAP = 180, 20, 12  # pixels: side of a picture, height of a line of text, space around three pictures
FONT = 14.0
PAPER, TEXT, GONE = (255, 255, 255), (30, 30, 30), (200, 200, 200)
BORDER = 4


def check_target(path: Path) -> None:
    """Checks the path of the sheet. Raises ConfigurationError. Call it before the comparison is made."""
    if path.suffix.lower() not in FORMATS:
        raise ConfigurationError(f"--sheet {path}: its suffix says the format, one of {' '.join(FORMATS)}")
    if os.path.isdir(path):
        raise ConfigurationError(f"--sheet {path}: this is a folder, name a file")


async def draw_sheet(objects: ObjectReader, found: Sequence[Difference], names: tuple[str, str], path: Path) -> None:
    """Writes the sheet, with at most MOST_DRAWN differences. names: of the generations. Raises NotDrawn,
    Unavailable.
    """
    if not found:
        print(f"{path} was not drawn: the two do not differ")
        return
    drawn = select_differences(found, MOST_DRAWN)
    rows = -(-len(drawn) // COLUMNS)
    wide, high = 3 * CELL + 2 * GAP, CELL + 2 * LINE + GAP
    sheet = Image.new("RGB", (COLUMNS * wide + GAP, rows * high + LINE + GAP), PAPER)
    drawing = ImageDraw.Draw(sheet)
    left = f" ({len(found) - len(drawn):,} more)" if len(drawn) < len(found) else ""
    title = f"{len(drawn):,} faces{left}: the face, {names[0]}'s person, {names[1]}'s person; (below the threshold)"
    _write(drawing, (GAP, GAP // 2), title, sheet.width - 2 * GAP)
    with progress_bar("drawing", len(drawn), always=False) as advance:
        for i, it in enumerate(drawn):
            corner = (GAP + i % COLUMNS * wide, GAP + LINE + i // COLUMNS * high)
            pictures = [await _read_crop(objects, face_id) for face_id in (it.face_id, it.old.face_id, it.new.face_id)]
            _draw_picture(sheet, corner, pictures[0], (it.person, it.directory), None)
            for column, (first, name, side) in enumerate(((it.old, names[0], "old"), (it.new, names[1], "new")), 1):
                _draw_picture(
                    sheet,
                    (corner[0] + column * CELL, corner[1]),
                    pictures[column],
                    _caption(first, name),
                    it.right == side,
                )
            advance(1)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(sheet.save, path, quality=QUALITY)
    except OSError as error:
        raise NotDrawn(f"{path} was not drawn: {error.strerror or error}") from None


def _caption(first: BestMatch, name: str) -> tuple[str, str]:
    return predicted_person(first), f"{first.similarity:.3f} {name}"


async def _read_crop(objects: ObjectReader, face_id: str) -> Image.Image | None:
    """The crop of a face; None if it no longer exists or cannot be read."""
    try:
        data = (await objects.get(crop_key(face_id))).data
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
            return picture.convert("RGB").resize((CELL - 2 * BORDER, CELL - 2 * BORDER))
    except (ObjectMissing, OSError):
        return None


def _draw_picture(
    sheet: Image.Image, corner: tuple[int, int], picture: Image.Image | None, lines: tuple[str, str], right: bool | None
) -> None:
    """Draws one picture with its text. right: whether this is the right person; None for the face itself."""
    x, y = corner
    drawing = ImageDraw.Draw(sheet)
    colour = GONE if right is None else NAMED if right else UNKNOWN
    drawing.rectangle((x, y, x + CELL - 3, y + CELL - 1), fill=colour)
    if picture is not None:
        sheet.paste(picture, (x + BORDER, y + BORDER))
    else:
        _write(
            drawing,
            (x + 2 * BORDER, y + CELL // 2),
            "no picture",
            CELL - 4 * BORDER,
            INK if right is not None else TEXT,
        )
    for number, line in enumerate(lines):
        _write(drawing, (x, y + CELL + number * (LINE - 2)), line, CELL - 6)


def _write(
    drawing: ImageDraw.ImageDraw, position: tuple[int, int], text: str, width: int, colour: tuple[int, int, int] = TEXT
) -> None:
    """Writes the text, shortened to that width."""
    font = font_for(text, FONT)
    whole = text
    while text and drawing.textlength(text if text == whole else f"{text}…", font=font) > width:
        text = text[:-1]
    drawing.text(position, text if text == whole else f"{text}…", fill=colour, font=font)
