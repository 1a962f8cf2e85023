"""How near do meshes reconstructed from pictures come to the meshes in the pictures?

    .venv/bin/python benchmarks/reconstruct.py                          three shapes, pictures of 64, 128 and 256 px
    .venv/bin/python benchmarks/reconstruct.py chair.glb --sizes 128    any mesh files
    .venv/bin/python benchmarks/reconstruct.py steps=500 --sizes 64     any setting of the recipe

Each mesh is rendered from all around (100 views, of which every eighth is held out), reconstructed by
`reconstruct-nerf.yaml` and exported; asset.glb is then compared with the mesh, in units of the mesh's longest edge:

Chamfer   mean distance to the nearest point of the other surface, both ways, from 50,000 points on each
normals   mean angle between the normals there, both ways
IoU       of the silhouettes in 16 pictures of 256 px whose cameras are not those of the input
PSNR      of the same pictures on mid grey, the mesh that was given against the mesh that came out
NeRF      PSNR of the scene in the held-out pictures; none with reconstruct.held_out_every=0

Without arguments: a horse inflated from scikit-image's silhouette (CC0; one brown, so that it is lit), a knotted tube
(colours at the vertices) and a vase, hollow and open, with scikit-image's cat (CC0) as its texture.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import trimesh
from PIL import Image
from scipy.ndimage import distance_transform_edt, gaussian_filter

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from threedgen.config.load import load_config  # noqa: E402
from threedgen.core.errors import ThreedgenError  # noqa: E402
from threedgen.data.meshes.files import read_mesh  # noqa: E402
from threedgen.data.meshes.views import SPHERE, draw_cameras, normalize, prepare, write_views  # noqa: E402
from threedgen.imaging import contact_sheet, save_png  # noqa: E402
from threedgen.mesh.render import render_mesh  # noqa: E402
from threedgen.metrics import (  # noqa: E402
    chamfer_distance,
    normal_angle,
    psnr,
    sample_surface_with_normals,
    silhouette_iou,
    ssim,
)
from threedgen.runs.directory import open_run  # noqa: E402
from threedgen.tasks import reconstruct  # noqa: E402

NUM_POINTS, NUM_VIEWS, SIZE, SHOWN = 50_000, 16, 256, 6


def horse() -> trimesh.Trimesh:
    """The silhouette blown up: as thick everywhere as the root of the distance to the outline."""
    import mcubes

    outside = np.pad(skimage.data.horse(), 8, constant_values=True)[::2, ::2]
    half = 4.5 * np.sqrt(gaussian_filter(distance_transform_edt(~outside), 1.0)) * ~outside
    depth = np.arange(-24, 25)
    signed = np.where(outside[:, :, None], -1.0, half[:, :, None] - np.abs(depth))
    vertices, faces = mcubes.marching_cubes(gaussian_filter(signed.clip(-3, 3), 1.0), 0.0)
    down, right, deep = vertices.T
    brown = trimesh.visual.material.SimpleMaterial(diffuse=(150, 92, 52))
    visual = trimesh.visual.TextureVisuals(uv=np.zeros((len(vertices), 2)), material=brown)
    return trimesh.Trimesh(np.stack([right, -down, deep], -1), faces, visual=visual, process=False)


def knot() -> trimesh.Trimesh:
    """A trefoil tube whose colour goes round the circle of hues."""
    t, s = (2 * np.pi * np.arange(n) / n for n in (240, 24))
    center = np.stack([np.sin(t) + 2 * np.sin(2 * t), np.cos(t) - 2 * np.cos(2 * t), -np.sin(3 * t)], -1)
    along = np.roll(center, -1, 0) - np.roll(center, 1, 0)
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    across = np.cross(along, center)
    across /= np.linalg.norm(across, axis=1, keepdims=True)
    other = np.cross(along, across)
    ring = np.cos(s)[None, :, None] * across[:, None] + np.sin(s)[None, :, None] * other[:, None]
    hue = 2 * np.pi * (t / (2 * np.pi) + np.array([[0.0], [1 / 3], [2 / 3]]))
    colors = np.repeat((127.5 + 127.5 * np.sin(hue)).T.astype(np.uint8), len(s), axis=0)
    return trimesh.Trimesh(
        (center[:, None] + 0.55 * ring).reshape(-1, 3), _grid_faces(len(t), len(s), closed=True)[:, ::-1],
        vertex_colors=colors, process=False,
    )  # fmt: skip


def vase() -> trimesh.Trimesh:
    """A wall with an inside, turned from a profile: bottom, outside, rim, inside, bottom."""
    h = np.linspace(0, 1, 48)
    radius = 0.34 + 0.14 * np.sin(2 * np.pi * h * 0.9 + 0.2)
    outer, inner = np.stack([radius, h], -1), np.stack([radius - 0.05, 0.05 + 0.95 * h], -1)[::-1]
    profile = np.concatenate([[[0.0, 0.0]], outer, inner, [[0.0, 0.05]]])
    turns = np.linspace(0, 2 * np.pi, 97)
    vertices = [np.stack([r * np.sin(turns), np.full(97, y), r * np.cos(turns)], -1) for r, y in profile]
    uvs = [np.stack([3 * turns / (2 * np.pi), np.full(97, y)], -1) for _, y in profile]
    picture = Image.fromarray(skimage.data.chelsea())
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=picture)
    visual = trimesh.visual.TextureVisuals(uv=np.concatenate(uvs), material=material)
    faces = _grid_faces(len(profile), 97, closed=False)[:, ::-1]
    return trimesh.Trimesh(np.concatenate(vertices), faces, visual=visual, process=False)


SHAPES: dict[str, Callable[[], trimesh.Trimesh]] = {"horse.obj": horse, "knot.ply": knot, "vase.glb": vase}


def write_shapes(folder: Path) -> list[Path]:
    """The three shapes as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, make in SHAPES.items():
        make().export(folder / name)
    return [folder / name for name in SHAPES]


