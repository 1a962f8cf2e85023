"""Does a tuned prior show the subject from all sides, and does it still know everything else?

    .venv/bin/python benchmarks/dreambooth.py --workers 2                  five subjects
    .venv/bin/python benchmarks/dreambooth.py --subjects 1 --sds-steps 0   one, without optimising scenes
    .venv/bin/python benchmarks/dreambooth.py dreambooth.lr=1e-4           any setting of dreambooth-mini.yaml

A subject is a miniworld object in colours, or with parts, that no caption has. Five pictures from random sides are all
that the prior is tuned to. Each subject is then drawn and optimised under these conditions:

nearest words    the untuned prior, asked for the caption with the palette's nearest colours
no identifier    the untuned prior, asked with [v] left out (views only)
tuned            after `dreambooth-mini.yaml`, asked with [v]
all weights      all of UNet and text encoder tuned instead of an adapter (views only)
L1 off           the same without the penalty on the weights' change (views only)

and compared with the subject's exact pictures:

PSNR             inside the true silhouettes: of four views at known cameras (mean over seeds), of a scene from 16
colour error     distance between the mean RGB of a part (body; face or nose) and the truth's, mean over parts, 0..1
IoU              of silhouettes with the truth's: is each view drawn from where its camera stands? A drawn view's
                 silhouette is what differs from its border's median colour by more than 0.12
spread           largest distance between the body's mean RGB in two views, less the truth's own: 0 is consistent
Janus            the face (or nose) is seen from behind, see threedgen/metrics/janus.py; of all seeds, or of the scene
hat              colour error of the hat in views of "... wearing a yellow hat", of subjects that can wear one
held-out         PSNR inside the true silhouettes of views of captions that no training showed: what is still known
drift            PSNR of those views against the same noise drawn by the untuned prior (infinite: nothing changed)

What is done is kept in --output, in a folder for each choice of settings, and not made again.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from threedgen.cameras import Cameras, orbit, viewing_cameras  # noqa: E402
from threedgen.config.load import load_config  # noqa: E402
from threedgen.core.files import atomic_folder, write_text_atomically  # noqa: E402
from threedgen.core.randomness import generator  # noqa: E402
from threedgen.data.exact_views import exact_views  # noqa: E402
from threedgen.data.miniworld import COLORS, MiniObject, Rendering, build, held_out, parse  # noqa: E402
from threedgen.data.miniworld.grammar import with_article  # noqa: E402
from threedgen.data.miniworld.kinds import KINDS  # noqa: E402
from threedgen.data.miniworld.primitives import Primitive, Shape  # noqa: E402
from threedgen.diffusion.prior import MultiViewPrior  # noqa: E402
from threedgen.diffusion.sampling import sample_views  # noqa: E402
from threedgen.diffusion.text.prompts import unknown_words  # noqa: E402
from threedgen.imaging import contact_sheet, save_png  # noqa: E402
from threedgen.metrics import border_color, colour_fraction, drawn_silhouette, janus_score, psnr, silhouette_iou  # noqa: E402
from threedgen.runs.directory import open_run, slug  # noqa: E402
from threedgen.tasks.evaluation.jobs import outcomes  # noqa: E402
from threedgen.tasks.generate import optimize  # noqa: E402
from threedgen.tasks.prompting import encode_prompts, load_prior  # noqa: E402
from threedgen.tasks.training import dreambooth  # noqa: E402
from threedgen.tasks.training.samples import psnr_inside  # noqa: E402

NUM_PHOTOS, NUM_SEEDS, NUM_HELD_OUT, SIZE, SCENE_VIEWS = 5, 4, 8, 64, 16
AZIMUTHS, FRONT, BACK = (0.0, 90.0, 180.0, 270.0), 0, 2  # of drawn views; which of them see the front and the back
SCENE_FRONT, SCENE_BACK = (-40.0, 0.0, 40.0), (140.0, 180.0, 220.0)
NEW_COLORS = {"turquoise": (0.10, 0.75, 0.70), "pink": (0.98, 0.55, 0.70), "brown": (0.45, 0.26, 0.12)}
NEAREST, NO_IDENTIFIER, TUNED, ALL_WEIGHTS, L1_OFF = "nearest words", "no identifier", "tuned", "all weights", "L1 off"
CONDITIONS = (NEAREST, NO_IDENTIFIER, TUNED, ALL_WEIGHTS, L1_OFF)
ALL = ("dreambooth.lora_rank=0", "dreambooth.train_text_encoder=true", "dreambooth.lr=2e-4")
TUNINGS = {TUNED: (), ALL_WEIGHTS: ALL, L1_OFF: (*ALL, "dreambooth.l1_weight=0")}
HAT = "wearing a yellow hat"


@dataclass(frozen=True)
class Subject:
    """A kind whose body and feature ("face", "nose") have new colours; `change` says which parts are new or gone."""

    name: str
    kind: str
    feature: str
    body_color: str
    feature_color: str
    change: str = ""

    def caption(self, body: str, feature: str) -> str:
        return f"{with_article(body)} {self.kind} with {with_article(feature)} {self.feature}"

    @property
    def nearest_words(self) -> str:
        return self.caption(nearest(self.body_color), nearest(self.feature_color))

    def prompt(self, condition: str) -> str:
        plain = f"a {self.kind}"
        return {NEAREST: self.nearest_words, NO_IDENTIFIER: plain}.get(condition, f"a [v] {self.kind}")

    def hat_prompt(self, condition: str) -> str:
        """Empty: the subject can wear nothing, or the prompt would not say which one it is."""
        if KINDS[self.kind].head is None or condition == NO_IDENTIFIER:
            return ""
        return f"a {nearest(self.body_color) if condition == NEAREST else '[v]'} {self.kind} {HAT}"

    @property
    def palette(self) -> dict[str, tuple[float, float, float]]:
        return {"body": NEW_COLORS[self.body_color], "feature": NEW_COLORS[self.feature_color]}

    def with_hat(self) -> MiniObject:
        """The hat is the feature."""
        hat = [part for part in build(parse(f"a red {self.kind} {HAT}")).primitives if part.part == "feature"]
        subject = self.object()
        return replace(subject, primitives=(*(replace(p, part="body") for p in subject.primitives), *hat))

    def object(self) -> MiniObject:
        built = build(parse(self.caption("red", "green")))
        parts = [_repainted(p, self.palette) for p in built.primitives]
        if self.change == "one ear":
            left = [i for i, p in enumerate(parts) if p.part == "body" and p.center[1] > 0]
            del parts[max(left, key=lambda i: parts[i].center[2])]
        elif self.change == "a horn":
            top = max((p for p in parts if p.part == "body"), key=lambda p: p.center[2])
            center = top.center + np.array([0.02, 0, top.half_size[2] + 0.1], np.float32)
            half_size, upright = np.array([0.07, 0.07, 0.15], np.float32), np.eye(3, dtype=np.float32)
            color = np.array(NEW_COLORS["pink"], np.float32)
            parts.append(Primitive(Shape.cone, center, half_size, upright, color, "horn"))
        return replace(built, primitives=tuple(parts))


SUBJECTS = (
    Subject("cat", "cat", "face", "turquoise", "pink"),
    Subject("bear", "bear", "face", "brown", "turquoise"),
    Subject("rabbit with one ear", "rabbit", "face", "pink", "brown", "one ear"),
    Subject("duck with a horn", "duck", "face", "brown", "turquoise", "a horn"),
    Subject("cube", "cube", "nose", "pink", "turquoise"),
)


@dataclass(frozen=True)
class Job:
    subject: Subject
    condition: str
    folder: Path  # of the subject
    settings: tuple[str, ...]
    sds_steps: int

    @property
    def result(self) -> Path:
        return self.folder / self.condition.replace(" ", "-")


def nearest(color: str) -> str:
    """The palette's word for a new colour."""
    return min(COLORS, key=lambda word: math.dist(COLORS[word], NEW_COLORS[color]))


