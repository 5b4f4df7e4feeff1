"""The photos that `facestream bench` measures with: a fixed list, so that two runs can be compared."""

import io
import sys
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from schemas.errors import ConfigurationError

FOLDERS = (Path("../shared/photos"), Path("photos"))

# Portraits, photos of one face and its neighbours, groups and crowds, in the sizes that people send; large and small
# mixed.
PHOTOS = (
    "people/obama.jpg",
    "lfw/Abdullah_Gul/Abdullah_Gul_0002.jpg",
    "street/maksssksksss1.jpg",
    "people/two_people.jpg",
    "groups/2007_007763.jpg",
    "people/biden.jpg",
    "lfw/Andre_Agassi/Andre_Agassi_0003.jpg",
    "people/lin-manuel-miranda.png",
    "street/maksssksksss229.jpg",
    "people/obama-720p.jpg",
    "groups/2008_002470.jpg",
    "lfw/Angelina_Jolie/Angelina_Jolie_0003.jpg",
    "people/test/obama_and_biden.jpg",
    "people/obama-480p.jpg",
    "groups/2009_004587.jpg",
    "street/maksssksksss359.jpg",
    "people/obama2.jpg",
    "lfw/Andy_Roddick/Andy_Roddick_0001.jpg",
    "people/alex-lacamoire.png",
    "groups/bald_guys.jpg",
    "street/maksssksksss748.jpg",
    "people/train/obama/obama2.jpg",
    "people/obama-1080p.jpg",
)
# Where only the photos of the package face_recognition are there.
SIX = ("obama.jpg", "biden.jpg", "obama2.jpg", "obama_partial_face.jpg", "obama3.jpg", "obama_partial_face2.jpg")
ENLARGED = ("people/test/obama_and_biden.jpg", "obama3.jpg")  # the first that is there becomes the photo of a phone
PHONE_PIXELS = 12_000_000
LEARNED = {
    "obama": ("people/obama.jpg", "obama.jpg"),
    "biden": ("people/biden.jpg", "biden.jpg"),
    "miranda": ("people/lin-manuel-miranda.png",),
    "lacamoire": ("people/alex-lacamoire.png",),
    "gul": ("lfw/Abdullah_Gul/Abdullah_Gul_0002.jpg",),
}


@dataclass(frozen=True)
class Photos:
    """`listed` are what is measured with, `phone` is the one of 12 MP among them. `learned`: a picture for each person."""

    listed: list[tuple[str, bytes]]
    phone: str
    learned: dict[str, bytes]

    def repeated(self, count: int) -> list[tuple[str, bytes]]:
        """The list again and again, `count` photos in all."""
        return [self.listed[i % len(self.listed)] for i in range(count)]


def default_folder() -> Path:
    """Raises ConfigurationError when none of the usual places is there."""
    for folder in FOLDERS:
        if folder.is_dir():
            return folder
    raise ConfigurationError(f"no photos in {' or '.join(map(str, FOLDERS))}: name a folder with --photos")


def gather(folder: Path, scratch: Path) -> Photos:
    """Reads the listed photos that are in `folder`, says which are missing, and makes the photo of 12 MP in `scratch`.

    Raises ConfigurationError when none is there.
    """
    names = PHOTOS if any((folder / name).is_file() for name in PHOTOS) else SIX
    listed = [(name, (folder / name).read_bytes()) for name in names if (folder / name).is_file()]
    if not listed:
        raise ConfigurationError(
            f"none of the photos of the list is in {folder}: it has {PHOTOS[0]}, or {SIX[0]}, and others"
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        print(f"not in {folder}, left out: {', '.join(missing)}", file=sys.stderr)
    original = next((name for name in ENLARGED if (folder / name).is_file()), listed[0][0])
    phone = f"{Path(original).stem}-12mp.jpg"
    (scratch / phone).write_bytes(enlarged(folder / original))
    listed.append((phone, (scratch / phone).read_bytes()))
    learned = {
        person: (folder / name).read_bytes()
        for person, places in LEARNED.items()
        if (name := next((place for place in places if (folder / place).is_file()), None))
    }
    return Photos(listed, phone, learned)


def enlarged(path: Path) -> bytes:
    """A JPEG of 12 MP."""
    with Image.open(path) as file:
        image = file.convert("RGB")
    scale = (PHONE_PIXELS / (image.width * image.height)) ** 0.5
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=90)
    return out.getvalue()
