"""Do two versions of the code make the same bits? Small runs of every verb, a sha256 of all that they leave.

    .venv/bin/python benchmarks/same_bits.py before.json
    ... change the code ...
    .venv/bin/python benchmarks/same_bits.py after.json --against before.json     # exit 1 and a list if not

Sampled views, a scene that is stopped and goes on, an export of it, a reconstruction, trainings of a prior (accumulated
parts; two processes; from nothing, with its VAE), DreamBooth with all weights and with an adapter. On one thread of one
machine; about three minutes. What tells of time is left out, and so is config.yaml: a new setting is no new result.
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trimesh

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from threedgen.data.miniworld import build, parse  # noqa: E402

_TIMES = ("events.jsonl", "config.yaml", ".lock", "report.json", "preview.html")  # they differ from run to run
_SMALL_EXPORT = [
    "export.resolution=32",
    "export.texture_size=64",
    "export.turntable_frames=2",
    "export.image_size=32",
]
_SMALL_TRAINING = [
    "train.steps=3",
    "train.batch_objects=4",
    "train.num_objects=6",
    "train.num_patterned_images=6",
    "train.warmup_steps=1",
    "train.sample_every=3",
    "train.checkpoint_every=1",
]


def launch(folder: Path, *arguments: str, processes: int = 1, stop_at: str = "") -> None:
    """One command; `stop_at`: killed when such a file is in the folder, then again."""
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    command = [sys.executable, *torchrun, "launch.py", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}  # adapters write sets
    if stop_at:
        with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as process:
            while process.poll() is None and not any(folder.rglob(stop_at)):
                time.sleep(0.01)
            process.kill()
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)


def make_all(root: Path) -> None:
    def run(name: str, *arguments: str, processes: int = 1, stop_at: str = "") -> None:
        launch(root / name, *arguments, f"output_root={root / name}", processes=processes, stop_at=stop_at)

    views = ["--config", "views-mini.yaml", "num_threads=1", "views.num_inference_steps=5"]
    run("views", *views, "prompt=a red cat with a green face", "views.rescale=0.3")
    scene = ["--config", "mvdream-mini.yaml", "num_threads=1", "prompt=a blue duck", "steps=12", "checkpoint_every=3"]
    scene += ["refine.sets=2", "refine.steps=4"]
    run("scene", *scene, *_SMALL_EXPORT, stop_at="*000003*")
    (made,) = (path.parent for path in (root / "scene").rglob("config.yaml"))
    launch(root, "export", str(made), "export.resolution=24", "export.texture_size=32")
    shaded = ["--config", "mvdream-mini-shading.yaml", *scene[2:], "steps=6"]
    run("shaded", *shaded, *_SMALL_EXPORT)
    trimesh.Trimesh(*build(parse("a red mug")).mesh()).export(root / "mug.ply")
    sizes = ["--size", "32", "--views", "8", "--passes", "1", "--supersample", "1"]
    launch(root, "render-meshes", str(root / "mug.ply"), str(root / "posed"), *sizes)
    (posed,) = (path.parent for path in (root / "posed").rglob("cameras.json"))
    fit = ["--config", "reconstruct-nerf.yaml", f"data={posed}", "num_threads=1", "steps=3"]
    run("reconstruct", *fit, "reconstruct.rays_per_step=512", *_SMALL_EXPORT)
    training = ["--config", "train-mini.yaml", "num_threads=1", *_SMALL_TRAINING]
    started = [*training, "train.start_from=mini"]
    run("train", *started, stop_at="*000002*")
    run("accumulated", *started, "train.accumulate=2")
    run("two-processes", *started, processes=2)
    run("from-nothing", *training, "train.vae_steps=3", "train.vae_batch=4", "train.precision=bfloat16")
    pictures = root / "pictures"
    pictures.mkdir()
    for number, picture in enumerate(sorted(posed.glob("*.png"))[:4]):
        (pictures / f"{number}.png").write_bytes(picture.read_bytes())
    tune = ["--config", "dreambooth-mini.yaml", "num_threads=1", f"data={pictures}", "prompt=a [v] mug", "steps=4"]
    tune += ["checkpoint_every=2", "views.num_inference_steps=5", "dreambooth.batch_size=2"]
    run("adapter", *tune)
    run("all-weights", *tune, "dreambooth.lora_rank=0", "dreambooth.train_text_encoder=true")


def sums(folder: Path) -> dict[str, str]:
    """{verb/file: sha256}; a run's own folder, which holds a hash of its settings, is left out of the name."""
    found = {}
    for path in sorted(folder.rglob("*")):
        parts = path.relative_to(folder).parts
        if not path.is_file() or path.name in _TIMES or "cache" in parts or "tensorboard" in parts:
            continue
        name = "/".join((parts[0], *parts[3:]) if len(parts) > 3 else parts)
        found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--keep", type=Path, help="a folder for what is made")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        make_all(folder.resolve())
        found = sums(folder)
    arguments.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    print(f"{len(found)} files")
    if arguments.against is None:
        return 0
    before = json.loads(arguments.against.read_text("utf-8"))
    changed = [name for name in sorted({*before, *found}) if before.get(name) != found.get(name)]
    print("\n".join(f"differs: {name}" for name in changed) or "all the same")
    return 1 if changed else 0


if __name__ == "__main__":
    sys.exit(main())
