"""The array types that all packages share."""

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]  # vectors, landmarks, similarities
FloatArray = NDArray[np.floating]  # of any precision, for functions that accept more than float32
BoolArray = NDArray[np.bool_]
