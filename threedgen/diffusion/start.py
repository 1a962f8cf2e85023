"""Where training starts: a prior with the layers and the words that it is going to need."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from tokenizers import models
from torch import Tensor, nn

from threedgen.config.training import CameraInput, PriorNetwork, ViewAttention
from threedgen.core.errors import ConfigError
from threedgen.core.randomness import generator, seeded, stable_seed
from threedgen.diffusion.checkpoints.folders import read_config
from threedgen.diffusion.checkpoints.locate import locate_base, locate_part
from threedgen.diffusion.formats.tensor_files import on_meta
from threedgen.diffusion.mini import new_image_encoder
from threedgen.diffusion.networks.deepening import deepened_tensors, pass_on
from threedgen.diffusion.networks.multiview_unet import CAMERA_DIM, MultiViewUNet
from threedgen.diffusion.networks.video_unet import VideoUNet
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.text.words import words_of

# layers that start at zero, so that what is new changes nothing at first
_LAST_LAYERS = re.compile(
    r"class_embedding\.linear_2|.*view_attn\.to_out\.0|.*ray_attn\.to_out|.*ray_in"
    r"|(camera|fps)_embedding\.2|.*temp_convs\.\d+\.conv4\.3|(.*temp_attentions\.\d+|transformer_in)\.proj_out"
)
# of a video network with image conditioning, what meets the picture: its own layers, the first, which get its planes,
# and the attention within a frame, which reads its tokens
PICTURE_LAYERS = re.compile(
    r"(image_latents_\w+|context_embedding|fps_embedding|conv_in|transformer_in)\..*|.*(?<!temp_)attentions\..*"
)
_HEADS_OF_FRAMES = 4, 8  # number and width, of the mini video network's first attention; Stable Diffusion's: 8 of 64
# what the UNet's config says of Stable Diffusion 1 and 2; other networks of the class take other inputs
_STABLE_DIFFUSION = {"in_channels": 4, "out_channels": 4} | dict.fromkeys(
    ("addition_embed_type", "encoder_hid_dim_type", "num_class_embeds", "time_cond_proj_dim")
)
_WITHOUT_LAYERS = (ViewAttention.inflated.value, ViewAttention.none.value)  # of their own
_NEW_WORD_NOISE = 0.1  # of the standard deviation of the old words


def start_prior(
    weights: str | Path,
    view_attention: ViewAttention = ViewAttention.inflated,
    camera_input: CameraInput = CameraInput.timestep,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    network: PriorNetwork = PriorNetwork.multiview,
    image_conditioning: bool = False,
    layers_per_block: Sequence[int] = (),
) -> MultiViewPrior:
    """A prior to train, from `weights`: a multi-view or video prior ("mini", a folder, an adapter, a hub id), or a 2D
    Stable Diffusion in diffusers' layout, which becomes one.

    All weights are copied; noise schedule and prediction type stay those of the folder. What a 2D network lacks is
    added by `inflate_unet`: at step 0 one view is, bit for bit, what the 2D network gives, with a camera and without
    (with `camera_input` text only without, see `MultiViewUNet`), and so is each of several views if the attention is
    not inflated. More `layers_per_block` of a multi-view network change nothing at first either. Each tensor is read
    on its own: the peak memory is that of the prior. UNet and text encoder require gradients, the VAE is frozen.

    Raises WeightsMissingError if the weights are not there, ConfigError if they are not Stable Diffusion or were
    trained as another variant, and ThreedgenError if a file's tensors are not those of its model.
    """
    check_is_stable_diffusion(locate_base(str(weights)), "training cannot start")
    prior = MultiViewPrior.from_pretrained(weights, dtype, device)
    try:
        if network is PriorNetwork.video:
            if prior.is_shown_a_picture and not image_conditioning:
                raise ValueError("a video network that is shown a picture (train.image_conditioning=true)")
            is_new = image_conditioning and prior.image_encoder is None
            # a new encoder learns to say what a text says, in as many tokens
            tokens = prior.tokenizer.model_max_length if is_new else 4
            prior.unet = video_unet_of(prior.unet, image_conditioning, tokens)
            if is_new:
                config = prior.unet.config
                with seeded(0):
                    encoder = new_image_encoder(config.in_channels, config.sample_size, config.cross_attention_dim)
                prior.image_encoder = encoder.to(device, dtype)
        elif isinstance(prior.unet, MultiViewUNet):
            prior.unet = inflate_unet(prior.unet, view_attention, camera_input, layers_per_block)
        else:
            raise ValueError("a video network; give train.network=video")
    except ValueError as error:
        raise ConfigError(f"weights {weights}: {error}; give them the settings that they have") from error
    prior.text_encoder.requires_grad_(True)
    if prior.image_encoder is not None:
        prior.image_encoder.requires_grad_(not prior.looks_at_pixels)
    return prior


def check_is_stable_diffusion(folder: Path, so: str) -> None:
    """Raise ConfigError, with what follows from it, for networks that take other inputs than a prior's."""
    unet, text_encoder = (read_config(locate_part(folder, part)) for part in ("unet", "text_encoder"))
    odd = {f"unet: {key}": unet[key] for key, value in _STABLE_DIFFUSION.items() if unet.get(key, value) != value}
    if unet.get("class_embed_type") and unet.get("projection_class_embeddings_input_dim") != CAMERA_DIM:
        odd["unet: class_embed_type"] = unet["class_embed_type"]
    if text_encoder.get("model_type") != "clip_text_model":
        odd["text_encoder: model_type"] = text_encoder.get("model_type")
    if odd:
        said = ", ".join(f"{key}={json.dumps(value)}" for key, value in odd.items())
        raise ConfigError(f"{folder} is no Stable Diffusion 1 or 2 and no multi-view prior, {so}: {said}")


