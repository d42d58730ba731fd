"""What augmentation may change, and what it must leave alone."""

import pytest
import torch

from lib.data.augment import augmented


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def disc(level: float, count: int = 20, size: int = 48) -> torch.Tensor:
    """Grey discs of radius 0.2 on white."""
    axis = (torch.arange(size) + 0.5) / size - 0.5
    inside = (axis[:, None] ** 2 + axis[None] ** 2 < 0.2**2).float()[..., None]
    return (1 - (1 - level) * inside).expand(count, size, size, 3)


def test_white_stays_white_and_colours_stay_colours():
    assert torch.equal(augmented(torch.ones(4, 8, 8, 3), generator()), torch.ones(4, 8, 8, 3))
    images = augmented(torch.rand(8, 16, 16, 3), generator())
    assert images.shape == (8, 16, 16, 3) and float(images.min()) >= 0 and float(images.max()) <= 1


def test_same_generator_same_images():
    images = torch.rand(3, 8, 8, 3)
    assert torch.equal(augmented(images, generator(1)), augmented(images, generator(1)))
    assert not torch.equal(augmented(images, generator(1)), augmented(images, generator(2)))


def test_colours_change_by_at_most_what_was_asked_and_each_channel_apart():
    ink = 1 - augmented(disc(0.5), generator(), colour=0.4, size=0.0)[:, 24, 24]  # (images, 3)
    factor = ink / 0.5
    assert float(factor.min()) >= 0.6 - 1e-5 and float(factor.max()) <= 1.4 + 1e-5
    assert float(factor.std(dim=0).min()) > 0.1 and float(factor.std(dim=1).min()) > 0


def test_grey_step_moves_colours_towards_their_mean():
    red = torch.ones(200, 4, 4, 3) * torch.tensor([1.0, 0.2, 0.2])
    spread = 1 - augmented(red, generator(), colour=0.0, size=0.0)[:, 2, 2]
    assert spread.sum(dim=1).tolist() == pytest.approx([1.6] * 200, abs=1e-4)  # the mean ink stays
    assert float((spread[:, 1] - spread[:, 0]).min()) >= 0 and float((spread[:, 1] - spread[:, 0]).max()) <= 0.8


def test_object_changes_its_size_and_place_by_at_most_what_was_asked():
    mask = (augmented(disc(0.0, count=40), generator(), colour=0.0, size=0.15).mean(-1) < 0.5).float()
    radius = (mask.sum(dim=(1, 2)) / torch.pi).sqrt() / 48
    assert 0.2 / 1.15 - 0.01 < float(radius.min()) < 0.19 and 0.21 < float(radius.max()) < 0.2 / 0.85 + 0.01
    axis = (torch.arange(48) + 0.5) / 48 - 0.5
    place = torch.stack([(mask * axis).sum(dim=(1, 2)), (mask * axis[:, None]).sum(dim=(1, 2))])
    place = place / mask.sum(dim=(1, 2))
    assert 0.02 < float(place.abs().max()) < 0.05 / 0.85 + 0.01
