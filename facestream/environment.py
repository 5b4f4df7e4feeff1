"""Settings of the libraries beneath torch that count only before it is imported; whoever has set them otherwise keeps theirs."""

import os

SETTINGS = {
    # Threads of OpenMP that spin for milliseconds while they wait take the cores from the decoders and the event loop: beside one
    # busy process a forward of 21 ms took over a second. A few microseconds of spinning are enough.
    "GOMP_SPINCOUNT": "1000",
    # Large activations come fresh from the kernel each time, page by page: with huge pages a picture of 2,048 × 1,536 takes
    # 300 ms and not 570.
    "THP_MEM_ALLOC_ENABLE": "1",
}


def prepare() -> None:
    """Call before anything imports torch."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
