"""A reader's own photo: what a system sees of it, what an upload becomes, and the mesh that is kept."""

import io

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from lib.data.photos import read_photo, save_upload, write_glb
from lib.errors import InputError


def cut_out(size: int = 40) -> np.ndarray:
    """A grey photo with an object of half its height and a quarter of its width."""
    rgba = np.full((size, size, 4), 90, dtype=np.uint8)
    rgba[..., 3] = 0
    rgba[size // 4 : 3 * size // 4, size // 4 : size // 2, 3] = 255
    return rgba


def image_bytes(image: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    file = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(file, kind, **options)
    return file.getvalue()


def test_a_photo_becomes_a_square_crop_on_white(tmp_path):
    path = tmp_path / "photo.png"
    path.write_bytes(image_bytes(cut_out()))
    images = read_photo(path, size=24)
    assert images.shape == (1, 24, 24, 3)
    inside = (images[0] < 0.9).any(-1)
    rows, columns = inside.any(1).nonzero(), inside.any(0).nonzero()
    assert rows.max() - rows.min() + 1 == 20  # 1.2 times the mask's 20 rows fill the 24
    assert columns.max() - columns.min() + 1 == 10
    assert (images[0, 0] == 1).all()


def test_a_photo_with_a_mask_equals_its_cut_out(tmp_path):
    rgba = cut_out()
    for name, array in (("both", rgba), ("photo", rgba[..., :3]), ("mask", rgba[..., 3])):
        (tmp_path / f"{name}.png").write_bytes(image_bytes(array))
    together = read_photo(tmp_path / "both.png")
    assert torch.equal(together, read_photo(tmp_path / "photo.png", tmp_path / "mask.png"))


def test_an_inverted_mask_is_one_sentence(tmp_path):
    rgba = cut_out()
    for name, array in (("photo", rgba[..., :3]), ("mask", 255 - rgba[..., 3])):
        (tmp_path / f"{name}.png").write_bytes(image_bytes(array))
    with pytest.raises(InputError, match="marks most of the photo's border"):
        read_photo(tmp_path / "photo.png", tmp_path / "mask.png")


def test_an_upload_stays_in_its_folder_and_is_turned_upright(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6  # held upright: to be turned by 90 degrees
    content = image_bytes(np.zeros((10, 30, 3), np.uint8), "JPEG", exif=exif)
    path = save_upload([{"name": "../../evil.jpg", "content": memoryview(content)}], folder, "photo")
    assert path == folder / "photo.png"
    assert Image.open(path).size == (10, 30)
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["photo.png", "run"]
    assert save_upload([], folder, "none") is None


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.png", image_bytes(cut_out())[:60], r"a\.png is truncated or damaged"),
        ("a.png", b"", r"a\.png is truncated or damaged"),
        (
            "a.jpg",
            image_bytes(Image.new("CMYK", (20, 20)), "JPEG"),
            r"^The colours of a.jpg are CMYK; convert it to RGB",
        ),
        ("a.txt", b"hello", r"a\.txt is not an image file; upload one of \.png"),
    ],
)
def test_bad_uploads_are_one_sentence(tmp_path, name, content, sentence):
    with pytest.raises(InputError, match=sentence):
        save_upload([{"name": name, "content": content}], tmp_path, "photo")
    assert not list(tmp_path.iterdir())


def test_glb_stands_upright(tmp_path):
    mesh = trimesh.creation.box((0.2, 0.4, 1.0))  # z is up
    mesh.visual.vertex_colors = np.tile(np.uint8([10, 200, 30, 255]), (len(mesh.vertices), 1))
    loaded = trimesh.load(write_glb(mesh, tmp_path / "box.glb"), force="mesh")
    assert loaded.extents == pytest.approx([0.2, 1.0, 0.4])  # y is up in GLB
    assert loaded.volume == pytest.approx(mesh.volume)  # not turned inside out
    assert np.asarray(loaded.visual.vertex_colors)[0].tolist() == [10, 200, 30, 255]
    with pytest.raises(InputError, match="no surface"):
        write_glb(trimesh.Trimesh(), tmp_path / "none.glb")