def _repainted(part: Primitive, palette: Mapping[str, tuple[float, float, float]]) -> Primitive:
    return replace(part, color=np.array(palette[part.part], np.float32)) if part.part in palette else part


def take_photos(subject: Subject, folder: Path) -> None:
    """PNG files with straight alpha, from sides that differ by about 72 degrees."""
    if folder.is_dir():
        return
    random = np.random.default_rng(len(subject.name))
    azimuth = random.uniform(0, 360) + 360 / NUM_PHOTOS * np.arange(NUM_PHOTOS) + random.uniform(-20, 20, NUM_PHOTOS)
    fov = random.uniform(36, 44, NUM_PHOTOS)
    distance = random.uniform(0.85, 0.95, NUM_PHOTOS) / np.tan(np.radians(fov) / 2)
    cameras = orbit(azimuth, random.uniform(0, 30, NUM_PHOTOS), distance, fov, 2 * SIZE)
    seen = pictures(subject.object(), cameras, background=(0.0, 0.0, 0.0))
    with atomic_folder(folder) as temporary:
        for i, (rgb, opacity) in enumerate(zip(seen.rgb, seen.opacity, strict=True)):
            pixels = np.concatenate([rgb / np.maximum(opacity, 1e-6), opacity], -1)
            Image.fromarray(np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)).save(temporary / f"{i}.png")


