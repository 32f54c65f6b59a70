import torch

from transnext.data import LabelledImages, open_dataset, train_transform
from transnext.engine.loader import ShuffledEpochs, train_loader

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


def images() -> LabelledImages:
    transform = train_transform(
        (3, 32, 32), MEAN, STD, "bicubic", auto_augment="rand-m9-mstd0.5-inc1", erasing_prob=0.5
    )
    return LabelledImages(open_dataset("emoji")["both"], transform)


def epoch(workers: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    loader = train_loader(images(), 16, seed=3, workers=workers)
    loader.sampler.set_epoch(number)
    batches = list(loader)
    return torch.cat([b.images for b in batches]), torch.cat([b.indices for b in batches])


def test_batches_depend_on_seed_and_epoch_alone() -> None:
    first, order = epoch(0, 4)
    torch.rand(3)  # other users of the generators do not matter
    again, same_order = epoch(2, 4)
    assert torch.equal(order, same_order)
    assert torch.equal(first, again)
    other, other_order = epoch(0, 5)
    assert not torch.equal(order, other_order)
    assert not torch.equal(first, other)


def test_reading_does_not_touch_the_generator_of_the_model() -> None:
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    next(iter(train_loader(images(), 8, seed=0, workers=0)))
    assert torch.equal(torch.rand(3), expected)


def test_every_image_once_an_epoch() -> None:
    sampler = ShuffledEpochs(100, seed=0)
    assert sorted(i for i, _ in sampler) == list(range(100))
    assert len({seed for _, seed in sampler}) == 100


def test_fewer_images_than_a_batch_are_one_batch() -> None:
    loader = train_loader(images(), 1000, seed=0, workers=0)
    assert [len(b.images) for b in loader] == [231]
