"""The crops of an image's faces as one picture: how they travel from a detect stage to an embed stage.

Cells are in rows, as many as columns or one less. A cell's side is a multiple of 16, so that no block of the JPEG holds
pixels of two faces.
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


def encoded_sheet(crops: Sequence[Pixels]) -> bytes:
    """crops: (240, 240, 3) each, at least one. Returns a JPEG (4:4:4)."""
    columns = _columns(len(crops))
    rows = math.ceil(len(crops) / columns)
    sheet = np.zeros((rows * CROP, columns * CROP, 3), np.uint8)
    for cell, crop in enumerate(crops):
        y, x = divmod(cell, columns)
        sheet[y * CROP : (y + 1) * CROP, x * CROP : (x + 1) * CROP] = crop
    file = io.BytesIO()
    Image.fromarray(sheet).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


def decoded_sheet(data: bytes, cells: int) -> list[Pixels]:
    """The crops of a sheet that has so many, views on one array, (240, 240, 3) each."""
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as picture:
        sheet = np.asarray(picture.convert("RGB"))
    columns = _columns(cells)
    places = [divmod(cell, columns) for cell in range(cells)]
    return [sheet[y * CROP : (y + 1) * CROP, x * CROP : (x + 1) * CROP] for y, x in places]


def _columns(cells: int) -> int:
    return math.ceil(math.sqrt(cells))
