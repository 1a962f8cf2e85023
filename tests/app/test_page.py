"""The app in a real browser, from a click to an asset; and what the command refuses."""

import importlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import trimesh
from PIL import Image

from threedgen import cli
from threedgen.app.jobs import Job, State
from threedgen.app.seen import look
from threedgen.config.schema import Config
from threedgen.runs.directory import SAMPLED_VIEWS, open_run

LAUNCH = Path(__file__).parent.parent.parent / "launch.py"
# an object in a few steps; whether it looks like one is another matter
TINY = ["steps=20", "refine.rounds=0", "preview_every=10", "checkpoint_every=10", "views.num_inference_steps=2"]
TINY += ["camera.resolution=16", "camera.coarse_resolution=16", "export.resolution=24", "export.texture_size=32"]
TINY += ["export.turntable_frames=2", "export.image_size=32", "num_threads=1"]


def test_without_gradio_one_line_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.delitem(sys.modules, "threedgen.app.page", raising=False)
    assert cli.main(["app"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: the app needs Gradio: pip install") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 can be reached by others: add --password"),
        (["--config", "nope"], "no recipe 'nope'"),
        (["step=3"], "step"),
        (["--port", "many"], "--port"),
    ],
)
def test_wrong_commands(words, message, capsys):
    assert cli.main(["app", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def page_module(monkeypatch):
    """page.py, whether Gradio is there or not: its parts are only made where a page is built."""
    monkeypatch.setitem(sys.modules, "gradio", MagicMock())
    monkeypatch.delitem(sys.modules, "threedgen.app.page", raising=False)
    yield importlib.import_module("threedgen.app.page")
    del sys.modules["threedgen.app.page"]


def test_a_run_that_ends_while_it_is_looked_at_is_shown_in_the_end(page_module, tmp_path, monkeypatch):
    """Its last files and its state come just after the folder was read: what is shown then must not stay."""
    folder = tmp_path / "out/mini/run"
    with open_run(folder, Config(prompt="a cat")) as run:
        Image.new("RGB", (40, 10)).save(run.path(SAMPLED_VIEWS))
    job = Job(folder, (), State.running)
    report = {"faces": 4, "watertight": True, "texture_size": None, "seed": 0}
    files = {"glb": "asset.glb", "report": "report.json"}

    def look_and_end(path):
        seen = look(path)
        if job.state is State.running:
            (folder / "asset.glb").write_bytes(b"glTF")
            (folder / "report.json").write_text(json.dumps(report))
            (folder / "result.json").write_text(json.dumps(files))
            job.state = State.done
        return seen

    monkeypatch.setattr(page_module, "look", look_and_end)
    jobs = SimpleNamespace(of=lambda path: job, ahead_of=lambda job: 0)
    choice = SimpleNamespace(config=Config(output_root=str(tmp_path / "out")))
    actions = page_module.Actions([choice], jobs, tmp_path / "copies", [])
    key = actions.show(str(folder), "")[0]
    later = actions.show(str(folder), key)
    assert "model-viewer" in later[1] and "4 triangles" in later[1]


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    """A running app's address and its output folder."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip('gradio is not installed: pip install -e ".[app]"')
    folder = tmp_path_factory.mktemp("app")
    words = ["app", "--config", "mvdream-mini", "--no-browser", f"output_root={folder / 'out puts'}", *TINY]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "NO_PROXY": "127.0.0.1,localhost"}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen([sys.executable, LAUNCH, *words], stdout=log, stderr=log, env=environment)
    try:
        end = time.monotonic() + 120
        while not (found := re.search(r"app +(http\S+)", (folder / "log").read_text())):
            assert process.poll() is None and time.monotonic() < end, (folder / "log").read_text()
            time.sleep(0.1)
        yield found[1], folder / "out puts"
    finally:
        process.terminate()
        process.wait(60)
    log = (folder / "log").read_text()
    assert process.returncode == 0 and "Traceback" not in log, log


@pytest.fixture(scope="module")
def page(app, new_page):
    page = new_page(viewport={"width": 900, "height": 700}, reduced_motion="reduce")
    page.set_default_timeout(120_000)
    page.goto(app[0])
    page.wait_for_selector("#create")
    return page


@pytest.mark.slow
def test_from_a_click_to_a_glb(app, page):
    address, outputs = app
    page.click("#prompt textarea")
    page.keyboard.type("a dragon")
    page.wait_for_selector(".check.bad")
    assert "does not know 'dragon'" in page.inner_text(".check")
    page.click("#create")
    page.wait_for_selector(".toast-body")  # a click is answered
    assert "does not know 'dragon'" in page.inner_text(".toast-body")
    page.click("text=a brown bear")  # one of the offers
    page.wait_for_selector(".check.good")
    assert page.input_value("#prompt textarea") == "a brown bear"
    page.click("#create")
    page.wait_for_selector(".views img")  # while it is being made
    page.wait_for_selector("model-viewer")
    page.wait_for_function("document.querySelector('model-viewer').loaded")
    page.evaluate(
        "document.querySelector('model-viewer').remove()"
    )  # drawn without a GPU it leaves no time for the rest

    (run,) = outputs.glob("mvdream-mini/a-brown-bear-*")
    got = {}
    for name in ("glb", "obj", "ply", "turntable"):
        with page.expect_download() as download:
            page.click(f"#download-{name}")
        got[name] = (download.value.suggested_filename, Path(download.value.path()).read_bytes())
    assert got["glb"] == ("a-brown-bear.glb", (run / "asset.glb").read_bytes())
    assert got["ply"] == ("a-brown-bear.ply", (run / "asset.ply").read_bytes())
    assert zipfile.ZipFile(io.BytesIO(got["obj"][1])).read("asset.obj") == (run / "asset.obj").read_bytes()
    assert got["turntable"][1] == next(run.glob("turntable.*")).read_bytes()
    scene = trimesh.load(io.BytesIO(got["glb"][1]), file_type="glb")
    assert np.ptp(scene.bounds, axis=0).min() > 0.1

    page.wait_for_selector("#history .thumbnail-item")  # and it is found again later
    page.reload()
    page.click("#history .thumbnail-item")
    page.wait_for_selector("model-viewer")
    page.evaluate("document.querySelector('model-viewer').remove()")
    assert page.input_value("#prompt textarea") == "a brown bear"
    assert page.errors == []
    assert all(url.startswith((address, f"blob:{address}", "data:")) for url in page.asked)  # no other machine


@pytest.mark.slow
def test_stop_and_go_on(app, page):
    outputs = app[1]
    page.reload()
    page.click("#prompt textarea")
    page.keyboard.type("a blue cube")
    page.wait_for_selector(".check.good")
    page.click("#create")
    page.wait_for_selector("#run h2")  # its folder is there, the work has hardly begun
    page.click("#stop")
    page.wait_for_selector(".status.stopped")
    (run,) = outputs.glob("mvdream-mini/a-blue-cube-*")
    assert not (run / "asset.glb").exists()
    page.click("#go-on")
    page.wait_for_selector("model-viewer")
    assert (run / "asset.glb").exists() and page.inner_text("#run h2") == "a blue cube"


@pytest.mark.slow
def test_a_phone_needs_no_sideways_scrolling_and_shows_what_is_chosen(app, new_page):
    page = new_page(viewport={"width": 375, "height": 700}, reduced_motion="reduce")
    page.set_default_timeout(120_000)
    page.goto(app[0])
    page.click("#words button")
    page.wait_for_selector(".words")
    boxes = page.evaluate(
        "[...document.querySelectorAll('button.chip, .words')].map(e => e.getBoundingClientRect().right)"
    )
    card = page.evaluate("document.getElementById('wish').getBoundingClientRect().right")
    assert card <= 375 and max(boxes) < card
    page.click("#history .thumbnail-item")  # of an earlier test
    page.wait_for_selector("#run h2")
    page.wait_for_function("document.querySelector('#run h2').getBoundingClientRect().bottom < innerHeight")
    assert page.evaluate("document.querySelector('#run h2').getBoundingClientRect().top") >= 0


def test_files_beside_the_runs_are_not_handed_out(app, page):
    address, _ = app
    assert page.request.get(f"{address}gradio_api/file=/etc/hostname").status in (403, 404)
