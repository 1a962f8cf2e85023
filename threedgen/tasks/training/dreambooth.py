"""Multi-view DreamBooth: a prior learns a subject from a few pictures and keeps what it knows of other sides.

The pictures have no cameras, so they are learned in 2D mode, one view and no camera, while a penalty on the change of
the weights keeps the prior near where it was (MVDream, Shi et al. 2023, section 3.4; DreamBooth, Ruiz et al. 2022).
"""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from threedgen.config.schema import Config
from threedgen.config.training import DreamboothConfig
from threedgen.core.errors import ConfigError
from threedgen.core.files import atomic_folder
from threedgen.core.randomness import generator, seeded, stable_seed
from threedgen.core.transfer import to_device
from threedgen.data.captioned_views import composite_on
from threedgen.data.subject_images import read_subject_images
from threedgen.diffusion.checkpoints.adapters import add_adapter, save_adapter
from threedgen.diffusion.conditions import Conditions
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.sampling import sample_views
from threedgen.diffusion.start import grow_vocabulary
from threedgen.imaging import contact_sheet, save_png
from threedgen.runs.device import select_device
from threedgen.runs.directory import RunDirectory
from threedgen.tasks.prompting import draw_prompt, read_prompts
from threedgen.training.log import StepLog
from threedgen.training.loop import Losses, Pace, Training
from threedgen.training.loop import train as train_network

_COMMON_TOKENS = 40_000  # CLIP's pieces are sorted by how often they occur; the last 9,000 are rare words
# layers of the networks that one view without a camera does not use
_UNSEEN_IN_2D = ("class_embedding", "camera_embedding", "view_", "epipolar", "ray_in")


@dataclass(frozen=True)
class SubjectPrompt:
    """A prompt such as "a photo of a [v] dog", taken apart."""

    text: str
    identifier: str  # "[v]"

    @property
    def class_prompt(self) -> str:
        """The prompt of any object of the kind: "a photo of a dog"."""
        return " ".join(self.text.replace(self.identifier, " ").split())


def read_prompt(text: str) -> SubjectPrompt:
    """Raises ConfigError unless exactly one word of the prompt stands in square brackets."""
    identifiers = set(re.findall(r"\[\w+\]", text))
    if len(identifiers) != 1:
        raise ConfigError(
            f"prompt={text!r}: one word in square brackets must name the subject, as in "
            f'prompt="a photo of a [v] dog"; this one has {len(identifiers) or "none"}'
        )
    return SubjectPrompt(text, identifiers.pop())


def run(config: Config, run: RunDirectory) -> dict[str, Path]:
    """Fine-tune, and return the tuned prior's folder (usable as `weights=FOLDER`) and a sheet of its views."""
    settings, prompt = config.dreambooth, read_prompt(config.prompt)
    prior = MultiViewPrior.from_pretrained(config.weights, device=select_device(config.runtime))
    prior.check_knows_cameras()  # the tuned one is to draw views, at the end
    _warn_of_ordinary_word(prior, prompt.identifier)
    new_words = grow_vocabulary(prior, [prompt.identifier])
    config = read_prompts(config, prior)
    images = read_subject_images(Path(config.data), prior.image_size, settings.remove_background)
    print(f"{'subject':10} {prompt.identifier} in {len(images)} pictures of {config.data}", flush=True)
    class_images = _class_images(config, run, prior, prompt) if settings.preservation_weight > 0 else None
    parameters = _make_trainable(prior, settings, config.seed, new_words)
    _train(config, run, prior, prompt, parameters, _Batches(config, images, class_images))
    return _save(config, run, prior, images, new_words)


def _warn_of_ordinary_word(prior: MultiViewPrior, identifier: str) -> None:
    """Say so if the identifier means something already: the prior would have to unlearn it."""
    if is_ordinary_word(prior, identifier.strip("[]")):
        print(
            f"warning: the prior knows {identifier.strip('[]')!r} already, and what it means may mix with the subject. "
            "A word that means nothing, such as [v], is better",
            file=sys.stderr,
        )


def is_ordinary_word(prior: MultiViewPrior, word: str) -> bool:
    """Whether a word-level tokenizer knows the word; with CLIP's pieces, whether it is a common piece of its own."""
    ids = prior.tokenizer(word, add_special_tokens=False).input_ids
    if prior.tokenizer.unk_token_id != prior.tokenizer.eos_token_id:
        return prior.tokenizer.unk_token_id not in ids
    return len(word) > 1 and len(ids) == 1 and ids[0] < _COMMON_TOKENS


@torch.no_grad()
def _class_images(config: Config, run: RunDirectory, prior: MultiViewPrior, prompt: SubjectPrompt) -> NDArray[np.uint8]:
    """What the untuned prior makes of the class prompt in 2D mode, [N, S, S, 4] opaque; drawn once, then read."""
    folder, count = run.folder / "class_images", config.dreambooth.preservation_images
    if not folder.is_dir():
        print(f"{'drawing':10} {count} pictures of {prompt.class_prompt!r}", flush=True)
        with atomic_folder(folder) as temporary:
            for i in range(count):
                picture = sample_views(
                    prior,
                    [prompt.class_prompt],
                    None,
                    generator(config.seed, i, "class images"),
                    **config.views.sampling(),
                )[0]
                save_png(picture.movedim(0, -1), temporary / f"{i:03d}.png")
    return np.stack([np.asarray(Image.open(folder / f"{i:03d}.png").convert("RGBA")) for i in range(count)])


