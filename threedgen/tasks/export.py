"""Turn an optimised scene into files: mesh, turntable, contact sheet, preview page, report."""

import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from threedgen.cameras import SHEET_AZIMUTHS, SHEET_ELEVATION, Cameras, viewing_cameras
from threedgen.config.export import ExportConfig
from threedgen.config.load import to_yaml
from threedgen.config.schema import Config, Task
from threedgen.core.errors import ConfigError
from threedgen.core.files import TEMPORARY_PREFIX, write_json_atomically
from threedgen.data.exact_views import exact_views
from threedgen.data.miniworld import build, parse
from threedgen.imaging import Row, contact_sheet, read_strip, save_png, save_turntable
from threedgen.mesh import (
    ColoredMesh,
    Mesh,
    Rasterizer,
    Surface,
    describe_mesh,
    extract_surface,
    glb_bytes,
    lifted,
    make_rasterizer,
    paint,
    render_mesh,
    render_views,
    require_usd,
    write_glb,
    write_obj,
    write_ply,
    write_stl,
    write_usdz,
)
from threedgen.mesh.bake import color_vertices
from threedgen.mesh.render import GREY
from threedgen.metrics.image import psnr
from threedgen.runs.directory import SAMPLED_VIEWS, RunDirectory
from threedgen.runs.events import read_events
from threedgen.scene.protocol import Shown, Solid
from threedgen.viewer.preview import write_preview

PRIOR_FIT = "prior_fit"  # the event that says how well the scene fits the prior
_NUM_COMPARED = 8  # views in which mesh and scene are compared; every other one is a column of the sheet
# every name that an export may write; what an earlier one left and this one does not make is removed
_NAMES = (
    *("asset.glb", "asset.obj", "asset.mtl", "asset.png", "asset.ply", "asset.stl", "asset.usdz"),
    *("turntable.mp4", "turntable.gif", "contact_sheet.png", "report.json", "preview.html"),
)


def check_export(config: ExportConfig) -> None:
    """Raise ConfigError, before any work is done, if this machine lacks what the export is to be made with."""
    make_rasterizer(config.rasterizer)
    if "usdz" in config.formats:
        require_usd()


def export_scene(scene: Solid, config: Config, run: RunDirectory, step: int) -> dict[str, Path]:
    """Write everything that the user gets of the scene after `step` steps into the run's folder; name -> path.

    Raises EmptyMeshError, before any file is written, if there is no surface.
    """
    return write_assets(scene, config, run.folder, run.folder, step)


def write_assets(scene: Solid, config: Config, run_folder: Path, folder: Path, step: int) -> dict[str, Path]:
    """As `export_scene`, for the scene after `step` steps of the run in `run_folder`, into `folder`.

    What was told and measured is looked up in the events of both: a refinement has its own beside its run's. All files
    are made aside and then moved: an export that fails leaves those of an earlier one as they were. Where there is no
    earlier one, the mesh is moved as soon as it is written: turntable and sheet take longer than it does.
    """
    rasterizer = make_rasterizer(config.export.rasterizer)
    earlier = {name for name in _NAMES if (folder / name).exists()}

    def mesh_is_written(aside: Path) -> None:
        if not earlier:
            print(f"mesh       {', '.join(sorted(_moved(aside, folder)))} in {folder}", flush=True)

    with tempfile.TemporaryDirectory(prefix=f"{TEMPORARY_PREFIX}export-", dir=folder) as aside:
        noted = _Noted.of(list(dict.fromkeys([folder, run_folder])), step)
        results = _write_all(scene, config, rasterizer, run_folder, Path(aside), step, noted, mesh_is_written)
        for name in earlier - _moved(Path(aside), folder):
            (folder / name).unlink()
    return {name: folder / path.name for name, path in results.items()}


def _moved(aside: Path, folder: Path) -> set[str]:
    """The names of all files in `aside`, which lie in `folder` now."""
    names = {path.name for path in aside.iterdir()}
    for name in names:
        os.replace(aside / name, folder / name)
    return names


class _Noted(NamedTuple):
    """What the events of a run say of its scene; None: nothing."""

    as_read: str | None  # the prompt, as the prior was last told it
    fit: dict[str, Any] | None
    optimize_seconds: float | None

    @classmethod
    def of(cls, folders: Sequence[Path], step: int) -> "_Noted":
        """folders: those whose events are read, the ones that count most first."""
        as_read = (_prompt_as_read(folder) for folder in folders)
        fits = (prior_fit(folder, step) for folder in folders)
        seconds = [_optimize_seconds(folder) for folder in folders]
        known = [each for each in seconds if each is not None]
        return cls(
            next((text for text in as_read if text is not None), None),
            next((fit for fit in fits if fit is not None), None),
            round(sum(known), 1) if known else None,
        )


