"""Where a prior's weights are: `mini`, a folder, or a repository of the Hugging Face hub.

Imports no torch, so that missing weights are told at once.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import urllib.parse
import urllib.request
from functools import partial
from pathlib import Path

from threedgen.core.arguments import command
from threedgen.core.errors import WeightsMissingError

BUNDLED = "mini"
BUNDLED_NAMES = (BUNDLED, "mini-video", "mini-video-i2v")
BUNDLED_FOLDER = Path(__file__).parent.parent / "weights" / BUNDLED
PARTS = ("tokenizer", "text_encoder", "unet", "vae", "scheduler")
GAUSSIANS = "gaussians"  # LGM's network, where a video prior has one that was trained on what it draws
IMAGE_ENCODER = "image_encoder"  # of a prior that is shown a picture
ADAPTER_FILE = "adapter.json"  # see adapters.py
# of a folder that lacks parts: {"base": the weights that have them}; in the folder of a part that lacks tensors also
# {"shared": the names of those that are the base's}
BASE_FILE = "base.json"
ORIGINAL_REPOSITORY = "MVDream/MVDream"
ORIGINAL_FILES = {"2.1": "sd-v2.1-base-4view.pt", "1.5": "sd-v1.5-4view.pt"}
VIDEO_FILES = {  # VideoMV's, and weights that have the parts which these lack
    "t2v": ("t2v_00333000.pth", "weights/mvdream-sd21"),
    "i2v": ("i2v_00882000.pth", "ali-vilab/i2vgen-xl"),
}
_LOCAL_FOLDERS = ("weights", "outputs")  # first words of paths that are never a hub id's owner
_HUB_TIMEOUT = 1.0  # seconds in which the hub must answer
_HUB_FILES = [f"{part}/*" for part in (*PARTS, GAUSSIANS, IMAGE_ENCODER)]
_HUB_IGNORED = ["*.msgpack", "*.onnx*", "*.ckpt"]


def locate_weights(weights: str) -> Path:
    """The folder in diffusers' layout that `weights` stands for.

    weights: "mini", "mini-video" or "mini-video-i2v", a folder, the folder of a run that made a prior, or a hub id
    ("owner/name"), which is taken from the hub's cache or fetched into it. An adapter's folder is given back as it is,
    its base being there.
    Raises WeightsMissingError, with the command to run, if they are not there; without a network within two seconds.
    """
    if weights in BUNDLED_NAMES:
        return BUNDLED_FOLDER.parent / weights
    path = Path(weights)
    if path.is_dir():
        if (path / "prior").is_dir():
            path = path / "prior"
        if base := adapter_base(path):
            locate_weights(base)
            return path
        _check_parts(path, f"give a folder in diffusers' layout with weights=FOLDER, or weights={BUNDLED}")
        return path
    if path.is_file():
        folder = f"weights/{path.stem}"
        raise WeightsMissingError(
            f"{path} is a single file; turn it into a folder once, then use weights={folder}: "
            f"{command()} weights import {path} --to {folder}"
        )
    if _is_hub_id(weights):
        return _from_hub(weights)
    raise WeightsMissingError(f"no weights at {path}; {_how_to_make(path)}")


def adapter_base(folder: Path) -> str | None:
    """The weights that the adapter in `folder` was made for; None if there is no adapter."""
    return _base_in(folder / ADAPTER_FILE)


def locate_base(weights: str) -> Path:
    """The folder in diffusers' layout that `weights` stands for; of an adapter, that of its base."""
    folder = locate_weights(weights)
    base = adapter_base(folder)
    return locate_base(base) if base else folder


def locate_part(folder: Path, part: str) -> Path:
    """The folder of a part ("unet", "vae", ...) of the weights in `folder`, which may lie with their base.

    Raises WeightsMissingError if the base is not there.
    """
    base = None if (folder / part).is_dir() else _base_in(folder / BASE_FILE)
    return folder / part if base is None else locate_part(locate_weights(base), part)


