"""Image -> codes, image -> viewpoint."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lib.geometry.cameras import Projection, Viewpoint

COLOR_SPREAD = 1 / 15  # how far the mean colours of images of one category differ, about


class Bottleneck(nn.Module):
    """Residual block on vectors: Linear, norm, ReLU, Linear, norm, add, ReLU.

    Parameters
    ----------
    size : int
        Width.
    batchnorm : bool
        The released code normalises over the batch; layer normalisation serves small batches better.
    zero_init : bool
        Start as the (rectified) identity.
    """

    def __init__(self, size: int, batchnorm: bool = True, zero_init: bool = False):
        super().__init__()
        norm = nn.BatchNorm1d if batchnorm else nn.LayerNorm
        self.residual = nn.Sequential(
            nn.Linear(size, size, bias=False), norm(size), nn.ReLU(), nn.Linear(size, size, bias=False), norm(size)
        )
        if zero_init:
            nn.init.zeros_(self.residual[-1].weight)

    def forward(self, x: Float[Tensor, "batch size"]) -> Float[Tensor, "batch size"]:
        """X + residual(x), rectified."""
        return F.relu(x + self.residual(x))


class CodeHead(nn.Module):
    """Features -> the raw latents of E, then two projections to the codes s and t that condition the fields."""

    def __init__(self, features: int, latent_size: int, code_size: int, batchnorm: bool = True):
        super().__init__()
        self.latent_size = latent_size
        self.to_latents = nn.Linear(features, 2 * latent_size)
        self.shape_projection = _projection(latent_size, code_size, batchnorm)
        self.texture_projection = _projection(latent_size, code_size, batchnorm)

    def forward(self, features: Float[Tensor, "batch features"]) -> tuple[Tensor, Tensor]:
        """Shape code and texture code, each (B, code_size)."""
        shape, texture = self.to_latents(features).chunk(2, dim=-1)
        return self.shape_projection(shape), self.texture_projection(texture)


def _projection(latent_size: int, code_size: int, batchnorm: bool) -> nn.Sequential:
    blocks = [Bottleneck(latent_size, batchnorm) for _ in range(2)]
    return nn.Sequential(*blocks, nn.Linear(latent_size, code_size))


class ColorCode(nn.Module):
    """The mean colour of an image's object -> what is added to its texture code (ours).

    Short trainings lose the hue of an image between its features and its texture code: a field that gives everything
    its brightness in grey is a plateau of the colour loss. The mean colour itself leads off it.
    """

    def __init__(self, code_size: int):
        super().__init__()
        self.linear = nn.Linear(3, code_size)

    def forward(self, images: Float[Tensor, "batch height width 3"]) -> Float[Tensor, "batch code"]:
        """For images in [0, 1] on white; what is not white is the object."""
        return self.linear((mean_color(images) - 0.5) / COLOR_SPREAD)


def mean_color(images: Float[Tensor, "batch height width 3"]) -> Float[Tensor, "batch 3"]:
    """Mean colour of the pixels that are not white; black for an image that is all white."""
    seen = (images < 0.99).any(dim=-1, keepdim=True).to(images.dtype)
    return (seen * images).sum(dim=(1, 2)) / seen.sum(dim=(1, 2)).clamp(min=1)


@dataclass(frozen=True)
class CameraPrior:
    """What a viewpoint estimator takes for granted; the defaults are ShapeClipper's.

    Attributes
    ----------
    distance, distance_range : float
        The predicted distance lies within ``distance * (1 +- distance_range)``, in world units.
    focal : float
        In image widths; 4 at distance 5 is a field of view of 14 degrees.
    projection : {"perspective", "weak_perspective"}
        See `lib.geometry.cameras.Viewpoint`.
    start_elevation : float
        Radians.
    center_range : float
        The predicted principal point lies within so many image widths of the image's middle (ours; 0, as in the
        paper: it is the middle). An image that was cropped to its mask has its middle elsewhere than the camera had.
    """

    distance: float = 5.0
    distance_range: float = 0.2
    focal: float = 4.0
    projection: Projection = "perspective"
    start_elevation: float = 0.0
    center_range: float = 0.0


class ViewpointHead(nn.Module):
    """Features -> viewpoint v = [cos, sin] of azimuth, elevation and roll, and the camera's distance (Sec. 3.1).

    Elevation and roll start at a constant, the azimuth anywhere. The released code's perspective head is switched
    off by its own settings and left out.

    Parameters
    ----------
    features, width : int
        Input size, and the size of the head's blocks (released code: both 512).
    camera : CameraPrior
        What is not predicted, and where the prediction starts.
    batchnorm : bool
        See `Bottleneck`.
    """

    def __init__(self, features: int, camera: CameraPrior, width: int = 512, batchnorm: bool = True):
        super().__init__()
        self.camera = camera
        self.entry = nn.Identity() if features == width else nn.Sequential(nn.Linear(features, width), nn.ReLU())
        self.angles = nn.Sequential(Bottleneck(width, batchnorm, zero_init=True), nn.Linear(width, 6))
        self.size = nn.Sequential(Bottleneck(width, batchnorm, zero_init=True), nn.Linear(width, 1))
        with torch.no_grad():
            last, start = self.angles[-1], camera.start_elevation
            last.weight[2:] = 0
            last.bias[2:] = torch.tensor([math.cos(start), math.sin(start), 1.0, 0.0])
            self.size[-1].weight.zero_()
            self.size[-1].bias.zero_()
        self.center = None
        if camera.center_range > 0:
            self.center = nn.Linear(width, 2)
            nn.init.zeros_(self.center.weight)
            nn.init.zeros_(self.center.bias)

    def forward(self, features: Float[Tensor, "batch features"]) -> Viewpoint:
        """The viewpoint that the image seems to be taken from."""
        x = self.entry(features)
        pairs = F.normalize(self.angles(x).unflatten(-1, (3, 2)), dim=-1)
        stretch = 1 + self.camera.distance_range * torch.tanh(self.size(x)[:, 0])
        focal = torch.full_like(stretch, self.camera.focal)
        center = torch.full_like(pairs[:, 0], 0.5)
        if self.center is not None:
            center = center + self.camera.center_range * torch.tanh(self.center(x))
        return Viewpoint(*pairs.unbind(1), self.camera.distance * stretch, focal, center, self.camera.projection)

    def azimuth_of_last_layer(self, features: Float[Tensor, "batch features"]) -> Float[Tensor, "batch 2"]:
        """The same azimuths (cos, sin); only the last layer gets a gradient."""
        with torch.no_grad():
            x = self.angles[:-1](self.entry(features))
        return F.normalize(self.angles[-1](x)[:, :2], dim=-1)
