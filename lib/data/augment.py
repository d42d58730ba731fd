"""Images changed in ways that leave the direction of view as it is: as in SDF-SRN's released code, and ours."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from lib.networks.compat import import_torchvision

HUE = 0.5  # of the colour circle: any hue


def color_jitter(
    images: Float[Tensor, "batch height width 3"],
    mask: Float[Tensor, "batch height width"],
    strength: float,
    generator: torch.Generator,
) -> Float[Tensor, "batch height width 3"]:
    """Brightness, contrast and saturation times 1 +- strength, and any hue, in random order: torchvision's ColorJitter.

    The object's colours change, each image's by its own draw; the background stays white.
    """
    import_torchvision()
    from torchvision.transforms import functional

    operations = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation)
    changed = []
    for image in images.permute(0, 3, 1, 2):
        noise = (2 * torch.rand(4, generator=generator, device=generator.device) - 1).tolist()
        for number in torch.randperm(4, generator=generator, device=generator.device).tolist():
            if number == 3:
                image = functional.adjust_hue(image, HUE * noise[3])
            else:
                image = operations[number](image, 1 + strength * noise[number])
        changed.append(image)
    opacity = mask[..., None]
    return torch.stack(changed).permute(0, 2, 3, 1) * opacity + 1 - opacity


def augmented(
    images: Float[Tensor, "batch height width 3"], generator: torch.Generator, colour: float = 0.4, size: float = 0.15
) -> Float[Tensor, "batch height width 3"]:
    """Other colours, another size and place of the object: what a viewpoint estimator should not care about.

    Parameters
    ----------
    images : Tensor
        In [0, 1], on white.
    colour : float
        Each channel is multiplied by 1 +- colour, after a random step towards grey; white stays white.
    size : float
        The object is scaled by 1 +- size and shifted by at most size / 3 of the image's width.
    """
    noise = torch.rand(len(images), 7, generator=generator, device=generator.device).to(images)
    ink = 1 - images.permute(0, 3, 1, 2)  # distance from white, so that the background stays
    grey = ink.mean(dim=1, keepdim=True)
    ink = torch.lerp(ink, grey.expand_as(ink), noise[:, 0, None, None, None])
    ink = ink * (1 + colour * (2 * noise[:, 1:4, None, None] - 1))
    scale, shift = 1 + size * (2 * noise[:, 4] - 1), (2 * noise[:, 5:] - 1) * size * 2 / 3
    matrix = torch.diag_embed(scale[:, None].expand(-1, 2))
    grid = F.affine_grid(torch.cat([matrix, shift[..., None]], dim=-1), list(ink.shape), align_corners=False)
    moved = F.grid_sample(ink, grid, padding_mode="zeros", align_corners=False)
    return (1 - moved).clamp(0, 1).permute(0, 2, 3, 1)
