"""Prepare ShapeNet: the known renderings of 13 categories, or views of all 55 drawn here.

    python data_scripts/prepare_shapenet.py NMR_Dataset --output runs/data/shapenet13 --models ShapeNetCore.v1
    python data_scripts/prepare_shapenet.py ShapeNetCore.v2 --output runs/data/shapenet55

**Renderings** (Kato et al.'s, as the authors of DVR pack them and SDF-SRN and Cat3D use them): a folder
``<synset>/<model>/`` with ``image/0000.png`` to ``0023.png``, ``mask/`` and ``cameras.npz``, and for each category the
lists ``softras_<train|val|test>.lst``. Images are used whole. Training models have ``--views`` of their 24 views (1 is
the papers' single-view setting), the others one; which, is drawn at random, the same at each run. Shapes need
``--models``, the CAD models of ShapeNetCore.v1.

**CAD models** (ShapeNetCore.v1 or v2 unpacked: ``<synset>/<model>/model.obj`` or ``.../models/model_normalized.obj``):
of each category at most 500 models, split 70/10/20, each drawn once from any azimuth and an elevation of 20 to 40
degrees. Cat3D's authors have not published their images of the 55 categories; these follow their description.
"""

import argparse
import json
import sys
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a bare clone

from data_scripts.cad_models import CadFile, angles_of
from data_scripts.cad_sizes import unit_cube_notes
from data_scripts.crops import Look
from data_scripts.drawings import FOCAL, Drawing, draw
from data_scripts.instances import generator
from data_scripts.jobs import Rejected, Work, prepare_jobs
from data_scripts.options import positive, run_command
from data_scripts.photo_sets import Photo, cut_out, normals_info, stored_mask, with_article
from data_scripts.sources import check_source, chosen, collection, command_line, safe_name
from lib.errors import InputError

SHAPENET = collection("shapenet")
NAMES = {
    "02691156": "airplane", "02828884": "bench", "02933112": "cabinet", "02958343": "car", "03001627": "chair",
    "03211117": "display", "03636649": "lamp", "03691459": "speaker", "04090263": "rifle", "04256520": "sofa",
    "04379243": "table", "04401088": "phone", "04530566": "vessel",
}  # fmt: skip
V1 = ((0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))  # y up, the front towards +x; the renderings' frame, too
V2 = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0), (0.0, 1.0, 0.0))  # y up, the front towards -z
MODEL_FILES = {"model.obj": V1, "models/model_normalized.obj": V2}
SPLITS = ("train", "val", "test")
VIEWS = 24
MOST = 500
ELEVATIONS = (20.0, 40.0)
ASIDE = 1e-3  # of the distance, by which a camera may look past the origin
TOTALS = {"train": 30_643, "val": 4378, "test": 8762}  # models of the 13 categories
ALL_55 = 20_163  # samples of Cat3D's 55 categories: 15,031 + 1,705 + 3,427


@dataclass(frozen=True)
class Rendering:
    """One image of the renderings: ``<folder>/image/<view>.png`` of a model."""

    folder: Path
    category: str
    model: str
    split: str
    view: int
    cad: CadFile | None

    @property
    def source(self) -> Path:
        """The file of the image."""
        return self.folder / "image" / f"{self.view:04d}.png"


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = command_line(SHAPENET, __doc__, image_size=64)
    parser.add_argument("--views", type=positive, default=VIEWS, help="of a training model (default: %(default)s)")
    parser.add_argument("--models", type=Path, help="ShapeNetCore folder, for the shapes of renderings")
    parser.add_argument("--most", type=positive, default=MOST, help="CAD models of a category (default: %(default)s)")
    return run_command(parser, prepare, arguments)


def prepare(options: argparse.Namespace) -> None:
    """Make the prepared folder that the options ask for, from whichever of the two layouts the source has."""
    check_source(options.source, (), SHAPENET)
    synsets = [folder.name for folder in _folders(options.source) if folder.name.isdigit()]
    if any((options.source / synset / "softras_train.lst").is_file() for synset in synsets):
        prepare_renderings(options, [synset for synset in synsets if synset in NAMES])
    elif any(_model_file(folder) for synset in synsets for folder in _folders(options.source / synset)):
        prepare_drawings(options, synsets)
    else:
        raise InputError(f"{options.source} has neither <synset>/softras_train.lst nor <synset>/<model>/model.obj: "
                         f"not ShapeNet, or unpacked in part. {SHAPENET.how_to_get()}")  # fmt: skip