def _make_trainable(
    prior: MultiViewPrior, settings: DreamboothConfig, seed: int, new_words: tuple[str, ...]
) -> dict[str, nn.Parameter]:
    """Require gradients of what the settings say is trained, and return it by name."""
    if settings.lora_rank > 0:
        with seeded(stable_seed(seed, 0, "adapter")):
            add_adapter(prior, settings.lora_rank, _trained_parts(settings))
    else:
        prior.unet.requires_grad_(True)
        prior.text_encoder.requires_grad_(settings.train_text_encoder)
    for name, parameter in prior.unet.named_parameters():
        if any(unseen in name for unseen in _UNSEEN_IN_2D):
            parameter.requires_grad_(False)
    embedding = prior.text_encoder.get_input_embeddings().weight
    if new_words and not embedding.requires_grad:
        is_new = torch.zeros(len(embedding), 1, device=embedding.device)
        is_new[-len(new_words) :] = 1
        embedding.requires_grad_(True).register_hook(lambda gradient: gradient * is_new)
    return {name: parameter for name, parameter in prior.named_parameters() if parameter.requires_grad}


def _trained_parts(settings: DreamboothConfig) -> tuple[str, ...]:
    return ("unet", "text_encoder") if settings.train_text_encoder else ("unet",)


class _Batches:
    """Latents as a function of the step: pictures of the subject, then as many of its class if there are any."""

    def __init__(self, config: Config, images: NDArray[np.uint8], class_images: NDArray[np.uint8] | None) -> None:
        self.seed, self.size = config.seed, config.dreambooth.batch_size
        self.sources = [images] if class_images is None else [images, class_images]

    def __call__(self, step: int, prior: MultiViewPrior) -> Tensor:
        """[B, 4, h, w]; what has alpha stands on a random colour, half of the time on mid grey."""
        rng, pictures = generator(self.seed, step, "batch"), []
        for source in self.sources:
            index = torch.randint(len(source), (self.size,), generator=rng)
            background = torch.rand(self.size, 3, generator=rng)
            background[torch.rand(self.size, generator=rng) < 0.5] = 0.5
            pictures.append(composite_on(source[index.numpy()], background.numpy()))
        images = torch.from_numpy(np.concatenate(pictures)).movedim(-1, 1)
        with torch.no_grad():
            return prior.encode_images(to_device(images, prior.device))


def mean_change(parameters: Sequence[Tensor], start_values: Sequence[Tensor]) -> Tensor:
    """||theta - theta0||_1 / N_theta over all elements of all tensors, []."""
    changes = [(p - p0).abs().sum() for p, p0 in zip(parameters, start_values, strict=True)]
    return torch.stack(changes).sum() / sum(p.numel() for p in parameters)


def _train(
    config: Config,
    run: RunDirectory,
    prior: MultiViewPrior,
    prompt: SubjectPrompt,
    parameters: dict[str, nn.Parameter],
    batches: _Batches,
) -> None:
    settings, trained = config.dreambooth, list(parameters.values())
    start_values = [parameter.detach().clone() for parameter in trained]
    print(f"{'training':10} {sum(p.numel() for p in trained):,} numbers", flush=True)
    embedding = prior.text_encoder.get_input_embeddings().weight
    groups = [  # the embeddings of old words must stay: no decay
        {"params": [p for p in trained if p is not embedding], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p is embedding], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    prompts = [prompt.text, prompt.class_prompt][: len(batches.sources)]

    def objective(batch: tuple[int, Tensor]) -> Losses:
        step, latents = batch
        rng = generator(config.seed, step, "noise")
        noise = to_device(torch.randn(latents.shape, generator=rng), latents.device)
        timestep = torch.randint(1000, (len(latents),), generator=rng)
        text = prior.encode_text(prompts).repeat_interleave(settings.batch_size, 0)
        subject, *others = prior.losses(latents, noise, timestep, Conditions(text)).split(settings.batch_size)
        change = mean_change(trained, start_values)
        total = subject.mean() + settings.l1_weight * change
        for other in others:
            total = total + settings.preservation_weight * other.mean()
        told = {"subject": subject.mean(), "change": change}
        return Losses(total, told | ({"class": others[0].mean()} if others else {}))

    def show(done: int) -> None:
        if done % config.preview_every == 0:
            save_png(np.concatenate(list(draw_prompt(config, prior)), 1), run.path(f"previews/step-{done:06d}.png"))

    job = Training(
        objective,
        lambda start: ((step, batches(step, prior)) for step in range(start, config.steps)),
        trained,
        optimizer,
        parameters,
        bfloat16=prior.device.type == "cuda",
    )
    pace = Pace(config.steps, settings.lr, checkpoint_every=config.checkpoint_every, threads=config.runtime.threads)
    log = StepLog(run.events, "dreambooth", config.steps)
    train_network(job, pace, run.checkpoints, lambda start: log, show)


def _save(
    config: Config, run: RunDirectory, prior: MultiViewPrior, images: NDArray[np.uint8], new_words: tuple[str, ...]
) -> dict[str, Path]:
    folder, sheet = run.folder / "prior", run.path("views.png")
    pictures = composite_on(images, np.full(3, 0.5))
    rows = [("the pictures", pictures), ("views of the tuned prior", draw_prompt(config, prior))]
    save_png(contact_sheet(rows, config.prompt), sheet)
    if config.dreambooth.lora_rank > 0:
        base = str(Path(config.weights).resolve()) if Path(config.weights).is_dir() else config.weights
        save_adapter(prior, folder, base, _trained_parts(config.dreambooth), bool(new_words))
    else:
        prior.save_pretrained(folder)
    return {"prior": folder, "views": sheet}
