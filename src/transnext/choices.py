"""Names and choices that the command line shows; without PyTorch, for whose import `--help` need not wait."""

from typing import Literal

DEFAULT_MODEL = "transnext_pico.emoji"
"""The classifier that comes with the package."""
MIN_OPSET = 13
"""Of ONNX, the oldest that runtimes of today are tested with."""
SET_NAMES = {"classification": ("emoji", "fashion_mnist"), "detection": ("scenes",)}
"""Sets of images that are known by name, by task; `transnext.data.NAMED_SETS` opens those of classes, and
`transnext.data.detection.NAMED_DETECTION_SETS` those of objects."""
MEMORY = "memory"
"""In place of a folder: decoded images are kept in memory."""
OPSET = 20
"""Of ONNX, the first with an operator for GELU; ONNX Runtime knows it since 1.17, OpenVINO since 2024.0."""

Backend = Literal["auto", "fused", "reference"]
CamMethod = Literal["gradcam", "gradcam++", "xgradcam", "layercam"]
Compile = Literal["none", "default", "dynamic"]
CropMode = Literal["center", "squash", "border"]
DtypeName = Literal["float32", "bfloat16", "float16"]
Mode = Literal["extrapolate", "interpolate", "linear"]
PlaceMode = Literal["fit", "squash", "shortest"]