def measure(source: Path, size: int, folder: Path, settings: list[str]) -> dict[str, Any]:
    """Render, reconstruct and compare one mesh with pictures of `size` pixels; everything stays in `folder`."""
    views, name = folder / "views", source.stem
    write_views(source, views, name, replace(SPHERE, size=size))
    config = load_config("reconstruct-nerf.yaml", [*settings, f"data={views}"])
    started = time.monotonic()
    with open_run(folder / "run", config, fresh=True) as run:
        results = reconstruct.run(config, run)
    seconds = time.monotonic() - started
    quality = json.loads(results["quality"].read_text("utf-8"))
    report = json.loads(results["report"].read_text("utf-8"))
    scores, rows = compare_meshes(source, results["glb"], np.array(quality["scene_from_data"]))
    save_png(contact_sheet(rows, f"{name}, {size} px"), folder / "comparison.png")
    return {
        "mesh": name,
        "size": size,
        **scores,
        "held_out_psnr": quality["held_out"] and quality["held_out"]["psnr"],
        "mesh_vs_scene_psnr": report["mesh_vs_scene_psnr"],
        "watertight": report["watertight"],
        "faces": report["faces"],
        "seconds": round(seconds, 1),
    }


def compare_meshes(source: Path, asset: Path, scene_from_data: np.ndarray) -> tuple[dict[str, Any], list[Any]]:
    """Scores of an exported asset against the mesh file it was reconstructed from, and rows for a sheet."""
    settings = replace(SPHERE, views=NUM_VIEWS, size=SIZE)
    truth, _ = normalize(read_mesh(source)[0], settings.up)
    truth = prepare(truth, settings)
    world_axes = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    made = read_mesh(asset)[0].moved(np.linalg.inv(scene_from_data) @ world_axes)
    made = replace(made, spacing=truth.spacing)
    radius = float(np.linalg.norm(truth.vertices[np.unique(truth.faces)], axis=1).max())
    cameras = draw_cameras(settings, "comparison", radius)
    (true_rgb, true_opacity), (rgb, opacity) = (render_mesh(mesh, cameras) for mesh in (truth, made))
    true_points, made_points = (
        sample_surface_with_normals(mesh.vertices, mesh.faces, NUM_POINTS, seed)
        for seed, mesh in enumerate((truth, made))
    )
    scores = {
        "chamfer": round(chamfer_distance(true_points[0], made_points[0]), 5),
        "normals": round(normal_angle(*true_points, *made_points), 2),
        "iou": round(float(silhouette_iou(true_opacity, opacity)), 4),
        "psnr": round(psnr(true_rgb, rgb), 2),
        "ssim": round(ssim(true_rgb, rgb), 4),
    }
    shown = slice(1, None, max(NUM_VIEWS // SHOWN, 1))
    return scores, [("the mesh that was given", true_rgb[shown]), ("the mesh that came out", rgb[shown])]


def table(scores: list[dict[str, Any]]) -> str:
    """Markdown."""
    lines = ["| mesh | input px | Chamfer | normals | IoU | PSNR dB | SSIM | NeRF dB | faces | watertight | s |"]
    lines += ["|" + "---|" * 11]
    for s in scores:
        cells = [s["mesh"], s["size"], f"{s['chamfer']:.4f}", f"{s['normals']:.1f}°"]
        cells += [f"{s['iou']:.3f}", f"{s['psnr']:.2f}", f"{s['ssim']:.3f}"]
        held_out = "" if s["held_out_psnr"] is None else f"{s['held_out_psnr']:.2f}"
        cells += [held_out, s["faces"], "yes" if s["watertight"] else "no", f"{s['seconds']:.0f}"]
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", metavar="MESH|key=value")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "benchmark-reconstruct")
    parser.add_argument("--json", type=Path, help="also write the scores to this file")
    given = parser.parse_intermixed_args()
    settings = [word for word in given.words if "=" in word]
    meshes = [Path(word) for word in given.words if "=" not in word] or write_shapes(given.output / "shapes")
    scores, failed = [], 0
    for mesh in meshes:
        for size in given.sizes:
            try:
                scores.append(measure(mesh, size, given.output / f"{mesh.stem}-{size}", settings))
            except ThreedgenError as error:
                print(f"{mesh}, {size} px: FAILED: {error}", file=sys.stderr)
                failed += 1
    print(table(scores))
    if given.json:
        given.json.write_text(json.dumps(scores, indent=2) + "\n", "utf-8")
    return 1 if failed else 0


def _grid_faces(rows: int, columns: int, closed: bool) -> np.ndarray:
    """Triangles of a grid of vertices; `closed`: the last row and column meet the first."""
    i, j = np.meshgrid(np.arange(rows - (not closed)), np.arange(columns - (not closed)), indexing="ij")
    i, j = i.ravel(), j.ravel()
    a, b = i * columns + j, i * columns + (j + 1) % columns
    c, d = (i + 1) % rows * columns + j, (i + 1) % rows * columns + (j + 1) % columns
    return np.concatenate([np.stack([a, c, b], -1), np.stack([b, c, d], -1)])


if __name__ == "__main__":
    sys.exit(main())
