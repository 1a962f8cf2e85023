"""Shared by all tests: the reference implementation's numbers, where they are at hand; programs of `benchmarks/`."""

import importlib.util
import os
import shutil
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # runs would choose their threads by the clock, and bits with them

import pytest
import torch

ROOT = Path(__file__).parent.parent
GOLDENS = ROOT.parent / "shared" / "goldens"


@pytest.fixture(scope="session")
def goldens():
    """The tensors of the reference network, guidance, sampler and cameras; skips where the folder is absent."""
    path = GOLDENS / "golden_mvunet_small.safetensors"
    if not path.exists():
        pytest.skip("the reference implementation's golden numbers are not here")
    from safetensors.torch import load_file

    return load_file(path)


@pytest.fixture(autouse=True)
def threads():
    """As many threads after a test as before it: a run sets its own, and threads of two workers wait for each other."""
    before = torch.get_num_threads()
    yield
    if torch.get_num_threads() != before:
        torch.set_num_threads(before)


@pytest.fixture
def poisoned():
    """New tensors hold nan instead of zeros that happened to lie there: what a kernel forgets to write shows."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.fixture(scope="session")
def load_benchmark():
    """Name of a file of `benchmarks/`, which is no package -> its module."""

    def load(name):
        spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
        module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A fresh current folder, in which a batch's processes run `stand_in.py`; it has a recipe `tiny`."""
    from threedgen.runs import dispatch

    package = tmp_path / "package/threedgen"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").symlink_to(ROOT / "tests/stand_in.py")
    monkeypatch.setattr(dispatch, "PACKAGE_PARENT", package.parent)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.yaml").write_text("steps: 3\n")
    return tmp_path


@pytest.fixture(scope="module")
def new_page():
    """A function that opens a page in Chromium, its context's settings given; what the page asks for is in its
    `asked`, what fails in it in `errors`."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("chromium is not installed")
    flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=flags)

        def opened(**settings):
            page = browser.new_context(**settings).new_page()
            page.asked, page.errors = [], []
            page.on("request", lambda request: page.asked.append(request.url))
            page.on("pageerror", lambda error: page.errors.append(str(error)))
            return page

        yield opened
        browser.close()
