"""What a network is told of the objects that it draws: their text, and where their views are seen from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from threedgen.cameras import Cameras


@dataclass(frozen=True)
class Picture:
    """A picture of each of P objects, as an image-to-video network is shown it; made by the prior."""

    embedding: Tensor  # [P, C] of the whole; zeros: what guidance leads away from
    latent: Tensor  # [P, 4, h, w]

    def of_objects(self, count: int) -> Picture:
        """For `count` objects: those again and again."""
        times = count // len(self.latent)
        return Picture(self.embedding.repeat(times, 1), self.latent.repeat(times, 1, 1, 1))


@dataclass(frozen=True)
class Conditions:
    """Of P objects with V views each, the views of an object adjacent.

    What is given once is told again to as many objects as there are: a single text, the cameras of one object.

    `cameras` None is 2D mode: single pictures from anywhere (V = 1), as training shows them in its 2D steps. It is
    never concluded from the number of views: whoever wants one view from a known camera tells the camera.
    """

    text: Tensor  # [P, L, C], or [1, L, C]
    cameras: Cameras | None = None  # P * V of them, or V
    num_views: int = 1
    picture: Picture | None = None  # P of them, or one

    def text_of(self, count: int) -> Tensor:
        """The text of `count` views, [count, L, C]."""
        return self.text_of_objects(count // self.num_views).repeat_interleave(self.num_views, 0)

    def text_of_objects(self, count: int) -> Tensor:
        """The text of `count` objects, [count, L, C]."""
        return self.text.repeat(count // len(self.text), 1, 1)

    def each_view_alone(self, with_cameras: bool) -> Conditions:
        """For every view as an object of its own, told the same; without its camera it is in 2D mode."""

        def of_views(x: Tensor) -> Tensor:
            return x if len(x) == 1 else x.repeat_interleave(self.num_views, 0)

        picture = self.picture and Picture(of_views(self.picture.embedding), of_views(self.picture.latent))
        return Conditions(of_views(self.text), self.cameras if with_cameras else None, 1, picture)

    def against(self, text: Tensor, count: int) -> Conditions:
        """For 2 * count views: the first half told this, the others another text [P, L, C] or [1, L, C].

        Of a picture the others are told what it looks like, but not what it shows (I2VGen-XL's zero embedding).
        """
        objects = count // self.num_views
        both = [t.expand(objects, -1, -1) for t in (self.text, text)]
        picture = self.picture
        if picture is not None:
            embedding, latent = picture.embedding, picture.latent
            one = Picture(embedding.expand(objects, -1), latent.expand(objects, -1, -1, -1))
            picture = Picture(
                torch.cat([one.embedding, torch.zeros_like(one.embedding)]), one.latent.repeat(2, 1, 1, 1)
            )
        return replace(self, text=torch.cat(both), picture=picture)
