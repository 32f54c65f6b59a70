"""The formats: how their files are called, and which packages they need."""

from pathlib import Path
from typing import Literal, get_args

from transnext import extras

Format = Literal["torch", "onnx", "openvino", "hf"]
FORMATS: tuple[str, ...] = get_args(Format)

SUFFIXES = {"torch": ".pt2", "onnx": ".onnx", "openvino": ".xml", "hf": ""}
"""Suffixes of outputs; a hub folder is a folder, and has no suffix of these."""

_PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "onnx", "onnxscript"),
    "int8 for openvino": ("nncf",),
}
_EXTRAS = {"onnx": "onnx", "openvino": "openvino", "int8 for openvino": "quantize"}


def format_of(output: Path, asked: str | None) -> Format:
    """The format of an output, by its suffix.

    Args:
        output: The file, or the folder.
        asked: The format that was asked for, with which the suffix must agree; None for that of the suffix.

    Raises:
        ValueError: They do not agree, or there is no such format.
    """
    if asked is not None and asked not in FORMATS:
        raise ValueError(f"format is {asked!r}: expected one of {', '.join(FORMATS)}")
    by_suffix: dict[str, Format] = {".pt2": "torch", ".onnx": "onnx", ".xml": "openvino", "": "hf"}
    found = by_suffix.get(output.suffix.lower())
    if asked is None:
        if found is None or found == "hf":
            raise ValueError(
                f"{output} does not say the format: end it in .pt2, .onnx or .xml, or give --format {'|'.join(FORMATS)}"
            )
        return found
    if asked != found and (asked != "hf" or found is not None):
        wanted = "is a folder, and has no such suffix" if asked == "hf" else f"ends in {SUFFIXES[asked]}"
        raise ValueError(f"{output}: an output of format {asked} {wanted}")
    return asked  # type: ignore[return-value]


def require(what: str) -> None:
    """Refuses what needs a package that is missing.

    Args:
        what: A format, or "int8 for openvino".

    Raises:
        ValueError: One is missing.
    """
    extras.require(what, *_PACKAGES.get(what, ()), extra=_EXTRAS.get(what, ""))


def require_runtime(path: Path) -> None:
    """Refuses to open a file whose runtime is missing.

    Raises:
        ValueError: It is.
    """
    package, extra = {".onnx": ("onnxruntime", "onnx"), ".xml": ("openvino", "openvino")}.get(
        path.suffix, ("torch", "")
    )
    extras.require(str(path), package, extra=extra)
