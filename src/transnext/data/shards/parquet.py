"""Parquet files with a column of images and one of labels, as Hugging Face data sets have them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from transnext.data.names import printable
from transnext.data.shards.classes import class_features, clean_label, label_column
from transnext.data.shards.files import ShardError, attempt, open_file, version
from transnext.data.shards.source import ShardRecord

if TYPE_CHECKING:
    from pyarrow import Schema
    from pyarrow.parquet import FileMetaData, RowGroupMetaData

_IMAGE_COLUMNS = ("image", "img", "images", "jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class Columns:
    """Columns of a Parquet file by their meaning.

    Attributes:
        image: Column of image files: bytes, or a struct with the field `bytes`.
        label: Column of labels: numbers or names.
        class_names: Names of the classes that the numbers stand for, if the file has them.
    """

    image: str
    label: str
    class_names: tuple[str, ...] | None


class ParquetShard:
    """A Parquet file as a `Shard`; a block is a row group.

    Args:
        url: Path or URL.

    Attributes:
        columns: Where it has what.
        labelled: Whether it has labels; -1 and null are none.

    Raises:
        ShardError: If it cannot be read, or has no column of images or of labels.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.version = version(url)
        self.known_labels = None
        self._metadata: FileMetaData | None = None
        metadata, schema = attempt(url, self._read_footer)
        self.columns = find_columns(url, schema)
        groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
        self.block_sizes = np.array([group.num_rows for group in groups], np.int64)
        self.labelled = any(_may_have_labels(group, self.columns.label) for group in groups)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_metadata": None}

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the classes that numbers stand for, if the file has them."""
        return self.columns.class_names

    def read_block(self, block: int) -> list[ShardRecord]:
        """Return the images of a row group; see `Shard`."""
        images, labels = self._read(block, [self.columns.image, self.columns.label])
        return [ShardRecord(*_image(image, label)) for image, label in zip(images, labels, strict=True)]

    def read_labels(self) -> npt.NDArray[np.str_]:
        """Return all labels, empty where there is none.

        Raises:
            ShardError: If they cannot be read.
        """
        columns = [self.columns.label]
        labels = [_label(value) for block in range(len(self.block_sizes)) for value in self._read(block, columns)[0]]
        return np.array(labels, np.str_)

    def name(self, index: int) -> str:
        """Return `SHARD/ROW`."""
        return printable(f"{self.url}/{index}")

    def _read_footer(self) -> tuple[FileMetaData, Schema]:
        parquet = _pyarrow_parquet(self.url)
        with open_file(self.url) as stream:
            file = parquet.ParquetFile(stream)
            return file.metadata, file.schema_arrow

    def _read(self, block: int, columns: list[str]) -> list[list[Any]]:
        """Return the values of some columns of a row group."""
        parquet = _pyarrow_parquet(self.url)

        def read() -> list[list[Any]]:
            if self._metadata is None:
                self._metadata, _ = self._read_footer()
            with open_file(self.url) as stream:
                file = parquet.ParquetFile(stream, metadata=self._metadata)
                # Threads would compete with the other workers.
                table = file.read_row_group(block, columns=columns, use_threads=False)
            return [table.column(column).to_pylist() for column in columns]

        return attempt(self.url, read)


def find_columns(url: str, schema: Schema) -> Columns:
    """Find out where a Parquet file has what, from the description that `datasets` writes into it or from the names.

    Raises:
        ShardError: If it has no column of images or of labels.
    """
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        features = {}
    described = [
        name for name, feature in features.items() if isinstance(feature, dict) and feature.get("_type") == "Image"
    ]
    names = class_features(features)
    image = next((name for name in (*described, *_IMAGE_COLUMNS) if name in schema.names), None)
    label = label_column(list(names)) or next(iter(names), None) or label_column(schema.names)
    if image is None or label is None or label not in schema.names:
        missing = "images (as 'image')" if image is None else "labels (as 'label')"
        raise ShardError(f"{url} has no column of {missing}; its columns are {', '.join(schema.names)}")
    return Columns(image, label, tuple(names[label]) if label in names else None)


def _pyarrow_parquet(url: str) -> Any:
    try:
        from pyarrow import parquet
    except ImportError:
        raise ShardError(f'reading {url} needs pyarrow: pip install "transnext[shards]"') from None
    return parquet


def _may_have_labels(group: RowGroupMetaData, column: str) -> bool:
    """Return whether a row group has a label, as far as its statistics tell."""
    for i in range(group.num_columns):
        chunk = group.column(i)
        if chunk.path_in_schema == column and chunk.statistics is not None:
            if chunk.statistics.null_count == group.num_rows:
                return False
            largest = chunk.statistics.max if chunk.statistics.has_min_max else None
            return not (isinstance(largest, int) and largest < 0)
    return True


def _image(value: Any, label: Any) -> tuple[bytes | None, str, str]:
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return data, _label(label), ""
    path = value.get("path") if isinstance(value, dict) else None
    problem = f"the image is in another file, {path}" if path else "the image is missing"
    return None, _label(label), problem


def _label(value: Any) -> str:
    if isinstance(value, float):  # what pandas makes of numbers among which some are missing
        value = int(value) if value.is_integer() else None
    return clean_label(str(value)) if isinstance(value, (int, str)) else ""