def _write_all(
    scene: Solid,
    config: Config,
    rasterizer: Rasterizer,
    run_folder: Path,
    folder: Path,
    step: int,
    noted: _Noted,
    mesh_is_written: Callable[[Path], None],
) -> dict[str, Path]:
    started = time.monotonic()
    surface = extract_surface(scene, config.export)
    is_cut = bool(np.abs(surface.vertices).max() > scene.radius)  # where it leaves the cube it is closed just beyond
    if is_cut:
        print(
            "warning: the scene's cube cuts the object off, which is flat there: give it room by a larger scene.radius "
            "(in a reconstruction by a smaller reconstruct.scale)",
            file=sys.stderr,
            flush=True,
        )
    mesh = paint(scene, surface, config.export, rasterizer)
    lift = -float(surface.vertices[:, 2].min()) if config.export.on_floor else 0.0
    standing = lifted(mesh, lift)
    results = _write_formats(standing, scene, surface, lift, config.export, folder)
    mesh_is_written(folder)
    mesh_seconds = time.monotonic() - started
    with ThreadPoolExecutor(1) as beside:  # drawing frames leaves the cores time for what cannot be shared out
        turntable = beside.submit(_write_turntable, mesh, config, rasterizer, folder)
        azimuth = SHEET_AZIMUTHS[0] + np.arange(_NUM_COMPARED) * 360 / _NUM_COMPARED
        cameras = viewing_cameras(config.camera, azimuth, SHEET_ELEVATION, config.export.image_size)
        scene_rgb, mesh_rgb = render_scene(scene, cameras), render_mesh(mesh, cameras, rasterizer=rasterizer)[0]
        of_sheet = slice(None, None, _NUM_COMPARED // len(SHEET_AZIMUTHS))
        rows = _saved_views(run_folder / SAMPLED_VIEWS)
        rows += [("optimised scene", scene_rgb[of_sheet]), ("mesh", mesh_rgb[of_sheet])]
        as_read = noted.as_read or config.prompt
        rows += _ground_truth(as_read, cameras[of_sheet])
        save_png(contact_sheet(rows, config.prompt), folder / "contact_sheet.png")
        described = describe_mesh(standing, rasterizer)
        results |= {"turntable": turntable.result(), "sheet": folder / "contact_sheet.png"}

    quality = float(psnr(scene_rgb, mesh_rgb))
    report = {
        "prompt": config.prompt,
        "prompt_as_read": as_read,
        "seed": config.seed,
        "step": step,
        **described,
        "lifted_by": round(lift, 6),
        "cut_off": is_cut,
        "mesh_vs_scene_psnr": round(quality, 2) if math.isfinite(quality) else None,
        "scene_vs_prior": noted.fit,
        "seconds": {
            "optimize": noted.optimize_seconds,
            "mesh": round(mesh_seconds, 1),
            "export": round(time.monotonic() - started, 1),
        },
        "settings": _plain(config.export),
    }
    results["preview"] = folder / "preview.html"
    _write_preview(glb_bytes(standing), results, rows, report, config, run_folder)
    results["report"] = folder / "report.json"
    write_json_atomically(results["report"], report)
    watertight = "watertight" if report["watertight"] else "NOT watertight"
    print(f"mesh       {report['faces']} faces, {watertight}, {quality:.2f} dB against the scene from 8 sides")
    return results


def _write_formats(
    mesh: Mesh, scene: Solid, surface: Surface, lift: float, config: ExportConfig, folder: Path
) -> dict[str, Path]:
    """The asset in the config's formats; format -> path. surface: the mesh's, before it was lifted."""
    results = {}
    for name in dict.fromkeys([*config.formats, *(["ply"] if config.ply else [])]):
        results[name] = folder / f"asset.{name}"
        match name:
            case "glb":
                write_glb(mesh, results[name])
            case "obj":
                write_obj(mesh, results[name])
            case "ply":
                colored = mesh if isinstance(mesh, ColoredMesh) else lifted(color_vertices(scene, surface), lift)
                write_ply(colored, results[name])
            case "stl":
                write_stl(mesh, results[name])
            case "usdz":
                write_usdz(mesh, results[name])
    return results


@torch.no_grad()
def render_scene(scene: Shown, cameras: Cameras) -> np.ndarray:
    """[B, H, W, 3] on mid grey."""
    return scene.render(cameras, background=torch.tensor(GREY, device=scene.device)).rgb.cpu().numpy()


def _write_turntable(mesh: Mesh, config: Config, rasterizer: Rasterizer, folder: Path) -> Path:
    azimuth = np.linspace(0, 360, config.export.turntable_frames, endpoint=False)
    cameras = viewing_cameras(config.camera, azimuth, SHEET_ELEVATION, config.export.image_size)
    views = render_views(mesh, cameras, rasterizer=rasterizer)
    return save_turntable((rgb for rgb, _ in views), folder)


def _saved_views(path: Path) -> list[Row]:
    """The row of views that the prior alone made of the prompt, if the run has them."""
    if not path.exists():
        return []
    return [("sampled views", read_strip(path))]


def _ground_truth(prompt: str, cameras: Cameras) -> list[Row]:
    """A row of exact pictures if the prompt names a miniworld object, otherwise none."""
    try:
        spec = parse(prompt)
    except ConfigError:
        return []
    return [("ground truth", exact_views(build(spec), cameras, background=GREY).rgb)]


def _events_of(folder: Path) -> list[dict[str, object]]:
    """What happened in a run; nothing where nobody wrote it down."""
    events = folder / "events.jsonl"
    return read_events(events) if events.exists() else []


def _prompt_as_read(folder: Path) -> str | None:
    """What the prior was told when the run last started; None if it is not known."""
    told = [str(event["as_read"]) for event in _events_of(folder) if event["event"] == "prompt"]
    return told[-1] if told else None


def prior_fit(folder: Path, step: int) -> dict[str, Any] | None:
    """How well the scene fitted the prior after `step` steps, see `prior_fit.py`; None where nobody measured it."""
    noted = [event for event in _events_of(folder) if event["event"] == PRIOR_FIT]
    fitting = [event for event in noted if event["step"] == step]
    return {name: value for name, value in fitting[-1].items() if name not in ("time", "event")} if fitting else None


def _optimize_seconds(folder: Path) -> float | None:
    """Time from each start of the run to the last step before it ended or was stopped; None if it is not known."""
    total, started, last = 0.0, None, None
    for event in _events_of(folder):
        moment = float(str(event["time"]))
        if event["event"] == "started":
            started = moment
        elif event["event"] == "step" and started is not None:
            total += moment - (last if last is not None and last > started else started)
            last = moment
    return total if last is not None else None


def _plain(config: ExportConfig) -> dict[str, Any]:
    return {name: value.name if isinstance(value, Enum) else value for name, value in vars(config).items()}


def _steps(done: int, planned: int) -> str:
    """How far a run is; the steps of a refinement come after those that were planned."""
    return f"{done:,} of {planned:,}" if done < planned else f"{done:,}"


def _write_preview(
    glb: bytes, results: dict[str, Path], rows: list[Row], report: dict[str, Any], config: Config, run_folder: Path
) -> None:
    seconds = report["seconds"]
    lowest, highest = np.array(report["bounds"])
    quality = report["mesh_vs_scene_psnr"]
    coverage = report["texture_coverage"]
    mesh_facts = {
        "faces": f"{report['faces']:,}",
        "watertight": "yes" if report["watertight"] else "no",
        "components": f"{report['components']}",
        "size in m": "\u202f\u00d7\u202f".join(f"{edge:.2f}" for edge in highest - lowest),
        "colours": "at the vertices" if coverage is None else f"texture, {report['texture_size']} px",
        "mesh against scene": "identical" if quality is None else f"{quality:.1f} dB",
    }
    if report["scene_vs_prior"]:
        mesh_facts["scene against prior"] = f"{report['scene_vs_prior']['psnr']:.1f} dB"
    times = {
        "optimised": "" if seconds["optimize"] is None else f"{seconds['optimize']:.0f} s",
        "mesh": f"{seconds['mesh']:.0f} s",
        "whole export": f"{seconds['export']:.0f} s",
    }
    run_facts = {
        "seed": f"{config.seed}",
        **({"steps": _steps(report["step"], config.steps)} if report["step"] else {}),
        **({"pictures": config.data} if config.task is Task.reconstruct else {"weights": config.weights}),
    }
    write_preview(
        results["preview"],
        title=config.prompt.strip() or run_folder.name,
        subtitle=run_folder.name,
        glb=glb,
        turntable=results["turntable"],
        views=rows,
        facts={"Mesh": mesh_facts, "Run": run_facts | {name: text for name, text in times.items() if text}},
        settings=to_yaml(config),
    )