def shared_with_base(part: Path) -> tuple[Path, list[str]] | None:
    """Of the folder of a part that lacks tensors: the base's folder of that part, and the names of the tensors that are
    taken from it. None for a part that is whole.

    Raises WeightsMissingError if the base is not there.
    """
    file = part / BASE_FILE
    base = _base_in(file)
    if base is None:
        return None
    shared = json.loads(file.read_text("utf-8")).get("shared")
    if not isinstance(shared, list):
        raise WeightsMissingError(f"{file} does not name the tensors that are shared with {base}")
    return locate_part(locate_weights(base), part.name), [str(name) for name in shared]


def _how_to_make(folder: Path) -> str:
    """What to do for weights that are not there, from the names that the recipes and guides have for them."""
    name = folder.name
    if name.startswith("mini"):
        return "weights of the mini model's size are trained here; docs/howto/dense-views.md has the commands"
    if "video" in name:
        original, base = VIDEO_FILES["i2v" if "i2v" in name else "t2v"]
        importing = f"{command()} weights import {original} --to {folder} --with {base}"
        return f"make them from VideoMV's {original} with: {importing}"
    original = ORIGINAL_FILES["1.5" if re.search(r"1\.?5", name) else "2.1"]
    importing = f"{command()} weights import {original} --to {folder}"
    return f"make them from {original} (https://huggingface.co/{ORIGINAL_REPOSITORY}) with: {importing}"


def _base_in(file: Path) -> str | None:
    if not file.is_file():
        return None
    try:
        return str(json.loads(file.read_text("utf-8"))["base"])
    except (ValueError, KeyError, TypeError) as error:
        raise WeightsMissingError(f"{file} does not name the weights that these belong to") from error


def _check_parts(folder: Path, advice: str) -> None:
    missing = [part for part in PARTS if not locate_part(folder, part).is_dir()]
    if missing:
        raise WeightsMissingError(f"no weights at {folder}: {', '.join(missing)}/ not found; {advice}")


def _is_hub_id(weights: str) -> bool:
    owner = weights.split("/")[0]
    return bool(re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", weights)) and owner not in _LOCAL_FOLDERS


def _from_hub(repository: str) -> Path:
    if repository == ORIGINAL_REPOSITORY:
        file = ORIGINAL_FILES["2.1"]
        raise WeightsMissingError(
            f"{repository} holds single files; fetch one and turn it into a folder: hf download {repository} {file} "
            f"--local-dir . && {command()} weights import {file} --to weights/mvdream-sd21"
        )
    # imported here, because it takes a third of a second and most runs do without
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    fetching = f"hf download {repository}"
    fetch = partial(snapshot_download, repository, allow_patterns=_HUB_FILES, ignore_patterns=_HUB_IGNORED)
    try:
        folder = Path(fetch(local_files_only=True))
        _check_parts(folder, f"fetch the rest: {fetching}")
        return folder
    except HFValidationError as error:
        raise WeightsMissingError(
            f"weights={repository} is neither a folder nor a name that the hub can have"
        ) from error
    except (LocalEntryNotFoundError, WeightsMissingError):
        pass
    if constants.HF_HUB_OFFLINE or not _can_be_reached(constants.ENDPOINT):
        raise WeightsMissingError(
            f"weights={repository} is neither a folder nor in the hub's cache, and {constants.ENDPOINT} cannot be "
            f"reached; with a network, run: {fetching}"
        )
    print(f"fetching   {repository} from {constants.ENDPOINT}", flush=True)
    try:
        folder = Path(fetch())
    except OSError as error:
        reason = str(error).split("\n")[0]
        raise WeightsMissingError(f"{repository} could not be fetched ({reason}); try: {fetching}") from error
    _check_parts(folder, f"{repository} is not in diffusers' layout")
    return folder


def _can_be_reached(url: str) -> bool:
    """Whether the host of `url`, or the proxy that leads to it, takes a connection in time.

    In a thread, because looking up a name has no time limit of its own.
    """
    parts = urllib.parse.urlsplit(url)
    proxy = None if urllib.request.proxy_bypass(parts.hostname or "") else urllib.request.getproxies().get(parts.scheme)
    target = urllib.parse.urlsplit(proxy) if proxy else parts
    answers: list[bool] = []

    def connect() -> None:
        port = target.port or (443 if target.scheme == "https" else 80)
        try:
            socket.create_connection((target.hostname or "", port), timeout=_HUB_TIMEOUT).close()
        except OSError:
            return
        answers.append(True)

    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(_HUB_TIMEOUT)
    return bool(answers)
