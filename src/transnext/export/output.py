"""Outputs that are there whole or not at all."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transnext.atomic import sync_folder


def check_output(output: Path, overwrite: bool) -> None:
    """Refuses an output that cannot be written, before anything is computed.

    Raises:
        FileNotFoundError: There is no folder for it.
        ValueError: It is there already.
    """
    if not output.absolute().parent.is_dir():
        raise FileNotFoundError(f"there is no folder {output.parent} for {output.name}")
    if output.exists() and not overwrite:
        raise ValueError(f"{output} exists: choose another name, or allow to overwrite it (--overwrite)")


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """A path of the same name in a hidden folder beside `output`, to be written in the block.

    At its end what lies in the folder takes its place. If the block fails, that goes away and what was there stays.

    Args:
        output: The file or folder to write. Files that belong to it have its name with another suffix.
    """
    parent = output.absolute().parent
    folder = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=parent))
    try:
        probe = folder / "mode"
        probe.touch()
        mode = probe.stat().st_mode
        probe.unlink()
        staging = folder / output.name
        yield staging
        for file in folder.rglob("*"):
            if file.is_file():
                file.chmod(mode)  # some libraries make files that the owner alone can read
        # The named file comes last: who finds it finds the others.
        for made in sorted(folder.iterdir(), key=lambda path: path.name == output.name):
            target = parent / made.name
            if made.is_dir() and target.is_dir():
                for file in made.iterdir():
                    file.replace(target / file.name)
            else:
                made.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sync_folder(parent)
