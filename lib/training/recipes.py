"""Named trainings: a system's configuration and how it is trained, in one place for notebooks and commands."""

from dataclasses import dataclass, fields, replace

from lib.errors import InputError
from lib.systems import SystemConfig
from lib.systems.sdf_srn import PASCAL3D, SHAPENET, SINGLE_VIEW
from lib.systems.sdf_srn_small import SMALL as SDF_SRN_SMALL
from lib.systems.shapeclipper import PAPER, RELEASED
from lib.systems.shapeclipper_small import SMALL
from lib.training.loop import TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """What to train and how.

    Attributes
    ----------
    views : int, optional
        The number of images of each model that are used (`lib.data.loading.PreparedDataset`); all without it.
    """

    system: SystemConfig
    training: TrainingConfig
    views: int | None = None

    def for_category(self, category: str | None) -> "Recipe":
        """The recipe as its paper trains this category alone; itself for None."""
        return self if category is None else replace(self, system=self.system.for_category(category))

    def changed(self, **changes) -> "Recipe":
        """The recipe with some settings of its training or its system changed, by their names.

        Raises
        ------
        InputError
            A name is a setting of neither, or a value has another type.
        """
        parts = {"training": self.training, "system": self.system}
        for name, value in changes.items():
            owner = next((key for key, part in parts.items() if name in {f.name for f in fields(part)}), None)
            if owner is None:
                raise InputError(f"{name} is no setting of the system or its training")
            before = getattr(parts[owner], name)
            whole_number = type(before) is float and type(value) is int
            if before is not None and type(before) is not type(value) and not whole_number:
                raise InputError(f"{name} must be of type {type(before).__name__}, not {value!r}")
            parts[owner] = replace(parts[owner], **{name: value})
        return replace(self, **parts)


SMALL_TRAINING = TrainingConfig(
    steps=2000,
    pretrain_steps=250,
    learning_rate=7e-4,
    backbone_learning_rate=1.5e-4,
    schedule="cosine",
    clip=5.0,
)
# Nobody gives the viewpoints: what is ours here keeps them from collapsing (notebook 06 shows how).
SMALL_UNKNOWN = replace(SMALL, start_elevation=15.0, center_range=0.15, augment_mirrored=True, guess_weight=1.0)
UNKNOWN_TRAINING = replace(SMALL_TRAINING, pretrain_steps=400, warmup=100, validate_every=400, save_every=200)
RECIPES = {
    "paper": Recipe(PAPER, TrainingConfig()),
    "released": Recipe(RELEASED, TrainingConfig(select="shapes")),
    "small": Recipe(SMALL_UNKNOWN, UNKNOWN_TRAINING),
    "small-given": Recipe(replace(SMALL, viewpoint="given"), SMALL_TRAINING),
    "quick": Recipe(
        replace(SMALL, viewpoint="given", mean_color=True, rays=64, neighbor_rays=32, samples=16),
        replace(SMALL_TRAINING, steps=110, pretrain_steps=30, validate_every=1000, save_every=100, log_every=5),
    ),
}

# Colours for finished shapes: start=FOLDER says whose. Only the texture learns, and only from the image's colours.
WEIGHTS = ("mask", "normal", "semantic", "eikonal", "azimuth_prior", "camera_margin", "mirror", "guess")
COLORS = {"learn": "texture", "mean_color": True, "beta": SMALL.beta_final, **{f"{w}_weight": 0.0 for w in WEIGHTS}}
COLOR_TRAINING = replace(SMALL_TRAINING, steps=400, pretrain_steps=0, validate_every=200, save_every=200)
COLOR_RECIPES = {
    name + "-colors": Recipe(replace(RECIPES[name].system, **COLORS), COLOR_TRAINING)
    for name in ("small", "small-given")
}

# SDF-SRN's paper: 200,000 steps for chairs (airplanes and cars: 100,000), 50,000 on single views (Sec. 4.1), 30,000 on
# Pascal3D+ (Sec. 4.2). Which view of a model is the single one it draws at random: that does prepare_shapenet.py with
# --views 1. Of a folder with all 24 the first is taken, which shows every model from the same side.
SDF_SRN_TRAINING = TrainingConfig(steps=200_000, pretrain_steps=1000, batch_size=16, select="last")
SDF_SRN_RECIPES = {
    "sdf-srn": Recipe(SHAPENET, SDF_SRN_TRAINING),
    "sdf-srn-single-view": Recipe(SINGLE_VIEW, replace(SDF_SRN_TRAINING, steps=50_000), views=1),
    "sdf-srn-pascal3d": Recipe(PASCAL3D, replace(SDF_SRN_TRAINING, steps=30_000)),
    "sdf-srn-small": Recipe(SDF_SRN_SMALL, SMALL_TRAINING),
    "sdf-srn-quick": Recipe(
        replace(SDF_SRN_SMALL, rays=96),
        replace(SMALL_TRAINING, steps=150, pretrain_steps=80, validate_every=1000, save_every=100, log_every=5),
    ),
}

ALL_RECIPES = RECIPES | COLOR_RECIPES | SDF_SRN_RECIPES
