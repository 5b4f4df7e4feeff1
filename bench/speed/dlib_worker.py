"""Finds and encodes faces with face_recognition, in its own environment, for bench/speed/against_dlib.py.

python dlib_worker.py PROCESSES ROUNDS PHOTO...        prints {"images": n, "faces": n, "seconds": s} as JSON
"""

import json
import multiprocessing
import sys
import time

import face_recognition  # type: ignore[import-not-found]  # it is installed in an environment of its own only


def faces(path: str) -> int:
    image = face_recognition.load_image_file(path)
    boxes = face_recognition.face_locations(image)
    return len(face_recognition.face_encodings(image, boxes))


def main() -> None:
    processes, rounds, paths = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    with multiprocessing.Pool(processes) as pool:
        pool.map(faces, paths[:1] * processes, 1)  # loads the models before the time is measured
        begin = time.perf_counter()
        found = pool.map(faces, paths * rounds, 1)
        seconds = time.perf_counter() - begin
    print(json.dumps({"images": len(found), "faces": sum(found), "seconds": seconds}))


if __name__ == "__main__":
    main()
