"""The full-size system on a CPU, without the public weights: seconds and peak memory of every stage.

A checkpoint in the original's layout is written first, all 1244 keys of sd-v2.1-base-4view.pt at their real shapes,
with random numbers. Then it is imported, four views of 256 pixels are sampled in two steps, two steps of score
distillation are made, the gradients of a training step are computed, and an adapter is tuned for one step; a plain
Stable Diffusion 2.1 is written, and one step is sampled with both together. Last, VideoMV's networks, text and image to
video, are asked once for 24 frames of 32 x 32 latents. The public weights do the same work: nothing depends on the
numbers.

    python benchmarks/full_size_cpu.py --threads 2 --json full_size_cpu.json
    python benchmarks/full_size_cpu.py --threads 1 --only write import image guided
    python benchmarks/full_size_cpu.py --only video picture

It takes up to 21 GB of disk for its temporary files, and minutes. Each stage is a process of its own, so that its
peak memory is its own.
"""

import argparse
import inspect
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from torch import Tensor

from threedgen.cameras import viewing_cameras
from threedgen.config.guidance import GuidanceConfig, JointConfig
from threedgen.config.load import load_config
from threedgen.config.scene import CameraConfig
from threedgen.diffusion.checkpoints.folders import load_unet
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.denoising import Guided
from threedgen.diffusion.formats.ldm_unet import unet_config, unet_sources
from threedgen.diffusion.formats.ldm_vae import vae_source
from threedgen.diffusion.formats.text_towers import new_text_encoder, open_clip_source
from threedgen.diffusion.networks.multiview_unet import MultiViewUNet
from threedgen.diffusion.networks.video_unet import VideoUNet
from threedgen.diffusion.pipeline import MultiViewPipeline
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.diffusion.schedule import stable_diffusion_schedule
from threedgen.diffusion.start import start_prior
from threedgen.diffusion.text.encoder import TextConfig
from threedgen.guidance.sds import ScoreDistillation
from threedgen.runs.directory import open_run
from threedgen.tasks.tools import weights as weights_verb
from threedgen.tasks.training import dreambooth

GIB = 2**30
NUM_VIEWS = 4
FRAMES = 24
STEPS = 2
# The networks' sizes: Stable Diffusion 2.1's, and small ones to try this script (and for tests of the importer).
SIZES: dict[str, dict[str, Any]] = {
    "full": {
        "unet": {"model_channels": 320, "channel_mult": [1, 2, 4, 4], "num_res_blocks": 2},
        "vae": {"channels": [128, 256, 512, 512], "num_res_blocks": 2},
        "text": {"width": 1024, "layers": 24},
        "video": {},  # the class's defaults are VideoMV's
    },
    "small": {
        "unet": {"model_channels": 64, "channel_mult": [1, 1, 2, 2], "num_res_blocks": 1},
        "vae": {"channels": [32, 32, 64, 64], "num_res_blocks": 1},
        "text": {"width": 64, "layers": 3},
        "video": {"block_out_channels": (32, 32, 64, 64), "cross_attention_dim": 64, "attention_head_dim": 8},
    },
}


def checkpoint_shapes(size: str) -> dict[str, tuple[int, ...]]:
    """Keys and shapes of a checkpoint in the layout of sd-v2.1-base-4view.pt, its schedule left out."""
    sizes, shapes = SIZES[size], {}
    width, layers = sizes["text"]["width"], sizes["text"]["layers"]
    channels = sizes["vae"]["channels"]
    with torch.device("meta"):
        unet, vae = new_networks(size)
    text = new_text_encoder(
        TextConfig(
            vocab_size=49408,
            hidden_size=width,
            intermediate_size=4 * width,
            num_hidden_layers=layers,
            num_attention_heads=width // 64,
        )
    )
    sources = unet_sources(unet)
    for name, value in unet.state_dict().items():
        shapes["model.diffusion_model." + sources[name].key] = sources[name].stored_shape(value.shape)
    for name, value in vae.state_dict().items():
        source = vae_source(name, len(channels))
        shapes["first_stage_model." + source.key] = source.stored_shape(value.shape)
    for name, value in text.state_dict().items():
        source = open_clip_source(name)
        shapes["cond_stage_model.model." + source.key] = source.stored_shape(value.shape)
    shapes |= {"cond_stage_model.model.text_projection": (width, width), "cond_stage_model.model.logit_scale": ()}
    return shapes