@torch.no_grad()
def inflate_unet(
    unet: MultiViewUNet,
    view_attention: ViewAttention,
    camera_input: CameraInput,
    layers_per_block: Sequence[int] = (),
) -> MultiViewUNet:
    """`unet` as the variant asked for, on its own tensors; all parameters require gradients.

    The camera's MLP and attention over the views are added where it has none, and residual and attention layers as
    far as `layers_per_block` (none: as it is), new last layers at zero, the others as layers begin, the same in every
    process.

    Raises ValueError if that would drop trained tensors or give them another shape.
    """
    config: dict[str, Any] = {"view_attention": view_attention.value, "camera_input": camera_input.value}
    config |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": CAMERA_DIM}
    tensors = unet.state_dict()
    if layers_per_block:
        tensors = deepened_tensors(unet, layers_per_block)
        config["layers_per_block"] = list(layers_per_block)
    with on_meta():
        inflated = MultiViewUNet.from_config(unet.config, **config)
    shapes = {name: value.shape for name, value in inflated.state_dict().items()}
    if any(shapes.get(name) != tensor.shape for name, tensor in tensors.items()):
        was = unet.config
        raise ValueError(
            f"trained with view_attention={was.view_attention}, camera_input={was.camera_input}; "
            f"view_attention={view_attention.value}, camera_input={camera_input.value} would drop layers of theirs"
        )
    return _completed(inflated, unet, tensors)


