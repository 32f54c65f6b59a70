"""Choice of the files that are shards of a data set, and of the split that each belongs to."""

from __future__ import annotations

import json
import logging
import posixpath
import re
import sys
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from transnext.data.names import printable
from transnext.data.shards.classes import ClassList, names_beside
from transnext.data.shards.files import ShardError, attempt, fetch_if_there, filesystem, is_remote, version
from transnext.data.shards.parquet import ParquetShard
from transnext.data.shards.source import Shard, ShardedImages
from transnext.data.shards.tar import TarShard, index_path
from transnext.data.splits import SPLIT_WORDS, SPLITS, split_of_word

_logger = logging.getLogger("transnext")

_SUFFIXES = (".tar", ".parquet")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")
# Shards may lie in these, too: `data` on the Hugging Face hub, `default` in what it converts to Parquet.
_FOLDERS = SPLIT_WORDS | {"data", "default"}
_LISTS = ("_info.json", "info.json", "index.json", "wids.json")
_OPENED_AT_ONCE = 8
_FEW = 20


def holds_shards(data: str) -> bool:
    """Return whether `data` names shards: a URL, a path or pattern of such files, or a folder that has some.

    Files beside other folders do not count: they are what an image folder was unpacked from.
    """
    if "://" in data:
        return True
    if Path(data).is_dir():
        shards = _shards_below(data)
        return bool(shards) and not any(path.is_dir() for path in Path(shards[0]).parent.glob("[!._]*"))
    return any(_is_shard(path) for path in expand_braces(data))


def open_shards(
    data: str, val_fraction: float = 0.2, seed: int = 0, known: Collection[str] | None = None
) -> dict[str, ShardedImages]:
    """Open tar or Parquet shards.

    Args:
        data: A file, a folder of files, or a pattern with `*` or `{000..099}`; a path or a URL. Which split a file
            belongs to is seen from a word in its name or from the name of its folder; `train` if there is none.
        val_fraction: Share of the images that become `val` if all are of `train`, 0 <= `val_fraction` < 1.
        seed: Chooses these images.
        known: As in `image_folder_splits`.

    Returns:
        The splits that there are, of `train`, `val` and `test`. If there is `test` but no `val`, it is called `val`.
        Apart from `train`, a split without labels is left out.

    Raises:
        FileNotFoundError: If there is no shard.
        ShardError: If one cannot be read, or is not as it should be, or there is one class alone.
        ValueError: If `val_fraction` is out of range.
    """
    if not 0 <= val_fraction < 1:
        raise ValueError(f"val_fraction must be at least 0 and less than 1, got {val_fraction}")
    files = find_shards(data)
    if "train" in files and "val" not in files and "test" in files:
        files["val"] = files.pop("test")
    first_shard = next(iter(files.values()))[0]
    version(first_shard)  # if it cannot be reached, it is what the message should name
    names = names_beside(first_shard)
    opened = {split: _open(files[split], counted=names is not None) for split in SPLITS if split in files}
    labelled = {split: shards for split, shards in opened.items() if any(shard.labelled for shard in shards)}
    first = next(iter(opened))
    if first not in labelled:
        raise ShardError(
            f"there are no labels in {files[first][0]}: in a tar file image KEY.jpg needs KEY.cls or KEY.json with "
            "a 'label', in a Parquet file a column 'label'"
        )
    classes = ClassList(names) if names is not None else _classes(labelled[first])
    splits = {split: ShardedImages(shards, classes) for split, shards in labelled.items()}
    occurring = {split: set().union(*(_labels(shard, classes) for shard in labelled[split])) for split in labelled}
    if len(classes.names) < 2 or (known is None and len(occurring.get("train", ())) == 1):
        only = classes.names[min(occurring.get("train") or {0})] if classes.names else ""
        if known is None or only not in known or len(known) < 2:
            raise ShardError(f"{data} has images of one class alone, {only!r}, where a classifier needs two or more")
    for split in files.keys() - labelled.keys():
        _logger.warning("%s: no labels in %s, which is left out", printable(data), printable(files[split][0]))
    if list(splits) == ["train"]:
        held_out = _held_out(labelled["train"], val_fraction, seed)
        if held_out.any():
            for split, chosen in {"train": ~held_out, "val": held_out}.items():
                splits[split] = ShardedImages(labelled["train"], classes, np.flatnonzero(chosen))
    return splits


