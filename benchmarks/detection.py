"""Cost of detectors: steps beside the bare backbone, large images, the loop beside updates, memory over epochs.

    python benchmarks/detection.py steps               # heads of the small size, 320 pixels, batch 8
    python benchmarks/detection.py large               # Mask R-CNN at 800x1216, TransNeXt-Tiny beside convnext_tiny
    python benchmarks/detection.py loop DATA           # images read and augmented beside the same batches kept
    python benchmarks/detection.py memory DATA         # resident memory after each of five epochs of reading
    python benchmarks/detection.py tiles DATA MODEL    # large pictures put together of test images: whole, and in tiles

Ratios are those of medians, what is compared is called in turn.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import Annotated, Any

import numpy as np
import psutil
import torch
import tyro
from PIL import Image
from torchvision.ops import box_iou

from transnext.config import TrainConfig
from transnext.data import collate
from transnext.data.detection.opening import open_detection
from transnext.data.instances import Annotation, Instances
from transnext.engine.loader import train_loader
from transnext.models.backbone import Backbone
from transnext.predict import Detector
from transnext.tasks.detection.coco_eval import Judged, coco_numbers, limit_for
from transnext.tasks.detection.nets import build_net, strides_of
from transnext.tasks.detection.placing import Placed
from transnext.tasks.detection.task import Detection

_ROUNDS = 7


def medians(calls: dict[str, Callable[[], Any]], rounds: int = _ROUNDS) -> dict[str, float]:
    """Median seconds of each call, called in turn; the first round does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if number:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def show(found: dict[str, float], beside: str) -> None:
    """Prints seconds and their ratio to one of them."""
    for name, seconds in found.items():
        print(f"{name:32} {seconds:8.3f} s  {seconds / found[beside]:6.2f}")


def steps(batch_size: int = 8, side: int = 320, objects: int = 6) -> None:
    """Forward and backward pass of small heads on transnext_pico."""
    torch.manual_seed(0)
    images = torch.randn(batch_size, 3, side, side)
    sizes = torch.full((batch_size, 2), side)
    targets = [_objects(objects, side) for _ in range(batch_size)]
    bare = Backbone("transnext_pico")

    def backbone() -> None:
        torch.stack([m.float().sum() for m in bare(images)]).sum().backward()

    calls: dict[str, Callable[[], Any]] = {"backbone alone": backbone}
    for detector, masks in (("mask_rcnn", True), ("mask_rcnn", False), ("d_fine", False)):
        net = build_net(detector, Backbone("transnext_pico", strides_of(detector)), 20, masks=masks, size="small")

        def step(net: Any = net) -> None:
            torch.stack(list(net.losses(images, sizes, targets).values())).sum().backward()

        calls[f"{detector}, {'outlines' if masks else 'boxes'}"] = step
    show(medians(calls), "backbone alone")


def large(rounds: int = 3) -> None:
    """Inference of Mask R-CNN with the released head at 800x1216, backbones in turn."""
    images, sizes = torch.randn(1, 3, 800, 1216), torch.tensor([[800, 1216]])
    calls: dict[str, Callable[[], Any]] = {}
    for name in ("convnext_tiny", "transnext_tiny"):
        torch.manual_seed(0)
        net = build_net("mask_rcnn", Backbone(name), 80, masks=True, size="released").eval()

        def detect(net: Any = net) -> None:
            with torch.inference_mode():
                net.detect(images, sizes)

        def backbone(net: Any = net) -> None:
            with torch.inference_mode():
                net.backbone(images)

        calls[name] = detect
        calls[f"{name}, backbone alone"] = backbone
    show(medians(calls, rounds), "convnext_tiny")


def loop(data: Annotated[str, tyro.conf.Positional], workers: int = 1, batches: int = 12) -> None:
    """Updates with images that are read, strongly augmented and pasted, beside updates with the same batches kept."""
    task, images, config = _images(data)
    net = task.build(config)
    objective = task.objective(net, task.preprocessing(net, config), config)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-6)

    def update(batch: Any) -> None:
        losses = objective(batch.images, batch.sizes, batch.targets)
        (torch.stack(list(losses.parts.values())).sum() / losses.weight).backward()
        optimizer.step()
        optimizer.zero_grad()

    rates: dict[str, list[float]] = {"read": [], "kept": []}
    for epoch in range(4):
        loader = _loader(task, images, config, workers)
        source = loader.epoch(epoch)
        first = next(source)  # reading processes have started
        update(first)
        torch.manual_seed(epoch)
        start, kept = time.perf_counter(), []
        for batch in islice(source, batches):
            update(batch)
            kept.append(batch)
        seconds = time.perf_counter() - start
        loader.close()
        torch.manual_seed(epoch)
        start = time.perf_counter()
        for batch in kept:
            update(batch)
        if epoch:
            rates["read"].append(seconds / len(kept))
            rates["kept"].append((time.perf_counter() - start) / len(kept))
    read, kept_seconds = (statistics.median(values) for values in rates.values())
    print(f"an update {read:.3f} s with reading, {kept_seconds:.3f} s without: {kept_seconds / read:.2f} of the speed")


