"""The service as its users meet it: Cog's own server on the loopback interface, with the bundled model."""

import base64
import importlib.util
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from threedgen import MultiViewPipeline
from threedgen.config.views import openapi_schema
from threedgen.core.errors import ConfigError

pytest.importorskip("cog", reason='cog is not installed: pip install -e ".[serve]"')

ROOT = Path(__file__).parent.parent
# never through a proxy that the environment names
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A running server's address and the folder of its temporary files; it is stopped whatever happens."""
    folder = tmp_path_factory.mktemp("service")
    temporary = folder / "tmp"
    temporary.mkdir()
    shutil.copy(ROOT / "predict.py", folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "COG_PREDICT_TYPE_STUB": "predict.py:Runner",
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # Cog starts a worker as `python`
        "PORT": str(port),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "TMPDIR": str(temporary),
    }
    environment.pop("THREEDGEN_WEIGHTS", None)
    command = [sys.executable, "-m", "cog.server.http", "--host", "127.0.0.1"]
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait_until_ready(f"http://127.0.0.1:{port}", process, folder / "log")
        yield f"http://127.0.0.1:{port}", temporary
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        try:
            os.killpg(process.pid, signal.SIGKILL)  # a worker that outlived it
        except ProcessLookupError:
            assert process.returncode is not None  # none did


def _wait_until_ready(address, process, log, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with OPENER.open(f"{address}/health-check", timeout=5) as answer:
                status = json.load(answer)["status"]
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            status = "no answer yet"
        if status == "READY":
            return
        if "FAILED" in status:
            break
        time.sleep(0.2)
    pytest.fail(f"the server did not become ready:\n{log.read_text()[-3000:]}")


BUSY = 409  # the server takes one prediction at a time, and frees its place a moment after it has answered


def ask(server, **inputs):
    """(HTTP status, the answer's JSON) of one prediction, asked again while the server is busy."""
    body = json.dumps({"input": inputs}).encode()
    request = urllib.request.Request(f"{server[0]}/predictions", body, {"Content-Type": "application/json"})
    for _ in range(100):
        try:
            with OPENER.open(request, timeout=120) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            if error.code != BUSY:
                return error.code, json.load(error)
        time.sleep(0.1)
    raise TimeoutError("the server stayed busy")


def decoded(uri):
    kind, _, data = uri.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_views_come_back_and_are_those_of_the_pipeline(server):
    inputs = {"prompt": "a red cat", "num_frames": 3, "image_size": 128, "num_inference_steps": 4, "seed": 3}
    status, answer = ask(server, **inputs)
    assert (status, answer["status"]) == (200, "succeeded")
    output = answer["output"]
    assert set(output) == {"images", "camera_matrices", "azimuth_angles"}
    views = MultiViewPipeline.from_pretrained("mini")(**inputs)
    images = [decoded(uri) for uri in output["images"]]
    assert len(images) == 3
    for image, expected in zip(images, views.images, strict=True):
        assert image.shape == (128, 128, 3)
        assert image.std() > 10  # not blank
        assert np.array_equal(image, np.asarray(expected))
    assert not np.array_equal(images[0], images[1])
    assert output["azimuth_angles"] == [90, 210, 330]
    assert np.array(output["camera_matrices"]) == pytest.approx(views.camera_matrices.numpy(), abs=1e-6)
    assert answer["metrics"]["seed"] == 3
    assert "seed 3, drawn at the model's 64 px and resized to 128" in answer["logs"]


def test_a_seed_that_was_not_given_is_told(server):
    quick = {"prompt": "a blue cone", "num_frames": 1, "num_inference_steps": 1, "image_size": 128}
    answers = [ask(server, **quick)[1], ask(server, **quick, seed=None)[1]]
    seeds = [answer["metrics"]["seed"] for answer in answers]
    assert seeds[0] != seeds[1]
    again = ask(server, **quick, seed=seeds[0])[1]
    assert again["output"]["images"] == answers[0]["output"]["images"]


@pytest.mark.parametrize(
    ("inputs", "name"),
    [
        ({"num_frames": 64}, "num_frames"),
        ({"num_frames": "4"}, "num_frames"),
        ({"num_frames": 4.5}, "num_frames"),
        ({"image_size": 300}, "image_size"),
        ({"image_size": 64}, "image_size"),  # the mini model's own size is not one of the API's
        ({"guidance_scale": "high"}, "guidance_scale"),
        ({"camera_elevation": -5}, "camera_elevation"),
        ({"seed": "none"}, "seed"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": 3}, "prompt"),
    ],
)
def test_values_that_are_not_allowed(server, inputs, name):
    status, answer = ask(server, **{"prompt": "a red cat", **inputs})
    assert status == 422
    assert [problem["loc"][-1] for problem in answer["detail"]] == [name]


def test_a_prompt_is_required(server):
    assert ask(server, num_frames=4)[0] == 422


def test_a_prompt_that_the_model_cannot_read_fails_with_the_reason(server):
    status, answer = ask(server, prompt="a red zebra")
    assert (status, answer["status"]) == (200, "failed")
    assert "does not know 'zebra'" in answer["error"]


def test_it_serves_the_schema_of_the_specification(server):
    with OPENER.open(f"{server[0]}/openapi.json", timeout=10) as answer:
        assert json.load(answer) == openapi_schema()


def test_pictures_do_not_pile_up_on_the_disk(server):
    for _ in range(3):
        ask(server, prompt="a red cat", num_frames=1, num_inference_steps=1)
    assert len(list(server[1].rglob("view-*.png"))) == 1


def test_values_are_checked_again_inside(tmp_path, monkeypatch):
    """Cog checks nothing where the schema file is lost; the model's own check still holds."""
    monkeypatch.chdir(tmp_path)
    spec = importlib.util.spec_from_file_location("served", ROOT / "predict.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    runner = module.Runner()
    monkeypatch.setenv("THREEDGEN_WEIGHTS", str(tmp_path / "nowhere"))
    with pytest.raises(Exception, match=r"no weights at .*nowhere"):
        runner.setup()
    monkeypatch.delenv("THREEDGEN_WEIGHTS")
    runner.setup()
    assert json.loads((tmp_path / ".cog" / "openapi_schema.json").read_text()) == openapi_schema()
    defaults = {
        name: entry["default"]
        for name, entry in openapi_schema()["components"]["schemas"]["Input"]["properties"].items()
        if name != "prompt"
    }
    with pytest.raises(ConfigError, match="num_frames=64"):
        runner.run("a red cat", **{**defaults, "num_frames": 64})
    runner.folder.cleanup()
