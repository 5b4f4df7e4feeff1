"""What the tests need from outside: the real weights, and photos of real people that come in a package.

The models run in one process beside others on few cores: OpenMP's threads must sleep while they wait, or a forward takes seconds.
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # read when torch is imported

ROOT = Path(__file__).parent.parent
PHOTOS = ("obama.jpg", "obama2.jpg", "obama3.jpg", "biden.jpg", "32bit.png", "obama_partial_face.jpg", "obama_partial_face2.jpg")


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    """A folder with the converted weights: $FACESTREAM_WEIGHTS, else data/weights, filled when it is not yet."""
    from weights.get import get

    folder = Path(os.environ.get("FACESTREAM_WEIGHTS", ROOT / "data" / "weights"))
    get(folder)
    return folder


@pytest.fixture(scope="session")
def photos() -> Path:
    """A folder with PHOTOS, of two people, out of the sdist of face_recognition 1.3.0 (MIT)."""
    folder = ROOT / ".cache" / "photos"
    if not all((folder / name).is_file() for name in PHOTOS):
        folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-binary", ":all:", "-d", str(folder)]
        subprocess.run([*command, "face_recognition==1.3.0"], check=True, capture_output=True)
        with tarfile.open(folder / "face_recognition-1.3.0.tar.gz") as sdist:
            for name in PHOTOS:
                file = sdist.extractfile(f"face_recognition-1.3.0/tests/test_images/{name}")
                assert file is not None
                (folder / name).write_bytes(file.read())
    return folder