def memory(data: Annotated[str, tyro.conf.Positional], epochs: int = 5) -> None:
    """Resident memory after each epoch of reading and augmenting all training images in this process."""
    task, images, config = _images(data)
    loader = _loader(task, images, config, workers=0)
    for epoch in range(epochs):
        count = sum(len(batch.images) for batch in loader.epoch(epoch))
        print(f"epoch {epoch + 1}: {count} images, {psutil.Process().memory_info().rss / 1e6:.0f} MB", flush=True)


def tiles(
    data: Annotated[str, tyro.conf.Positional],
    model: Annotated[str, tyro.conf.Positional],
    split: str = "test",
    across: int = 2,
    tile: int = 480,
) -> None:
    """AP50 on pictures of `across` x `across` images, asked about whole and in tiles, and objects that are found twice.

    Images one by one, as the detector was trained on, say what can be had.
    """
    detector = Detector(model)
    source = open_detection(data)[split]
    images = [i for i in range(len(source)) if source.target(i).size == source.target(0).size]
    height, width = source.target(0).size
    ways: dict[str, list[Judged]] = {"one by one": [], "whole": [], "in tiles": []}
    least = 0.01  # of what is compared; AP looks at all
    for start in range(0, len(images) - across**2 + 1, across**2):
        canvas = Image.new("RGB", (across * width, across * height))
        truths = []
        for place, i in enumerate(images[start : start + across**2]):
            picture, truth = source.load(i), source.target(i)
            ways["one by one"].append(_judged(truth, detector(picture, threshold=least, tile=0)[0]))
            left, top = place % across * width, place // across * height
            canvas.paste(picture, (left, top))
            truths.append(replace(truth, boxes=truth.boxes + np.array([left, top] * 2, np.float32)))
        boxes, labels, crowd, areas = (
            np.concatenate([getattr(one, name) for one in truths]) for name in ("boxes", "labels", "crowd", "areas")
        )
        size = across * height, across * width
        whole = Annotation(size=size, boxes=boxes, labels=labels, crowd=crowd, areas=areas)
        ways["whole"].append(_judged(whole, detector(canvas, threshold=least, tile=0)[0]))
        ways["in tiles"].append(_judged(whole, detector(canvas, threshold=least, tile=tile)[0]))
    limit = limit_for(ways["whole"])
    task: Any = detector.loaded.task
    threshold = task.threshold
    for way, judged in ways.items():
        numbers = coco_numbers(judged, len(source.classes), limit).summary
        found = sum(int((one.found.scores >= threshold).sum()) for one in judged)
        twice = sum(_found_twice(one, threshold) for one in judged)
        true = sum(len(one.truth) for one in judged)
        print(
            f"{way:10}  AP50 {numbers['AP50']:.3f}  AP {numbers['AP']:.3f}  "
            f"{found} found of {true} at {threshold:.2f}, {twice} of them are objects found before"
        )


def _found_twice(judged: Judged, threshold: float) -> int:
    """How many answers agree, by an overlap of .5, with an annotated object that a surer answer agrees with better."""
    answers, truth = judged.found.boxes[judged.found.scores >= threshold], judged.truth.boxes
    overlaps = box_iou(torch.from_numpy(answers), torch.from_numpy(truth))
    surest_first = torch.from_numpy(-judged.found.scores[judged.found.scores >= threshold]).argsort(stable=True)
    free = torch.ones(len(truth), dtype=torch.bool)
    twice = 0
    for overlap in overlaps[surest_first]:
        if not (overlap >= 0.5).any():
            continue
        new = int((overlap * free).argmax())
        if overlap[new] >= 0.5 and free[new]:
            free[new] = False
        else:
            twice += 1
    return twice


def _judged(truth: Annotation, found: Any) -> Judged:
    scores, boxes = found.confidence.astype(np.float32), found.xyxy.astype(np.float32)
    return Judged(0, truth, Placed(size=truth.size, boxes=boxes, scores=scores, labels=found.class_id.astype(np.int32)))


def _objects(count: int, side: int) -> Instances:
    corner = torch.rand(count, 2) * side * 0.7
    boxes = torch.cat([corner, corner + side * (0.1 + 0.2 * torch.rand(count, 2))], 1)
    masks = torch.zeros(count, side, side, dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes.int().tolist(), strict=True):
        mask[y0:y1, x0:x1] = 1
    return Instances(boxes=boxes, labels=torch.randint(20, (count,)), masks=masks)


def _images(data: str) -> tuple[Detection, Any, TrainConfig[Any]]:
    config = TrainConfig.of(task="detection", data=data, batch_size=8, image_size=320, augment="strong")
    task, sources = Detection.open(config)
    net: Any = task.build(config)
    return task, task.images(sources["train"], task.preprocessing(net, config), config), config


def _loader(task: Detection, images: Any, config: TrainConfig[Any], workers: int) -> Any:
    return train_loader(
        images, batch_size=config.batch_size, seed=0, workers=workers, collate=partial(collate, targets=task.collate)
    )


if __name__ == "__main__":
    tyro.extras.subcommand_cli_from_dict(
        {"steps": steps, "large": large, "loop": loop, "memory": memory, "tiles": tiles}
    )
