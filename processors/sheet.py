"""Sheets: the crops of all faces of an image as one JPEG, which the detect stage stores for the embed stage.

There are as many rows of cells as columns, or one row less. The side of a cell is a multiple of 16, so that no block of
the JPEG holds pixels of two faces.
"""

import io
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from processors.align import CROP

Pixels = NDArray[np.uint8]
QUALITY = 95


def encode_sheet(crops: Sequence[Pixels]) -> bytes:
    """The sheet of these crops as a JPEG (4:4:4). crops: (240, 240, 3) each, at least one."""
    columns = _columns(len(crops))
    rows = math.ceil(len(crops) / columns)
    sheet = np.zeros((rows * CROP, columns * CROP, 3), np.uint8)
    for cell, crop in enumerate(crops):
        y, x = divmod(cell, columns)
        sheet[y * CROP : (y + 1) * CROP, x * CROP : (x + 1) * CROP] = crop
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


def decode_sheet(data: bytes, cells: int) -> list[Pixels]:
    """The crops of a sheet with that many cells, (240, 240, 3) each, views on one array."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
        sheet = np.asarray(picture.convert("RGB"))
    columns = _columns(cells)
    corners = [divmod(cell, columns) for cell in range(cells)]
    return [sheet[y * CROP : (y + 1) * CROP, x * CROP : (x + 1) * CROP] for y, x in corners]


def _columns(cells: int) -> int:
    return math.ceil(math.sqrt(cells))
