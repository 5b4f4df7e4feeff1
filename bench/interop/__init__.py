"""Official libraries of other systems write what facestream reads: `make interop`."""
