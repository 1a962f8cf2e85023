"""The scene in a browser while it is optimised: nothing changes by being looked at, and what is seen is the scene."""

import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from threedgen.cameras import CameraSampler, orbit, rays_of
from threedgen.config.limits import INCIDENTAL, flatten
from threedgen.config.load import load_config
from threedgen.config.runtime import ViewerConfig
from threedgen.config.schema import Config
from threedgen.core.errors import ConfigError
from threedgen.core.randomness import generator
from threedgen.imaging import to_uint8
from threedgen.runs.directory import open_run
from threedgen.scene.make import make_scene
from threedgen.tasks import scene_optimizer
from threedgen.tasks.scene_optimizer import SceneStep, fit
from threedgen.viewer import live
from threedgen.viewer.live import Live, quaternion, rotation, seen_from

SETTINGS = ["camera.resolution=8", "scene.grid.num_levels=2", "scene.grid.log2_table_size=8", "scene.hidden_width=16"]
SETTINGS += ["scene.samples_per_ray=16", "scene.occupancy_resolution=8", "scene.occupancy_every=2", "steps=8"]
SETTINGS += ["checkpoint_every=8", "preview_every=100", "scene.backend=plain"]


class Server:
    """Stands for viser's: browsers come with `connect`, pictures and words are kept."""

    def __init__(self):
        self.pictures, self.frames, self.box = [], [], []
        self.scene = SimpleNamespace(set_up_direction=lambda axis: None, add_camera_frustum=self._frame)
        self.gui = SimpleNamespace(add_markdown=lambda text: SimpleNamespace(content=text), add_checkbox=self._box)
        self.initial_camera = SimpleNamespace()
        self.clients = {}

    def _frame(self, name, **what):
        frame = SimpleNamespace(**what)
        frame.remove = lambda: self.frames.remove(frame)
        self.frames.append(frame)
        return frame

    def _box(self, label, value):
        self.box.append(SimpleNamespace(label=label, value=value))
        return self.box[-1]

    def on_client_connect(self, callback):
        self.meet = callback

    def on_client_disconnect(self, callback):
        self.part = callback

    def get_clients(self):
        return self.clients

    def connect(self, cameras, aspect=1.0):
        """A browser that looks from the first of some of our cameras."""
        pose = cameras.camera_to_world[0].double().numpy()
        wxyz = Rotation.from_matrix(pose[:3, :3] @ np.diag([1, -1, -1])).as_quat(scalar_first=True)
        camera = SimpleNamespace(wxyz=wxyz, position=pose[:3, 3], fov=float(cameras.fov_y[0]), aspect=aspect)
        camera.on_update = lambda callback: setattr(self, "moved", callback)
        keep = SimpleNamespace(set_background_image=lambda image, **how: self.pictures.append(image))
        client = SimpleNamespace(client_id=len(self.clients), camera=camera, scene=keep)
        self.clients[client.client_id] = client
        self.meet(client)
        return client


class Hurried:
    """A clock by which more time passes at every look than before: whatever was spent has been earned at the next."""

    now = 1.0

    def __call__(self):
        self.now *= 3.0
        return self.now


def fitted(folder, monkeypatch, live):
    """The state of a small scene after its steps."""
    monkeypatch.setattr(scene_optimizer, "watching", lambda settings: live)
    config = load_config(None, SETTINGS)
    scene, sampler = make_scene(config, "cpu"), CameraSampler(config.camera, 0)

    def take(step):
        cameras = sampler.sample(step, config.steps)
        seen = scene.render(cameras, generator=generator(0, step, "render"))
        loss = (seen.rgb - torch.tensor([0.9, 0.2, 0.1])).square().mean() + seen.opacity.mean()
        return SceneStep(loss, lambda: (loss.item(), {"opacity": 0.5}), lambda: None, lambda: (0.0, 0.5), cameras)

    with open_run(folder, config) as run:
        fit(scene, config, run, "test", take)
    return {name: value.clone() for name, value in scene.state_dict().items()}


