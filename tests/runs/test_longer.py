"""`--resume RUN steps=N`: a finished run goes on, exactly as a run that long where no schedule says otherwise."""

import numpy as np
import pytest
import torch
import trimesh

from threedgen import cli
from threedgen.config.load import load_config
from threedgen.core.errors import ConfigError
from threedgen.data.meshes.views import SPHERE, RenderSettings, write_views
from threedgen.runs.checkpoint import load_latest_checkpoint, save_checkpoint
from threedgen.runs.directory import THREADS, open_run
from threedgen.runs.longer import check_longer, lengthen, schedules_at
from threedgen.tasks import reconstruct

SMALL = ["reconstruct.rays_per_step=64", "scene.samples_per_ray=16", "scene.occupancy_resolution=8", "num_threads=1"]
SMALL += ["scene.grid.num_levels=2", "scene.grid.max_resolution=32", "scene.grid.log2_table_size=8"]
CONSTANT = ["optimizer.lr_scale.end=1", "reconstruct.distortion.end=0", "reconstruct.held_out_every=0"]


@pytest.fixture
def command(tmp_path, monkeypatch):
    """A reconstruction without schedules and without an export, of six small pictures."""

    def no_export(scene, config, run, step):
        run.path("asset").write_text(str(step))
        return {"asset": run.path("asset")}

    monkeypatch.setattr(reconstruct, "export_scene", no_export)
    trimesh.creation.box().export(tmp_path / "box.ply")
    settings = RenderSettings(SPHERE.layout, views=6, size=12, supersample=1, distance=SPHERE.distance)
    write_views(tmp_path / "box.ply", tmp_path / "views", "box", settings)
    words = [f"data={tmp_path / 'views'}", f"output_root={tmp_path / 'out'}", *SMALL, *CONSTANT]
    return ["--config", "reconstruct-nerf.yaml", *words]


def test_a_lengthened_run_is_the_long_run(command, tmp_path, capsys):
    assert cli.main([*command, "steps=3"]) == 0
    (folder,) = (tmp_path / "out/reconstruct-nerf").iterdir()
    assert cli.main(["--resume", str(folder), "steps=2"]) == 2
    assert "the run has steps=3, more than steps=2" in capsys.readouterr().err
    assert cli.main(["--resume", str(folder), "steps=5"]) == 0
    out = capsys.readouterr().out
    assert "longer     3 -> 5 steps, on from 3: all schedules run over 5 steps and stand at 0.60 again" in out
    assert "resumed    at step 3" in out and (folder / "asset").read_text() == "5"
    assert load_config(folder / "config.yaml").steps == 5
    # the first command and a plain --resume find it as it is now
    for words in ([*command, "steps=3"], ["--resume", str(folder)]):
        assert cli.main(words) == 0
        out = capsys.readouterr().out
        assert "finished before" in out and load_config(folder / "config.yaml").steps == 5
    assert cli.main([*command, "steps=5"]) == 0
    (straight,) = (path for path in (tmp_path / "out/reconstruct-nerf").iterdir() if path != folder)
    a, b = (load_latest_checkpoint(path / "checkpoints").tensors for path in (folder, straight))
    assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_a_refinement_is_dropped_and_done_anew(tmp_path):
    """Distilled to step 200 and refined to 400: it goes on from 200, unless that is no longer kept."""
    before = load_config("mvdream-mini.yaml", ["prompt=a red cat"])
    config = load_config("mvdream-mini.yaml", ["prompt=a red cat", "steps=400"])
    folder = tmp_path / "run"
    with open_run(folder, before) as run:
        for step in (200, 400):
            save_checkpoint(run.checkpoints, step, {"scene.x": torch.full((1,), float(step))}, {})
            run.path(f"previews/step-{step:06d}.png").touch()
        run.finish({})
        (run.checkpoints / THREADS).write_text("0 2\n")
        check_longer(folder, before, config)
        line = lengthen(run, before, config)
        assert not (run.checkpoints / THREADS).exists()
        assert [path.name for path in folder.glob("previews/*")] == ["step-000200.png"]
        assert run.finished_results() is None and load_latest_checkpoint(run.checkpoints).step == 200
        # linear from 0.98 at 0 to 0.02 and 0.5 at 0.8 of the run; the rates from 1 at 0.4 to 0.1 at 1
        assert "200 -> 400 steps, on from 200" in line and "timesteps 0.38 to 0.68" in line
        assert "learning rates times 0.85" in line and "pictures of 64 pixels" in line
        save_checkpoint(run.checkpoints, 500, {"scene.x": torch.zeros(1)}, {})
        save_checkpoint(run.checkpoints, 600, {"scene.x": torch.zeros(1)}, {})
    assert "pictures of 32 pixels" in schedules_at(config, 100)
    with pytest.raises(ConfigError, match="before its refinement is no longer kept"):
        check_longer(folder, before, config)


def test_only_steps_of_scenes_may_grow(tmp_path, capsys):
    config = load_config("views-mini.yaml", ["prompt=a red cat"])
    with open_run(tmp_path / "run", config):
        pass
    assert cli.main(["--resume", str(tmp_path / "run"), "steps=99999"]) == 2
    assert "--resume cannot change steps" in capsys.readouterr().err
    assert np.array_equal(load_config(tmp_path / "run/config.yaml").steps, config.steps)
