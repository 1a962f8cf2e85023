"""Stands in for the package in a batch's processes: the real command line with a task that needs no model.

What it does is the last word of its prompt; the prompt is noted in `calls`, beside the package's folder. It is the
`__main__.py` of the package that the fixture `stand_in` makes.
"""

import os
import signal
import sys
import time
from pathlib import Path

PACKAGE = Path(__file__).parent  # of the fixture, where there is a link to this file
sys.path[0] = str(Path(__file__).resolve().parent.parent)
del sys.modules["threedgen"]  # the one that has only this

from threedgen import cli  # noqa: E402
from threedgen.core.errors import EmptyMeshError  # noqa: E402
from threedgen.runs.stopping import stopping  # noqa: E402


def task(config, run):
    word = config.prompt.split()[-1]
    with open(PACKAGE.parent.parent / "calls", "a") as file:
        file.write(config.prompt + "\n")
    match word:
        case "crash":
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "bug":
            raise ZeroDivisionError("oops")
        case "empty":
            raise EmptyMeshError("no surface")
        case "hang":
            time.sleep(600)
        case "deaf":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(600)
        case "slow" | "slower" if not run.path("kept").exists():
            with stopping() as stop:
                run.path("begun").write_text(str(os.getppid()))
                while not stop.is_asked():
                    time.sleep(0.02)
                if word == "slower":
                    time.sleep(4)  # a step that takes longer than a new worker, with the folder's lock held
                run.path("kept").touch()
                stop.leave()
    run.path("asset.glb").write_text(repr((config.prompt, config.seed, config.steps, config.runtime.threads)))
    run.path("devices").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    return {"glb": run.path("asset.glb")}


cli._task = lambda config: task
sys.exit(cli.main())
