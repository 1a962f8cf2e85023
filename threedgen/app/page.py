"""The page: its parts, and what its buttons do. The work itself is done by runs, see jobs.py."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from threedgen import viewer
from threedgen.app import texts
from threedgen.app.choices import EXAMPLES, Choice, check, command, surprise
from threedgen.app.jobs import Jobs, State
from threedgen.app.seen import downloads, history, look, thumbnail
from threedgen.core.errors import ThreedgenError
from threedgen.core.files import write_bytes_atomically

STYLE = Path(__file__).parent / "page.css"
VIEWER = Path(viewer.__file__).parent / "vendor/model-viewer-umd.min.js"  # which the preview page has too
FILES = ("GLB", "OBJ", "PLY", "Gaussians", "Turntable")  # that can be had of a run
_OFFERS = 3
_RUNS = 24  # of the history
_SECONDS = 1.0  # between two looks at a run; the history is looked at less often
_SKIP = gr.skip()
# a phone has what is made below the wish
_TO_THE_STAGE = "() => document.getElementById('stage').scrollIntoView({block: 'nearest', behavior: 'smooth'})"


def theme() -> gr.themes.Base:
    """No font comes from a network."""
    system = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
    hues = {"primary_hue": "orange", "neutral_hue": "stone"}
    return gr.themes.Base(**hues, radius_size="lg", font=system, font_mono=("ui-monospace", "Consolas", "monospace"))


def _refused(why: str) -> gr.Error:
    """What a wish is answered with that cannot be granted; no fault of the program, so no traceback."""
    return gr.Error(why, title="Not yet", print_exception=False)


class Actions:
    """What the buttons do and what is shown, for every browser alike; a browser's own is the folder that it looks at.

    copies: a folder for the files that are handed out; settings: key=value words that go into every run.
    """

    def __init__(self, choices: Sequence[Choice], jobs: Jobs, copies: Path, settings: Sequence[str]) -> None:
        self.choices, self.jobs, self.copies, self.settings = list(choices), jobs, copies, list(settings)
        self.output_root = Path(choices[0].config.output_root)

    def create(self, prompt: str, number: int, variant: int | None, picture: str | None) -> str:
        """Put the wished run in line; its folder."""
        choice = self.choices[number]
        if choice.takes_picture and not picture:
            raise _refused("Add a picture of it first.")
        picture = self._kept(picture) if picture and choice.takes_picture else ""
        if not picture and not (found := check(prompt, choice)).is_fine:
            raise _refused(found.text or "Say first what it shall be.")
        try:
            folder, words = command(choice, prompt.strip(), int(variant or 0), picture, self.settings)
        except ThreedgenError as error:
            raise _refused(str(error)) from error
        self.jobs.add(folder, words)
        return str(folder)

    def stop(self, folder: str) -> None:
        self.jobs.stop(Path(folder))

    def go_on(self, folder: str) -> None:
        self.jobs.add(Path(folder), ["--resume", folder])

    def show(self, folder: str, shown: str) -> list[Any]:
        """A key of what is to be seen, then the stage's parts in the order of `Stage.shown`; all skipped if the key is
        still `shown`."""
        path, nothing = Path(folder), [_SKIP] * (6 + len(FILES))
        job = self.jobs.of(path) if folder else None
        told = None if job is None else (job.state, job.error)  # first: a run that is done has all its files then
        seen = look(path) if folder else None
        if told is None and seen is not None:
            told = seen.state, seen.error
        if told is None:
            return nothing
        state, error = told
        ahead = self.jobs.ahead_of(job) if job is not None and state is State.waiting else 0
        key = repr((folder, state, ahead, error, seen and (seen.views, seen.preview, seen.step)))
        if key == shown:
            return nothing
        files = downloads(seen, self.copies) if seen is not None and state is State.done else {}
        return [
            key,
            texts.of_run(seen, state, ahead, error, files.get("GLB")),
            texts.of_pictures(seen, state),
            gr.update(visible=state in (State.waiting, State.running)),
            gr.update(visible=state in (State.stopped, State.failed) and seen is not None),
            gr.update(visible=state is State.done),
            *(gr.update(value=str(files[name]) if name in files else None, visible=name in files) for name in FILES),
        ]

    def runs(self, shown: list[str]) -> list[Any]:
        """The history's folders, its heading and its pictures, all skipped if it has the folders that are `shown`."""
        found = history(self.output_root, _RUNS)
        folders = [str(seen.folder) for seen in found]
        if folders == shown:
            return [_SKIP] * 3
        pictures = [(thumbnail(seen), seen.title) for seen in found]
        return [folders, gr.update(visible=bool(found)), gr.update(value=pictures, visible=bool(found))]

    def choose(self, event: gr.SelectData, folders: list[str]) -> list[Any]:
        """A run of the history: its folder, prompt and variant."""
        seen = look(Path(folders[event.index]))
        return [str(seen.folder), seen.config.prompt, seen.config.seed] if seen else [_SKIP] * 3

    def checked(self, prompt: str, number: int) -> list[Any]:
        """The line below the prompt, and a button for each offer."""
        found = check(prompt, self.choices[number])
        offers = [*found.offers, *[""] * _OFFERS][:_OFFERS]
        return [texts.of_check(found, prompt), *(gr.update(value=offer, visible=bool(offer)) for offer in offers)]

    def _kept(self, picture: str) -> str:
        """A picture under a name of its content: the same picture is the same run, also tomorrow."""
        data = Path(picture).read_bytes()
        kept = self.output_root / "pictures" / (hashlib.sha256(data).hexdigest()[:16] + Path(picture).suffix.lower())
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_atomically(kept, data)
        return str(kept)


