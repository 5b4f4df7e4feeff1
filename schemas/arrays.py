"""The array type that vectors, landmarks and similarities have in every package."""

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]
