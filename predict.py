"""The views of an object as a service, for Cog (https://cog.run): see docs/howto/serve.md."""

import json
import os
import tempfile
from pathlib import Path as FilePath
from typing import Optional

import torch
from cog import BaseModel, BaseRunner, Input, Path

from threedgen import MultiViewPipeline
from threedgen.config.views import openapi_schema
from threedgen.core.files import write_text_atomically
from threedgen.imaging import save_png

SCHEMA = FilePath(".cog/openapi_schema.json")  # where Cog's server looks, in the folder that it is started in


class Output(BaseModel):
    images: list[Path]
    camera_matrices: list[list[list[float]]]
    azimuth_angles: list[float]


class Runner(BaseRunner):
    def setup(self) -> None:
        """Load the model that THREEDGEN_WEIGHTS names, and write the schema: without it Cog checks no request."""
        SCHEMA.parent.mkdir(exist_ok=True)
        write_text_atomically(SCHEMA, json.dumps(openapi_schema(), indent=2) + "\n")
        device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)
        self.pipeline = MultiViewPipeline.from_pretrained(os.environ.get("THREEDGEN_WEIGHTS", "mini"), dtype, device)
        self.folder = tempfile.TemporaryDirectory(prefix="threedgen-")

    # `cog build` reads these lines without running them, so the values are written out; a test holds them equal to
    # threedgen/config/views.py.
    def run(
        self,
        prompt: str = Input(description="What to show; ', 3d asset' is added once", min_length=1),
        image_size: int = Input(
            description="Pixels along an edge of each view", default=256, choices=[128, 256, 512, 1024]
        ),
        num_frames: int = Input(description="Number of views", default=4, ge=1, le=32),
        num_inference_steps: int = Input(description="Denoising steps", default=50, ge=1, le=500),
        guidance_scale: float = Input(
            description="Weight of the prompt (classifier-free guidance)", default=7.5, ge=1, le=50
        ),
        camera_elevation: float = Input(description="Degrees above the horizon", default=15.0, ge=0, le=90),
        camera_azimuth: float = Input(
            description="Degrees; the first view's, 90 looks at the front", default=90.0, ge=0, le=360
        ),
        camera_azimuth_span: float = Input(
            description="Degrees that the views share out evenly", default=360.0, ge=0, le=360
        ),
        seed: Optional[int] = Input(  # noqa: UP045 - as Cog's builder reads it
            description="The same seed gives the same views; left out, one is drawn and told", default=None
        ),
    ) -> Output:
        views = self.pipeline(
            prompt,
            image_size=image_size,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            camera_elevation=camera_elevation,
            camera_azimuth=camera_azimuth,
            camera_azimuth_span=camera_azimuth_span,
            seed=seed,
        )
        self.record_metric("seed", views.seed)
        print("\n".join([f"seed {views.seed}{views.remark}", *views.notes]))
        self.folder.cleanup()  # Cog reads the files after this function returns and leaves them lying
        self.folder = tempfile.TemporaryDirectory(prefix="threedgen-")
        images = [Path(self.folder.name) / f"view-{i}.png" for i in range(len(views.images))]
        for image, path in zip(views.images, images, strict=True):
            save_png(image, path)
        return Output(
            images=images, camera_matrices=views.camera_matrices.tolist(), azimuth_angles=views.azimuth_angles
        )
