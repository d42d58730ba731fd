"""Meshes as pictures: ray-cast images for readers without scripts, plotly scenes to turn for those with."""

from collections.abc import Sequence

import numpy as np
import torch
import trimesh
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore_scene import EmbreeScene
from jaxtyping import Float
from scipy.spatial import cKDTree

from lib.figures.style import image_grid
from lib.geometry.cameras import Viewpoint, camera_rays, pixel_centers

PLAIN = (0.74, 0.79, 0.84)  # of a mesh without colours: a quiet grey-blue
MAX_FACES = 5_000  # a plotly figure of more is slow to turn
AMBIENT, DIFFUSE = 0.42, 0.68
# Turning one scene of a plotly figure turns the others by as much. It waits for the mouse, because JupyterLab draws a
# figure late; it moves the scenes themselves, because JupyterLab keeps its plotly (and Plotly.relayout) to itself.
LINKED_CAMERAS = """<script>
if (!window.courseLinksCameras) {
  window.courseLinksCameras = true;
  const azimuth = camera => Math.atan2(camera.eye.y, camera.eye.x);
  const turned = (p, angle) => ({x: p.x * Math.cos(angle) - p.y * Math.sin(angle),
                                 y: p.x * Math.sin(angle) + p.y * Math.cos(angle), z: p.z});
  document.addEventListener("pointerdown", event => {
    const plot = event.target.closest(".js-plotly-plot"), layout = plot && plot._fullLayout;
    if (!layout || plot.courseAzimuths) return;
    const scenes = Object.keys(layout).filter(name => /^scene[0-9]*$/.test(name));
    plot.courseAzimuths = Object.fromEntries(scenes.map(name => [name, azimuth(layout[name].camera)]));
    const follow = change => {
      const moved = scenes.find(name => change[name + ".camera"]), camera = change[moved + ".camera"];
      for (const name of camera ? scenes.filter(name => name !== moved) : []) {
        const angle = plot.courseAzimuths[name] - plot.courseAzimuths[moved], full = plot._fullLayout[name];
        const same = {...camera, eye: turned(camera.eye, angle), center: turned(camera.center, angle)};
        full._scene.setViewport({camera: same, aspectratio: full.aspectratio});
        full.camera = plot.layout[name].camera = same;  // for when the figure is drawn again
      }
    };
    plot.on("plotly_relayouting", follow);
    plot.on("plotly_relayout", follow);
  }, true);
}
</script>"""


def viewpoint_at(azimuth: float, elevation: float = 20.0, focal: float = 3.6) -> Viewpoint:
    """One camera at angles in degrees, 5 world units away, with the unit cube in the picture."""
    angles = torch.tensor([[azimuth], [elevation]], dtype=torch.float32).deg2rad()
    return Viewpoint.from_angles(angles[0], angles[1], focal=focal)


def facing(viewpoint: Viewpoint, turn: float = 0.0) -> Viewpoint:
    """A camera at the angles of a viewpoint, its azimuth turned by degrees, with the unit cube in the picture."""
    azimuth, elevation, _ = (angle.rad2deg() for angle in viewpoint.angles())
    return viewpoint_at(float(azimuth[0]) + turn, float(elevation[0]))


def draw_mesh(
    mesh: trimesh.Trimesh, viewpoint: Viewpoint, image_size: int = 160, oversample: int = 2, smooth: bool = True
) -> Float[np.ndarray, "size size 3"]:
    """A shaded picture of a mesh by ray casting, on white.

    Parameters
    ----------
    mesh : trimesh.Trimesh
        World frame; colours of its vertices are used where it has them.
    viewpoint : Viewpoint
        One camera. The light stands beside it, above and to the left.
    oversample : int
        Rays a pixel along each side.
    smooth : bool
        Shade with interpolated vertex normals, which suits marching cubes; False: with face normals.

    Returns
    -------
    ndarray, shape (size, size, 3)
        RGB in [0, 1]; white alone for an empty mesh.
    """
    side = image_size * oversample
    image = np.ones((side * side, 3))
    if len(mesh.faces):
        rays = camera_rays(viewpoint.to(torch.float32), pixel_centers(side)[None])
        origins, directions = (np.ascontiguousarray(part[0].numpy()) for part in (rays.origins, rays.directions))
        scene = EmbreeScene()
        TriangleMesh(scene, np.ascontiguousarray(mesh.triangles, dtype=np.float32))
        hit = scene.run(origins, directions, output=1)
        seen = hit["primID"] >= 0
        face = hit["primID"][seen]
        corners = mesh.faces[face]  # (hits, 3)
        u, v = hit["u"][seen, None], hit["v"][seen, None]
        shares = np.concatenate([1 - u - v, u, v], axis=1)  # barycentric coordinates  (hits, 3)
        color = np.einsum("hc,hcd->hd", shares, vertex_colors(mesh)[corners])
        normal = np.asarray(mesh.face_normals)[face]
        if smooth:
            normal = np.einsum("hc,hcd->hd", shares, np.asarray(mesh.vertex_normals)[corners])
            normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-9)
        # Lambert's law; a surface has two sides, and the one that we see is lit
        normal = np.where((normal * directions[seen]).sum(1, keepdims=True) > 0, -normal, normal)
        light = np.array([-0.45, -0.6, -0.66]) @ viewpoint.rotation()[0].numpy()  # camera frame: left, up, back
        image[seen] = color * (AMBIENT + DIFFUSE * (normal @ light).clip(0)[:, None])
    return image.reshape(image_size, oversample, image_size, oversample, 3).mean(axis=(1, 3)).clip(0, 1)