@dataclass(frozen=True)
class Wish:
    """The left side: what is wanted."""

    prompt: Any
    check: Any
    offers: list[Any]
    picture: Any
    how: Any
    create: Any
    examples: list[Any]
    surprise: Any
    variant: Any

    @staticmethod
    def of(choices: Sequence[Choice]) -> Wish:
        prompt = gr.Textbox(
            label="What shall it be?", placeholder=EXAMPLES[0], lines=2, max_lines=4, autofocus=True, elem_id="prompt"
        )
        line = gr.HTML(texts.of_check(check("", choices[0]), ""))
        with gr.Row(elem_classes="chips offers"):
            offers = [gr.Button("", size="sm", visible=False, elem_classes="chip") for _ in range(_OFFERS)]
        upload = {"type": "filepath", "image_mode": None, "sources": ["upload", "clipboard"], "height": 180}
        picture = gr.Image(label="A picture of it", visible=choices[0].takes_picture, elem_id="picture", **upload)
        titles = [(f"{choice.title} · {choice.about}", i) for i, choice in enumerate(choices)]
        how = gr.Radio(titles, value=0, label="How", elem_id="how", visible=len(titles) > 1)
        create = gr.Button("Create", variant="primary", size="lg", elem_id="create")
        has_words = any(choice.knows_captions_only for choice in choices)
        with gr.Row(elem_classes="chips", visible=has_words):
            examples = [gr.Button(example, size="sm", elem_classes="chip") for example in EXAMPLES]
            surprise = gr.Button("surprise me", size="sm", elem_classes="chip", elem_id="surprise")
        with gr.Accordion("All the words it knows", open=False, visible=has_words, elem_id="words"):
            gr.HTML(texts.of_words())
        with gr.Accordion("More", open=False):
            about = "The same words with another number give another object."
            variant = gr.Number(0, label="Variant", info=about, precision=0, minimum=0)
        return Wish(prompt, line, offers, picture, how, create, examples, surprise, variant)


