from dataclasses import replace

from threedgen.cameras import Cameras


def in_double(cameras: Cameras) -> Cameras:
    return replace(cameras, camera_to_world=cameras.camera_to_world.double(), fov_y=cameras.fov_y.double())
