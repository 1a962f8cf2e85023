"""A scene while it is optimised, from a free camera in a browser (viser): rendered between steps, by the same thread.

It looks at the scene and changes nothing: no gradient, no random number, so a run gives the same bits with and without.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch

from threedgen.cameras import Cameras
from threedgen.config.runtime import ViewerConfig
from threedgen.core.errors import ConfigError
from threedgen.imaging import to_uint8
from threedgen.scene.protocol import Shown
from threedgen.viewer.gate import open_gate
from threedgen.viewer.throttle import Throttle

Told = Callable[[], tuple[float, dict[str, float]]]  # the loss and further figures
_COARSE = 3  # a camera that moves is shown at so much smaller a size
_MOST_CAMERAS = 24  # of a step, drawn as frames
_FIRST_PLACE = (2.3, 0.8, 0.7)  # of a browser's camera, which looks at the origin: the front, from a little aside
_ASPECTS = (0.25, 4.0)  # of the picture, width / height
_OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0])  # viser's cameras look along their +z, with y down


@dataclass
class _Eye:
    """What a browser looks from, whether that has changed since it was shown, and whether it was shown in full size."""

    camera: Any
    has_moved: bool = True
    is_sharp: bool = False


class Live:
    """What `fit` tells its steps to.

    server: a `viser.ViserServer`, or what looks like one.
    """

    def __init__(self, server: Any, settings: ViewerConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self.throttle = Throttle(settings.share, clock)
        self._server, self._size = server, settings.size
        self._seconds_per_pixel = 0.0
        self._eyes: dict[int, _Eye] = {}
        self._cameras: Cameras | None = None
        self._frames: list[Any] = []
        server.scene.set_up_direction("+z")
        server.initial_camera.position = _FIRST_PLACE
        self._text = server.gui.add_markdown("The first step is on its way.")
        self._is_paused = server.gui.add_checkbox("Pause", False)
        self._shows_cameras = server.gui.add_checkbox("Cameras of the step", True)
        server.on_client_connect(self._meet)
        server.on_client_disconnect(lambda client: self._eyes.pop(client.client_id, None))

    def after_step(
        self,
        scene: Shown,
        step: int,
        num_steps: int,
        told: Told,
        cameras: Cameras | None,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """Show the scene to all who look, if time allows; while it is paused, stay and show it.

        step: done so far; told: see `SceneStep`; cameras: of the step, None: it has none; is_over: ends a pause.
        """
        if not self._eyes:
            return
        if self.throttle.allows(self._seconds_per_pixel * sum(map(self._pixels, self._eyes.copy().values()))):
            with self.throttle.spending():
                self._tell(step, num_steps, *told())
                self._show_cameras(cameras)
                self._show(scene)
        while self._is_paused.value and self._eyes and not is_over():
            if any(eye.has_moved or not eye.is_sharp for eye in self._eyes.copy().values()):
                self._show(scene)
            time.sleep(0.02)

    def _meet(self, client: Any) -> None:
        eye = self._eyes[client.client_id] = _Eye(client.camera)

        def moved(camera: Any) -> None:
            eye.camera, eye.has_moved = camera, True

        client.camera.on_update(moved)

    def _tell(self, step: int, num_steps: int, loss: float, fields: Mapping[str, float]) -> None:
        rows = {"loss": loss, **fields}
        lines = [f"**step {step} of {num_steps}**", "", "| | |", "|---|---|"]
        self._text.content = "\n".join([*lines, *(f"| {name} | {value:.4g} |" for name, value in rows.items())])

    def _show_cameras(self, cameras: Cameras | None) -> None:
        is_shown = self._shows_cameras.value
        if cameras is self._cameras and is_shown == bool(self._frames):
            return
        self._cameras = cameras
        for frame in self._frames:
            frame.remove()
        self._frames = []
        if cameras is None or not is_shown:
            return
        for i, pose in enumerate(cameras.camera_to_world[:_MOST_CAMERAS].cpu().numpy().astype(float)):
            self._frames.append(
                self._server.scene.add_camera_frustum(
                    f"/camera {i}",
                    fov=float(cameras.fov_y[i]),
                    aspect=cameras.width / cameras.height,
                    scale=0.15,
                    wxyz=quaternion(pose[:3, :3] @ _OPENGL_FROM_OPENCV),
                    position=pose[:3, 3],
                )
            )

    @torch.no_grad()
    def _show(self, scene: Shown) -> None:
        """A picture for every browser; how long a pixel takes is remembered."""
        begun, pixels = time.monotonic(), 0
        clients = self._server.get_clients()
        for name, eye in self._eyes.copy().items():
            if name not in clients:
                continue
            pixels += self._pixels(eye)
            width, height = self._shape(eye)
            eye.has_moved, eye.is_sharp = False, not eye.has_moved
            rgb = scene.render(seen_from(eye.camera, width, height)).rgb[0]
            clients[name].scene.set_background_image(to_uint8(rgb), format="jpeg", jpeg_quality=85)
        if pixels:
            self._seconds_per_pixel = (time.monotonic() - begun) / pixels

    def _shape(self, eye: _Eye) -> tuple[int, int]:
        """Width and height of its picture, the longer one of them the settings' or, while it moves, a part of it."""
        longest = max(self._size // _COARSE, 8) if eye.has_moved else self._size
        aspect = min(max(float(eye.camera.aspect), _ASPECTS[0]), _ASPECTS[1])
        width, height = (longest, longest / aspect) if aspect >= 1 else (longest * aspect, longest)
        return max(round(width), 1), max(round(height), 1)

    def _pixels(self, eye: _Eye) -> int:
        width, height = self._shape(eye)
        return width * height


def seen_from(camera: Any, width: int, height: int) -> Cameras:
    """viser's camera as one of ours. Only what rendering asks for is meant: the angles around the object stay zero."""
    pose = np.eye(4)
    pose[:3, :3] = rotation(np.asarray(camera.wxyz, float)) @ _OPENGL_FROM_OPENCV
    pose[:3, 3] = camera.position
    zero = torch.zeros(1)
    return Cameras(
        camera_to_world=torch.tensor(pose, dtype=torch.float32)[None],
        fov_y=torch.tensor([float(camera.fov)]),
        height=height,
        width=width,
        azimuth=zero,
        elevation=zero,
        distance=torch.tensor([float(np.linalg.norm(camera.position))]),
    )


def rotation(wxyz: np.ndarray) -> np.ndarray:
    """The matrix [3, 3] of a quaternion of any length."""
    w, *xyz = wxyz / np.linalg.norm(wxyz)
    x, y, z = xyz
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + 2 * w * cross + 2 * cross @ cross


def quaternion(matrix: np.ndarray) -> np.ndarray:
    """w, x, y, z of a rotation [3, 3], w >= 0: the eigenvector of Bar-Itzhack's symmetric matrix (2000)."""
    m = matrix
    k = np.array(
        [
            [np.trace(m), m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [0, m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [0, 0, m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [0, 0, 0, m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    found = np.linalg.eigh(k, UPLO="U")[1][:, -1]
    return found if found[0] >= 0 else -found


def watching(settings: ViewerConfig) -> Live | None:
    """The live view of this process, opened when it is first asked for; None if it is not wanted.

    Raises ConfigError where viser is missing or the address cannot be listened on.
    """
    return (
        _open(settings.host, settings.port, settings.token, settings.share, settings.size) if settings.enable else None
    )


@cache
def _open(host: str, port: int, token: str, share: float, size: int) -> Live:
    try:
        import viser
    except ImportError as error:
        raise ConfigError(
            "viewer.enable=true needs viser: pip install 'threedgen[viewer]' (or pip install viser)"
        ) from error
    settings = ViewerConfig(enable=True, host=host, port=port, token=token, share=share, size=size)
    try:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):  # its own banner
            inner_host, inner_port = ("127.0.0.1", 0) if token else (host, port)
            server = viser.ViserServer(inner_host, inner_port, label="threedgen", verbose=False)
        server.gui.configure_theme(show_share_button=False)  # which would bring the view to a public address
        inner = server.get_port()  # the next one that is free, as at the door
        # viser knows no secrets: with one it stays on this machine, behind a door that does
        port = open_gate(host, port, token, inner) if token else inner
    except OSError as error:
        raise ConfigError(f"viewer.port={port}: {error.strerror or error}") from error
    shown = f"[{host}]" if ":" in host else host
    print(f"{'viewer':10} http://{shown}:{port}/" + ("?token=..." if token else ""), flush=True)
    return Live(server, settings)
