"""Named trainings: a system's configuration and how it is trained, in one place for notebooks and commands."""

from dataclasses import dataclass, fields, replace

from lib.errors import InputError
from lib.systems.shapeclipper_config import PAPER, RELEASED, SMALL, ShapeClipperConfig
from lib.training import TrainingConfig


@dataclass(frozen=True)
class Recipe:
    """What to train and how."""

    system: ShapeClipperConfig
    training: TrainingConfig

    def changed(self, **changes) -> "Recipe":
        """The recipe with some settings of its system or its training changed, by their names.

        Raises
        ------
        InputError
            A name is a setting of neither, or a value has another type.
        """
        parts = {"system": self.system, "training": self.training}
        for name, value in changes.items():
            owner = next((key for key, part in parts.items() if name in {f.name for f in fields(part)}), None)
            if owner is None:
                raise InputError(f"{name} is no setting of the system or its training")
            before = getattr(parts[owner], name)
            if before is not None and type(before) is not type(value) and not _whole(before, value):
                raise InputError(f"{name} must be a {type(before).__name__}, not {value!r}")
            parts[owner] = replace(parts[owner], **{name: value})
        return Recipe(**parts)


def _whole(before, value) -> bool:
    return isinstance(before, float) and isinstance(value, int)


_SMALL_TRAINING = TrainingConfig(
    steps=4000,
    pretrain_steps=250,
    learning_rate=7e-4,
    backbone_learning_rate=1.5e-4,
    schedule="cosine",
    clip=5.0,
)
RECIPES = {
    "paper": Recipe(PAPER, TrainingConfig()),
    "released": Recipe(RELEASED, TrainingConfig(select="shapes")),
    "small": Recipe(SMALL, _SMALL_TRAINING),
    "small-given": Recipe(replace(SMALL, viewpoint="given"), replace(_SMALL_TRAINING, steps=2500)),
    "quick": Recipe(
        replace(SMALL, viewpoint="given", rays=96, neighbor_rays=48, samples=20),
        replace(_SMALL_TRAINING, steps=220, pretrain_steps=40, validate_every=1000, save_every=100, log_every=5),
    ),
}
