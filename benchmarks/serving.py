"""Ways to serve a classifier on a CPU: speed and accuracy of eager PyTorch, compiled, and of exported files.

    python benchmarks/serving.py --folder /tmp/serving --prepare     # export and compile once, which takes minutes
    python benchmarks/serving.py --folder /tmp/serving

All ways take turns; ratios are those of medians, to eager PyTorch with the fused kernels. Accuracy is that on splits of
the bundled set.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import tyro
from torch import Tensor

import transnext
from transnext.data import ImageSource, LabelledImages, collate, open_dataset
from transnext.data.preprocessing import Preprocessing
from transnext.export import ExportedModel, onnx_file, openvino_file
from transnext.tasks.classification.loading import load_classifier, loaded_classifier
from transnext.tasks.task import Loaded

Way = Callable[[Tensor], Tensor]
SPLITS = ("val", "shift")


def load(model: str, image_size: int | None) -> Loaded:
    """A classifier; one without weights at hand gets random ones, and only its speed counts."""
    if model == "transnext_pico.emoji":
        return load_classifier(model, image_size=image_size)
    import timm

    torch.manual_seed(0)
    net = timm.create_model(model).eval()
    names = [str(i) for i in range(net.num_classes)]
    return loaded_classifier(net, names, Preprocessing.of_model(net, image_size), model)


def files(classifier: Loaded, folder: Path, skip: tuple[str, ...]) -> dict[str, Path]:
    """The exported files, written if they are not there."""
    folder.mkdir(parents=True, exist_ok=True)
    size = classifier.preprocessing.input_size[1:]
    wanted = {
        "ONNX Runtime": ("fixed.onnx", {"fixed_size": True}),
        "ONNX Runtime, any size": ("any.onnx", {}),
        "ONNX Runtime, int8": ("int8.onnx", {"fixed_size": True, "calibration": "emoji"}),
        "OpenVINO": ("fixed.xml", {"fixed_size": True}),
        "OpenVINO, any size": ("any.xml", {}),
        "OpenVINO, int8": ("int8.xml", {"fixed_size": True, "calibration": "emoji"}),
        "torch.export": ("fixed.pt2", {"fixed_size": True}),
    }
    found = {}
    for name, (file, options) in wanted.items():
        if any(word in name for word in skip):
            continue
        found[name] = folder / f"{classifier.name}-{size[0]}-{file}"
        if not found[name].exists():
            start = time.perf_counter()
            transnext.export_model(classifier, found[name], **options)
            print(f"{found[name]}: {time.perf_counter() - start:.0f} s", flush=True)
    return found


def ways(classifier: Loaded, paths: dict[str, Path], compiled: bool) -> dict[str, Way]:
    """What is compared, by name."""
    model = classifier.model
    reference = load(classifier.name, classifier.preprocessing.input_size[1]).model
    reference.backend = "reference"

    def bfloat16(x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return model(x)

    found: dict[str, Way] = {
        "eager, fused kernels": model,
        "eager, fused kernels, bfloat16 autocast": bfloat16,
        "eager, plain PyTorch": reference,
    }
    if compiled:
        found["torch.compile"] = torch.compile(model, fullgraph=True, dynamic=False)
    for name, path in paths.items():
        found[name] = ExportedModel(path)
    if "OpenVINO" in paths:
        bf16 = openvino_file.OpenVINOFile(paths["OpenVINO"], precision="bf16")
        found["OpenVINO, bfloat16"] = lambda x: bf16(x)[0]
    return found


def milliseconds(way: Way, x: Tensor, budget: float = 0.1) -> float:
    """Mean time of a call over at least `budget` seconds."""
    start, calls = time.perf_counter(), 0
    with torch.inference_mode():
        while calls == 0 or time.perf_counter() - start < budget:
            way(x)
            calls += 1
    return 1000 * (time.perf_counter() - start) / calls


def speed(candidates: dict[str, Way], size: tuple[int, int, int], batch: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of a call of each, measured in turns."""
    x = torch.randn(batch, *size)
    taken: dict[str, list[float]] = {name: [] for name in candidates}
    for i in range(rounds + 1):
        for name, way in candidates.items():
            if i == 0:
                milliseconds(way, x, 0)
            time.sleep(0.02)  # threads of the one before wait by spinning
            taken[name].append(milliseconds(way, x))
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def accuracy(way: Way, source: ImageSource, preprocessing: Preprocessing) -> float:
    """Top-1 on a split, 0..1, eight images at a time: compiled graphs are for one batch size."""
    images = LabelledImages(source, preprocessing.transform(), preprocessing.min_side())
    normalise, right = preprocessing.normalise(), 0
    with torch.inference_mode():
        for start in range(0, len(images), 8):
            batch = collate([images[i] for i in range(start, min(start + 8, len(images)))])
            count = len(batch.images)
            padded = normalise(torch.cat((batch.images, batch.images[:1].expand(8 - count, -1, -1, -1))))
            right += int((way(padded)[:count].argmax(-1) == batch.targets).sum())
    return right / len(images)


def main(
    folder: Path,
    model: str = "transnext_pico.emoji",
    image_size: int | None = None,
    rounds: int = 9,
    compiled: bool = True,
    skip: tuple[str, ...] = (),
    prepare: Annotated[bool, tyro.conf.arg(help="Only write the files and warm the caches of the compiler.")] = False,
) -> None:
    """Prints a Markdown table.

    Args:
        folder: Where the exported files are, or are written.
        model: A name.
        image_size: Side of the images, pixels.
        rounds: How often each way is timed.
        compiled: Also compile.
        skip: Leave out files whose names in the table contain one of these words.
        prepare: Stop before anything is timed.
    """
    classifier = load(model, image_size)
    candidates = ways(classifier, files(classifier, folder, skip), compiled)
    size = classifier.preprocessing.input_size
    if prepare:
        for batch in (1, 8):
            for way in candidates.values():
                with torch.inference_mode():
                    way(torch.zeros(batch, *size))
        return
    measured = {batch: speed(candidates, size, batch, rounds) for batch in (1, 8)}
    splits = open_dataset("emoji") if model == "transnext_pico.emoji" else {}
    threads = torch.get_num_threads()
    print(f"{model} at {size[1]}x{size[2]}, {threads} threads, torch {torch.__version__}, opset {onnx_file.OPSET}\n")
    heads = [f"batch {batch}: {what}" for batch in measured for what in ("ms", "ratio")] + [
        f"{s}" for s in SPLITS if splits
    ]
    print("| way | " + " | ".join(heads) + " |\n|" + "---|" * (len(heads) + 1))
    first = next(iter(candidates))
    for name, way in candidates.items():
        cells = [name]
        for times in measured.values():
            cells += [f"{times[name]:.2f}", f"{times[first] / times[name]:.2f}"]
        cells += [f"{accuracy(way, splits[s], classifier.preprocessing):.1%}" for s in SPLITS if splits]
        print("| " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