def test_a_run_gives_the_same_bits_with_and_without(tmp_path, monkeypatch):
    torch.manual_seed(5)
    without, state = fitted(tmp_path / "without", monkeypatch, None), torch.get_rng_state()
    torch.manual_seed(5)
    server = Server()
    live = Live(server, ViewerConfig(share=0.5, size=24), Hurried())
    server.connect(orbit(30, 15, 2.0, 40, height=8))
    watched = fitted(tmp_path / "with", monkeypatch, live)
    assert len(server.pictures) == 8 and "step 8 of 8" in live._text.content
    assert without.keys() == watched.keys()
    assert all(torch.equal(without[name], watched[name]) for name in without)
    assert torch.equal(state, torch.get_rng_state())


@pytest.fixture
def scene():
    """A scene whose every ray shows where it goes: the picture tells the camera apart from any other."""

    class Compass:
        seen = None

        def render(self, cameras, *, background=None):
            assert not torch.is_grad_enabled()
            self.seen = cameras
            shape = (1, cameras.height, cameras.width, 3)
            return SimpleNamespace(rgb=(rays_of(cameras).directions.reshape(shape) + 1) / 2)

    return Compass()


def told():
    return 0.25, {"psnr": 20.0}


def test_a_browser_sees_what_its_camera_sees(scene):
    server, ours = Server(), orbit(30, 15, 2.0, 40, height=24)
    live = Live(server, ViewerConfig(share=0.5, size=24), Hurried())
    live.after_step(scene, 1, 9, told, None)
    assert server.pictures == [] and scene.seen is None  # nobody looks
    client = server.connect(ours)
    live.after_step(scene, 2, 9, told, None)
    live.after_step(scene, 3, 9, told, None)
    assert [picture.shape for picture in server.pictures] == [(8, 8, 3), (24, 24, 3)]  # first small, then sharp
    towards = to_uint8((rays_of(ours).directions.view(24, 24, 3) + 1) / 2)
    assert np.abs(server.pictures[1].astype(int) - towards).max() <= 1  # a level of rounding
    assert torch.allclose(scene.seen.camera_to_world, ours.camera_to_world, atol=1e-6)
    assert "step 3 of 9" in live._text.content and "| loss | 0.25 |" in live._text.content
    for aspect, shape in ((2.0, (4, 8, 3)), (100.0, (2, 8, 3)), (0.01, (8, 2, 3))):  # four to one at most
        client.camera.aspect = aspect
        server.moved(client.camera)
        live.after_step(scene, 4, 9, told, None)
        assert server.pictures[-1].shape == shape
    server.clients.clear()  # it went away and nobody has told yet
    live.after_step(scene, 5, 9, told, None)
    server.part(client)
    live.after_step(scene, 6, 9, told, None)
    assert len(server.pictures) == 5


def test_the_cameras_of_the_step_stand_where_they_are(scene):
    server, cameras = Server(), orbit([0, 90], 15, 2.0, 40, height=8, num_views=2)
    live = Live(server, ViewerConfig(share=0.5), Hurried())
    server.connect(cameras)
    live.after_step(scene, 1, 9, told, cameras)
    assert len(server.frames) == 2
    for frame, pose in zip(server.frames, cameras.camera_to_world, strict=True):
        forward = Rotation.from_quat(frame.wxyz, scalar_first=True).apply([0, 0, 1])  # viser's cameras look along +z
        down = Rotation.from_quat(frame.wxyz, scalar_first=True).apply([0, 1, 0])
        assert np.allclose(forward, -pose[:3, 2], atol=1e-6) and np.allclose(down, -pose[:3, 1], atol=1e-6)
        assert np.allclose(frame.position, pose[:3, 3]) and frame.fov == pytest.approx(np.radians(40))
    live.after_step(scene, 2, 9, told, cameras[:1])
    assert len(server.frames) == 1
    live.after_step(scene, 2, 9, told, orbit(range(30), 15, 2.0, 40, height=8))
    assert len(server.frames) == 24
    server.box[1].value = False
    live.after_step(scene, 3, 9, told, cameras)
    assert server.frames == []