@torch.no_grad()
def video_unet_of(
    unet: MultiViewUNet | VideoUNet, image_conditioning: bool = False, image_tokens: int = 4
) -> VideoUNet:
    """A video network on the spatial tensors of `unet`, or `unet` if it is one; all parameters require gradients.

    What it lacks is new: the cameras' MLP, and of an image network the layers over frames. They end at zero, so that
    each frame is at first what the network gave without a camera. What a multi-view network has learned of cameras is
    left behind: its self-attention saw all views, a video's sees one frame. image_tokens: see `VideoUNet`, of a network
    that was shown no pictures.

    Raises ValueError for layers that a video network has no place for.
    """
    if isinstance(unet, VideoUNet):
        changed: dict[str, Any] = {"camera_dim": CAMERA_DIM}
        if image_conditioning and not unet.config.image_conditioning:
            changed |= {"image_conditioning": True, "image_context_size": unet.config.sample_size}
            changed |= {"image_tokens": image_tokens}
        if all(unet.config[word] == value for word, value in changed.items()):
            return unet.requires_grad_(True)
        with on_meta():
            told = VideoUNet.from_config(unet.config, **changed)
        return _completed(told, unet, unet.state_dict())
    if image_conditioning:
        raise ValueError("no video network; image conditioning is added to one")
    config, widths = unet.config, list(unet.config.block_out_channels)
    heads = config.attention_head_dim  # of diffusers' 2D networks this is the number of heads
    heads = [heads] * len(widths) if isinstance(heads, int) else list(heads)
    if not config.use_linear_projection or config.view_attention not in _WITHOUT_LAYERS:
        raise ValueError("no Stable Diffusion 2 that a video network could be made of")
    is_mini = widths[0] < _HEADS_OF_FRAMES[0] * _HEADS_OF_FRAMES[1] * 2
    entry_heads, entry_width = _HEADS_OF_FRAMES if is_mini else (8, 64)
    with on_meta():
        video = VideoUNet(
            sample_size=config.sample_size,
            in_channels=config.in_channels,
            out_channels=config.out_channels,
            down_block_types=[kind.replace("2D", "3D") for kind in config.down_block_types],
            up_block_types=[kind.replace("2D", "3D") for kind in config.up_block_types],
            block_out_channels=widths,
            layers_per_block=config.layers_per_block,
            norm_num_groups=config.norm_num_groups,
            cross_attention_dim=config.cross_attention_dim,
            attention_head_dim=[width // count for width, count in zip(widths, heads, strict=True)],
            entry_heads=entry_heads,
            entry_head_dim=entry_width,
        )
    return _completed(video, unet, unet.state_dict())


Network = TypeVar("Network", MultiViewUNet, VideoUNet)


def _completed(network: Network, old: MultiViewUNet | VideoUNet, given: Mapping[str, Tensor]) -> Network:
    """`network`, which is on the meta device, with the tensors given, those of `old`, where it has them; what is new
    begins as layers begin, the last of them at zero."""
    names = network.state_dict()
    tensors = {name: tensor for name, tensor in given.items() if name in names}
    wider = names["conv_in.weight"].shape[1] - tensors["conv_in.weight"].shape[1]
    if wider:  # the picture's channels, which say nothing at first
        zeros = torch.zeros_like(tensors["conv_in.weight"])[:, :wider]
        tensors["conv_in.weight"] = torch.cat([tensors["conv_in.weight"], zeros], 1)
    for path in dict.fromkeys(name.rpartition(".")[0] for name in names if name not in tensors):
        layer: Any = network.get_submodule(path).to_empty(device="cpu")
        with seeded(stable_seed(0, 0, path)):
            layer.reset_parameters()
        if _LAST_LAYERS.fullmatch(path):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)
        pass_on(path, layer)
        layer.to(old.device, old.dtype)
        tensors |= {f"{path}.{name}": value for name, value in layer.state_dict().items()}
    network.load_state_dict(tensors, assign=True)
    return network.requires_grad_(True).eval()


@torch.no_grad()
def grow_vocabulary(prior: MultiViewPrior, texts: Iterable[str]) -> tuple[str, ...]:
    """Give a word-level tokenizer the words of `texts` that it lacks, and the text encoder an embedding for each.

    A new embedding is the mean of the old ones plus noise of a tenth of their spread, drawn for the word itself, so
    that it does not depend on the order. Old words keep their ids and embeddings bit for bit. Returns the words that
    were added, as the tokenizer splits and writes them. CLIP's tokenizer spells any word in pieces: nothing is added.
    The parameters of the embedding are new ones: make optimisers afterwards.
    """
    tokenizer = prior.tokenizer.backend_tokenizer
    if not isinstance(tokenizer.model, models.WordLevel):
        return ()
    ids = tokenizer.get_vocab()
    added = tuple(word for word in words_of(tokenizer, texts) if word not in ids)
    if not added:
        return ()
    grown = ids | {word: len(ids) + i for i, word in enumerate(added)}
    tokenizer.model = models.WordLevel(grown, unk_token=prior.tokenizer.unk_token)

    old = prior.text_encoder.get_input_embeddings().weight
    noise = torch.stack([torch.randn(old.shape[1], generator=generator(0, 0, f"word {word}")) for word in added])
    mean, spread = old.float().mean(0), old.float().std(0)
    rows = mean + _NEW_WORD_NOISE * spread * noise.to(old.device)
    weight = torch.cat([old, rows.to(old.dtype)])
    embedding = nn.Embedding.from_pretrained(weight, freeze=not old.requires_grad)
    prior.text_encoder.set_input_embeddings(embedding)
    prior.text_encoder.config.vocab_size = len(weight)
    return added
