"""What an update costs beside the network: AdamW, Muon of this package, and timm's Muon, on the weights of one model.

    python benchmarks/optimizers.py
    python benchmarks/optimizers.py --model transnext_micro --rounds 5

All take turns on random gradients; times are medians, ratios those of medians.
"""

import statistics
import time
from collections.abc import Callable

import timm
import torch
import tyro
from timm.optim import create_optimizer_v2

from transnext.config import TrainConfig
from transnext.engine.optim import make_optimizer


def main(model: str = "transnext_pico_patch2_28", rounds: int = 9) -> None:
    """Prints a Markdown table.

    Args:
        model: Any of timm's.
        rounds: Updates of each that are timed.
    """
    adamw = TrainConfig.of(data="emoji")
    muon = TrainConfig.of(data="emoji", optimizer="muon")
    ways: dict[str, Callable[[torch.nn.Module], torch.optim.Optimizer]] = {
        "AdamW, fused": lambda net: make_optimizer(net, adamw),
        "Muon, float32 on a CPU": lambda net: make_optimizer(net, muon),
        "Muon of timm, bfloat16": lambda net: create_optimizer_v2(net, opt="muon", lr=muon.lr, weight_decay=0.05),
    }
    optimizers = {}
    for name, make in ways.items():
        torch.manual_seed(0)
        net = timm.create_model(model)
        for parameter in net.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizers[name] = make(net)
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(rounds + 1):
        for name, optimizer in optimizers.items():
            start = time.perf_counter()
            optimizer.step()
            if round_:
                taken[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    ours = medians["Muon, float32 on a CPU"]
    print(f"{model}, {torch.get_num_threads()} threads, torch {torch.__version__}, timm {timm.__version__}\n")
    print("| optimizer | ms for an update | against Muon here |\n|---|---|---|")
    for name, seconds in medians.items():
        print(f"| {name} | {1000 * seconds:.0f} | {seconds / ours:.2f} |")


if __name__ == "__main__":
    tyro.cli(main)
