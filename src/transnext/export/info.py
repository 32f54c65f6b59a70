"""Description of a model inside an exported file."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from transnext.data.joint import MULTIPLE
from transnext.data.preprocessing import Preprocessing

KEY = "transnext"
"""Under which the formats that have a place of one name keep it; the others keep an entry for each field."""


@dataclass(frozen=True, kw_only=True)
class ExportInfo:
    """All that a user of the file has to know.

    Attributes:
        architecture: Name of the model.
        task: "classification", "detection", "segmentation", or "features" for the maps of the stages.
        outputs: Names of the outputs, in order.
        class_names: What the classes are called; empty for features.
        preprocessing: What images must look like.
        size_multiple: What the sides of images must be multiples of; None if they are always those of `preprocessing`.
        precision: "fp32" or "int8".
        license: Licence of the weights, as an SPDX name; None if it was not said.
        transnext_version: Of the package that wrote the file.
        batch: Images in a call; None for any number.
        metadata: What the task keeps beside the names of the classes, for example the threshold of a detector.
    """

    architecture: str
    task: str
    outputs: tuple[str, ...]
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    size_multiple: int | None
    precision: str
    license: str | None
    transnext_version: str
    batch: int | None = None
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def image_size(self) -> tuple[int, int]:
        """`(H, W)` of what the network is given: a canvas of multiples of 32 where answers have places."""
        height, width = self.preprocessing.input_size[1:]
        if self.task not in ("detection", "segmentation"):
            return height, width
        return -(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE

    def to_strings(self) -> dict[str, str]:
        """JSON for each field, those of the preprocessing among them."""
        values = asdict(self)
        values |= values.pop("preprocessing")
        strings = {name: json.dumps(value, ensure_ascii=False) for name, value in values.items()}
        # Names of folders may not be Unicode, which files have to be: JSON escapes then.
        return {name: text.encode(errors="backslashreplace").decode() for name, text in strings.items()}

    @classmethod
    def from_strings(cls, strings: Mapping[str, str], source: str) -> "ExportInfo":
        """The inverse of `to_strings`; other entries are passed over.

        Args:
            strings: JSON by name.
            source: What to call the file in errors.

        Raises:
            ValueError: An entry is missing or damaged, as in a file that was not written here.
        """
        try:
            preprocessing = Preprocessing.from_mapping(
                {f.name: json.loads(strings[f.name]) for f in fields(Preprocessing)}
            )
            values: dict[str, Any] = {
                f.name: json.loads(strings[f.name])
                for f in fields(cls)
                # Files of classifiers were once written without the last two.
                if f.name != "preprocessing" and (f.name in strings or f.name not in ("batch", "metadata"))
            }
        except (KeyError, ValueError, TypeError) as error:
            raise ValueError(
                f"{source} does not say what it holds: only files written by `transnext export` can be run ({error!r})"
            ) from None
        values["outputs"], values["class_names"] = tuple(values["outputs"]), tuple(values["class_names"])
        return cls(**values, preprocessing=preprocessing)


ENTRIES = tuple(f.name for f in fields(ExportInfo) if f.name != "preprocessing") + tuple(
    f.name for f in fields(Preprocessing)
)
"""Names of all entries."""
