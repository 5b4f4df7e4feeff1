"""Sets environment variables of the libraries that numpy and torch use. They have an effect only before numpy and torch
are imported. Variables that are already set are kept.
"""

import os

SETTINGS = {
    # Waiting OpenMP threads spin for milliseconds and take the cores from the decoders and the event loop: next to a
    # busy process, a forward of 21 ms took over a second. A few microseconds of spinning are enough.
    "GOMP_SPINCOUNT": "1000",
    # OpenBLAS threads spin for a tenth of a second after each product, so that a few requests per second use a whole
    # core. The value is the logarithm to base 2 of the cycles; 4 is the minimum. A gallery of 65,536 is matched as
    # fast.
    "OPENBLAS_THREAD_TIMEOUT": "4",
    # Each time, the kernel provides the memory of large activations page by page. With huge pages, a picture of 2,048 ×
    # 1,536 takes 300 ms instead of 570.
    "THP_MEM_ALLOC_ENABLE": "1",
}


def prepare() -> None:
    """Sets the variables. Call it before anything imports torch or numpy."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
