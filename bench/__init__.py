"""Measurements of accuracy and speed, and soak runs. Each is a separate command, and none is part of the product."""

import facestream  # noqa: F401 - prepares the environment before anything imports numpy or torch
