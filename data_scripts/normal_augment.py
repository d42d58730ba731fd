"""Other looks of a render with known normals: colour, light, place, size, roll and mirror image."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Maps = tuple[
    Float[Tensor, "batch height width 3"], Float[Tensor, "batch height width"], Float[Tensor, "batch height width 3"]
]
ROLL = 0.35  # radians
SIZE = (0.85, 1.3)  # a factor above 1 shows the object smaller
SHIFT = 0.1  # of half the image
SHARPNESS = (0.35, 1.0)  # photos of few pixels are enlarged before the network sees them


def augmented(
    rgb: Float[Tensor, "batch height width 3"],
    mask: Float[Tensor, "batch height width"],
    normal: Float[Tensor, "batch height width 3"],
    generator: torch.Generator,
) -> Maps:
    """Draw another look of each sample; colours on white, normals in the camera frame, 0 outside the mask."""
    opacity = mask.clamp(min=1 / 255)[..., None]
    colour = _recoloured(1 - ((1 - rgb) / opacity).clamp(0, 1), generator)  # straight colours, not those on white
    ink = (1 - colour) * mask[..., None]  # distance from white: what lies outside the image stays white
    scale, turn = _draw_place(len(rgb), generator)
    shift = SHIFT * _uniform(len(rgb), 2, generator)
    maps = moved(torch.cat([ink, mask[..., None], normal], dim=-1), turn, scale, shift)
    ink, mask, normal = _softened(maps[..., :3], generator), maps[..., 3], maps[..., 4:]
    normal = turned(F.normalize(normal, dim=-1), turn)
    noise = 0.02 * torch.randn(ink.shape, generator=generator) * mask[..., None]
    return (1 - ink + noise).clamp(0, 1), mask.clamp(0, 1), normal


def moved(
    maps: Float[Tensor, "batch height width channels"],
    turn: Float[Tensor, "batch 2 2"],
    scale: Float[Tensor, " batch"],
    shift: Float[Tensor, "batch 2"],
) -> Float[Tensor, "batch height width channels"]:
    """Maps whose point at p (in half images from the centre) goes to ``turn p / scale - shift``."""
    inverse = scale[:, None, None] * turn.mT
    theta = torch.cat([inverse, inverse @ shift[..., None]], dim=-1)
    channels = maps.permute(0, 3, 1, 2)
    grid = F.affine_grid(theta, list(channels.shape), align_corners=False)
    return F.grid_sample(channels, grid, padding_mode="zeros", align_corners=False).permute(0, 2, 3, 1)


def turned(
    normal: Float[Tensor, "batch height width 3"], turn: Float[Tensor, "batch 2 2"]
) -> Float[Tensor, "batch height width 3"]:
    """Normals of an object that was turned, or mirrored, in the image plane."""
    plane = torch.einsum("bij,bhwj->bhwi", turn, normal[..., :2])
    return torch.cat([plane, normal[..., 2:]], dim=-1)


def _draw_place(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Scales (B,) and orthogonal matrices (B, 2, 2): a roll, then a mirror image of every second."""
    low, high = SIZE
    scale = low + (high - low) * torch.rand(count, generator=generator)
    angle = ROLL * _uniform(count, 1, generator)[:, 0]
    cos, sin = angle.cos(), angle.sin()
    roll = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], dim=-2)
    mirror = torch.where(torch.rand(count, generator=generator) < 0.5, -1.0, 1.0)
    return scale, torch.stack([mirror, torch.ones(count)], dim=-1)[..., None] * roll


def _recoloured(colour: Tensor, generator: torch.Generator) -> Tensor:
    """Towards grey, another tint, contrast, and light that falls off over the image."""
    count, height, width, _ = colour.shape
    towards_grey = torch.rand((count, 1, 1, 1), generator=generator)
    colour = torch.lerp(colour, colour.mean(dim=-1, keepdim=True).expand_as(colour), towards_grey)
    tint = 1 + 0.4 * _uniform(count, 3, generator)[:, None, None]
    exponent = (0.5 * _uniform(count, 1, generator)).exp()[:, None, None]
    ramp = 0.25 * _uniform(count, 2, generator)
    down, right = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)
    light = 1 + ramp[:, 0, None, None] * down + ramp[:, 1, None, None] * right
    return (colour.clamp(1e-3, 1) ** exponent * tint * light[..., None]).clamp(0, 1)


def _softened(ink: Tensor, generator: torch.Generator) -> Tensor:
    """All images of a batch as if they had been enlarged from fewer pixels."""
    low, high = SHARPNESS
    size = round(ink.shape[1] * (low + (high - low) * torch.rand((), generator=generator).item()))
    channels = ink.permute(0, 3, 1, 2)
    small = F.interpolate(channels, size=(size, size), mode="area")
    return F.interpolate(small, size=channels.shape[-2:], mode="bilinear", align_corners=False).permute(0, 2, 3, 1)


def _uniform(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return 2 * torch.rand((rows, columns), generator=generator) - 1
