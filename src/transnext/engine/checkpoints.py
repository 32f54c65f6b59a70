"""Checkpoints: folders that are there whole or not at all, and say themselves whether they are.

checkpoints/000000120/state.pt        after update 120: tensors and plain values
checkpoints/000000120/manifest.json   size and SHA-256 of each other file
"""

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch

from transnext.atomic import sync_folder

STATE, MANIFEST = "state.pt", "manifest.json"
_NAME = re.compile(r"\d{9,}")
_log = logging.getLogger(__name__)


class DamagedCheckpoint(ValueError):  # noqa: N818 - the name says what it is; callers catch it to take another one
    """A checkpoint that is not what was written."""


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: Where they are; made when the first one is written.
        keep: How many to keep, the newest ones.
    """

    def __init__(self, folder: Path, keep: int) -> None:
        self.folder = folder
        self.keep = keep

    def paths(self) -> list[Path]:
        """The checkpoints that are there, oldest first, damaged ones too."""
        if not self.folder.is_dir():
            return []
        return sorted(
            (path for path in self.folder.iterdir() if _NAME.fullmatch(path.name)), key=lambda path: int(path.name)
        )

    def has(self, path: Path) -> bool:
        """True if a checkpoint is one of these."""
        return path.resolve().parent == self.folder.resolve()

    def write(self, update: int, state: dict[str, Any], *, alone: bool = False) -> Path:
        """Writes the state after an update, and then removes the checkpoints that are too many.

        Args:
            update: Its number, from 0.
            state: Tensors and plain values.
            alone: Remove all others: the numbers of their updates no longer count the same.

        Raises:
            OSError: It cannot be written. What was there before still is.
        """
        path = self.folder / f"{update:09d}"
        with naming_last_good(path, self):
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self.folder / f".{path.name}.{secrets.token_hex(8)}.tmp"
            try:
                temporary.mkdir()
                with (temporary / STATE).open("wb") as file:
                    torch.save(state, file)
                    file.flush()
                    os.fsync(file.fileno())
                _write_manifest(temporary)
                _replace_folder(temporary, path)
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        for old in [other for other in self.paths() if other != path] if alone else self.paths()[: -self.keep]:
            _remove(old)
        return path

    def newest_whole(self) -> Path | None:
        """The newest checkpoint that is not damaged, or None if there is none at all; a log line for each damaged one.

        Raises:
            ValueError: All are damaged.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                verify_checkpoint(path)
            except DamagedCheckpoint as error:
                _log.warning("%s", error)
            else:
                return path
        if paths:
            raise ValueError(
                f"no checkpoint in {self.folder} is whole: start another run, for example with "
                f"--checkpoint {self.folder.parent / 'best.safetensors'}"
            )
        return None

    def clean(self) -> None:
        """Removes what was left of a checkpoint in the making when a process was killed."""
        if self.folder.is_dir():
            for leftover in self.folder.glob(".*.tmp"):
                shutil.rmtree(leftover, ignore_errors=True)

    def remove_after(self, update: int) -> None:
        """Removes the checkpoints after an update: going on from there, the run writes its own."""
        for path in self.paths():
            if int(path.name) > update:
                _remove(path)


def load_state(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """The state in a checkpoint that is whole, with its tensors on the CPU.

    Args:
        path: The checkpoint.
        mmap: Read tensors only when they are used.

    Raises:
        FileNotFoundError: It is not there, for example because another machine wrote it to a disk of its own.
    """
    file = path / STATE
    if not file.exists():
        raise FileNotFoundError(f"there is no {file}: --output must be on a disk that all machines see")
    state: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    return state


def verify_checkpoint(path: Path) -> None:
    """Compares a checkpoint with its manifest.

    Raises:
        FileNotFoundError: There is no such folder.
        DamagedCheckpoint: A file is missing or not as it was written.
    """
    if not path.is_dir():
        raise FileNotFoundError(f"there is no checkpoint {path}: give a folder such as runs/a/checkpoints/000000120")
    reason = _damage(path)
    if reason:
        raise DamagedCheckpoint(f"the checkpoint {path} is damaged: {reason}")


@contextmanager
def naming_last_good(path: Path, checkpoints: Checkpoints) -> Iterator[None]:
    """Says of a file that could not be written which one, why, and what is still there.

    Args:
        path: What is written in the block.
        checkpoints: Those of the run.

    Raises:
        OSError: Instead of the error of the block.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and isinstance(error.__cause__, OSError):
            error = error.__cause__  # `replacing` has named the file already
        # PyTorch and safetensors raise errors of their own when a disk is full.
        good = next((p for p in reversed(checkpoints.paths()) if not _damage(p)), None)
        reason = error.strerror if isinstance(error, OSError) and error.strerror else _first_line(error)
        left = f"{good} is whole, --resume auto goes on from it" if good else "there is no checkpoint yet"
        raise OSError(f"cannot write {path}: {reason} ({_free(path)} free); {left}") from error


def _write_manifest(folder: Path) -> None:
    files = {path.name: {"bytes": path.stat().st_size, "sha256": _sha256(path)} for path in sorted(folder.iterdir())}
    with (folder / MANIFEST).open("w", encoding="utf-8") as file:
        json.dump({"files": files}, file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def _replace_folder(temporary: Path, path: Path) -> None:
    sync_folder(temporary)
    # A folder can take the place of nothing or of an empty one only.
    aside = temporary.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    if path.exists():
        path.rename(aside)
    temporary.rename(path)
    sync_folder(path.parent)
    shutil.rmtree(aside, ignore_errors=True)


def _remove(path: Path) -> None:
    """Takes a checkpoint away under another name first, so that none is ever there in part."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with suppress(OSError):
        path.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)


def _damage(path: Path) -> str:
    """Fault of a checkpoint in words; "" for none."""
    try:
        files = json.loads((path / MANIFEST).read_text(encoding="utf-8"))["files"]
        expected = {STATE: files[STATE], **files}
        for name, entry in expected.items():
            actual = (path / name).stat().st_size
            if actual != entry["bytes"]:
                return f"{name} has {actual} bytes instead of {entry['bytes']}"
            if _sha256(path / name) != entry["sha256"]:
                return f"{name} has another checksum than when it was written"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    except (ValueError, TypeError, KeyError):
        return f"{MANIFEST} cannot be read"
    return ""


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def _free(path: Path) -> str:
    existing = next((p for p in path.parents if p.is_dir()), Path.cwd())
    return f"{shutil.disk_usage(existing).free / 1e9:.1f} GB"


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
