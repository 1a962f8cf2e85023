"""Text to views of one object: the inputs of MVDream's public API, in the manner of diffusers' pipelines.

    pipe = MultiViewPipeline.from_pretrained("mini")
    views = pipe("a red cat", num_frames=4, seed=1)
    views.images[0].save("front.png")

The command line, this object and the service (`predict.py`) are one implementation and give the same pictures for
the same inputs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from threedgen.cameras import Cameras, mvdream_camera_vectors, viewing_cameras
from threedgen.config.guidance import JointConfig
from threedgen.config.sampling import Sampler
from threedgen.config.scene import CameraConfig
from threedgen.config.views import ViewInputs, ViewSettings, drawn_size
from threedgen.core.errors import ConfigError
from threedgen.core.randomness import generator, random_seed
from threedgen.data.miniworld.reading import Reading
from threedgen.diffusion.conditions import Picture
from threedgen.diffusion.denoising import Denoiser
from threedgen.diffusion.image_prior import ImagePrior
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.diffusion.text.prompts import as_asset, read_prompt
from threedgen.imaging import to_uint8

FRONT_AZIMUTH = 90.0  # degrees: MVDream's azimuth of the camera on +x, which is 0 in `Cameras`
_HIGHEST_ELEVATION = 90 - 1e-4  # degrees: straight above, "up" in the image has no meaning
_DEFAULT = ViewSettings()
_UNSAID = "(a picture)"  # stands for a prompt that is left out, until the inputs are checked


@dataclass(frozen=True)
class Views:
    """N views of one object and where they were seen from."""

    images: list[Image.Image]  # N pictures, image_size x image_size
    cameras: Cameras  # N; their field of view and distance are assumed: the model is told neither
    camera_matrices: Tensor  # [N, 4, 4] camera to world, position of unit length: what MVDream's model is told
    azimuth_angles: list[float]  # N, degrees as MVDream counts them: 90 looks at the front
    seed: int  # the one given, or the one drawn
    prompt: str  # as the model read it, ", 3d asset" included
    drawn: Tensor  # [N, 3, S, S] in 0..1, as the model drew them; the images were resized if they are of another size
    notes: tuple[str, ...] = ()  # what was changed in the prompts for the model to read them, a line each

    @property
    def drawn_size(self) -> int:
        """Pixels at which the model drew."""
        return self.drawn.shape[-1]

    @property
    def drawn_cameras(self) -> Cameras:
        """The cameras at that size."""
        return replace(self.cameras, height=self.drawn_size, width=self.drawn_size)

    @property
    def remark(self) -> str:
        """For a log's line: ", drawn at ... and resized to ..."; empty if nothing was resized."""
        size = self.cameras.height
        return "" if self.drawn_size == size else f", drawn at the model's {self.drawn_size} px and resized to {size}"


