#!/usr/bin/env bash
# pillow-heif 1.8.1 with Pillow 13.0.0: an EXIF orientation that is saved with a HEIF file is not there when it is read.
#
# One would guess: a picture that is saved with the EXIF orientation 6 ("turn by 90 degrees") is upright again after
# ImageOps.exif_transpose, as it is with JPEG, PNG, WebP and AVIF.
#
# Seen: the EXIF of the opened file says 1, so the picture stays as it lies. The value is in info["original_orientation"].
#
#   JPEG: orientation 6, upright (40, 60)
#   HEIF: orientation 1, upright (60, 40)
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check pillow==13.0.0 pillow-heif==1.8.1
"$folder/venv/bin/python" - <<'PYTHON'
import io

import pillow_heif
from PIL import Image, ImageOps

pillow_heif.register_heif_opener()
ORIENTATION, TURN_BY_90 = 0x0112, 6


def saved_and_opened(format):
    exif = Image.Exif()
    exif[ORIENTATION] = TURN_BY_90
    file = io.BytesIO()
    Image.new("RGB", (60, 40)).save(file, format, exif=exif)
    opened = Image.open(io.BytesIO(file.getvalue()))
    orientation = opened.getexif().get(ORIENTATION)
    size = ImageOps.exif_transpose(opened).size
    print(f"{format}: orientation {orientation}, upright {size}")
    return orientation, size, opened.info.get("original_orientation")


assert saved_and_opened("JPEG") == (6, (40, 60), None)
assert saved_and_opened("HEIF") == (1, (60, 40), 6)
PYTHON
