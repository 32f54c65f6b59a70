"""`make demo`: train the small model on the bundled images, measure it, let it answer, and write the report."""

import sys
import time
from pathlib import Path

from rich.console import Console

from transnext.cli.process import let_threads_sleep

OUTPUT = Path("runs/demo")
EPOCHS = 36
SHOWN = ("val", "shift", "both")


def main() -> None:
    """Runs the demo."""
    let_threads_sleep()  # before PyTorch is imported
    from transnext.config import TrainConfig
    from transnext.data import open_dataset
    from transnext.engine import train
    from transnext.predict import Predictor

    console = Console(highlight=False)
    start = time.perf_counter()
    _clear(OUTPUT)
    result = train(TrainConfig.of(data="emoji", model="transnext_pico", epochs=EPOCHS, seed=1, output=str(OUTPUT)))
    if result.signal is not None:
        sys.exit(128 + result.signal)

    console.print("\nA few images that it has never seen:")
    predictor = Predictor(OUTPUT)
    splits = open_dataset("emoji")
    for split in SHOWN:
        source = splits[split]
        for i in (len(source) // 3, 2 * len(source) // 3):
            answer = predictor(source.load(i), top_k=3)[0]
            console.print(f"  {split:6} {source.name(i)}, a {source.classes[source.target(i)]}", soft_wrap=True)
            console.print(f"         {answer.text()}", soft_wrap=True)
    console.print(f"\n{time.perf_counter() - start:.0f} s. Look at {result.report}", soft_wrap=True)


def _clear(folder: Path) -> None:
    """Removes the files of an earlier demo, and nothing else."""
    if not (folder / "config.json").exists():
        return
    for file in sorted(folder.rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()


if __name__ == "__main__":
    main()