def test_pause_waits_and_goes_on_showing(scene):
    server = Server()
    live = Live(server, ViewerConfig(share=0.5, size=24), Hurried())
    client = server.connect(orbit(30, 15, 2.0, 40, height=8))
    server.box[0].value = True
    waiting = threading.Thread(target=live.after_step, args=(scene, 1, 9, told, None))
    waiting.start()
    end = time.monotonic() + 10
    while len(server.pictures) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert waiting.is_alive() and server.pictures[1].shape == (24, 24, 3)
    server.moved(client.camera)
    while len(server.pictures) < 4:
        assert time.monotonic() < end
        time.sleep(0.01)
    server.box[0].value = False
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_run_that_is_to_stop_is_paused_no_longer(scene):
    server, over = Server(), []
    live = Live(server, ViewerConfig(share=0.5, size=24), Hurried())
    server.connect(orbit(30, 15, 2.0, 40, height=8))
    server.box[0].value = True
    waiting = threading.Thread(target=live.after_step, args=(scene, 1, 9, told, None, lambda: bool(over)))
    waiting.start()
    time.sleep(0.2)
    assert waiting.is_alive()
    over.append(True)
    waiting.join(10)
    assert not waiting.is_alive()


def test_it_is_throttled_by_what_rendering_takes(scene, monkeypatch):
    """A render of a second, steps of a second, a tenth of the time: one picture in about ten steps."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    server = Server()
    live = Live(server, ViewerConfig(share=0.1, size=24), time.monotonic)
    server.connect(orbit(30, 15, 2.0, 40, height=8))
    draw = scene.render

    def slow(cameras, **how):
        clock.now += cameras.height * cameras.width / 24**2
        return draw(cameras, **how)

    scene.render = slow
    for step in range(1000):
        clock.now += 1.0
        live.after_step(scene, step, 1000, told, None)
    assert live.throttle.spent / clock.now < 0.1 + 1 / clock.now
    assert len(server.pictures) > 95


def test_the_address_that_is_told_is_the_doors(monkeypatch, capsys):
    class Viser(Server):
        def __init__(self, host, port, **_):
            super().__init__()
            assert (host, port) == ("127.0.0.1", 0)  # behind the door
            self.gui.configure_theme = lambda **_: None

        def get_port(self):
            return 5

    monkeypatch.setitem(sys.modules, "viser", SimpleNamespace(ViserServer=Viser))
    monkeypatch.setattr(live, "open_gate", lambda host, port, token, inner: port + inner)  # those before it are taken
    live.watching(ViewerConfig(enable=True, host="::1", port=8080, token="word"))
    assert capsys.readouterr().out == "viewer     http://[::1]:8085/?token=...\n"


@pytest.mark.parametrize("seed", range(5))
def test_rotations_against_scipy(seed):
    wxyz = np.random.default_rng(seed).normal(size=4)
    matrix = Rotation.from_quat(wxyz, scalar_first=True).as_matrix()
    assert np.allclose(rotation(wxyz), matrix)
    found = quaternion(matrix)
    assert found[0] >= 0 and np.allclose(Rotation.from_quat(found, scalar_first=True).as_matrix(), matrix)
    assert np.allclose(rotation(quaternion(np.diag([-1.0, -1, 1]))), np.diag([-1, -1, 1]))  # half a turn


def test_fov_and_size_of_a_browsers_camera():
    camera = SimpleNamespace(wxyz=[1, 0, 0, 0], position=[0, 0, -2], fov=0.7, aspect=1.0)
    cameras = seen_from(camera, 6, 4)
    assert (cameras.width, cameras.height, float(cameras.fov_y)) == (6, 4, pytest.approx(0.7))
    assert torch.allclose(rays_of(cameras).directions.mean(0), torch.tensor([0.0, 0.0, 1.0]), atol=0.1)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "a-machine.example"])
def test_others_may_not_look_without_a_token(host):
    with pytest.raises(ConfigError, match=r"viewer.host=.*can be reached by others: add viewer.token"):
        load_config(None, ["viewer.enable=true", f"viewer.host={host}"])
    assert load_config(None, [f"viewer.host={host}", "viewer.token=secret"]).viewer.host == host


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.1.2.3"])
def test_this_machine_may(host):
    assert load_config(None, [f"viewer.host={host}"]).viewer.host == host


def test_a_run_may_go_on_with_another_viewer():
    assert {key for key in flatten(Config()) if key.startswith("viewer.")} <= set(INCIDENTAL)
