"""Surface normals guessed from one image: one interface for our small network and for others' estimators.

All estimators give unit normals in the camera frame (x right, y down, z forward): a surface that faces the camera has
(0, 0, -1).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from lib.data.onnx import open_onnx
from lib.errors import InputError
from lib.files import check_sha256
from lib.networks.normal_network import load_normal_network
from lib.paths import WEIGHTS

NORMALS = WEIGHTS / "normals-furniture"
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Convention:
    """How an estimator writes normals, and what images it wants."""

    scale: float  # scale * output + offset is the vector in the estimator's axes
    offset: float
    signs: tuple[float, float, float]  # factors of x, y and z that turn these axes into the camera frame
    mean: tuple[float, float, float]  # the input is (colour in [0, 1] - mean) / std
    std: tuple[float, float, float]
    size: int  # pixels a side of the input


# Omnidata (DPT hybrid, version 2): colours (n + 1) / 2 of n in the axes used here. Its authors' own description has z
# towards the camera; the released weights do not (MonoSDF and ShapeClipper use 2 c - 1 without flips; floors come out
# as (0, -1, 0) and walls ahead with z < 0).
# DSINE: vectors that point away from the camera, so that a wall ahead has (0, 0, 1): all three signs change. Exported
# with fixed intrinsics, as a function of the image alone.
CONVENTIONS = {
    "ours": Convention(1.0, 0.0, (1.0, 1.0, 1.0), (0.0,) * 3, (1.0,) * 3, 128),
    "omnidata": Convention(2.0, -1.0, (1.0, 1.0, 1.0), (0.0,) * 3, (1.0,) * 3, 384),
    "dsine": Convention(1.0, 0.0, (-1.0, -1.0, -1.0), IMAGENET_MEAN, IMAGENET_STD, 480),
}


@dataclass(frozen=True)
class NormalEstimator:
    """Something that guesses normals."""

    name: str
    convention: str  # a key of `CONVENTIONS`: what `predict` gives
    # uint8 images (B, H, W, 3) on white, uint8 masks (B, H, W) -> float arrays (B, H', W', 3)
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray]

    def estimate(
        self, images: UInt8[np.ndarray, "batch height width 3"], masks: UInt8[np.ndarray, "batch height width"]
    ) -> Float[np.ndarray, "batch height width 3"]:
        """Unit normals in the camera frame, float32; 0 where the mask is 0.

        Raises
        ------
        InputError
            The estimator gives something else than three finite numbers a pixel.
        """
        raw = np.asarray(self.predict(images, masks), dtype=np.float32)
        if raw.ndim != 4 or len(raw) != len(images) or raw.shape[-1] != 3 or not np.isfinite(raw).all():
            raise InputError(
                f"{self.name} gives an array of shape {raw.shape}, or NaN; normals (B, H, W, 3) are needed."
            )
        normal = resized(torch.from_numpy(in_camera_frame(raw, self.convention)), *masks.shape[1:])
        return np.ascontiguousarray(unit(normal.numpy()) * (masks > 0)[..., None])


def in_camera_frame(output: Float[np.ndarray, "*shape 3"], convention: str) -> Float[np.ndarray, "*shape 3"]:
    """Unit normals in the camera frame from what an estimator of a known convention gives.

    >>> in_camera_frame(np.array([[0.0, 0.0, 1.0]]), "dsine").tolist()  # a wall ahead
    [[-0.0, -0.0, -1.0]]
    """
    way = CONVENTIONS[convention]
    return unit((way.scale * output + way.offset) * np.array(way.signs, dtype=output.dtype))


def unit(vectors: Float[np.ndarray, "*shape 3"]) -> Float[np.ndarray, "*shape 3"]:
    """Vectors of length 1; what has no direction faces the camera."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    facing = np.array([0, 0, -1], dtype=vectors.dtype)
    return np.where(length > 1e-6, vectors / np.maximum(length, 1e-6), facing).astype(vectors.dtype)


def furniture_estimator(folder: Path | str = NORMALS) -> NormalEstimator:
    """The network that ships with the course, or another that ``data_scripts/train_normals.py`` trained."""
    folder = Path(folder)
    network = load_normal_network(folder)
    size = network.config.image_size

    @torch.inference_mode()
    def predict(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
        rgb = resized(torch.tensor(images).float() / 255, size)
        mask = resized(torch.tensor(masks).float()[..., None] / 255, size)[..., 0]
        return network(rgb, mask).numpy()

    return NormalEstimator(folder.name, "ours", predict)


def load_estimator(path: Path | str, convention: str, threads: int = 1) -> NormalEstimator:
    """Somebody else's estimator, exported as TorchScript or ONNX: images (B, 3, S, S) -> outputs (B, 3, S, S).

    Parameters
    ----------
    path : path
        ``.onnx``, or a TorchScript file of any other name. A folder is one of `furniture_estimator`.
    convention : {"ours", "omnidata", "dsine"}
        How the network was trained; the wrong one turns normals around without any warning.

    Raises
    ------
    InputError
        Unknown convention; the file is missing, damaged, changed, or of another kind.
    """
    path = Path(path)
    if convention not in CONVENTIONS:
        raise InputError(f"There is no normal convention {convention!r}; known are {', '.join(CONVENTIONS)}.")
    if path.is_dir():
        return furniture_estimator(path)
    if not path.is_file():
        raise InputError(f"There is no normal estimator {path}; give a TorchScript or ONNX file.")
    way, run = CONVENTIONS[convention], _onnx_runner(path, threads) if path.suffix == ".onnx" else _script_runner(path)

    def predict(images: np.ndarray, masks: np.ndarray) -> np.ndarray:
        rgb = resized(torch.tensor(images).float() / 255, way.size)
        scaled = (rgb - torch.tensor(way.mean)) / torch.tensor(way.std)
        try:
            output = run(scaled.permute(0, 3, 1, 2).contiguous())
            return output.transpose(0, 2, 3, 1)
        except Exception as error:  # both runtimes raise many kinds
            what = f"{path} cannot be run on {way.size} x {way.size} pixels ({type(error).__name__})"
            raise InputError(f"{what}; choose another convention or file") from error

    return NormalEstimator(path.stem, convention, predict)


def _onnx_runner(path: Path, threads: int) -> Callable[[Tensor], np.ndarray]:
    session = open_onnx(path, threads)
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images.numpy()})[0]


def _script_runner(path: Path) -> Callable[[Tensor], np.ndarray]:
    check_sha256(path)
    try:
        module = torch.jit.load(path, map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise InputError(f"{path} is no TorchScript file; export the estimator with torch.jit.trace.") from error
    return torch.inference_mode()(lambda images: module(images).numpy())


def resized(maps: Float[Tensor, "batch height width channels"], *size: int) -> Float[Tensor, "batch rows columns _"]:
    """Maps at another size: rows and columns, or pixels a side."""
    size = (*size, size[-1])[:2]
    if maps.shape[1:3] == size:
        return maps
    return F.interpolate(maps.permute(0, 3, 1, 2), size=size, mode="bilinear", antialias=True).permute(0, 2, 3, 1)
