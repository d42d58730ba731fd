"""ShapeClipper (Huang et al., CVPR 2023): shape from single views, with semantic neighbours and normals."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from lib.data.augment import augmented
from lib.data.loading import Batch, PreparedDataset
from lib.errors import InputError
from lib.fields.sdf import SDFField
from lib.fields.texture import TextureField, colored_field
from lib.geometry.cameras import Viewpoint, camera_rays, index_to_pixel, unit_pair
from lib.losses.camera import azimuth_prior_loss, camera_margin_loss, mirror_loss, viewpoint_distance
from lib.losses.field import eikonal_loss, sphere_sdf
from lib.losses.normal import normal_loss
from lib.losses.reprojection import mask_loss, rgb_loss
from lib.networks.heads import CodeHead, ColorCode, ViewpointHead
from lib.rendering.fast import render_fields
from lib.rendering.parallel import draw_rows
from lib.rendering.paths import choose_render_path
from lib.rendering.precision import all_digits
from lib.rendering.sampling import sample_pixels, uniform, values_at
from lib.rendering.skipping import Skip
from lib.rendering.volume import RenderedMaps, sample_depths
from lib.systems.base import Reconstruction
from lib.systems.guesses import guess_viewpoints
from lib.systems.image_networks import camera_prior, code_backbone, viewpoint_backbone
from lib.systems.quarters import best_quarter, nearest_quarter
from lib.systems.shapeclipper_config import PAPER, ShapeClipperConfig


@dataclass(frozen=True)
class Reading:
    """What the networks read from B images: codes (B, code_size) and the viewpoint, predicted or given."""

    shape: Float[Tensor, "batch code"]
    texture: Float[Tensor, "batch code"]
    viewpoint: Viewpoint


class ShapeClipper(nn.Module):
    """The whole of Fig. 4: encoder E, fields f_S and f_T, viewpoint estimator V and the renderer R."""

    name = "shapeclipper"

    def __init__(self, config: ShapeClipperConfig = PAPER):
        super().__init__()
        self.config = config
        batchnorm = config.head_batchnorm
        self.backbone = code_backbone(config)
        self.codes = CodeHead(self.backbone.size, config.latent_size, config.code_size, batchnorm)
        if config.viewpoint == "predicted":
            shared = config.viewpoint_backbone == "shared"
            self.viewpoint_backbone = None if shared else viewpoint_backbone(config)
            size = self.backbone.size if shared else self.viewpoint_backbone.size
            self.viewpoint_head = ViewpointHead(size, camera_prior(config), config.latent_size, batchnorm)
        shape = (config.code_size, config.width)
        self.sdf_field = SDFField(
            *shape,
            config.sdf_layers,
            frequencies=config.frequencies,
            symmetric=config.symmetric,
            radius=config.sphere_radius,
        )
        self.texture_field = TextureField(
            *shape, config.texture_layers, frequencies=config.frequencies, symmetric=config.symmetric
        )
        self.color_code = ColorCode(config.code_size) if config.mean_color else None
        self.raw_beta = nn.Parameter(torch.tensor(config.beta), requires_grad=config.beta_final is None)
        self.render_path = choose_render_path(config.render_path)
        self.anew: tuple[str, ...] = ()  # parts that begin anew in a run that starts from a checkpoint
        if config.learn == "texture":
            self.anew = ("texture_field",)  # one that has painted everything grey stays grey
            self.requires_grad_(False)
            for part in (self.texture_field, self.codes.texture_projection, self.color_code):
                if part is not None:
                    part.requires_grad_(True)
        self.register_buffer("guesses", torch.zeros(0, 2), persistent=False)  # azimuth, elevation of training images
        self.register_buffer("progress", torch.zeros(()))  # share of the training that is done; training sets it

    def prepare(self, data: PreparedDataset) -> None:
        """Look at the whole training set once, before training: the viewpoint guesses come from all its normals.

        Raises
        ------
        InputError
            Guesses are asked for and the samples have no normals.
        """
        config = self.config
        if config.viewpoint == "given" or config.guess_weight == 0:
            return
        if data.batch(torch.arange(1)).normal is None:
            raise InputError("guess_weight > 0 needs a dataset whose samples have normals; or set it to 0")
        batches = map(data.batch, torch.arange(len(data)).split(256))
        guesses = guess_viewpoints(((some.normal, some.mask) for some in batches), data.metadata["model"].to_numpy())
        self.guesses = torch.stack([guesses.azimuth, guesses.elevation], dim=-1).to(self.guesses.device)

    def plan(self, steps: int, batch_size: int) -> None:
        """Choose how to render in a training of so many steps."""
        config = self.config
        rays = config.rays + (config.neighbor_rays if config.semantic_weight > 0 else 0)
        points = batch_size * rays * config.samples
        self.render_path = choose_render_path(config.render_path, points, steps, str(self.progress.device))

    def forward(self, batch: Batch, generator: torch.Generator, pretraining: bool = False) -> dict[str, Tensor]:
        """`losses`, or `pretrain_losses`: what a wrapper for several devices calls."""
        return self.pretrain_losses(batch, generator) if pretraining else self.losses(batch, generator)

    def encode(
        self, images: Float[Tensor, "batch height width 3"]
    ) -> tuple[Float[Tensor, "batch code"], Float[Tensor, "batch code"], Viewpoint | None]:
        """Shape code, texture code and predicted viewpoint of images; no viewpoint where it is given."""
        features, viewpoint = self.backbone(images).to(images.dtype), None
        if self.config.viewpoint == "predicted":
            viewpoint = self._estimate(features if self.viewpoint_backbone is None else self._seen(images))
        with all_digits(images):
            shape, texture = self.codes(features)
            if self.color_code is not None:
                texture = texture + self.color_code(images)
        return shape, texture, viewpoint

    def _seen(self, images: Tensor) -> Tensor:
        """The features that the viewpoint estimator looks at: of its own network, or of the codes'."""
        return (self.viewpoint_backbone or self.backbone)(images).to(images.dtype)

    def _estimate(self, features: Tensor) -> Viewpoint:
        with all_digits(features):
            return self.viewpoint_head(features)

    def beta(self) -> Tensor | float:
        """Width of the rendered surface: learned (the paper), or scheduled over training."""
        config = self.config
        if config.beta_final is None:
            return self.raw_beta.abs() + config.beta_min
        done = (float(self.progress) - config.beta_from) / (config.beta_until - config.beta_from)
        return config.beta * (config.beta_final / config.beta) ** min(max(done, 0.0), 1.0)

    def field(self, shape_code: Tensor, texture_code: Tensor | None):
        """`colored_field` of these codes."""
        return colored_field(self.sdf_field, self.texture_field, shape_code, texture_code)

    def losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Every weighted term of Eq. 7 and of Sec. 3.4; training minimises their sum.

        Parameters
        ----------
        batch : Batch
            Images with masks, normals (unless their weight is 0) and one neighbour each (unless SSC is off).
        generator : torch.Generator
            Draws pixels, depths and points.
        """
        query, neighbor, mirrored = self._read(batch, generator)
        with all_digits(batch.rgb):
            targets, readings = ([batch, batch.neighbor], [query, neighbor]) if neighbor else ([batch], [query])
            views, losses = [reading.viewpoint for reading in readings], {}
            if len(self.guesses) and self.progress < self.config.guesses_until:
                views, losses = self._from_guesses(targets, readings, mirrored, generator)
            losses |= self._reprojection(batch, query.shape, query.texture, views[0], self.config.rays, generator)
            losses["eikonal"] = self.config.eikonal_weight * self._eikonal(query.shape, generator)
            if neighbor:  # SSC (Eq. 3): the query's shape explains the neighbour, with its texture and viewpoint
                rays, weight = self.config.neighbor_rays, self.config.semantic_weight
                terms = self._reprojection(batch.neighbor, query.shape, neighbor.texture, views[1], rays, generator)
                losses |= {f"neighbor_{name}": weight * term for name, term in terms.items()}
            if self.config.viewpoint == "predicted":
                losses |= self._camera_losses(query.viewpoint, neighbor and neighbor.viewpoint, mirrored)
            return losses

    def _read(self, batch: Batch, generator: torch.Generator) -> tuple["Reading", "Reading | None", Viewpoint | None]:
        """Encode queries and neighbours in one pass of the networks; of mirrored queries the viewpoint alone."""
        config, size = self.config, len(batch.rgb)
        if config.normal_weight > 0 and batch.normal is None:
            raise InputError("normal_weight > 0 needs a dataset whose samples have normals; or set it to 0")
        if config.semantic_weight > 0 and batch.neighbor is None:
            raise InputError("semantic_weight > 0 needs neighbours: give the dataset's neighbour file, or set it to 0")
        targets = [batch] + ([batch.neighbor] if config.semantic_weight > 0 else [])
        images = [target.rgb for target in targets]
        shape, texture, viewpoint = self.encode(torch.cat(images))
        parts = [slice(i * size, (i + 1) * size) for i in range(len(images))]
        views = [self._given(t) if viewpoint is None else viewpoint[p] for t, p in zip(targets, parts, strict=False)]
        readings = [Reading(shape[p], texture[p], view) for p, view in zip(parts, views, strict=False)]
        mirrored = None
        if config.viewpoint == "predicted" and config.mirror_weight > 0:
            mirrored = self._estimate(self._seen(self._flipped(batch.rgb, generator)))
        return readings[0], readings[1] if len(readings) > 1 else None, mirrored

    def _from_guesses(
        self, targets: list[Batch], readings: list["Reading"], mirrored: Viewpoint | None, generator
    ) -> tuple[list[Viewpoint], dict[str, Tensor]]:
        """Viewpoints to render from, and the pull of the estimator towards them (ours).

        The guess, turned by as many quarters as bring it closest to the estimator's azimuth; and later by as many as
        let the shape explain the image best. A mirrored image is pulled towards the mirrored viewpoint.
        """
        views, pulls = [], []
        for target, reading in zip(targets, readings, strict=True):
            view = nearest_quarter(self._guess(target, reading.viewpoint), reading.viewpoint)
            if self.progress >= self.config.quarters_from:
                view = best_quarter(self._render, target, reading.shape, view, self.config, generator)
            views.append(view)
            pulls.append(viewpoint_distance(reading.viewpoint, view))
        if mirrored:
            pulls.append(viewpoint_distance(mirrored, views[0].mirrored()))
        return views, {"guess": self.config.guess_weight * torch.cat(pulls).mean()}

    def _guess(self, batch: Batch, viewpoint: Viewpoint) -> Viewpoint:
        """The guessed angles, at the estimator's distance."""
        azimuth, elevation = self.guesses[batch.index].unbind(-1)
        roll = torch.zeros_like(azimuth)
        return replace(viewpoint, azimuth=unit_pair(azimuth), elevation=unit_pair(elevation), roll=unit_pair(roll))

    def _reprojection(
        self, target: Batch, shape_code: Tensor, texture_code: Tensor, viewpoint: Viewpoint, rays: int, generator
    ) -> dict[str, Tensor]:
        """Render some rays of the target image and compare (Eq. 5)."""
        config = self.config
        index = sample_pixels(target.ray_weights, rays, generator)
        mask = values_at(target.mask, index)
        wanted = (mask > 0.5) & (config.normal_weight > 0)
        size = target.rgb.shape[1]
        maps = self._render(shape_code, texture_code, viewpoint, index, size, generator, wanted=wanted)
        losses = {
            "rgb": config.rgb_weight * rgb_loss(maps.rgb, values_at(target.rgb, index)),
            "mask": config.mask_weight * mask_loss(maps.mask, mask),
        }
        if config.normal_weight > 0:
            visible = (mask > 0.5) & (maps.mask > 0.5)
            normal, rotation = values_at(target.normal, index), viewpoint.rotation()
            loss = normal_loss(maps.normal, normal, rotation, visible, config.normal_keep, config.normal_l1_weight)
            losses["normal"] = config.normal_weight * loss
        return losses

    def _render(
        self,
        shape_code: Tensor,
        texture_code: Tensor | None,
        viewpoint,
        index,
        image_size,
        generator,
        samples=None,
        wanted=None,
    ) -> RenderedMaps:
        rays = camera_rays(viewpoint, index_to_pixel(index, image_size))
        near, far = viewpoint.distance - self.config.depth_range, viewpoint.distance + self.config.depth_range
        depths = sample_depths(near, far, index.shape[1], samples or self.config.samples, generator)
        fields = (self.sdf_field, self.texture_field, shape_code, texture_code)
        skip = Skip(self.config.skip_weight, self.config.skip_beta)
        return render_fields(
            self.render_path, *fields, rays, depths, self.beta(), self.config.last_interval, skip, wanted
        )

    def _eikonal(self, shape_code: Tensor, generator) -> Tensor:
        """Half of the points anywhere in [-1, 1]^3, half in the unit cube; the code is detached, as in the released
        code, so that the term shapes the field and not the encoder.
        """
        count = self.config.rays
        cube = uniform((len(shape_code), 2 * count, 3), shape_code, generator)
        points = torch.cat([cube[:, :count], cube[:, count:] * 0.5], dim=1)
        return eikonal_loss(self.sdf_field.with_gradient(points, shape_code.detach())[2])

    def _camera_losses(
        self, query: Viewpoint, neighbor: Viewpoint | None, mirrored: Viewpoint | None
    ) -> dict[str, Tensor]:
        config = self.config
        azimuth = torch.cat([query.azimuth] + ([neighbor.azimuth] if neighbor else []))
        losses = {"azimuth_prior": config.azimuth_prior_weight * azimuth_prior_loss(azimuth)}
        if config.camera_margin_weight > 0:
            losses["camera_margin"] = config.camera_margin_weight * camera_margin_loss(query)
        if mirrored:
            losses["mirror"] = config.mirror_weight * mirror_loss(query, mirrored)
        return losses

    def _flipped(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Mirrored images, with other colours and sizes where the configuration augments."""
        flipped = images.flip(2)
        return augmented(flipped, generator) if self.config.augment_mirrored else flipped

    def pretrain_losses(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        """Before training: any code gives a sphere, and the viewpoint head spreads its azimuths (Sec. 3.4)."""
        size, device = len(batch.rgb), batch.rgb.device
        noise = draw_rows(torch.randn, (size, self.config.latent_size), generator).to(device)
        with all_digits(batch.rgb):
            code = self.codes.shape_projection(noise)
            points = uniform((size, self.config.pretrain_points, 3), code, generator)
            target = sphere_sdf(points, self.config.sphere_radius)
            losses = {"shape": (self.sdf_field(points, code)[0] - target).square().mean()}
        if self.config.viewpoint == "predicted":
            losses |= self._pretrain_viewpoint(batch, generator)
        return losses

    def _pretrain_viewpoint(self, batch: Batch, generator: torch.Generator) -> dict[str, Tensor]:
        if len(self.guesses) == 0:  # the paper: only the head learns, from the azimuth prior alone
            with torch.no_grad():
                features = self._seen(batch.rgb)
            return {"azimuth_prior": azimuth_prior_loss(self._estimate(features).azimuth, power=1)}
        viewpoint = self._estimate(self._seen(torch.cat([batch.rgb, self._flipped(batch.rgb, generator)])))
        count = len(batch.rgb)
        guess = self._guess(batch, viewpoint[:count])
        distance = [
            viewpoint_distance(viewpoint[:count], guess),
            viewpoint_distance(viewpoint[count:], guess.mirrored()),
        ]
        return {"guess": self.config.guess_weight * torch.cat(distance).mean()}

    def reconstruct(
        self, images: Float[Tensor, "batch height width 3"], viewpoint: Viewpoint | None = None
    ) -> Reconstruction:
        """Shapes of segmented images on white, in [0, 1].

        Parameters
        ----------
        viewpoint : Viewpoint, optional
            Of the images, where it is known; without it a system with given viewpoints assumes a view from the front.
        """
        with torch.no_grad():
            shape_code, texture_code, predicted = self.encode(images)
        viewpoint = viewpoint or predicted or self._front(images)

        def field(i: int, points: Tensor):
            return self.field(shape_code[i : i + 1], texture_code[i : i + 1])(points)

        def distance(i: int, points: Tensor):
            return self.sdf_field(points, shape_code[i : i + 1])[0]

        beta = float(torch.as_tensor(self.beta()).detach())
        return Reconstruction(field, distance, viewpoint, beta, self.config.depth_range)

    def backbone_parameters(self) -> list[nn.Parameter]:
        """The pretrained part, which training may move more slowly than the rest."""
        backbones = [self.backbone, getattr(self, "viewpoint_backbone", None)]
        networks = [backbone.network for backbone in backbones if backbone is not None]
        return [p for network in networks for p in network.parameters() if p.requires_grad]

    def _front(self, images: Tensor) -> Viewpoint:
        zero = images.new_zeros(len(images))
        c = self.config
        return Viewpoint.from_angles(zero, zero, distance=c.distance, focal=c.focal, projection=c.projection)

    def _given(self, batch: Batch) -> Viewpoint:
        if batch.viewpoint is None:
            raise InputError("viewpoint='given' needs a dataset whose metadata holds azimuth, elevation and tilt")
        return batch.viewpoint
