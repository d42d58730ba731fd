"""Prepare 3D-FUTURE: furniture with textures and tags, drawn from known viewpoints, the tags as captions.

    python data_scripts/prepare_3dfuture.py 3D-FUTURE-model --output runs/data/3dfuture --categories armchair

The official layout is ``model_info.json``, a list of models with category, style, theme and material, beside a folder
a model with ``normalized_model.obj``, ``model.mtl`` and ``texture.png``; the folders may lie in those that the parts of
the archive were unpacked to. The official ``image.jpg`` is not used: its viewpoint is not known. ``--views`` images a
model are drawn from any azimuth and elevations of -5 to 35 degrees.

A category is the first of the official one's words, so "Lounge Chair / Cafe Chair / Office Chair" is lounge_chair.
Models are split 70/10/20; the authors of the captioned reconstructions used their own 75/25 draw, without a seed.
"""

import argparse
import sys
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # so that it runs from a bare clone

from data_scripts.cad_models import CadFile
from data_scripts.cad_sizes import even_size_notes
from data_scripts.drawings import Drawing, draw
from data_scripts.jobs import Rejected, Work, prepare_jobs
from data_scripts.options import positive, run_command
from data_scripts.photo_sets import with_article
from data_scripts.sources import check_source, chosen, collection, command_line, read_json_of, safe_name
from lib.errors import InputError

FUTURE = collection("3dfuture")
AXES = ((-1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0))  # theirs: y up, the front towards +z
ELEVATIONS = (-5.0, 35.0)
MODELS = 9992  # of the first full release; a later one has more
NOTHING = ("", "none", "others", "other", "null")  # tags that say nothing

Model = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = command_line(FUTURE, __doc__, normals=False)
    parser.add_argument("--views", type=positive, default=4, help="images a model (default: %(default)s)")
    return run_command(parser, prepare, arguments)


def prepare(options: argparse.Namespace) -> None:
    """Make the prepared folder that the options ask for."""
    check_source(options.source, ("model_info.json",), FUTURE)
    models = read_models(options.source / "model_info.json")
    wanted = set(chosen(options.categories, map(category_of, models)))
    folders = model_folders(options.source)
    known = {model["model_id"] for model in models}
    rejected: Rejected = [(path, "model_info.json does not name it.") for n, path in folders.items() if n not in known]
    listed = [model for model in models if category_of(model) in wanted]
    jobs = list_drawings(listed, folders, options.views, rejected)

    def count(rows: list[dict]) -> list[str]:
        few = f"model_info.json names {len(models)} models, the first full release {MODELS}; is the download partial?"
        return even_size_notes(rows) + ([few] if len(models) < MODELS else [])

    work = Work(partial(draw, size=options.image_size), "model", processes=True, notes=count)
    prepare_jobs(jobs, work, options, FUTURE.info(views=options.views), rejected)


def read_models(path: Path) -> list[Model]:
    """The list of models, each with a ``model_id``."""
    models = read_json_of(path, FUTURE)
    right = isinstance(models, list) and models and all(isinstance(model, dict) for model in models)
    if not (right and all(isinstance(model.get("model_id"), str) for model in models)):
        raise InputError(f"{path} is no list of models with an entry 'model_id'; is it 3D-FUTURE's?")
    return models


def model_folders(source: Path) -> dict[str, Path]:
    """Folder of each model that is there, by its id: in the source, or in a part of the archive in it."""
    found = [path.parent for pattern in ("*/*.obj", "*/*/*.obj") for path in sorted(source.glob(pattern))]
    return {folder.name: folder for folder in reversed(found)}


def list_drawings(
    models: Iterable[Model], folders: dict[str, Path], views: int, rejected: Rejected
) -> dict[str, list[Drawing]]:
    """The models to draw, by name; what cannot be used joins ``rejected``."""
    jobs: dict[str, list[Drawing]] = {}
    for model in sorted(models, key=lambda model: model["model_id"]):
        name = safe_name(model["model_id"])
        folder = folders.get(model["model_id"])
        if name in jobs:
            rejected.append((name, "model_info.json names it twice."))
        elif folder is None:
            rejected.append((name, "model_info.json names it, but its folder or model is missing."))
        else:
            file = CadFile(folder / "normalized_model.obj", AXES)
            texture = folder / "texture.png"
            jobs[name] = [Drawing(category_of(model), name, file, views, ELEVATIONS, caption_of(model), texture)]
    return jobs


def category_of(model: Model) -> str:
    """The category as a name for files."""
    return safe_name(noun_of(model))


def noun_of(model: Model) -> str:
    """What a model is, in lower case: the first word of its category, else of its super-category.

    Examples
    --------
    >>> noun_of({"category": "Lounge Chair / Cafe Chair / Office Chair", "super-category": "Chair"})
    'lounge chair'
    """
    for key in ("category", "super-category"):
        word = str(model.get(key) or "").split("/")[0].strip().lower()
        if word not in NOTHING:
            return word
    return "furniture"


def caption_of(model: Model) -> str:
    """The tags as a phrase; tags that say nothing are left out.

    Examples
    --------
    >>> caption_of({"category": "armchair", "style": "Modern", "theme": "Striped Grid", "material": "Leather"})
    'a modern armchair made of leather, striped grid'
    """
    tags = (str(model.get(key) or "").strip().lower() for key in ("style", "theme", "material"))
    style, theme, material = ("" if tag in NOTHING else tag for tag in tags)
    phrase = with_article(f"{style} {noun_of(model)}".strip())
    return phrase + (f" made of {material}" if material else "") + (f", {theme}" if theme else "")


if __name__ == "__main__":
    sys.exit(main())