def pictures(obj: MiniObject, cameras: Cameras, **settings: Any) -> Rendering:
    return exact_views(obj, cameras, supersample=4, **settings)


def do(job: Job) -> dict[str, Any]:
    """All figures of one subject under one condition."""
    file = job.result / "scores.json"
    if file.exists():
        return json.loads(file.read_text("utf-8"))
    weights = untuned = load_config("dreambooth-mini.yaml", job.settings).weights
    scores: dict[str, Any] = {"subject": job.subject.name, "condition": job.condition}
    if job.condition in TUNINGS:
        weights, scores["tune_seconds"] = tune(job)
        scores |= what_it_still_knows(weights, untuned)
    scores |= score_views(job, weights)
    if job.sds_steps:
        scores |= score_scene(job, weights)
    write_text_atomically(file, json.dumps(scores, indent=2) + "\n")
    return scores


def tune(job: Job) -> tuple[str, float]:
    settings = [f"data={job.folder / 'photos'}", f"prompt={job.subject.prompt(job.condition)}"]
    settings += [*TUNINGS[job.condition], *job.settings]
    config, started = load_config("dreambooth-mini.yaml", settings), time.monotonic()
    with open_run(job.result / "run", config) as run:
        if run.finished_results() is None:
            run.finish(dreambooth.run(config, run))
    return str(job.result / "run"), round(time.monotonic() - started, 1)


def draw(prior: MultiViewPrior, prompts: Sequence[str], seed: int) -> np.ndarray:
    """Four views of each prompt, [P, 4, H, W, 3]."""
    rng = generator(seed, 0, "benchmark")
    views = sample_views(
        prior, prompts, standard_cameras(), rng, num_inference_steps=25, guidance_scale=3.0, image_size=SIZE
    )
    return views.unflatten(0, (len(prompts), -1)).movedim(2, -1).numpy()


def standard_cameras() -> Cameras:
    return viewing_cameras(load_config("views-mini.yaml").camera, AZIMUTHS, 15.0, SIZE)


def score_views(job: Job, weights: str) -> dict[str, float]:
    prior, truth = MultiViewPrior.from_pretrained(weights), pictures(job.subject.object(), standard_cameras())
    drawn = draw(prior, [job.subject.prompt(job.condition)] * NUM_SEEDS, seed=1)
    np.save(job.result / "views.npy", drawn[0])
    opacity = [drawn_silhouette(views, border_color(views)) for views in drawn]
    hat = {}
    if prompt := job.subject.hat_prompt(job.condition):
        worn = draw(prior, [prompt] * NUM_SEEDS, seed=3)
        truth_worn = pictures(job.subject.with_hat(), standard_cameras())
        np.save(job.result / "hat.npy", worn[0])
        part = parts_of(truth_worn)[0]
        hat["hat"] = mean(np.linalg.norm(views[part].mean(0) - truth_worn.rgb[part].mean(0)) for views in worn)
    return hat | {
        "views_psnr": mean(psnr_inside(views, truth) for views in drawn),
        "views_colour": mean(colour_error(views, truth) for views in drawn),
        "views_iou": mean(silhouette_iou(mask, truth.opacity) for mask in opacity),
        "views_spread": mean(spread(views, truth) - spread(truth.rgb, truth) for views in drawn),
        "views_janus": sum(
            is_janus(job, views, mask, truth, [FRONT], [BACK]) for views, mask in zip(drawn, opacity, strict=True)
        ),
    }


