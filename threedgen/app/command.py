"""`launch.py app`: the app's server, on this machine's own address only unless it is told otherwise."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from threedgen.app.choices import EXAMPLES, check, choices
from threedgen.app.jobs import Jobs, devices
from threedgen.app.texts import file_url
from threedgen.core.arguments import ArgumentParser, program
from threedgen.core.errors import ConfigError
from threedgen.core.network import check_reachable
from threedgen.runs.directory import make_folder

_USER = "threedgen"  # that a browser asks for beside the password


def main(arguments: Sequence[str]) -> int:
    """Serve the app until Ctrl-C; then its runs are stopped, with a checkpoint. Returns the exit status."""
    parser = ArgumentParser(prog=f"{program()} app", description="Text to 3D in a browser.", allow_abbrev=False)
    parser.add_argument(
        "--config", action="append", default=[], metavar="NAME", help="offer this recipe; may be repeated"
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (127.0.0.1: this machine only)")
    parser.add_argument("--port", type=int, help="(the first free one from 7860 on)")
    parser.add_argument("--password", default="", help=f"asked for by the browser, with the user name {_USER}")
    parser.add_argument("--no-browser", action="store_true", help="do not open the page")
    parser.add_argument(
        "settings", nargs="*", metavar="key=value", help="for every run, such as output_root=/data/runs"
    )
    given = parser.parse_intermixed_args(list(arguments))
    check_reachable(given.host, given.password, "--password WORD")
    offered = choices(given.config, given.settings)
    check(EXAMPLES[0], offered[0])  # so that the grammar is there when the first letter is typed
    os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
    try:
        from threedgen.app.page import STYLE, VIEWER, Actions, build_page, theme
    except ImportError as error:
        if error.name != "gradio":
            raise
        raise ConfigError("the app needs Gradio: pip install 'threedgen[app]' (or pip install gradio)") from error

    jobs = Jobs(devices())
    with tempfile.TemporaryDirectory(prefix="threedgen-app-") as copies:
        actions = Actions(offered, jobs, Path(copies), given.settings)
        make_folder(actions.output_root, "the runs'")
        page = build_page(actions)
        try:
            _, address, _ = page.launch(
                server_name=given.host,
                server_port=given.port,
                auth=(_USER, given.password) if given.password else None,
                inbrowser=not given.no_browser and _has_desktop(),
                allowed_paths=[str(actions.output_root.resolve()), copies, str(VIEWER)],
                head=f'<script defer src="{file_url(VIEWER)}"></script>',
                theme=theme(),
                css_paths=STYLE,
                max_file_size="32mb",
                share=False,
                quiet=True,
                footer_links=[],
                ssr_mode=False,
                prevent_thread_lock=True,
            )
            print(f"app        {address}   (Ctrl-C ends it)\nruns       {actions.output_root}", flush=True)
            _wait_for_the_end()
        except OSError as error:
            raise ConfigError(f"--port {given.port}: {error}") from error
        finally:
            jobs.close()
            page.close(verbose=False)
    return 0


def _wait_for_the_end() -> None:
    """Until Ctrl-C or SIGTERM."""
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    ended.wait()


def _has_desktop() -> bool:
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