def prepare_renderings(options: argparse.Namespace, synsets: list[str]) -> None:
    """Take up the renderings of the 13 categories."""
    if options.models and not options.models.is_dir():
        raise InputError(f"--models: there is no folder {options.models}. {SHAPENET.how_to_get()}")
    wanted = chosen(options.categories, (NAMES[synset] for synset in synsets))
    jobs: dict[str, list[Rendering]] = {}
    rejected: Rejected = []
    for synset in synsets:
        if NAMES[synset] in wanted:
            jobs |= list_renderings(options.source / synset, options.views, options.models, rejected)

    def notes(rows: list[dict]) -> list[str]:
        return unit_cube_notes(rows, centred=bool(options.models) and is_v1(options.models)) + count_models(rows)

    work = Work(partial(take_rendering, look=Look.of(options)), "image", options.models is not None, notes)
    info = SHAPENET.info(kind="renderings", views=options.views, shapes=options.models is not None)
    prepare_jobs(jobs, work, options, info | normals_info(options), rejected)


def list_renderings(place: Path, views: int, models: Path | None, rejected: Rejected) -> dict[str, list[Rendering]]:
    """The images of a category to take, by model; what cannot be used joins ``rejected``."""
    jobs, there = {}, {folder.name for folder in _folders(place)}
    for split in SPLITS:
        listing = place / f"softras_{split}.lst"
        if not listing.is_file():
            raise InputError(f"{listing} is missing; unpack the renderings again.")
        for name in listing.read_text(encoding="utf-8").split():
            if name not in there:
                rejected.append((place / name, f"{listing.name} names it, but the folder is missing."))
                continue
            there.remove(name)
            order = generator(place.name, name).permutation(VIEWS)[: views if split == "train" else 1]
            cad = _cad_file(models / place.name / name) if models else None
            model = safe_name(f"{place.name}-{name}")
            about = (place / name, NAMES[place.name], model, split)
            jobs[model] = [Rendering(*about, int(view), cad) for view in sorted(order)]
    rejected += [(place / name, "no list names it.") for name in there]
    return jobs


def take_rendering(rendering: Rendering, folder: Path, look: Look) -> list[dict]:
    """The sample of an image, with its viewpoint from the model's ``cameras.npz``."""
    photo = Photo(
        id=f"{rendering.model}-{rendering.view:02d}",
        category=rendering.category,
        model=rendering.model,
        source=rendering.source,
        about={"caption": with_article(rendering.category), **read_viewpoint(rendering)},
        mask=rendering.folder / "mask" / rendering.source.name,
        split=rendering.split,
        cad=rendering.cad,
        whole=True,
    )
    if not photo.source.is_file():
        raise InputError("the file is missing; unpack the data set again.")
    return cut_out(photo, folder, stored_mask, look)


def read_viewpoint(rendering: Rendering) -> dict[str, float]:
    """Viewpoint of an image: ``world_mat_<view>`` takes the models' frame to OpenCV's camera axes."""
    path = rendering.folder / "cameras.npz"
    try:
        with np.load(path) as cameras:
            matrix = np.asarray(cameras[f"world_mat_{rendering.view}"], dtype=np.float64)[:3]
    except Exception as error:  # numpy's reader of damaged archives raises nearly anything
        raise InputError(f"{path} is missing, damaged, or lacks view {rendering.view}; unpack it again.") from error
    if matrix.shape != (3, 4) or not np.allclose(matrix[:, :3] @ matrix[:, :3].T, np.eye(3), atol=1e-3):
        raise InputError(f"{path} holds no rotation for view {rendering.view}; unpack it again.")
    distance = float(matrix[2, 3])
    if not (distance > 0 and np.abs(matrix[:2, 3]).max() < ASIDE * distance):
        raise InputError(f"The camera of view {rendering.view} in {path} does not look at the model.")
    azimuth, elevation, tilt = angles_of(matrix[:, :3] @ np.array(V1).T)
    angles = {"azimuth": azimuth % 360.0, "elevation": elevation, "tilt": tilt}
    return {**angles, "distance": distance, "focal_length": FOCAL, "center_x": 0.5, "center_y": 0.5}