def score_scene(job: Job, weights: str) -> dict[str, float]:
    prompt = job.subject.prompt(job.condition)
    config = load_config(
        "mvdream-mini.yaml", [f"weights={weights}", f"prompt={prompt}", f"steps={job.sds_steps}", "num_threads=1"]
    )
    with open_run(job.result / "scene", config) as run:
        prior = load_prior(config)
        scene, _ = optimize(config, run, prior, *encode_prompts(config, prior))
    azimuth = [*(np.arange(SCENE_VIEWS) + 0.5) * 360 / SCENE_VIEWS, *SCENE_FRONT, *SCENE_BACK, *AZIMUTHS]
    elevation = [*np.resize((5.0, 15.0, 25.0), SCENE_VIEWS), *[15.0] * (len(azimuth) - SCENE_VIEWS)]
    cameras = viewing_cameras(config.camera, azimuth, elevation, SIZE)
    truth = pictures(job.subject.object(), cameras)
    with torch.no_grad():
        seen = scene.render(cameras, background=torch.full((3,), 0.5))
    rgb, opacity = seen.rgb.numpy(), seen.opacity.numpy()
    np.save(job.result / "scene.npy", rgb[-len(AZIMUTHS) :])
    around = slice(0, SCENE_VIEWS)
    part = Rendering(*(getattr(truth, name)[around] for name in ("rgb", "opacity", "depth", "feature")))
    front, back = range(SCENE_VIEWS, SCENE_VIEWS + 3), range(SCENE_VIEWS + 3, SCENE_VIEWS + 6)
    return {
        "scene_psnr": psnr_inside(rgb[around], part),
        "scene_colour": colour_error(rgb[around], part),
        "scene_iou": float(silhouette_iou(opacity[around], part.opacity)),
        "scene_janus": int(is_janus(job, rgb, opacity, truth, front, back)),
    }


def what_it_still_knows(weights: str, untuned: str) -> dict[str, float]:
    """Views of held-out captions, against their truth and against the untuned prior's."""
    base, captions, truths = untuned_knowledge(untuned)
    tuned = draw(MultiViewPrior.from_pretrained(weights), captions, seed=7)
    return {
        "held_out_before": mean(psnr_inside(views, truth) for views, truth in zip(base, truths, strict=True)),
        "held_out": mean(psnr_inside(views, truth) for views, truth in zip(tuned, truths, strict=True)),
        "drift": float(psnr(tuned, base)),
    }


@cache
def untuned_knowledge(weights: str) -> tuple[np.ndarray, list[str], list[Rendering]]:
    prior = MultiViewPrior.from_pretrained(weights)
    captions = [spec.caption for spec in held_out() if not unknown_words(prior.tokenizer, spec.caption)][:NUM_HELD_OUT]
    truths = [pictures(build(parse(caption)), standard_cameras()) for caption in captions]
    return draw(prior, captions, seed=7), captions, truths


def parts_of(truth: Rendering) -> tuple[np.ndarray, np.ndarray]:
    """Masks [B, H, W] of pixels wholly covered by the feature, and by anything else: the body, eyes, a horn."""
    whole = truth.opacity[..., 0] > 0.99
    return whole & (truth.feature[..., 0] > 0.99), whole & (truth.feature[..., 0] < 0.01)


def colour_error(views: np.ndarray, truth: Rendering) -> float:
    return mean(float(np.linalg.norm(views[p].mean(0) - truth.rgb[p].mean(0))) for p in parts_of(truth))


def spread(views: np.ndarray, truth: Rendering) -> float:
    body = [view[mask].mean(0) for view, mask in zip(views, parts_of(truth)[1], strict=True)]
    return max(float(np.linalg.norm(a - b)) for a in body for b in body)


def is_janus(
    job: Job, rgb: np.ndarray, opacity: np.ndarray, truth: Rendering, front: Sequence[int], back: Sequence[int]
) -> bool:
    subject = job.subject
    words = {"body": COLORS[nearest(subject.body_color)], "feature": COLORS[nearest(subject.feature_color)]}
    palette = words if job.condition == NEAREST else subject.palette
    seen = colour_fraction(rgb, opacity, "feature", palette)
    true = colour_fraction(truth.rgb, truth.opacity, "feature", subject.palette)
    front, back = list(front), list(back)
    return janus_score(seen[front], seen[back], true[front], true[back]).is_janus


def mean(values: Any) -> float:
    return float(np.mean(list(values)))


