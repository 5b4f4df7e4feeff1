"""Environment variables of the libraries under numpy and torch, which have an effect only before those are imported.
Variables that are set already stay.
"""

import os

SETTINGS = {
    # Waiting threads of OpenMP spin for milliseconds and take the cores from the decoders and the event loop: beside a
    # busy process a forward of 21 ms took over a second. A few microseconds of spinning are enough.
    "GOMP_SPINCOUNT": "1000",
    # Threads of OpenBLAS spin for a tenth of a second after each product: a few requests a second take a whole core.
    # The value is a power of 2 of cycles, 4 is the least. A gallery of 65,536 is matched as fast.
    "OPENBLAS_THREAD_TIMEOUT": "4",
    # The kernel hands out the memory of large activations page by page each time: with huge pages a picture of
    # 2,048 × 1,536 takes 300 ms instead of 570.
    "THP_MEM_ALLOC_ENABLE": "1",
}


def prepare() -> None:
    """Call before anything imports torch or numpy."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
