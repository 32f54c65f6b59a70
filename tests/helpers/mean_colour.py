"""A toy task for `test_toy_task.py`: say the mean colour of an image, which a linear layer can."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from transnext.config import TASK_CONFIGS
from transnext.data import open_dataset
from transnext.report.parts import Metric, Section
from transnext.tasks.task import TASKS, Losses, Meter, Objective, Task

TASKS["colour"], TASK_CONFIGS["colour"] = f"{__name__}:Colour", f"{__name__}:ColourConfig"


@dataclass(frozen=True, kw_only=True)
class ColourConfig:
    power: int = 2


@dataclass(frozen=True, kw_only=True)
class ColourResult:
    split: str
    num_images: int
    skipped: list
    images_per_second: float | None
    error: float

    score = property(lambda self: -self.error)
    metrics = property(lambda self: {"error": Metric(title="mean error", value=self.error, percent=False)})
    to_dict = property(lambda self: lambda: {"error": self.error})


class Coloured:
    """The images of a source, whose target is their mean colour."""

    def __init__(self, source):
        self.source, self.name, self.load = source, source.name, source.load

    def __len__(self):
        return len(self.source)

    def target(self, index):
        return np.asarray(self.load(index), np.float32).mean((0, 1)) / 255


class ColourObjective(Objective):
    def __init__(self, net, preprocessing, power):
        super().__init__(net)
        self.normalise, self.power = preprocessing.normalise(), power

    def forward(self, images, sizes, targets):
        error = (self.net(self.normalise(images)) - targets).abs().pow(self.power).mean(1)
        return Losses({"distance": error.sum()}, torch.tensor(float(len(images))), {})

    def blank(self, device):
        return torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([[8, 8]]), torch.zeros(1, 3)


class ColourMeter(Meter):
    def __init__(self):
        super().__init__()
        self.errors = []

    def add(self, raw, batch):
        self.errors += (raw - batch.targets).abs().mean(1).tolist()

    def state(self):
        return self.errors, self.skipped

    def merge(self, states):
        self.errors = [error for errors, _ in states for error in errors]
        self.skipped = [one for _, skipped in states for one in skipped]

    def result(self, split, name, images_per_second=None):
        error = float(np.mean(self.errors))
        return ColourResult(
            split=split, num_images=len(self.errors), skipped=self.skipped, images_per_second=None, error=error
        )


@dataclass(frozen=True, kw_only=True)
class Colour(Task):
    name = "colour"

    @classmethod
    def open(cls, config):
        return cls(), cls().sources(config.data, config.images.val_fraction, config.seed)

    def build(self, config, saved_args=None):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))

    def collate(self, targets):
        return torch.from_numpy(np.array(targets, np.float32).reshape(-1, 3))

    def objective(self, net, preprocessing, config):
        return ColourObjective(net, preprocessing, config.task.power)

    def meter(self, source=None):
        return ColourMeter()

    def answers(self, loaded, asked, **options):
        return [
            {"name": name, "colour": colour}
            for name, colour in zip(asked.names, loaded.model(asked.inputs), strict=True)
        ]

    def sources(self, data, val_fraction, seed, model="the model"):
        return {split: Coloured(source) for split, source in open_dataset(data, val_fraction, seed).items()}

    def sections(self, results, look):
        return [Section(key="colour", title="Colours", html="<p>Here they would be.</p>")]
