"""The preview page in a real browser without a network: what it shows, and that a prompt stays text."""

import time

import numpy as np
import pytest
import trimesh
from PIL import Image

from threedgen.imaging import find_ffmpeg, save_turntable
from threedgen.mesh import TexturedMesh, write_glb
from threedgen.viewer.preview import write_preview

ORANGE, BLUE = np.array([230, 110, 30]), np.array([40, 80, 210])
PROMPT = "a <b>cat</b><script>window.hacked = 1</script> & \"1\" '2' {{glb}} </title></h1> ${x} 猫"


def ball():
    """Orange in front (+x), blue behind."""
    sphere = trimesh.creation.icosphere(4, radius=0.5)
    vertices = sphere.vertices.astype(np.float32)
    texture = np.zeros((16, 16, 3), np.uint8)
    texture[:, :8], texture[:, 8:] = BLUE, ORANGE
    uvs = np.stack([np.where(vertices[:, 0] > 0, 0.9, 0.1), np.full(len(vertices), 0.5)], -1).astype(np.float32)
    return TexturedMesh(vertices, sphere.faces, vertices * 2, uvs, texture)


@pytest.fixture(scope="module")
def page_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("preview")
    write_glb(ball(), folder / "asset.glb")
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 32, 3)).astype(np.uint8)
    write_preview(
        folder / "preview.html",
        title=PROMPT,
        subtitle="a-run <i>",
        glb=(folder / "asset.glb").read_bytes(),
        turntable=save_turntable(frames, folder),
        views=[("first & last", frames[:4]), ("mesh", frames[:4])],
        facts={"Mesh": {"faces": "5,120", "watertight": "yes"}, "Run": {"seed": "<0>"}},
        settings='prompt: "<b>"\n',
    )
    return folder / "preview.html"


def test_it_is_one_file_that_asks_for_no_other(page_file):
    text = page_file.read_text("utf-8")
    assert "{{" not in text.replace("{{glb}}", "")  # the prompt's own braces, and no forgotten mark
    body = text[: text.index("<script>!function")]  # before the viewer's code
    assert "http" not in body.replace("http-equiv", "") and "default-src 'none'" in body
    assert "sourceMappingURL" not in text
    assert text.count("<script") == 3 and "<script>window.hacked" not in text


@pytest.fixture(scope="module")
def page(page_file, new_page):
    """The page, loaded, in Chromium; without a network. Loading takes seconds: all tests share it."""
    page = new_page(viewport={"width": 900, "height": 600}, offline=True)
    page.goto(f"file://{page_file}")
    wait(page, "document.querySelector('model-viewer').loaded")
    page.evaluate("document.querySelector('model-viewer').autoRotate = false")
    return page


def wait(page, condition):
    """Polled from outside: the page's own policy forbids evaluating text inside it."""
    end = time.monotonic() + 60
    while not page.evaluate(condition):
        assert time.monotonic() < end, condition
        time.sleep(0.1)


def seen_in_the_middle(page, orbit, folder):
    """Mean colour of the middle of the 3D view, looked at from `orbit`; and the colour of its corner."""
    page.evaluate(f"v => {{ v = document.querySelector('model-viewer'); v.cameraOrbit = '{orbit}'; }}")
    page.evaluate("document.querySelector('model-viewer').jumpCameraToGoal()")
    page.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
    time.sleep(0.5)
    page.locator("model-viewer").screenshot(path=folder / "canvas.png")
    image = np.asarray(Image.open(folder / "canvas.png").convert("RGB"), float)
    rows, columns = image.shape[0] // 2, image.shape[1] // 2
    return image[rows - 10 : rows + 10, columns - 10 : columns + 10].mean((0, 1)), image[3, 3]


def test_the_asset_is_seen_in_its_colours_from_both_sides(page, tmp_path):
    for orbit, truth in (("0deg 90deg 200%", ORANGE), ("180deg 90deg 200%", BLUE)):
        color, corner = seen_in_the_middle(page, orbit, tmp_path)
        assert np.abs(color / color.sum() - truth / truth.sum()).max() < 0.1, (color, truth)
        assert 0.6 < color.max() / truth.max() < 1.3  # lit by a neutral room
        assert np.abs(corner - color).max() > 60 and np.ptp(corner) < 12  # around it the page's plain grey
    assert page.errors == []
    assert all(url.split(":")[0] in ("file", "data", "blob") for url in page.asked)
    assert sum(url.startswith("file:") for url in page.asked) == 1


def test_a_prompt_is_shown_as_it_was_typed(page):
    assert page.locator("h1").inner_text() == PROMPT and page.title() == PROMPT
    assert page.evaluate("window.hacked === undefined")
    assert page.locator("pre").text_content() == 'prompt: "<b>"\n'
    assert page.locator("td").all_inner_texts() == ["5,120", "yes", "<0>"]
    assert page.locator("figcaption").all_inner_texts() == ["first & last", "mesh"]


def test_pictures_and_turntable_are_there_and_a_phone_needs_no_sideways_scrolling(page):
    page.set_viewport_size({"width": 375, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    sizes = page.evaluate("[...document.querySelectorAll('figure img')].map(i => [i.naturalWidth, i.naturalHeight])")
    assert sizes == [[128, 32], [128, 32]]
    if find_ffmpeg() is None:
        assert page.evaluate("document.querySelector('img.turntable').naturalWidth") == 32
    else:
        wait(page, "document.querySelector('video').readyState >= 2 || document.querySelector('video').error !== null")
        assert page.evaluate("document.querySelector('video').error === null")
        assert page.evaluate("document.querySelector('video').videoWidth") == 32


def test_nothing_moves_by_itself_where_less_motion_is_asked_for(page_file, new_page):
    page = new_page(viewport={"width": 400, "height": 600}, offline=True, reduced_motion="reduce")
    page.goto(f"file://{page_file}")
    assert page.evaluate("document.querySelector('model-viewer').autoRotate") is False
    assert page.evaluate("[...document.querySelectorAll('video')].every(video => video.paused)")
