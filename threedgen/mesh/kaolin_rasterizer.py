"""The rasterizer of NVIDIA Kaolin (CUDA) behind our interface.

`kaolin.render.mesh.rasterize(height, width, face_vertices_z [B, F, 3], face_vertices_image [B, F, 3, 2],
face_features [B, F, 3, D], ...)` gives features [B, H, W, D] and face indices [B, H, W], -1 where there is none
(its documentation). Image coordinates run from -1 to 1 with y upwards, row 0 is the top,
and what has the larger z is nearer. z and features are interpolated linearly in the image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from threedgen.cameras import Cameras
from threedgen.mesh.rasterize import Fragments
from threedgen.mesh.types import Array


class KaolinRasterizer:
    """`rasterize`: kaolin.render.mesh.rasterize, or what behaves like it. device: where it runs."""

    def __init__(self, rasterize: Callable[..., Any], device: torch.device | str):
        self.rasterize = rasterize
        self.device = device

    def views(self, vertices: Array, faces: Array, cameras: Cameras) -> Iterator[Fragments]:
        corners = torch.from_numpy(vertices[faces].astype(np.float32)).to(self.device)  # [F, 3, 3]
        for i in range(len(cameras)):
            pose, focal = cameras.camera_to_world[i].to(self.device), 1.0 / float((0.5 * cameras.fov_y[i]).tan())
            in_camera = (corners - pose[:3, 3]) @ pose[:3, :3]
            depth = -in_camera[..., 2]  # [F, 3]
            aspect = cameras.width / cameras.height
            image = focal * in_camera[..., :2] / depth[..., None] / in_camera.new_tensor([aspect, 1.0])
            in_front = (depth > 1e-6).all(-1)
            # 1 / depth is linear in the image, so that it orders the faces exactly
            yield self._fragments(cameras.height, cameras.width, 1.0 / depth, image, in_front)

    def charts(self, uvs: Array, faces: Array, size: int) -> Fragments:
        image = torch.from_numpy(uvs[faces].astype(np.float32)).to(self.device) * 2.0 - 1.0
        ones = torch.ones_like(image[..., 0])
        return self._fragments(size, size, ones, image, ones[:, 0] > 0)

    def _fragments(self, height: int, width: int, inverse_depth: Tensor, image: Tensor, valid: Tensor) -> Fragments:
        """inverse_depth [F, 3], image [F, 3, 2] in -1..1, valid [F] bool: the faces to draw."""
        index = valid.nonzero()[:, 0]
        corner_weights = torch.eye(3, device=self.device).expand(1, len(index), 3, 3).contiguous()
        weights, face = self.rasterize(
            height, width, inverse_depth[index][None].contiguous(), image[index][None].contiguous(), corner_weights
        )
        rows, columns = (face[0] >= 0).nonzero(as_tuple=True)
        faces = index[face[0, rows, columns]]
        in_space = weights[0, rows, columns] * inverse_depth[faces]  # from weights in the image
        in_space = in_space / in_space.sum(-1, keepdim=True)
        return Fragments(*(tensor.cpu().numpy() for tensor in (rows, columns, faces, in_space)))