def new_networks(size: str) -> tuple[MultiViewUNet, AutoencoderKL]:
    """The untrained UNet and VAE of a size, on torch's current device."""
    sizes = SIZES[size]
    words = {"attention_resolutions": [4, 2, 1], "num_head_channels": 64, "use_linear_in_transformer": True}
    words |= {"context_dim": sizes["text"]["width"], "camera_dim": 16, **sizes["unet"]}
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=sizes["vae"]["channels"],
        layers_per_block=sizes["vae"]["num_res_blocks"],
        latent_channels=4,
    )
    return MultiViewUNet(**unet_config(words, size)), vae


def schedule_buffers() -> dict[str, Tensor]:
    """The twelve tensors of the noise schedule (DDPM, Ho et al. 2020) that the original keeps beside its weights."""
    betas = stable_diffusion_schedule().betas.double()
    alphas, alpha_bar = 1 - betas, (1 - betas).cumprod(0)
    before = torch.cat([alpha_bar.new_ones(1), alpha_bar[:-1]])
    variance = betas * (1 - before) / (1 - alpha_bar)
    buffers = {
        "betas": betas,
        "alphas_cumprod": alpha_bar,
        "alphas_cumprod_prev": before,
        "sqrt_alphas_cumprod": alpha_bar.sqrt(),
        "sqrt_one_minus_alphas_cumprod": (1 - alpha_bar).sqrt(),
        "log_one_minus_alphas_cumprod": (1 - alpha_bar).log(),
        "sqrt_recip_alphas_cumprod": alpha_bar.rsqrt(),
        "sqrt_recipm1_alphas_cumprod": (1 / alpha_bar - 1).sqrt(),
        "posterior_variance": variance,
        "posterior_log_variance_clipped": variance.clamp_min(1e-20).log(),
        "posterior_mean_coef1": betas * before.sqrt() / (1 - alpha_bar),
        "posterior_mean_coef2": (1 - before) * alphas.sqrt() / (1 - alpha_bar),
    }
    return {key: value.float() for key, value in buffers.items()}


def random_checkpoint(size: str) -> dict[str, Tensor]:
    """Random weights that keep activations near unit size: matrices N(0, 1 / fan_in), scales near 1, biases near 0."""
    rng = torch.Generator().manual_seed(0)
    tensors = schedule_buffers()
    for key, shape in checkpoint_shapes(size).items():
        tensor = torch.randn(shape, generator=rng)
        if len(shape) > 1:
            tensor /= (tensor.numel() / shape[0]) ** 0.5
        else:
            tensor = 0.1 * tensor + (1.0 if key.endswith("weight") else 0.0)
        tensors[key] = tensor
    return tensors


def write(folder: Path, size: str) -> str:
    torch.save(random_checkpoint(size), folder / "original.pt")
    return f"{(folder / 'original.pt').stat().st_size / GIB:.2f} GiB"


def import_checkpoint(folder: Path, size: str) -> str:
    weights_verb.main(["import", str(folder / "original.pt"), "--to", str(folder / "weights")])
    return f"{(folder / 'original.pt').stat().st_size / GIB:.2f} GiB file"


def sample(folder: Path, size: str) -> str:
    loading = time.monotonic()
    prior = MultiViewPrior.from_pretrained(folder / "weights")
    seconds = time.monotonic() - loading
    cameras = viewing_cameras(CameraConfig(), [0, 90, 180, 270], 15, 256)
    images = sample_views(
        prior,
        ["an astronaut riding a horse, 3d asset"],
        cameras,
        torch.Generator().manual_seed(0),
        num_inference_steps=STEPS,
    )
    assert images.shape == (NUM_VIEWS, 3, 256, 256) and images.isfinite().all()
    return f"{seconds:.1f} s of them to load"


