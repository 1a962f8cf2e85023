"""Export runs again and print a table of what came out: topology, validator, texture, likeness, time.

    python benchmarks/export.py RUN [RUN ...] [export.KEY=VALUE ...] [--json FILE]

RUN is the folder of a run, finished or not, as for `launch.py export`, which writes the same files.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # for the validator, which the tests install
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as launch.py sets them, before torch starts its threads
os.environ.setdefault("GOMP_SPINCOUNT", "20000")

import torch  # noqa: E402

from tests.mesh.gltf_validator import ValidatorMissing, validate  # noqa: E402
from threedgen.config.load import load_config  # noqa: E402
from threedgen.tasks.on_runs.export_run import export_run  # noqa: E402

COLUMNS = ("prompt", "faces", "watertight", "errors", "warnings", "coverage", "PSNR dB", "s")


def measure(folder: Path, settings: list[str]) -> dict[str, object]:
    config = load_config((folder / "config.yaml").resolve(), settings)
    started = time.monotonic()
    results = export_run(folder, config)
    seconds = time.monotonic() - started
    report = json.loads(results["report"].read_text("utf-8"))
    errors, warnings = issues(results["glb"])
    coverage = report["texture_coverage"]
    return {
        "prompt": report["prompt"],
        "faces": report["faces"],
        "watertight": "yes" if report["watertight"] else "NO",
        "errors": errors,
        "warnings": warnings,
        "coverage": "" if coverage is None else f"{100 * coverage:.0f} %",
        "PSNR dB": report["mesh_vs_scene_psnr"],
        "s": round(seconds, 1),
    }


def issues(glb: Path) -> tuple[int | str, int | str]:
    try:
        found = validate(glb)[0]["issues"]
    except ValidatorMissing as missing:
        print(f"note: {missing}", file=sys.stderr)
        return "?", "?"
    return found["numErrors"], found["numWarnings"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="+", metavar="RUN | export.KEY=VALUE")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    settings = [word for word in arguments.words if word.startswith("export.")]
    rows = [measure(Path(word), settings) for word in arguments.words if word not in settings]
    print(f"\n| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}")
    for row in rows:
        print(f"| {' | '.join(str(row[column]) for column in COLUMNS)} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
