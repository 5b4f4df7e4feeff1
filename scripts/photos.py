"""Gets a few photos of two people for a first try, into ./photos: `make photos`.

They are the test images of the package face_recognition 1.3.0 (MIT, 3 MB). pip downloads the package; it is not
installed.
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

PACKAGE = "face_recognition==1.3.0"
MEMBERS = "face_recognition-1.3.0/tests/test_images/"
PHOTOS = (
    "obama.jpg",
    "obama2.jpg",
    "obama3.jpg",
    "biden.jpg",
    "32bit.png",
    "obama_partial_face.jpg",
    "obama_partial_face2.jpg",
)
FOLDER = Path(__file__).resolve().parent.parent / "photos"


def get(folder: Path = FOLDER) -> Path:
    """Returns the folder, with PHOTOS in it."""
    if not all((folder / name).is_file() for name in PHOTOS):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as download:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            subprocess.run([*pip, "--no-binary", ":all:", "--dest", download, PACKAGE], check=True)
            with tarfile.open(next(Path(download).glob("*.tar.gz"))) as sdist:
                for name in PHOTOS:
                    file = sdist.extractfile(MEMBERS + name)
                    assert file is not None
                    (folder / name).write_bytes(file.read())
    return folder


if __name__ == "__main__":
    print(f"photos to try with: {get()}")
