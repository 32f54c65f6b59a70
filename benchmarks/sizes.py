"""What a size costs that was never seen before, and what the modes of the position bias cost at detection size.

    python benchmarks/sizes.py

Images of one size again and again, and images whose width grows by 32 pixels with every call and never comes back: the
time of both, interleaved. Then 800x1216 in each mode, and the linear mode from 512x512 to 2048x2048, with the peak
memory of a process that does nothing else.
"""

import resource
import statistics
import subprocess
import sys
import time
from typing import Annotated, Literal

import timm
import torch
import tyro

import transnext  # noqa: F401 - registers the models

Mode = Literal["extrapolate", "interpolate", "linear"]


def build(model: str, mode: str) -> torch.nn.Module:
    """The four maps of a model; ours trained for 800 pixels, as the released detectors are."""
    if not model.startswith("transnext"):
        return timm.create_model(model, features_only=True).eval()
    net = timm.create_model(model, img_size=800, pretrain_size=224, num_classes=0).eval()
    if mode == "linear":
        net.fixed_pool_size = 7
    else:
        net.bias_mode = mode
    return net


def features(net: torch.nn.Module, x: torch.Tensor) -> object:
    """The maps of an image."""
    return net.forward_intermediates(x, intermediates_only=True) if hasattr(net, "bias_mode") else net(x)


def seconds(net: torch.nn.Module, height: int, width: int) -> float:
    """One call."""
    x = torch.randn(1, 3, height, width)
    start = time.perf_counter()
    features(net, x)
    return time.perf_counter() - start


def new_sizes(model: str, rounds: int) -> None:
    """Prints the cost of new sizes against a repeated one, per pixel."""
    for mode in ("extrapolate", "interpolate", "linear"):
        net = build(model, mode)
        ratios = []
        with torch.inference_mode():
            seconds(net, 480, 640)
            for i in range(rounds):
                width = 480 + 32 * i
                new = seconds(net, 480, width) / width
                again = statistics.median(seconds(net, 480, width) for _ in range(2)) / width
                ratios.append(new / again)
        print(f"| {mode} | {statistics.median(ratios):.2f} | {max(ratios):.2f} |", flush=True)


def one_process(model: str, mode: str, height: int, width: int, rounds: int) -> None:
    """Prints median seconds and the peak memory of this process in MB."""
    net = build(model, mode)
    with torch.inference_mode():
        seconds(net, height, width)
        median = statistics.median(seconds(net, height, width) for _ in range(rounds))
    peak = next((int(row.split()[1]) for row in open("/proc/self/status") if row.startswith("VmHWM")), 0)  # noqa: SIM115, PTH123
    print(median, (peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) / 1024)


def modes(model: str, peer: str, rounds: int) -> None:
    """Prints time and memory of each mode and size, a fresh process each, in turn."""
    cases = [(peer, "extrapolate", 800, 1216)]
    cases += [(model, mode, 800, 1216) for mode in ("extrapolate", "interpolate", "linear")]
    cases += [(model, "linear", side, side) for side in (512, 1024, 2048)]
    found: dict[tuple[str, str, int, int], list[tuple[float, float]]] = {case: [] for case in cases}
    for _ in range(rounds):
        for case in cases:
            command = [sys.executable, __file__, "--case", *map(str, case)]
            out = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
            found[case].append((float(out[0]), float(out[1])))
    base = statistics.median(s for s, _ in found[cases[0]])
    for case, results in found.items():
        name, mode, height, width = case
        time_, memory = (statistics.median(column) for column in zip(*results, strict=True))
        label = mode if name == model else ""
        size, per_pixel = f"{height}x{width}", time_ / (height * width) * 1e6
        row = (name, label, size, f"{time_:.2f}", f"{time_ / base:.2f}", f"{per_pixel:.2f}", f"{memory:.0f}")
        print("| " + " | ".join(row) + " |", flush=True)


def main(
    model: str = "transnext_tiny",
    peer: str = "convnext_tiny",
    rounds: int = 3,
    case: Annotated[tuple[str, str, int, int] | None, tyro.conf.arg(help="Measure one case in this process.")] = None,
) -> None:
    """Prints two Markdown tables.

    Args:
        model: One of ours.
        peer: What it is compared with.
        rounds: Processes of each case.
        case: Model, mode, height, width.
    """
    if case is not None:
        return one_process(*case, rounds=3)
    print("| mode | new size / repeated size, median | largest |\n|---|---|---|")
    new_sizes(model, 12)
    print("\n| model | mode | size | s | to the peer | us per pixel | peak MB |\n|---|---|---|---|---|---|---|")
    modes(model, peer, rounds)
    return None


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
