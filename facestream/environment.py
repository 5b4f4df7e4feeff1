"""Settings of the libraries beneath torch and numpy that count only before these are imported; whoever has set them
otherwise keeps theirs.
"""

import os

SETTINGS = {
    # Threads of OpenMP that spin for milliseconds while they wait take the cores from the decoders and the event loop:
    # beside one busy process a forward of 21 ms took over a second. A few microseconds of spinning are enough.
    "GOMP_SPINCOUNT": "1000",
    # Those of OpenBLAS spin for a tenth of a second after each product, over a whole core for a few requests a second:
    # 2 to the power of this many cycles, of which 4 is the least. A gallery of 65,536 is matched as fast.
    "OPENBLAS_THREAD_TIMEOUT": "4",
    # Large activations come fresh from the kernel each time, page by page: with huge pages a picture of 2,048 × 1,536
    # takes 300 ms and not 570.
    "THP_MEM_ALLOC_ENABLE": "1",
}


def prepare() -> None:
    """Call before anything imports torch or numpy."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
