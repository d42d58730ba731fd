"""SDF-SRN (Lin et al., NeurIPS 2020): shape from single silhouettes with known viewpoints, by distance transforms."""

import functools
import math
from dataclasses import asdict, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lib.data.loading import Batch
from lib.errors import InputError
from lib.fields.compiled_field import CompiledField
from lib.fields.hypernetwork import Hypernetwork, WrittenField
from lib.geometry.cameras import Rays, Viewpoint, camera_rays, check_viewpoint, points_along
from lib.losses.field import cube_distance, cube_loss, sphere_sdf
from lib.losses.reprojection import rgb_loss
from lib.losses.silhouette import importance_weight, sdf_bound_loss
from lib.rendering.compiled_rays import bisect_compiled, march_compiled
from lib.rendering.compiling import can_compile
from lib.rendering.memory import keep_memory
from lib.rendering.parallel import draw_rows, gathered
from lib.rendering.precision import all_digits
from lib.rendering.ray_marching import Marcher, Surface, find_surface, march, points_at, sign_losses, weighted_mean
from lib.rendering.sampling import uniform
from lib.rendering.volume import RenderedMaps
from lib.systems.base import Reconstruction
from lib.systems.image_networks import backbone_of
from lib.systems.sdf_srn_config import SHAPENET, SDFSRNConfig
from lib.systems.sdf_srn_target import Target, augmented_batch, outside_only, sample_target, silhouette_bound

LONG_RUN = 5e7  # points of the eikonal term in training: below, compiling costs more than it saves


