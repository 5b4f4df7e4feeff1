"""The photos that `python -m bench.speed` measures with: a fixed selection, so that two runs can be compared."""

import hashlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from schemas.errors import ConfigurationError

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
MOST_PHOTOS = 23  # besides the enlarged one
LEARNED = 5
PHONE_PIXELS = 12_000_000


@dataclass(frozen=True)
class Photos:
    """`listed` are the names and bytes to measure with; `phone` is the name of the photo of 12 MP among them.

    learned: a picture for each person, to be learned before. Some of them may show no face.
    """

    listed: list[tuple[str, bytes]]
    phone: str
    learned: dict[str, bytes]

    def repeated(self, count: int) -> list[tuple[str, bytes]]:
        """The list, repeated up to `count` photos."""
        return [self.listed[i % len(self.listed)] for i in range(count)]


def select_photos(folder: Path) -> Photos:
    """The readable photos below `folder` whose paths have the smallest hashes, and the first of them enlarged to 12 MP.

    The hash mixes large and small photos, and the same folder always gives the same list. Raises ConfigurationError
    when there is no photo.
    """
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES}
    listed: list[tuple[str, bytes]] = []
    for name in sorted(files, key=lambda name: hashlib.sha256(name.encode()).digest()):
        if len(listed) == MOST_PHOTOS:
            break
        if _readable(files[name]):
            listed.append((name, files[name].read_bytes()))
        else:
            print(f"{files[name]} cannot be read as an image and is left out", file=sys.stderr)
    if not listed:
        raise ConfigurationError(f"no photos in {folder}: name a folder with photos, or get some with `make photos`")
    name, first = listed[0]
    phone = f"{Path(name).stem}-12mp.jpg"
    learned = {f"person {i}": data for i, (_, data) in enumerate(listed[:LEARNED])}
    return Photos([*listed, (phone, enlarged(first))], phone, learned)


def enlarged(data: bytes) -> bytes:
    """The photo as a JPEG of 12 MP."""
    with Image.open(io.BytesIO(data)) as file:
        image = file.convert("RGB")
    scale = (PHONE_PIXELS / (image.width * image.height)) ** 0.5
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()


def _readable(path: Path) -> bool:
    try:
        with Image.open(path) as file:
            file.load()
    except Exception:  # whatever a decoder raises
        return False
    return True