def distill(folder: Path, size: str) -> str:
    loading = time.monotonic()
    prior = MultiViewPrior.from_pretrained(folder / "weights")
    text, negative = (prior.encode_text([prompt]) for prompt in ("an astronaut riding a horse", "ugly"))
    prior = prior.without_text_encoder()
    seconds = time.monotonic() - loading
    guidance = ScoreDistillation(prior, GuidanceConfig(), seed=0)
    cameras = viewing_cameras(CameraConfig(), [0, 90, 180, 270], 15, 64)
    config, told = GuidanceConfig(), Conditions(text, cameras, NUM_VIEWS)
    denoiser = Guided(prior, told, negative, config.guidance_scale, config.rescale)
    rgb = torch.rand(NUM_VIEWS, 64, 64, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for step in range(STEPS):
        guidance(rgb, denoiser, step, STEPS).loss.backward()
    assert rgb.grad is not None and rgb.grad.isfinite().all() and rgb.grad.abs().max() > 0
    return f"{seconds:.1f} s of them to load; text encoder released"


def train(folder: Path, size: str) -> str:
    """The gradients of a multi-view and of a 2D loss; AdamW's memories and the average would be 10 GiB more."""
    prior = start_prior(folder / "weights")
    prior.text_encoder.requires_grad_(False)
    prior.unet.enable_gradient_checkpointing()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        latents = prior.encode_images(torch.rand(NUM_VIEWS, 3, 256, 256, generator=rng))
    noise, timestep = torch.randn(latents.shape, generator=rng), torch.full((NUM_VIEWS,), 500)
    cameras = viewing_cameras(CameraConfig(), [0, 90, 180, 270], 15, 256)
    views = Conditions(prior.encode_text(["an astronaut, 3d asset"]), cameras, NUM_VIEWS)
    for told in (views, Conditions(prior.encode_text(["a horse"]))):
        prior.losses(latents, noise, timestep, told).mean().backward()
    gradients = [parameter.grad for parameter in prior.unet.parameters()]
    assert all(g is not None and g.isfinite().all() and g.abs().max() > 0 for g in gradients)
    return f"{NUM_VIEWS} views, then {NUM_VIEWS} single pictures, with gradient checkpointing"


def tune(folder: Path, size: str) -> str:
    (folder / "pictures").mkdir()
    for i in range(3):
        pixels = torch.randint(256, (256, 256, 3), generator=torch.Generator().manual_seed(i), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"pictures/{i}.png")
    settings = ["prompt=a photo of a [v] dog", f"data={folder / 'pictures'}", f"weights={folder / 'weights'}"]
    settings += ["steps=1", "dreambooth.lora_rank=8", "dreambooth.lr=1e-4", f"views.num_inference_steps={STEPS}"]
    config = load_config("dreambooth-sd21.yaml", settings)
    with open_run(folder / "tuned", config) as run:
        tuned = dreambooth.run(config, run)
    size_on_disk = sum(file.stat().st_size for file in tuned["prior"].rglob("*"))
    return f"an adapter of {size_on_disk / 2**20:.1f} MiB; drawn with it in {STEPS} steps"


@torch.no_grad()
def video(folder: Path, size: str, image_conditioning: bool = False) -> str:
    """One answer of the video network, in float32."""
    torch.manual_seed(0)
    unet = VideoUNet(**SIZES[size]["video"], image_conditioning=image_conditioning).eval()
    width = unet.config.cross_attention_dim
    shown = {}
    if image_conditioning:
        latent = torch.randn(1, 4, 1, 32, 32)
        shown = {"image_embedding": torch.randn(1, width), "local_image": latent, "fps": torch.tensor([8])}
    camera = viewing_cameras(CameraConfig(), [15 * k for k in range(FRAMES)], 15, 256).camera_to_world
    made = time.process_time()
    noise = unet(
        torch.randn(1, 4, FRAMES, 32, 32),
        torch.tensor([500]),
        torch.randn(1, 77, width),
        camera.reshape(1, FRAMES, 16).float(),
        **shown,
    )
    assert noise.shape == (1, 4, FRAMES, 32, 32) and noise.isfinite().all()
    count = sum(parameter.numel() for parameter in unet.parameters())
    return (
        f"{count / 1e9:.3f} billion parameters; the forward pass {time.process_time() - made:.0f} s of processor time"
    )


def write_image_model(weights: Path, folder: Path) -> None:
    """The 2D model that a multi-view prior was made from, in `folder` as its repository has it: without cameras."""
    shutil.copytree(weights, folder, ignore=shutil.ignore_patterns("unet"))
    unet = load_unet(weights / "unet", torch.float32, "cpu")
    words = {"class_embed_type": None, "projection_class_embeddings_input_dim": None}
    plain = set(inspect.signature(UNet2DConditionModel.__init__).parameters) & set(unet.config)
    with torch.device("meta"):
        image = UNet2DConditionModel(**{name: unet.config[name] for name in plain} | words)
    tensors = {name: tensor for name, tensor in unet.state_dict().items() if not name.startswith("class_embedding.")}
    image.load_state_dict(tensors, assign=True)
    image.save_pretrained(folder / "unet")


def image_model(folder: Path, size: str) -> str:
    write_image_model(folder / "weights", folder / "image")
    return f"{sum(file.stat().st_size for file in (folder / 'image').rglob('*.*')) / GIB:.2f} GiB"


def guided(folder: Path, size: str) -> str:
    loading = time.monotonic()
    pipeline = MultiViewPipeline.from_pretrained(folder / "weights", joint=JointConfig(str(folder / "image")))
    seconds, loaded = time.monotonic() - loading, peak_gib()
    views = pipeline("an astronaut riding a horse", num_inference_steps=1, seed=0)
    assert views.drawn.shape == (NUM_VIEWS, 3, 256, 256) and views.drawn.isfinite().all()
    return f"{seconds:.1f} s of them to load, {loaded:.2f} GiB until then; VAE and text encoder are held once"


STAGES: dict[str, tuple[str, Callable[[Path, str], str]]] = {
    "write": ("write the checkpoint", write),
    "import": ("weights import", import_checkpoint),
    "sample": (f"load, sample {NUM_VIEWS} views, {STEPS} steps, decode", sample),
    "distill": (f"load, {STEPS} steps of score distillation", distill),
    "train": ("load, gradients of a training step", train),
    "tune": ("load, one step of DreamBooth (LoRA), draw", tune),
    "image": ("write a 2D Stable Diffusion", image_model),
    "guided": (f"load both, sample {NUM_VIEWS} views, 1 step, decode", guided),
    "video": (f"text to video, {FRAMES} frames, one forward pass", video),
    "picture": (f"image to video, {FRAMES} frames, one forward pass", partial(video, image_conditioning=True)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of each stage")
    parser.add_argument("--size", choices=SIZES, default="full", help="small: only to try the script")
    parser.add_argument("--folder", type=Path, help="where the temporary files go (default: the system's folder)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--only", choices=STAGES, nargs="+", default=list(STAGES), help="these stages")
    parser.add_argument("--stage", choices=STAGES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.stage:
        torch.set_num_threads(given.threads)
        started = time.monotonic()
        note = STAGES[given.stage][1](given.folder, given.size)
        print(json.dumps({"seconds": time.monotonic() - started, "peak_memory_gib": peak_gib(), "note": note}))
        return
    report: dict[str, Any] = {"size": given.size, "threads": given.threads, "cpu": _cpu(), "torch": torch.__version__}
    report["stages"] = {}
    print(f"{report['cpu']}, {given.threads} threads, torch {torch.__version__}, float32\n")
    print(f"{'stage':42} {'seconds':>8} {'peak GiB':>9}")
    with tempfile.TemporaryDirectory(prefix="full-size-", dir=given.folder) as folder:
        for stage in given.only:
            title = STAGES[stage][0]
            command = [sys.executable, __file__, "--stage", stage, "--folder", folder, "--size", given.size]
            command += ["--threads", str(given.threads)]
            result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            figures = report["stages"][stage] = json.loads(result.stdout.splitlines()[-1])
            print(
                f"{title:42} {figures['seconds']:8.1f} {figures['peak_memory_gib']:9.2f}  {figures['note']}", flush=True
            )
    if given.json:
        given.json.write_text(json.dumps(report, indent=2) + "\n", "utf-8")


def peak_gib() -> float:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / GIB


def _cpu() -> str:
    """The processor's name, where the system tells it."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
