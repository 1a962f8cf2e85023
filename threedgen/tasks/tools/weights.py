"""`launch.py weights import`: turn an original checkpoint, MVDream's or VideoMV's, into a folder for the recipes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from threedgen.core.arguments import ArgumentParser, program
from threedgen.core.errors import ConfigError, StorageError

if TYPE_CHECKING:
    from threedgen.diffusion.checkpoints.ldm_import import OriginalCheckpoint
    from threedgen.diffusion.checkpoints.videomv_import import VideoMVCheckpoint

_DTYPES = ("float32", "float16", "bfloat16")


def main(arguments: Sequence[str]) -> int:
    """Carry out `weights import FILE --to DIR [--with WEIGHTS] [--dtype DTYPE]`; returns the exit status."""
    parser = ArgumentParser(prog=f"{program()} weights", description="Model weights.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="import")
    importing = verbs.add_parser(
        "import", help="turn an original checkpoint into a folder for weights=DIR", description=__doc__
    )
    importing.add_argument(
        "file", type=Path, help="sd-v2.1-base-4view.pt, sd-v1.5-4view.pt, t2v_00333000.pth, ..., or one as .safetensors"
    )
    importing.add_argument("--to", type=Path, required=True, metavar="DIR", help="the new folder")
    importing.add_argument(
        "--with", dest="base", metavar="WEIGHTS", help="VideoMV only: weights whose text encoder and VAE it goes with"
    )
    importing.add_argument("--dtype", choices=_DTYPES, help="of the weights written (default: as in the file)")
    given = parser.parse_args(arguments)
    import_weights(given.file, given.to, given.dtype, given.base)
    return 0


def import_weights(file: Path, folder: Path, dtype: str | None = None, base: str | None = None) -> None:
    """Write the checkpoint `file` as `folder`, in diffusers' layout, and print what was done.

    dtype: "float32", "float16", "bfloat16", or None for that of the file; base: of VideoMV's, weights that have the
    parts which its files lack, such as imported MVDream ones or a hub id.

    Raises ConfigError if `file` is missing, `folder` is there already or `base` does not go with the file, and
    ThreedgenError if the file is damaged or is another model's, StorageError if the folder cannot be written. Nothing
    is left behind then.
    """
    if not file.is_file():
        raise ConfigError(f"{file} is not there (or is no file); give the path of a checkpoint")
    if folder.exists():
        raise ConfigError(f"--to {folder} is there already; remove it or choose another name")
    import torch  # not before the names were looked at: it takes seconds

    from threedgen.diffusion.checkpoints.ldm_import import open_original
    from threedgen.diffusion.checkpoints.videomv_import import FIRST_KEY, open_videomv
    from threedgen.diffusion.formats.tensor_files import open_tensors

    started = time.monotonic()
    tensors, numbers_as = open_tensors(file), None if dtype is None else getattr(torch, dtype)
    is_video = FIRST_KEY in tensors
    if is_video and not base:
        raise ConfigError(
            f"{file} holds VideoMV's network alone: name weights that have the text encoder and the VAE which it was "
            "trained with, for instance --with weights/mvdream-sd21 or --with ali-vilab/text-to-video-ms-1.7b"
        )
    if base and not is_video:
        raise ConfigError(f"--with {base}: {file} is no checkpoint of VideoMV, it needs no other weights")
    try:
        if is_video:
            assert base
            video = open_videomv(file, tensors)
            print(f"file         {file}: {len(tensors)} tensors, {video.kind}")
            _describe(video, "unet", "gaussians")
            video.save(folder, base, numbers_as)
        else:
            checkpoint = open_original(file, tensors)
            print(f"file         {file}: {checkpoint.num_tensors} tensors, based on {checkpoint.base}")
            _describe(checkpoint, "unet", "vae", "text_encoder")
            print(
                f"not needed   {checkpoint.num_unused} tensors: the noise schedule's and the text tower's end",
                flush=True,
            )
            if not checkpoint.has_standard_schedule:
                print(
                    "note         its noise schedule is not Stable Diffusion's, which is used nevertheless", flush=True
                )
            checkpoint.save(folder, numbers_as)
    except OSError as error:
        raise StorageError(f"{folder} could not be written: {error.strerror or error}") from error
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    numbers = dtype or "numbers as in the file"
    print(f"written      {folder}: {size / 1e9:.2f} GB, {numbers}, sha256 of each file in manifest.json")
    print(f"{time.monotonic() - started:.0f} s; use it with weights={folder}")


def _describe(checkpoint: OriginalCheckpoint | VideoMVCheckpoint, *parts: str) -> None:
    """Print the sizes of those parts that are there."""
    for name in parts:
        matched = getattr(checkpoint, name)
        if matched is not None:
            count = sum(parameter.numel() for parameter in matched.module.parameters())
            print(f"{name:12} {len(matched.module.state_dict())} tensors, {count / 1e6:.1f} M parameters")
