"""Models in files of other runtimes, which need none of this package: torch.export, ONNX, OpenVINO, and hub folders."""

from transnext.export.checking import SizeCheck
from transnext.export.exporting import ExportResult, export_model
from transnext.export.info import ExportInfo
from transnext.export.running import ExportedModel, is_exported, open_exported

__all__ = [
    "ExportInfo",
    "ExportResult",
    "ExportedModel",
    "SizeCheck",
    "export_model",
    "is_exported",
    "open_exported",
]
