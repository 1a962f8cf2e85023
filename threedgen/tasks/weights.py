"""`launch.py weights import`: turn an original MVDream checkpoint into a folder that every recipe can use."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from threedgen.core.arguments import ArgumentParser
from threedgen.core.errors import ConfigError, ThreedgenError

if TYPE_CHECKING:
    from threedgen.diffusion.checkpoints.ldm_import import OriginalCheckpoint

_DTYPES = ("float32", "float16", "bfloat16")


def main(arguments: Sequence[str]) -> int:
    """Carry out `weights import FILE --to DIR [--dtype DTYPE]`; returns the exit status."""
    parser = ArgumentParser(prog="launch.py weights", description="Model weights.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="import")
    importing = verbs.add_parser(
        "import", help="turn an original MVDream checkpoint into a folder for weights=DIR", description=__doc__
    )
    importing.add_argument("file", type=Path, help="sd-v2.1-base-4view.pt, sd-v1.5-4view.pt, or one as .safetensors")
    importing.add_argument("--to", type=Path, required=True, metavar="DIR", help="the new folder")
    importing.add_argument("--dtype", choices=_DTYPES, help="of the weights written (default: as in the file)")
    given = parser.parse_args(arguments)
    import_weights(given.file, given.to, given.dtype)
    return 0


def import_weights(file: Path, folder: Path, dtype: str | None = None) -> None:
    """Write the checkpoint `file` as `folder`, in diffusers' layout, and print what was done.

    dtype: "float32", "float16", "bfloat16", or None for that of the file.

    Raises ConfigError if `file` is missing or `folder` is there already, and ThreedgenError if the file is damaged,
    is another model's, or does not fit on the disk. Nothing is left behind then.
    """
    if not file.is_file():
        raise ConfigError(f"{file} is not there (or is no file); give the path of a checkpoint")
    if folder.exists():
        raise ConfigError(f"--to {folder} is there already; remove it or choose another name")
    import torch  # not before the names were looked at: it takes seconds

    from threedgen.diffusion.checkpoints.ldm_import import open_original

    started = time.monotonic()
    checkpoint = open_original(file)
    _describe(checkpoint)
    try:
        checkpoint.save(folder, None if dtype is None else getattr(torch, dtype))
    except OSError as error:
        raise ThreedgenError(f"{folder} could not be written: {error.strerror or error}") from error
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    numbers = dtype or "numbers as in the file"
    print(f"written      {folder}: {size / 1e9:.2f} GB, {numbers}, sha256 of each file in manifest.json")
    print(f"{time.monotonic() - started:.0f} s; use it with weights={folder}")


def _describe(checkpoint: OriginalCheckpoint) -> None:
    print(f"file         {checkpoint.path}: {checkpoint.num_tensors} tensors, based on {checkpoint.base}")
    for name in ("unet", "vae", "text_encoder"):
        module = getattr(checkpoint, name).module
        count = sum(parameter.numel() for parameter in module.parameters())
        print(f"{name:12} {len(module.state_dict())} tensors, {count / 1e6:.1f} M parameters")
    print(f"not needed   {checkpoint.num_unused} tensors: the noise schedule's and the text tower's end", flush=True)
    if not checkpoint.has_standard_schedule:
        print("note         its noise schedule is not Stable Diffusion's, which is used nevertheless", flush=True)
