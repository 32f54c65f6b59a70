"""Files of `torch.export` (.pt2): PyTorch alone runs them, in Python or C++."""

import io
import json
import warnings
from pathlib import Path

import torch
from torch import Tensor
from torch.export import ExportedProgram

from transnext.export.info import KEY, ExportInfo

_ENTRY = f"{KEY}.json"


def write(program: ExportedProgram, path: Path, info: ExportInfo) -> None:
    """Writes a program with what it says of itself as an extra file in the archive."""
    with warnings.catch_warnings():
        # It wonders whether weights that are views of one another lie on the CPU. They do.
        warnings.filterwarnings("ignore", message="No complete tensor found")
        # PyTorch's own writing of a file ends the process when the disk is full.
        file = io.BytesIO()
        torch.export.save(program, file, extra_files={_ENTRY: json.dumps(info.to_strings())})
        path.write_bytes(file.getbuffer())


class TorchFile:
    """A file of `torch.export`, ready to run on the CPU.

    Args:
        path: The file.

    Raises:
        ValueError: It is not such a file.
    """

    def __init__(self, path: Path) -> None:
        entries = {_ENTRY: ""}
        try:
            self._run = torch.export.load(path, extra_files=entries).module()
        except Exception as error:  # damaged archives fail in many ways
            raise ValueError(f"{path} cannot be read as a program of torch.export: {_first_line(error)}") from None
        self.strings: dict[str, str] = json.loads(entries[_ENTRY] or "{}")

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        """Images `[B, C, H, W]`, float32 on the CPU, to the outputs."""
        with torch.no_grad():
            out = self._run(*inputs)
        return [out] if isinstance(out, Tensor) else list(out)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