class SDFSRN(nn.Module):
    """The whole of Fig. 3: encoder and hypernetwork E, fields f and g that it writes, marcher h.

    Attributes
    ----------
    crossings : dict
        `Surface.counts` of the last training step: rays whose surface lies in the last interval, an early one, none.
    silhouettes : dict
        Of its images, as they were after augmentation: how many silhouettes are empty, full or cut by the border
        (`lib.systems.sdf_srn_target.sample_target` says what is done with them).
    """

    name = "sdf_srn"

    def __init__(self, config: SDFSRNConfig = SHAPENET):
        super().__init__()
        self.config = c = config
        self.backbone = backbone_of(c, c.backbone)
        self.to_code = nn.Linear(self.backbone.size, c.latent_size)
        self.hypernetwork = Hypernetwork(c.latent_size, c.hyper_layers, c.hyper_width, c.width, c.layers, c.frequencies)
        self.marcher = Marcher(c.width, c.state_size)
        self.compiled = c.render_path == "compiled"
        self.crossings: dict[str, int] = {}
        self.silhouettes: dict[str, int] = {}

    @property
    def counts(self) -> dict[str, int]:
        """What a row of the training's log counts: ``rays_none``, ``silhouettes_empty`` and so on."""
        kinds = {"rays": self.crossings, "silhouettes": self.silhouettes}
        return {f"{what}_{name}": count for what, found in kinds.items() for name, count in found.items()}

    def plan(self, steps: int, batch_size: int) -> None:
        """Prepare a training of so many steps: keep memory, and choose how to march and compute the eikonal term.

        The choice depends on the length of the run, never on the clock, so that a run can be repeated.
        """
        on_processor = self.to_code.weight.device.type == "cpu"
        if on_processor:
            keep_memory()
        if self.config.render_path == "auto":
            points = batch_size * self.config.eikonal_points * steps
            self.compiled = points >= LONG_RUN and on_processor and can_compile()

    def forward(self, batch: Batch, generator: torch.Generator, pretraining: bool = False) -> dict[str, Tensor]:
        """`losses`, or `pretrain_losses`: what a wrapper for several devices calls."""
        return self.pretrain_losses(batch, generator) if pretraining else self.losses(batch, generator)

    def encode(self, images: Float[Tensor, "batch height width 3"]) -> Float[Tensor, "batch code"]:
        """The code of each image."""
        return self.to_code(self.backbone(images))

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Every weighted term of Eq. 11; training minimises their sum.

        Parameters
        ----------
        batch : Batch
            Images with masks and viewpoints.
        generator : torch.Generator
            Draws pixels, depths and points.

        Raises
        ------
        InputError
            The batch has no viewpoints, or one that sees nothing (`lib.geometry.cameras.check_viewpoint`).
        """
        batch = augmented_batch(self._with_view(batch), self.config.jitter, self.config.rescale, generator)
        return self.losses_of(self.encode(batch.rgb), batch, generator)

    def losses_of(self, code: Float[Tensor, "batch code"], batch: Batch, generator) -> dict[str, Tensor]:
        """The terms for given codes: what test-time optimisation descends on, too."""
        with all_digits(code):
            return self._losses_of(self.hypernetwork(code.to(self.to_code.weight.dtype)), batch, generator)

    def _losses_of(self, field: WrittenField, batch: Batch, generator) -> dict[str, Tensor]:
        config = self.config
        target = sample_target(batch, config.rays, config.importance, generator, config.beyond)
        self.silhouettes = asdict(target.unusable)
        if self.compiled and batch.rgb.device.type == "cpu":
            field = CompiledField.of(field)
        depths, values = self._march(field, target.viewpoint, target.rays)
        losses = self._ray_losses(values, target)
        if config.cube_weight > 0:
            losses["cube"] = config.cube_weight * self._cube_loss(points_along(target.rays, depths), values)
        if config.rgb_weight > 0:
            surface = self._surface(field, target.rays, depths, values)
            color = field.color_at(points_at(target.rays, surface.depth))
            losses["rgb"] = 4 * config.rgb_weight * rgb_loss(color, target.rgb)  # 4: squares on [-1, 1]
        else:  # only counted: without halvings the field is not asked
            with torch.no_grad():
                surface = find_surface(field.distance, target.rays, depths, values, 0)
        self.crossings = surface.counts
        losses["sdf"] = config.sdf_weight * self._silhouette_loss(field, outside_only(target), generator)
        if config.eikonal_weight > 0 and config.field == "distance":
            points = uniform((len(batch.rgb), config.eikonal_points, 3), batch.rgb, generator) * config.bound
            losses["eikonal"] = config.eikonal_weight * field.eikonal(points)
        return losses

    def _march(self, field: WrittenField, viewpoint: Viewpoint, rays: Rays) -> tuple[Tensor, Tensor]:
        start = viewpoint.distance - self.config.near
        if isinstance(field, CompiledField):
            return march_compiled(field, self.marcher, rays, start, self.config.steps)
        return march(field.distance_and_feature, self.marcher, rays, start, self.config.steps)

    def _surface(self, field: WrittenField, rays: Rays, depths: Tensor, values: Tensor) -> Surface:
        config, halve = self.config, None
        if isinstance(field, CompiledField):
            halve = functools.partial(bisect_compiled, field)
        return find_surface(
            field.distance, rays, depths, values.detach(), config.bisections, config.hit_gradient, halve
        )

    def _ray_losses(self, values: Tensor, target: Target) -> dict[str, Tensor]:
        """Eq. 7; or, for the ablation, cross-entropy of occupancy, whose logit is -f."""
        config = self.config
        values, inside, weights = gathered(values), gathered(target.inside), gathered(target.weights)
        if config.field == "distance":
            last, free = sign_losses(values, inside, weights, config.margin)
        else:
            toward = torch.where(inside, values[..., -1], -values[..., -1])
            last, free = weighted_mean(F.softplus(toward), weights), F.softplus(-values[..., :-1]).mean()
        return {"ray_last": config.last_weight * last, "ray_free": config.free_weight * free}

    def _cube_loss(self, points: Tensor, values: Tensor) -> Tensor:
        """`cube_loss`; or, for the ablation, cross-entropy of "empty" beyond the cube: a logit knows no distance."""
        if self.config.field == "distance":
            return cube_loss(points, values)
        return (F.softplus(-values) * (cube_distance(points) > 0)).mean()

    def _silhouette_loss(self, field: WrittenField, target: Target, generator) -> Tensor:
        """Eq. 4 at random depths of rays outside; its sum over depths as a mean."""
        config = self.config
        shape = (*target.inside.shape, config.silhouette_depths)
        middle, reach = (config.far - config.near) / 2, (config.far + config.near) / 2
        along = target.viewpoint.distance[:, None, None] + middle + reach * uniform(shape, target.plane, generator)
        values = field.distance(points_along(target.rays, along).flatten(1, 2)).unflatten(1, shape[1:])
        if config.field == "occupancy":
            weights = importance_weight(target.distance) if config.importance else (target.distance > 0).to(values)
            values, weights = gathered(values), gathered(weights)
            return weighted_mean(F.softplus(-values), weights[..., None].expand_as(values))
        bound = silhouette_bound(target, along)
        return sdf_bound_loss(values, bound, target.distance, config.importance) / config.silhouette_depths

    def pretrain_losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Before training: any code gives a sphere; without it training often ends without a surface."""
        size, like = len(batch.rgb), self.to_code.weight
        noise = draw_rows(torch.randn, (size, self.config.latent_size), generator)
        field = self.hypernetwork(noise.to(like))
        points = uniform((size, self.config.pretrain_points, 3), like, generator) * self.config.bound
        target = sphere_sdf(points, self.config.sphere_radius)
        return {"shape": (field.distance(points) - target).square().mean()}

    def reconstruct(
        self, images: Float[Tensor, "batch height width 3"], viewpoint: Viewpoint | None = None
    ) -> Reconstruction:
        """Shapes of segmented images on white, in [0, 1].

        Parameters
        ----------
        viewpoint : Viewpoint, optional
            Of the images; a view from the front without it. The shape does not depend on it.

        Raises
        ------
        InputError
            A viewpoint sees nothing.
        """
        with torch.no_grad():
            code = self.encode(images)
        return self.decode(code, viewpoint or self._front(images))

    def decode(self, code: Float[Tensor, "batch code"], viewpoint: Viewpoint) -> Reconstruction:
        """The shapes of codes, rendered by marching."""
        viewpoint = self._projected(viewpoint)
        with torch.no_grad():
            field = self.hypernetwork(code)

        def evaluate(i: int, points: Tensor):
            sdf, feature, gradient = field[i : i + 1].with_gradient(points)
            return sdf, gradient, field[i : i + 1].color(feature)

        def distance(i: int, points: Tensor):
            return field[i : i + 1].distance(points)

        def cast(i: int, view: Viewpoint, pixels: Tensor):
            self._check(view, i)
            return self.render(field[i : i + 1], view, pixels)

        slope = math.inf if self.config.field == "occupancy" else 4.0  # a logit may have any
        return Reconstruction(evaluate, distance, viewpoint, 0.01, self.config.near, cast, slope)

    @torch.no_grad()
    def render(self, field: WrittenField, viewpoint: Viewpoint, pixels: Float[Tensor, "batch rays 2"]) -> RenderedMaps:
        """What rays through image points see: the marched surface's colour, on white, with a mask of 0 and 1."""
        rays = camera_rays(viewpoint, pixels)
        surface = self._surface(field, rays, *self._march(field, viewpoint, rays))
        _, feature, gradient = field.with_gradient(points_at(rays, surface.depth))
        mask = surface.hit.to(pixels.dtype)
        rgb = 1 - mask[..., None] * (1 - field.color(feature))
        far = (viewpoint.distance + self.config.far)[:, None].expand_as(mask)
        return RenderedMaps(rgb, mask, F.normalize(gradient, dim=-1), torch.where(surface.hit, surface.depth, far))

    def refine(self, batch: Batch, generator: torch.Generator, steps: int | None = None) -> Reconstruction:
        """Test-time optimisation (Table 3): descend on Eq. 11 over the codes of these images, the network fixed.

        Parameters
        ----------
        batch : Batch
            Images with masks and viewpoints.
        steps : int, optional
            Of Adam; the configuration's `refine_steps` without it.
        """
        batch = self._with_view(batch)
        with torch.no_grad():
            code = self.encode(batch.rgb)
        code = code.detach().requires_grad_()
        optimizer = torch.optim.Adam([code], self.config.refine_rate)
        for _ in range(self.config.refine_steps if steps is None else steps):
            loss = sum(self.losses_of(code, batch, generator).values())
            (code.grad,) = torch.autograd.grad(loss, code)
            optimizer.step()
        return self.decode(code.detach(), batch.viewpoint)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The pretrained part, which training may move more slowly than the rest."""
        return [p for p in self.backbone.parameters() if p.requires_grad]

    def _with_view(self, batch: Batch) -> Batch:
        if batch.viewpoint is None:
            raise InputError("SDF-SRN needs a dataset whose metadata holds azimuth, elevation and tilt")
        return replace(batch, viewpoint=self._projected(batch.viewpoint))

    def _projected(self, viewpoint: Viewpoint) -> Viewpoint:
        viewpoint = replace(viewpoint, projection=self.config.projection)
        self._check(viewpoint)
        return viewpoint

    def _check(self, viewpoint: Viewpoint, first: int = 0) -> None:
        """Perspective rays must not start behind the camera, where nothing is seen; parallel ones may."""
        check_viewpoint(viewpoint, self.config.near if viewpoint.projection == "perspective" else 0.0, first)

    def _front(self, images: Tensor) -> Viewpoint:
        zero = images.new_zeros(len(images))
        return Viewpoint.from_angles(zero, zero, distance=self.config.distance, focal=self.config.focal)