@dataclass(frozen=True)
class Stage:
    """The right side: the run that is looked at."""

    run: Any
    files: list[Any]
    pictures: Any
    stop: Any
    go_on: Any
    another: Any

    @property
    def shown(self) -> list[Any]:
        return [self.run, self.pictures, self.stop, self.go_on, self.another, *self.files]

    @staticmethod
    def make() -> Stage:
        run = gr.HTML(texts.EMPTY, elem_id="run")
        with gr.Row(elem_id="downloads"):
            files = [gr.DownloadButton(f, size="sm", visible=False, elem_id=f"download-{f.lower()}") for f in FILES]
        pictures = gr.HTML("", elem_id="pictures")
        with gr.Row(elem_id="actions"):
            stop = gr.Button("Stop", variant="stop", visible=False, elem_id="stop")
            go_on = gr.Button("Go on", variant="primary", visible=False, elem_id="go-on")
            another = gr.Button("Another variant", visible=False, elem_id="another")
        return Stage(run, files, pictures, stop, go_on, another)


def build_page(actions: Actions) -> gr.Blocks:
    """All parts, wired up."""
    hidden: dict[str, Any] = {"show_progress": "hidden"}
    quiet = {**hidden, "queue": False}  # of what is outside its queue Gradio shows no error
    with gr.Blocks(title="threedgen", analytics_enabled=False, fill_width=True) as page:
        folder, shown, folders = gr.State(""), gr.State(""), gr.State([])
        gr.HTML(texts.HEADER, elem_id="header")
        with gr.Row(elem_id="top"):
            with gr.Column(scale=4, min_width=320, elem_id="wish"):
                wish = Wish.of(actions.choices)
            with gr.Column(scale=7, min_width=360, elem_id="stage"):
                stage = Stage.make()
        heading = gr.HTML("<h2>Made before</h2>", visible=False, elem_id="before")
        look_of = {"object_fit": "cover", "allow_preview": False, "interactive": False, "buttons": [], "height": "auto"}
        gallery = gr.Gallery(show_label=False, visible=False, elem_id="history", **look_of)

        def then_show(event: Any) -> None:
            event.then(actions.show, [folder, shown], [shown, *stage.shown], **quiet)

        wanted = [wish.prompt, wish.how, wish.variant, wish.picture]
        created = gr.on([wish.create.click, wish.prompt.submit], actions.create, wanted, folder, **hidden)
        created.success(None, js=_TO_THE_STAGE)
        then_show(created)
        more = stage.another.click(lambda number: int(number or 0) + 1, wish.variant, wish.variant, **quiet)
        then_show(more.success(actions.create, wanted, folder, **hidden))
        then_show(stage.stop.click(actions.stop, folder, **quiet))
        then_show(stage.go_on.click(actions.go_on, folder, **quiet))
        chosen = gallery.select(actions.choose, folders, [folder, wish.prompt, wish.variant], **quiet)
        then_show(chosen)
        chosen.then(None, js=_TO_THE_STAGE)

        typed, line = [wish.prompt, wish.how], [wish.check, *wish.offers]
        gr.on([wish.prompt.change, wish.how.change], actions.checked, typed, line, trigger_mode="always_last", **quiet)
        for button in [*wish.offers, *wish.examples]:
            button.click(lambda text: text, button, wish.prompt, **quiet)
        wish.surprise.click(surprise, None, wish.prompt, **quiet)
        pictured = [choice.takes_picture for choice in actions.choices]
        wish.how.change(lambda number: gr.update(visible=pictured[number]), wish.how, wish.picture, **quiet)

        made_before: tuple[Callable[..., Any], Any, list[Any]] = (actions.runs, folders, [folders, heading, gallery])
        gr.Timer(_SECONDS).tick(actions.show, [folder, shown], [shown, *stage.shown], **quiet)
        gr.Timer(4 * _SECONDS).tick(*made_before, **quiet)
        page.load(*made_before, **quiet)
    return page
