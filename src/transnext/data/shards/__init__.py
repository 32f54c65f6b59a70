"""Images in shards: tar files in WebDataset's layout and Parquet files, local or behind any URL that fsspec opens."""

from transnext.data.shards.files import ShardError
from transnext.data.shards.layout import holds_shards, open_shards
from transnext.data.shards.source import Shard, ShardedImages, ShardRecord

__all__ = ["Shard", "ShardError", "ShardRecord", "ShardedImages", "holds_shards", "open_shards"]
