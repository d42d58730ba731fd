"""A tiny furniture library with the layout of the real ones."""

import zipfile
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

PACK = "BlendSwap-CC-0"
MODELS = 7  # two for val, two for test, three for training
TRAIN_VARIANTS = 3
MTL = "newmtl wood\nKd 1 1 1\nmap_Kd wood.png\nnewmtl metal\nKd 0.1 0.2 0.9\n"


def box(low, high) -> tuple[np.ndarray, np.ndarray]:
    """Corners and quads of an axis-aligned box, y up."""
    mesh = trimesh.creation.box(bounds=[low, high])
    return np.asarray(mesh.vertices), np.asarray(mesh.faces)


def chair_obj(seed: int) -> str:
    """A chair in the libraries' frame (y up, facing +z): seat, back, four legs, and a ball inside the seat."""
    width, depth, back = np.random.default_rng(seed).uniform((0.8, 0.8, 0.8), (1.2, 1.2, 1.6))
    legs = [box((x, 0, z), (x + 0.1, 0.8, z + 0.1)) for x in (0, width - 0.1) for z in (0, depth - 0.1)]
    seat = box((0, 0.8, 0), (width, 1.2, depth))
    ball = trimesh.creation.icosphere(1, 0.1)
    hidden = (ball.vertices + np.array([width / 2, 1.0, depth / 2]), ball.faces)
    parts = [("wood", seat), ("wood", hidden), ("metal", box((0, 1.2, 0), (width, 1.2 + back, 0.1)))]
    parts += [("metal", leg) for leg in legs]
    lines, first = ["mtllib chair.mtl", "vt 0 0", "vt 1 0", "vt 0 1"], 1
    for material, (vertices, faces) in parts:
        lines += [f"usemtl {material}", *(f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices)]
        lines += [f"f {a}/1 {b}/2 {c}/3" for a, b, c in faces + first]
        first += len(vertices)
    return "\n".join(lines) + "\n"


def write_library(folder: Path) -> Path:
    """A .sh3f file with MODELS chairs, and the list that names them; returns the list."""
    folder.mkdir(parents=True)
    Image.fromarray(np.array([[[200, 90, 40], [90, 200, 40]]], dtype=np.uint8)).save(folder / "wood.png")
    lines = ["# a comment", "id=tiny", "name=Tiny"]
    with zipfile.ZipFile(folder / f"{PACK}.sh3f", "w") as archive:
        for number in range(1, MODELS + 1):
            lines += [f"id#{number}=Tiny#chair{number}", f"name#{number}=Oak chair", f"creator#{number}=M\\u00e9 Maker"]
            lines += [f"model#{number}=/tiny/chair{number}/chair.obj", f"category#{number}=Living room"]
            lines += [f"width#{number}=50", f"depth#{number}=60", f"height#{number}=100"]
            for name, content in (("chair.obj", chair_obj(number)), ("chair.mtl", MTL)):
                archive.writestr(f"tiny/chair{number}/{name}", content)
            archive.write(folder / "wood.png", f"tiny/chair{number}/wood.png")
        archive.writestr("PluginFurnitureCatalog.properties", "\n".join(lines) + "\n")
        archive.writestr("LICENSE.TXT", "Public domain, says the test.")
    rows = [f"chair,{PACK},chair{number},{'twins' if number > MODELS - 2 else ''}," for number in range(1, MODELS + 1)]
    (folder / "models.csv").write_text("\n".join(["category,pack,id,family,turn", *rows]) + "\n")
    return folder / "models.csv"