def count_models(rows: list[dict]) -> list[str]:
    """Notes where all 13 categories are there, but not with the papers' numbers of models."""
    if {row["category"] for row in rows} != set(NAMES.values()):
        return []
    counts = Counter(split for _, split in {(row["model"], row["split"]) for row in rows})
    return [
        f"13 categories, {split}: {counts[split]} models; the papers have {wanted}."
        for split, wanted in TOTALS.items()
        if counts[split] != wanted
    ]


def prepare_drawings(options: argparse.Namespace, synsets: list[str]) -> None:
    """Draw one view of at most ``--most`` CAD models of each category."""
    if options.normals:
        raise InputError("--normals is for renderings; what is drawn from CAD models has exact ones.")
    names = read_taxonomy(options.source, synsets)
    wanted = chosen(options.categories, names.values())
    jobs: dict[str, list[Drawing]] = {}
    rejected: Rejected = []
    for synset, name in names.items():
        if name in wanted:
            jobs |= list_drawings(options.source / synset, name, options.most, rejected)

    def count(rows: list[dict]) -> list[str]:
        full = len({row["category"] for row in rows}) == 55 and options.most == MOST and len(rows) != ALL_55
        sizes = unit_cube_notes(rows, centred=is_v1(options.source))
        return sizes + ([f"55 categories: {len(rows)} samples; Cat3D has {ALL_55}."] if full else [])

    work = Work(partial(draw, size=options.image_size), "model", processes=True, notes=count)
    prepare_jobs(jobs, work, options, SHAPENET.info(kind="drawn", most=options.most), rejected)


def list_drawings(place: Path, category: str, most: int, rejected: Rejected) -> dict[str, list[Drawing]]:
    """The models of a category to draw: those that come first in a random order that does not change."""
    folders = sorted(_folders(place), key=lambda folder: generator(place.name, folder.name).random())
    rejected += [(folder, "it has no model.obj.") for folder in folders if not _model_file(folder)]
    found = [folder for folder in folders if _model_file(folder)]
    if len(found) > most:
        rejected.append((place, f"{len(found) - most} models are over --most {most}."))
    jobs = {}
    for folder in found[:most]:
        model = safe_name(f"{place.name}-{folder.name}")
        jobs[model] = [Drawing(category, model, _cad_file(folder), 1, ELEVATIONS, with_article(category))]
    return jobs


def read_taxonomy(source: Path, synsets: list[str]) -> dict[str, str]:
    """Name of each category: the first of ``taxonomy.json``, if it is there, else its number."""
    names = {}
    if (source / "taxonomy.json").is_file():
        try:
            entries = json.loads((source / "taxonomy.json").read_text(encoding="utf-8"))
            names = {entry["synsetId"]: safe_name(entry["name"].split(",")[0].lower()) for entry in entries}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"{source / 'taxonomy.json'} is damaged; unpack ShapeNet again.") from error
    return {synset: NAMES.get(synset) or names.get(synset, synset) for synset in synsets}


def is_v1(cores: Path) -> bool:
    """Whether CAD models are ShapeNetCore.v1's, which promises a cube about the origin; v2's is elsewhere."""
    return any(cores.glob("*/*/model.obj"))


def _folders(place: Path) -> list[Path]:
    return [path for path in sorted(place.iterdir()) if path.is_dir()]


def _model_file(folder: Path) -> str | None:
    return next((name for name in MODEL_FILES if (folder / name).is_file()), None)


def _cad_file(folder: Path) -> CadFile:
    name = _model_file(folder) or "model.obj"  # which is then missing, and said to be
    return CadFile(folder / name, MODEL_FILES[name])


if __name__ == "__main__":
    sys.exit(main())