def vertex_colors(mesh: trimesh.Trimesh) -> Float[np.ndarray, "vertices 3"]:
    """RGB in [0, 1] of each vertex; `PLAIN` where the mesh has none."""
    if mesh.visual.kind == "vertex":
        return np.asarray(mesh.visual.vertex_colors)[:, :3] / 255
    return np.tile(PLAIN, (len(mesh.vertices), 1))


def decimated(mesh: trimesh.Trimesh, faces: int = MAX_FACES) -> trimesh.Trimesh:
    """A mesh of at most `faces` faces; each vertex takes the colour of the nearest one of the original."""
    if len(mesh.faces) <= faces:
        return mesh
    smaller = mesh.simplify_quadric_decimation(face_count=faces)
    if mesh.visual.kind == "vertex":
        nearest = cKDTree(mesh.vertices).query(smaller.vertices)[1]
        smaller.visual.vertex_colors = np.asarray(mesh.visual.vertex_colors)[nearest]
    return smaller


def turnable(meshes: dict[str, trimesh.Trimesh], azimuths: Sequence[float] = (40.0,), height: int = 420):
    """Meshes side by side; turning one with the mouse turns all (a script that does this is displayed here).

    Parameters
    ----------
    meshes : dict
        Title -> mesh in the world frame; decimated to `MAX_FACES` here.
    azimuths : sequence of float
        From where each is seen at first, degrees; the last serves the rest.

    Returns
    -------
    plotly.graph_objects.Figure
    """
    import plotly.graph_objects as go
    from IPython.display import HTML, display
    from plotly.io import renderers
    from plotly.subplots import make_subplots

    # the wheel scrolls the page instead of shrinking the mesh, and no bar of buttons hides a title
    renderers["plotly_mimetype"].config.update(scrollZoom=False, displayModeBar=False)
    cells = [[{"type": "scene"} for _ in meshes]]
    figure = make_subplots(rows=1, cols=len(meshes), specs=cells, subplot_titles=list(meshes), horizontal_spacing=0.01)
    hidden = {"visible": False, "range": [-0.62, 0.62]}
    figure.update_scenes(xaxis=hidden, yaxis=hidden, zaxis=hidden, aspectmode="cube")
    light = {"ambient": 0.55, "diffuse": 0.6, "specular": 0.05, "roughness": 0.9}
    for number, mesh in enumerate(map(decimated, meshes.values())):
        x, y, z = np.round(mesh.vertices, 4).T if len(mesh.vertices) else np.zeros((3, 0))
        i, j, k = mesh.faces.T if len(mesh.faces) else np.zeros((3, 0), dtype=int)
        colors = (vertex_colors(mesh) * 255).round().astype(np.uint8)
        trace = go.Mesh3d(x=x, y=y, z=z, i=i, j=j, k=k, vertexcolor=colors, lighting=light, hoverinfo="skip")
        figure.add_trace(trace, row=1, col=number + 1)
        forward = viewpoint_at(azimuths[min(number, len(azimuths) - 1)]).rotation()[0, 2]
        eye = dict(zip("xyz", (-1.5 * forward).tolist(), strict=True))
        figure.update_scenes(camera_eye=eye, col=number + 1)
    figure.update_layout(height=height, margin={"l": 0, "r": 0, "t": 30, "b": 0}, showlegend=False)
    display(HTML(LINKED_CAMERAS))
    return figure


def mesh_sheet(
    meshes: dict[str, trimesh.Trimesh],
    turns: Sequence[float] = (0, 90, 180, 270),
    starts: Sequence[float] = (0,),
    elevation: float = 20.0,
):
    """Pictures of meshes: a row each, turned by degrees from where each starts; returns the matplotlib figure.

    Parameters
    ----------
    starts : sequence of float
        Azimuths of the first pictures, degrees; the last serves the rest. Meshes of two frames need two.
    """
    starts = [*starts, *[starts[-1]] * (len(meshes) - len(starts))]
    rows = [
        [draw_mesh(mesh, viewpoint_at(start + turn, elevation), 220) for turn in turns]
        for mesh, start in zip(meshes.values(), starts, strict=True)
    ]
    return image_grid(rows, [f"turned {turn:g}°" for turn in turns], list(meshes), size=1.9)