def table(scores: Sequence[Mapping[str, Any]]) -> str:
    """Markdown: a row for each subject and condition, then the mean of each condition."""
    columns = {
        "views: PSNR dB": ("views_psnr", ".2f"), "colour error": ("views_colour", ".3f"), "IoU": ("views_iou", ".3f"),
        "spread": ("views_spread", ".3f"), f"Janus of {NUM_SEEDS}": ("views_janus", "g"),
        "scene: PSNR dB": ("scene_psnr", ".2f"), "colour error ": ("scene_colour", ".3f"),
        "IoU ": ("scene_iou", ".3f"), "Janus": ("scene_janus", "g"), "hat": ("hat", ".3f"),
        "held-out dB": ("held_out", ".2f"), "drift dB": ("drift", ".2f"), "s": ("tune_seconds", ".0f"),
    }  # fmt: skip

    def line(name: str, condition: str, group: Sequence[Mapping[str, Any]]) -> str:
        cells = []
        for key, form in columns.values():
            values = [s[key] for s in group if key in s]
            total = sum(values) if key.endswith("janus") else mean(values) if values else 0
            each = {"views_janus": NUM_SEEDS, "scene_janus": 1}.get(key)
            cells.append(f"{total:{form}}" + (f" of {each * len(values)}" if each and len(group) > 1 else ""))
            cells[-1] = cells[-1] if values else ""
        return f"| {name} | {condition} | " + " | ".join(cells) + " |"

    lines = ["| subject | condition | " + " | ".join(c.strip() for c in columns) + " |"]
    lines.append("|" + "---|" * (len(columns) + 2))
    lines += [line(s["subject"], s["condition"], [s]) for s in scores]
    for condition in CONDITIONS:
        group = [s for s in scores if s["condition"] == condition]
        lines.append(line(f"**mean of {len(group)}**", condition, group))
    return "\n".join(lines)


def sheet(jobs: Sequence[Job]) -> Image.Image:
    """For each subject its pictures and the truth, and what the tuned prior drew and optimised."""
    rows: list[Any] = []
    for subject in dict.fromkeys(job.subject for job in jobs):
        mine = [job for job in jobs if job.subject == subject]
        truth = pictures(subject.object(), replace(standard_cameras(), height=2 * SIZE, width=2 * SIZE)).rgb
        photos = []
        for file in sorted((mine[0].folder / "photos").glob("*.png")):
            picture = Image.open(file)
            photos.append(np.asarray(Image.alpha_composite(Image.new("RGBA", picture.size, "grey"), picture))[..., :3])
        rows.append((f"{subject.name}: the pictures; the truth", np.concatenate([photos, np.rint(truth * 255)], 0)))
        tuned = next(job for job in mine if job.condition == TUNED)
        names = [name for name in ("views", "hat", "scene") if (tuned.result / f"{name}.npy").exists()]
        shown = np.concatenate([np.load(tuned.result / f"{name}.npy") for name in names])
        rows.append((f"{subject.prompt(TUNED)!r}: {'; '.join(names)}", shown))
    rows = [(label, np.asarray(images, np.uint8) if images.max() > 1.5 else images) for label, images in rows]
    return contact_sheet(rows, "subjects learned from five pictures")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="key=value")
    parser.add_argument("--subjects", type=int, default=len(SUBJECTS))
    parser.add_argument("--workers", type=int, default=2, help="jobs at once, each with one thread")
    parser.add_argument("--sds-steps", type=int, default=120, help="0: no scenes")
    parser.add_argument("--output", type=Path, default=ROOT / "outputs" / "benchmark-dreambooth")
    given = parser.parse_intermixed_args()
    output = given.output / slug(" ".join([f"sds steps {given.sds_steps}", *given.settings]), max_length=200)
    jobs = []
    for subject in SUBJECTS[: given.subjects]:
        folder = output / subject.name.replace(" ", "-")
        take_photos(subject, folder / "photos")
        for condition in CONDITIONS:
            steps = given.sds_steps if condition in (NEAREST, TUNED) else 0
            jobs.append(Job(subject, condition, folder, tuple(given.settings), steps))
            jobs[-1].result.mkdir(parents=True, exist_ok=True)
    workers = load_config("dreambooth-mini.yaml", [f"eval.workers={given.workers}", "num_threads=1"])
    scores, failed = [], 0
    for outcome in outcomes(do, jobs, workers):
        if outcome.result is None:
            print(f"{outcome.job.result}: FAILED: {outcome.error}", file=sys.stderr)
            failed += 1
        else:
            scores.append(outcome.result)
    print(table(scores))
    write_text_atomically(output / "table.md", table(scores) + "\n")
    if not failed:
        save_png(sheet(jobs), output / "sheet.png")
        print(output / "sheet.png")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