class MultiViewPipeline:
    """Draws views of an object from text with a multi-view prior.

    Args:
        prior: the model.
        camera: whose middle field of view and distance `Views.cameras` state; a multi-view prior's pictures do not
            depend on it, a video prior is told the distance.
        around: given what is sampled from, the sampler's timesteps and the cameras at the size that is drawn, what is
            sampled from in its place, for instance `feed_forward.aware`.
        joint: a 2D model to be mixed in.
    """

    def __init__(
        self,
        prior: MultiViewPrior,
        camera: CameraConfig | None = None,
        around: Callable[[Denoiser, list[int], Cameras], Denoiser] | None = None,
        joint: ImagePrior | None = None,
    ) -> None:
        self.prior = prior
        self.camera = camera or CameraConfig()
        self.around = around
        self.joint = joint

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        joint: JointConfig | None = None,
    ) -> MultiViewPipeline:
        """weights: "mini", a folder in diffusers' layout or a hub id. Raises WeightsMissingError if there are none.

        joint: which 2D model is mixed in, and how; raises ConfigError if it cannot be (`ImagePrior.beside`).
        """
        prior = MultiViewPrior.from_pretrained(weights, dtype, device)
        return cls(prior, joint=ImagePrior.beside(prior, joint) if joint and joint.weights else None)

    def to(self, device: torch.device | str) -> MultiViewPipeline:
        self.prior.to(device)
        if self.joint is not None:
            self.joint = self.joint.to(device)
        return self

    def __call__(
        self,
        prompt: str,
        *,
        image_size: int = _DEFAULT.image_size,
        num_frames: int = _DEFAULT.num_frames,
        num_inference_steps: int = _DEFAULT.num_inference_steps,
        guidance_scale: float = _DEFAULT.guidance_scale,
        camera_elevation: float = _DEFAULT.camera_elevation,
        camera_azimuth: float = _DEFAULT.camera_azimuth,
        camera_azimuth_span: float = _DEFAULT.camera_azimuth_span,
        seed: int | None = None,
        negative_prompt: str = "",
        rescale: float = 0.0,
        sampler: Sampler = Sampler.ddim,
        guidance_range: tuple[float, float] = (0.0, 1.0),
        allow_unknown_words: bool = False,
        image: Tensor | None = None,
        image_pinned: bool = False,
    ) -> Views:
        """Draw the views.

        The nine inputs up to `seed` are the public API's: names, defaults and ranges are in `config/views.py`. View i
        stands at camera_azimuth + camera_azimuth_span * i / num_frames. One view is told its camera like any other.
        `image_size` may also be the model's own size; a model smaller than all of the API's sizes always draws at
        its own, and its views are resized (`Views.drawn_size`).

        Args:
            negative_prompt: what guidance leads away from.
            rescale: 0 .. 1, how far x0's standard deviation follows the unguided one's (`denoising.Guided`).
            sampler: how noise becomes views.
            guidance_range: the part of the noise schedule, 0 .. 1, in which guidance counts; elsewhere the model is
                asked once a step and not twice.
            allow_unknown_words: the prompts go to the model as they are, whether it knows their words or not.
            image: [3, H, W] in 0..1, what the first view shows, for a prior that is shown a picture, and then needed;
                the prompt may be blank.
            image_pinned: the first view is the image, and the others are drawn beside it (`denoising.Pinned`).

        Raises:
            ConfigError: a value that is not allowed, an image for a prior that is shown none or none for one that is,
                or a prompt that the model cannot read.
        """
        asked = ViewInputs(
            prompt=prompt if prompt.strip() or image is None else _UNSAID,
            image_size=image_size,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            camera_elevation=camera_elevation,
            camera_azimuth=camera_azimuth,
            camera_azimuth_span=camera_azimuth_span,
            seed=seed,
        ).checked(self.prior.image_size)
        if self.prior.is_shown_a_picture != (image is not None):
            needs = "needs a picture" if image is None else "is shown no picture"
            raise ConfigError(f"image: the prior {needs}; it draws {'from pictures' if image is None else 'from text'}")
        if image_pinned and image is None:
            raise ConfigError("image_pinned: there is no image that the first view could be")
        reading, negative = Reading(asked.prompt), Reading(negative_prompt)
        if not allow_unknown_words:
            negative = read_prompt(self.prior.tokenizer, negative_prompt, negative=True)
            if asked.prompt != _UNSAID:
                reading = read_prompt(self.prior.tokenizer, as_asset(asked.prompt))
        text = "" if asked.prompt == _UNSAID else as_asset(reading.text)
        notes, mix = [*reading.notes, *negative.notes], None
        if self.joint is not None:
            typed = "" if asked.prompt == _UNSAID else asked.prompt
            mix, remarks = self.joint.told(typed, negative_prompt, allow_unknown_words)
            notes += remarks
        seed = random_seed() if asked.seed is None else asked.seed

        azimuth_angles = [
            asked.camera_azimuth + asked.camera_azimuth_span * i / asked.num_frames for i in range(asked.num_frames)
        ]
        cameras = viewing_cameras(
            self.camera,
            [azimuth - FRONT_AZIMUTH for azimuth in azimuth_angles],
            min(asked.camera_elevation, _HIGHEST_ELEVATION),
            asked.image_size,
        )
        size = drawn_size(asked.image_size, self.prior.image_size)
        drawn = sample_views(
            self.prior,
            [text],
            cameras,
            generator(seed, 0, "sampled views"),
            negative_prompt=negative.text,
            num_inference_steps=asked.num_inference_steps,
            guidance_scale=asked.guidance_scale,
            guidance_range=guidance_range,
            rescale=rescale,
            image_size=size,
            picture=None if image is None else self._shown(image, size),
            image_pinned=image_pinned,
            sampler=sampler,
            around=self.around and partial(self._around, replace(cameras, height=size, width=size)),
            mix=mix,
        )
        images = [Image.fromarray(picture) for picture in to_uint8(drawn.movedim(1, -1))]
        if size != asked.image_size:
            images = [image.resize((asked.image_size,) * 2, Image.Resampling.BICUBIC) for image in images]
        matrices = mvdream_camera_vectors(cameras).reshape(-1, 4, 4)
        return Views(images, cameras, matrices, azimuth_angles, seed, text, drawn, tuple(notes))

    def _shown(self, image: Tensor, size: int) -> Picture:
        resized = interpolate(image[None], (size, size), mode="bicubic", antialias=True).clamp(0, 1)
        with torch.no_grad():
            return self.prior.show(resized.to(self.prior.device))

    def _around(self, cameras: Cameras, denoiser: Denoiser, timesteps: list[int]) -> Denoiser:
        assert self.around is not None
        return self.around(denoiser, timesteps, cameras)
