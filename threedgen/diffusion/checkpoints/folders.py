"""The parts of a prior in diffusers' folder layout: ours, or one from the hub, its UNet in either naming."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from huggingface_hub import save_torch_state_dict
from torch import Tensor

from threedgen.core.errors import ThreedgenError
from threedgen.diffusion.checkpoints.locate import (
    BASE_FILE,
    IMAGE_ENCODER,
    locate_part,
    locate_weights,
    shared_with_base,
)
from threedgen.diffusion.formats.tensor_files import MatchedTensors, Source, StoredTensor, listed, on_meta, open_tensors
from threedgen.diffusion.formats.text_towers import match_clip_text
from threedgen.diffusion.formats.video_unet import is_video_unet, own_words
from threedgen.diffusion.networks.lgm_unet import LGMUNet, match_lgm_unet
from threedgen.diffusion.networks.multiview_unet import MultiViewUNet, match_ldm_unet
from threedgen.diffusion.networks.video_unet import VideoUNet
from threedgen.diffusion.text.encoder import TextConfig, TextEncoder

if TYPE_CHECKING:
    from transformers import CLIPModel, CLIPVisionModelWithProjection

UNET_AND_VAE_FILE = "diffusion_pytorch_model.safetensors"
TEXT_ENCODER_FILE = "model.safetensors"
_PREDICTIONS = ("epsilon", "v_prediction")
# the names that older versions of diffusers gave to the autoencoder's attention
_OLD_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


def load_unet(folder: Path, dtype: torch.dtype, device: torch.device | str) -> MultiViewUNet | VideoUNet:
    """The UNet in `folder`: `MultiViewUNet`'s or `VideoUNet`'s own files, diffusers' of a video network, or MVDream's
    config words and keys.

    This and the next two raise ThreedgenError for missing, unknown or misshaped keys.
    """
    config, tensors = read_config(folder), _weights(folder, UNET_AND_VAE_FILE)
    if "model_channels" in config:
        unet = match_ldm_unet(config, tensors, str(folder))
    else:
        module: MultiViewUNet | VideoUNet
        try:
            with on_meta():
                if is_video_unet(config):
                    module = VideoUNet(**own_words(config, str(folder)))
                else:
                    module = MultiViewUNet.from_config(config)
        except (ValueError, TypeError) as error:
            raise ThreedgenError(
                f"{folder}: config.json is not of a network that this package builds: {error}"
            ) from error
        unet = _match_own(module, tensors, folder)
    unet.fill(dtype, device)
    return unet.module


def load_vae(folder: Path, dtype: torch.dtype, device: torch.device | str) -> AutoencoderKL:
    """The autoencoder in `folder`."""
    with on_meta():
        module = AutoencoderKL.from_config(read_config(folder))
    vae = _match_own(module, _weights(folder, UNET_AND_VAE_FILE), folder)
    vae.fill(dtype, device)
    return module


def load_text_encoder(folder: Path, dtype: torch.dtype, device: torch.device | str) -> TextEncoder:
    """The text encoder in `folder`."""
    config = TextConfig.of_words(read_config(folder), str(folder))
    text_encoder = match_clip_text(_weights(folder, TEXT_ENCODER_FILE), str(folder), config)
    text_encoder.fill(dtype, device)
    return text_encoder.module


def load_scheduler(folder: Path) -> DDIMScheduler:
    """The noise schedule in `folder`, whatever sampler of diffusers' it was saved for.

    Raises ThreedgenError for a file that is missing, a schedule without betas, and another prediction than a prior's.
    """
    config = read_config(folder, "scheduler_config.json")
    if "beta_schedule" not in config and not config.get("trained_betas"):
        raise ThreedgenError(f"{folder}: the noise schedule of {config.get('_class_name')} has no betas")
    prediction = config.get("prediction_type", "epsilon")
    if prediction not in _PREDICTIONS:
        raise ThreedgenError(f"{folder}: the model predicts {prediction!r}, not one of {', '.join(_PREDICTIONS)}")
    return DDIMScheduler.from_config(config)


def _match_own(module: Any, tensors: Mapping[str, StoredTensor], folder: Path) -> MatchedTensors:
    is_old = any(".attentions.0.query." in key for key in tensors)
    sources = {name: Source(_old_name(name) if is_old else name) for name in module.state_dict()}
    return MatchedTensors(module, sources, tensors, str(folder))


def _old_name(name: str) -> str:
    match = re.fullmatch(r"(.*mid_block\.attentions\.0\.)(.+)(\.weight|\.bias)", name)
    return match[1] + _OLD_ATTENTION.get(match[2], match[2]) + match[3] if match else name


def read_config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    path = folder / name
    try:
        config = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ThreedgenError(f"{path} is missing or cannot be read ({type(error).__name__})") from error
    if not isinstance(config, dict):
        raise ThreedgenError(f"{path} holds no settings")
    return config


def save_part(part: Any, folder: Path, base: str, file_size: str) -> None:
    """Write a part of a prior, whole or, with a base, without what the base has bit for bit in the part's dtype.

    base: weights, or "". Of a UNet that shares some of the base's tensors the others are written, with a list of those
    that are shared; a part that is the base's is left out. file_size: of the part's weights at most; larger ones are
    written as several files.
    """
    state = {name: tensor.cpu() for name, tensor in part.state_dict().items()}
    theirs = _of_base(base, folder.name, part.dtype) if base else {}
    own = {
        name: tensor for name, tensor in state.items() if name not in theirs or not torch.equal(tensor, theirs[name])
    }
    if not own:
        return
    if len(own) == len(state) or not isinstance(part, (MultiViewUNet, VideoUNet)):
        part.save_pretrained(folder, max_shard_size=file_size)
        return
    part.save_config(folder)
    pattern = UNET_AND_VAE_FILE.replace(".safetensors", "{suffix}.safetensors")
    save_torch_state_dict(own, folder, filename_pattern=pattern, max_shard_size=file_size)
    shared = {"base": base, "shared": [name for name in state if name not in own]}
    (folder / BASE_FILE).write_text(json.dumps(shared, indent=1) + "\n", "utf-8")


def _of_base(base: str, name: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of the base's part, under our names; none where it has no such part."""
    loaders = {"unet": load_unet, "vae": load_vae, "text_encoder": load_text_encoder, IMAGE_ENCODER: load_image_encoder}
    load: Any = loaders[name]
    folder = locate_part(locate_weights(base), name)
    return load(folder, dtype, "cpu").state_dict() if folder.is_dir() else {}


