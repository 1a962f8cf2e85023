"""Which recipe makes what of a sentence, and in how many seconds? Whole commands, from a caption to asset.glb.

    .venv/bin/python benchmarks/recipes.py                       the mini recipes that make assets, 12 held-out captions
    .venv/bin/python benchmarks/recipes.py --captions 6 --recipes videomv-mini.yaml mvdream-mini.yaml
    .venv/bin/python benchmarks/recipes.py --set "videomv-mini.yaml views.num_inference_steps=25"

Each caption is a command of its own, `launch.py --config RECIPE prompt=CAPTION`, seed 0. What the file that it writes
shows is compared with the caption's object, in world units (objects are about 1.4 across):

PSNR, IoU          of 16 pictures of 64 px on mid grey, and of their silhouettes, as `evaluate` compares scenes
Chamfer, normals   mean distance between the surfaces, and angle between their normals
volume IoU         of the solids, at 64^3 points
mesh after, s      until asset.glb is there, and to the command's end, by the clock
of a processor     seconds of all threads

Commands take the threads that they choose (--threads are this script's own, for pictures of the assets). --set: one
more row, a recipe with some settings. All rows are compared with the first; --out keeps the figures.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from priors_compared import (  # noqa: E402  # beside this file
    Condition,
    Figures,
    Found,
    Kept,
    carry_out,
    fingerprint,
    measured,
    parser_of,
)

from threedgen.config.load import load_config, to_yaml  # noqa: E402
from threedgen.core.errors import ThreedgenError  # noqa: E402
from threedgen.data.meshes.files import read_mesh  # noqa: E402
from threedgen.data.meshes.painted import PaintedMesh  # noqa: E402
from threedgen.data.miniworld import held_out  # noqa: E402
from threedgen.diffusion.checkpoints.locate import GAUSSIANS, locate_part, locate_weights  # noqa: E402
from threedgen.imaging import Row  # noqa: E402
from threedgen.mesh.render import render_mesh  # noqa: E402
from threedgen.metrics import psnr, silhouette_iou  # noqa: E402
from threedgen.tasks.evaluation.scoring import compare_surfaces, truth_of  # noqa: E402

RECIPES = (
    *("mvdream-mini.yaml", "mvdream-mini-quick.yaml"),
    *("videomv-mini.yaml", "videomv-mini-quick.yaml", "videomv-mini-refined.yaml"),
)
COLUMNS = {
    "psnr": ("PSNR dB", 2),
    "iou": ("IoU", 3),
    "chamfer": ("Chamfer", 4),
    "normals": ("normals, degrees", 1),
    "volume_iou": ("volume IoU", 3),
    "mesh_seconds": ("mesh after", 1),
    "seconds": ("s", 1),
    "processor_seconds": ("of a processor", 1),
}
WORLD_OF_GLTF = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])  # +Y up, front +Z
EVAL = load_config("eval-mini.yaml")  # the cameras


@dataclass(frozen=True)
class Asset:
    mesh: PaintedMesh
    mesh_seconds: float
    seconds: float
    processor_seconds: float


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument("--recipes", nargs="*", default=[*RECIPES], metavar="RECIPE")
    parser.add_argument("--set", action="append", default=[], metavar="RECIPE SETTINGS", help="one more row")
    given = parser.parse_args()
    names = [*given.recipes, *given.set]
    return carry_out(given, partial(compare, names=names), COLUMNS, [(name, names[0]) for name in names[1:]])


def compare(given: argparse.Namespace, kept: Kept, names: list[str]) -> tuple[Found, list[Row]]:
    specs = held_out()[: given.captions]
    made: dict[str, Asset] = {}  # of the row and caption drawn last

    def row(name: str) -> Condition:
        def draw(number: int, caption: str) -> np.ndarray:
            recipe, *settings = name.split()
            made[name] = asset_of(recipe, [*settings, f"prompt={caption}"])
            return render_mesh(made[name].mesh, truth_of(caption, EVAL).cameras)[0]

        return Condition(what_counts(name), draw)

    def figures(name: str, number: int, views: np.ndarray) -> Figures:
        asset, truth = made[name], truth_of(specs[number].caption, EVAL)
        opacity = render_mesh(asset.mesh, truth.cameras)[1]
        return {
            "psnr": psnr(views, truth.pictures.rgb),
            "iou": silhouette_iou(opacity, truth.pictures.opacity),
            **compare_surfaces(asset.mesh.vertices, asset.mesh.faces, truth.object, EVAL.scene.radius),
            "mesh_seconds": asset.mesh_seconds,
            "seconds": asset.seconds,
            "processor_seconds": asset.processor_seconds,
        }

    return measured({name: row(name) for name in names}, specs, figures, kept, given.kept)


def what_counts(name: str) -> dict[str, str]:
    """All that a row's figures follow from: its name, all settings of its config, and whose weights they ask for."""
    recipe, *settings = name.split()
    config = load_config(recipe, settings)
    of = {"row": name, "config": sha256(to_yaml(config).encode()).hexdigest()[:8], "prior": fingerprint(config.weights)}
    if locate_part(locate_weights(config.weights), GAUSSIANS).is_dir():
        of["gaussians"] = fingerprint(config.weights, GAUSSIANS)
    if config.refine.weights:
        of["refining"] = fingerprint(config.refine.weights)
    return of


def asset_of(recipe: str, settings: list[str]) -> Asset:
    """What the command makes. Raises ThreedgenError if it fails."""
    with tempfile.TemporaryDirectory() as folder:
        words = [str(ROOT / "launch.py"), "--config", recipe, f"output_root={folder}", "seed=0", *settings]
        started, at, before = time.monotonic(), time.time(), _processor_seconds()
        done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
        seconds, used = time.monotonic() - started, _processor_seconds() - before
        if done.returncode:
            raise ThreedgenError(f"{recipe} {' '.join(settings)} ended with {done.returncode}: {done.stderr[-500:]}")
        (glb,) = Path(folder).rglob("asset.glb")
        return Asset(read_mesh(glb)[0].moved(WORLD_OF_GLTF), glb.stat().st_ctime - at, seconds, used)


def _processor_seconds() -> float:
    """Of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
