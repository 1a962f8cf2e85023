"""Numbers and pictures for TensorBoard, where it is installed: `pip install tensorboard`, or the extra of that name."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image


class TensorBoard:
    """Writes into `folder`; without the package it says so once and then does nothing.

    first_step: steps that an earlier, killed run wrote from there on are hidden.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            print("note: no TensorBoard records, the package is not there (pip install tensorboard)", flush=True)
            self._writer = None
        else:
            self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """values: tag ("loss/multiview") -> number."""
        if self._writer:
            for tag, value in values.items():
                self._writer.add_scalar(tag, value, step)

    def picture(self, step: int, tag: str, path: Path) -> None:
        """Add the picture file at `path`."""
        if self._writer:
            with Image.open(path) as image:
                self._writer.add_image(tag, np.array(image.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        if self._writer:
            self._writer.close()