def find_shards(data: str) -> dict[str, list[str]]:
    """Return the shards of each split, sorted by name.

    Raises:
        FileNotFoundError: If there are none.
        ShardError: If they are of several kinds, or a folder cannot be listed.
    """
    found = [url for pattern in expand_braces(data) for url in _matches(pattern)]
    if not found:
        raise FileNotFoundError(f"there are no shards ({' or '.join(_SUFFIXES)} files) in {data}")
    kinds = {posixpath.splitext(url)[1].lower() for url in found}
    if len(kinds) > 1:
        raise ShardError(f"{data} has shards of several kinds ({', '.join(sorted(kinds))}): name those of one kind")
    splits: dict[str, list[str]] = {}
    for url in sorted(set(found)):
        splits.setdefault(_split_of(url), []).append(url)
    return splits


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield what a pattern with `{000..099}` or `{a,b}` stands for, as in a shell; braces inside braces do not work."""
    before, brace, rest = pattern.partition("{")
    inside, end, after = rest.partition("}")
    if not (brace and end):
        yield pattern
        return
    if match := re.fullmatch(r"([0-9]+)\.\.([0-9]+)", inside):
        first, last = match.groups()
        width = max(map(len, match.groups())) if "0" in (first[0], last[0]) and max(len(first), len(last)) > 1 else 0
        choices = [f"{i:0{width}}" for i in range(int(first), int(last) + 1)]
    else:
        choices = inside.split(",") if "," in inside else ["{" + inside + "}"]
    for tail in expand_braces(after):
        for choice in choices:
            yield before + choice + tail


def _is_shard(name: str) -> bool:
    """Return whether a file counts as a shard by its name; compressed ones do, so that what is wrong is said."""
    return name.lower().endswith((*_SUFFIXES, *_COMPRESSED))


def _matches(pattern: str) -> list[str]:
    if "*" in pattern or "?" in pattern.partition("://")[2]:
        fs, path = filesystem(pattern)
        found = attempt(pattern, lambda: fs.glob(path))
        urls = [fs.unstrip_protocol(name) if "://" in pattern else name for name in found]
        return [url for url in urls if url.lower().endswith(_SUFFIXES)]
    if _is_shard(pattern) and not Path(pattern).is_dir():
        return [pattern]
    return _shards_below(pattern)


def _shards_below(folder: str, depth: int = 2) -> list[str]:
    """Return the shards in a folder, or else in those of its folders that are named as folders of shards are."""
    fs, path = filesystem(folder)
    entries = attempt(folder, lambda: fs.ls(path, detail=True))
    names = {entry["name"].rstrip("/").rpartition("/")[2]: entry["type"] for entry in entries}
    files = [posixpath.join(folder, name) for name, kind in names.items() if kind == "file"]
    found = [file for file in files if file.lower().endswith(_SUFFIXES)]
    if found or not depth:
        return found
    below = [
        posixpath.join(folder, name) for name, kind in names.items() if kind != "file" and name.lower() in _FOLDERS
    ]
    return [shard for each in below for shard in _shards_below(each, depth - 1)]


def _split_of(url: str) -> str:
    """Return the split that a word in the file's name, or else the name of its folder, says."""
    folder, name = posixpath.split(url)
    words = [*re.findall("[a-z]+", name.lower()), posixpath.basename(folder).lower()]
    return next((split for word in words if (split := split_of_word(word))), "train")


def _open(urls: Sequence[str], counted: bool) -> list[Shard]:
    if urls[0].lower().endswith(".parquet"):
        return _at_once(ParquetShard, urls)
    # What is listed beside tar files saves reading them all, unless that is needed for the classes.
    counts = _listed_counts(urls[0]) if counted else {}
    slow = not counts and (len(urls) > _FEW or is_remote(urls[0]))
    if slow and not index_path(urls[0], version(urls[0])).exists():
        print(f"Finding out what is in {len(urls)} tar files; it will be remembered", file=sys.stderr)
    return _at_once(lambda url: TarShard(url, counts.get(posixpath.basename(url))), urls)


def _at_once(open_one: Callable[[str], Shard], urls: Sequence[str]) -> list[Shard]:
    """Open shards, remote ones several at a time."""
    with ThreadPoolExecutor(_OPENED_AT_ONCE if is_remote(urls[0]) else 1) as pool:
        return list(pool.map(open_one, urls))


def _listed_counts(url: str) -> dict[str, int]:
    """Return the images of each tar file by its name, from a list as timm or WebDataset's `widsindex` write it."""
    for name in _LISTS:
        text = fetch_if_there(posixpath.join(posixpath.dirname(url), name))
        try:
            content = json.loads(text) if text is not None else {}
            if "shardlist" in content:
                return {posixpath.basename(shard["url"]): int(shard["nsamples"]) for shard in content["shardlist"]}
            if "splits" in content:
                return {
                    posixpath.basename(file): int(count)
                    for split in content["splits"].values()
                    for file, count in zip(split["filenames"], split["shard_lengths"], strict=True)
                }
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return {}


def _classes(shards: Sequence[Shard]) -> ClassList:
    """Return the classes that shards name or, if they do not, that occur in them."""
    named = next((shard.class_names for shard in shards if shard.class_names is not None), None)
    return ClassList.of_labels(shard.read_labels() for shard in shards) if named is None else ClassList(named)


def _labels(shard: Shard, classes: ClassList) -> set[int]:
    """Return the classes that occur in a shard; none if that is not known without reading it.

    Raises:
        ShardError: If there is a label that stands for no class.
    """
    if shard.known_labels is None:
        return set()
    found = set()
    labels, places = np.unique(shard.known_labels, return_index=True)
    for label, place in zip(labels.tolist(), places.tolist(), strict=True):
        try:
            found.update([classes.number(label)] if label else [])
        except ValueError as error:
            raise ShardError(f"{shard.name(place)} has the {error}") from None
    return found


def _held_out(shards: Sequence[Shard], fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """Return which images validate; it depends on their place in their shard and its name, not on other shards."""
    draws = np.concatenate(
        [
            np.random.default_rng(
                (seed, zlib.crc32(posixpath.basename(shard.url).encode("utf-8", "surrogateescape")))
            ).random(int(shard.block_sizes.sum()))
            for shard in shards
        ]
    )
    if fraction == 0 or len(draws) < 2:
        return np.zeros(len(draws), bool)
    ordered = np.sort(draws)
    return draws < min(max(fraction, ordered[1]), ordered[-1])