def _weights(folder: Path, name: str) -> dict[str, StoredTensor]:
    """The tensors of a part, those of its base included, where it shares some with one."""
    own = _own_weights(folder, name)
    if (shared := shared_with_base(folder)) is None:
        return own
    base, names = shared
    theirs = _weights(base, name)
    return {key: theirs[key] for key in names if key in theirs} | own


def _own_weights(folder: Path, name: str) -> dict[str, StoredTensor]:
    """The tensors in a part's folder: full or half precision, in safetensors or torch's format, in one file or in
    several with an index that says which holds what; the first of these that is there."""
    stem = name.removesuffix(".safetensors")
    torch_stem = "pytorch_model" if name == TEXT_ENCODER_FILE else stem
    for start, ending in ((stem, "safetensors"), (torch_stem, "bin")):
        for variant in ("", ".fp16"):
            if (folder / f"{start}{variant}.{ending}").is_file():
                return open_tensors(folder / f"{start}{variant}.{ending}")
            # as transformers and diffusers write it, and as people do who rename files
            for index in (f"{start}.{ending}.index{variant}.json", f"{start}{variant}.{ending}.index.json"):
                if (folder / index).is_file():
                    return _indexed(folder, index)
    raise ThreedgenError(f"{folder / name} is missing")


def _indexed(folder: Path, name: str) -> dict[str, StoredTensor]:
    """The tensors of the files that an index names: {"weight_map": {tensor: file}}.

    Raises ThreedgenError if the index is none, names a file elsewhere, or does not say what the files hold.
    """
    index = read_config(folder, name).get("weight_map")
    if not isinstance(index, dict) or not index or not all(_is_beside(file) for file in index.values()):
        raise ThreedgenError(f"{folder / name} is no index of files beside it")
    tensors: dict[str, StoredTensor] = {}
    for file in sorted(set(index.values())):
        if not (folder / file).is_file():
            raise ThreedgenError(f"{folder / file} is missing, although {name} names it")
        held = open_tensors(folder / file)
        lost = sorted(key for key, place in index.items() if place == file and key not in held)
        stray = sorted(key for key in held if index.get(key) != file)
        if problem := listed(f"in {name}, but not in it", lost) or listed(f"in it, but not so in {name}", stray):
            raise ThreedgenError(f"{folder / file}: {problem}")
        tensors |= held
    return tensors


def _is_beside(file: object) -> bool:
    return isinstance(file, str) and file not in ("", ".", "..") and "\\" not in file and Path(file).name == file


def load_image_encoder(folder: Path, dtype: torch.dtype, device: torch.device | str) -> "CLIPVisionModelWithProjection":
    """The image encoder in `folder`, CLIP's vision tower."""
    from transformers import (  # here: it takes seconds, and only video networks that are shown a picture have one
        CLIPVisionConfig,
        CLIPVisionModelWithProjection,
    )
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of saving: it would stand between the run's own lines
    config = CLIPVisionConfig.from_pretrained(folder, local_files_only=True)
    with on_meta():
        module = CLIPVisionModelWithProjection(config)
    _fill_clip(module, folder, dtype, device)
    return module


def load_clip(folder: Path, dtype: torch.dtype, device: torch.device | str) -> "CLIPModel":
    """The CLIP model in `folder`, both towers, frozen. Raises ThreedgenError if it holds another one."""
    from transformers import CLIPConfig, CLIPModel

    words = read_config(folder)
    if words.get("model_type") != CLIPConfig.model_type:
        raise ThreedgenError(f"{folder}: config.json is of a model of type {words.get('model_type')}, not of CLIP")
    config = CLIPConfig(**words)
    with on_meta():
        module = CLIPModel(config)
    _fill_clip(module, folder, dtype, device)
    return module.eval().requires_grad_(False)


def _fill_clip(module: Any, folder: Path, dtype: torch.dtype, device: torch.device | str) -> None:
    """Give one or both of CLIP's towers, built on the meta device, the tensors in `folder`."""
    tensors = {key: t for key, t in _weights(folder, TEXT_ENCODER_FILE).items() if not key.endswith(".position_ids")}
    for name, buffer in list(module.named_buffers()):
        # no file holds the positions any more, and a buffer on the meta device has no values
        module.get_submodule(name.rpartition(".")[0]).position_ids = torch.arange(buffer.shape[-1])[None]
    _match_own(module, tensors, folder).fill(dtype, device)


def load_gaussians_network(folder: Path, dtype: torch.dtype, device: torch.device | str) -> LGMUNet:
    """LGM's network in `folder`, frozen: our own folder, or one with a released file and its config words beside it."""
    words = {word: value for word, value in read_config(folder).items() if not word.startswith("_")}
    lgm = match_lgm_unet(words, _weights(folder, UNET_AND_VAE_FILE), str(folder))
    lgm.fill(dtype, device)
    return lgm.module.eval().requires_grad_(False)
