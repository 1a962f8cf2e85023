"""A long run needs no more than a short one: memory, open files, threads."""

import os
import threading

import torch

from threedgen.cameras import Rays
from threedgen.config.load import load_config
from threedgen.imaging import tile
from threedgen.runs.directory import open_run
from threedgen.scene.nerf import NeRF
from threedgen.tasks.scene_optimizer import SceneStep, fit

_WARM, _STEPS = 400, 2000  # steps after which all has been met once; in all
_MEMORY = 8 << 20  # bytes that may come to it meanwhile: an allocator's fragments


def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_two_thousand_steps_need_what_four_hundred_do(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    settings = [f"steps={_STEPS}", "checkpoint_every=100", "preview_every=200", "scene.grid.num_levels=2"]
    settings += ["scene.grid.log2_table_size=8", "scene.grid.max_resolution=32", "scene.samples_per_ray=16"]
    settings += ["scene.hidden_width=16", "scene.occupancy_resolution=8", "scene.background_random_probability=0"]
    config = load_config(None, settings)
    scene = NeRF(config.scene, 0)
    origins = torch.tensor([[3.0, 0.0, 0.0]]).expand(16, 3).contiguous()
    directions = torch.nn.functional.normalize(torch.tensor([-3.0, 0.0, 0.0]) + 0.3 * torch.randn(16, 3), dim=-1)
    found = {}

    def take(step):
        if step in (_WARM, _STEPS - 1):
            found[step] = resident(), len(os.listdir("/proc/self/fd")), threading.active_count()
        seen, _ = scene.trace(Rays(origins, directions))
        loss = (seen.rgb - 0.5).square().mean() + (seen.opacity - 0.7).square().mean()
        picture = torch.zeros(1, 4, 4, 3).numpy()
        return SceneStep(loss, lambda: (loss.item(), {}), lambda: tile([picture]), lambda: (0.0, 1.0))

    try:
        with open_run(tmp_path / "run", config) as run:
            fit(scene, config, run, "many", take)
    finally:
        torch.set_num_threads(threads)
    (memory, files, count), (more_memory, more_files, more_count) = found[_WARM], found[_STEPS - 1]
    assert more_memory - memory < _MEMORY, f"{(more_memory - memory) / 2**20:.1f} MiB"
    assert (more_files, more_count) == (files, count)
    assert len(list((tmp_path / "run/checkpoints").iterdir())) == 2
