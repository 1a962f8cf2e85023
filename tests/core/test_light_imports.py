"""Quick imports in a process of our own, each case in a fresh one: what is left out, and that it still works later."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
NATIVE = ROOT / "threedgen" / "ops" / "native"
LIGHT = """
import sys
from threedgen.core import light_imports
light_imports.own_process()
with light_imports.imports():
    light_imports.import_diffusers()
"""


def run(code: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


@pytest.mark.slow
def test_what_a_generation_imports_and_loads_leaves_out_what_is_slow_and_a_compiler_can_still_come():
    code = f"""{LIGHT}
import threedgen.tasks.sample_views
print([name for name in ("scipy", "xatlas", "embreex", "threedgen.mesh") if name in sys.modules])
import threedgen.tasks.generate, threedgen.tasks.dense_views
from threedgen.config.schema import Config
from threedgen.tasks.prompting import load_prior
load_prior(Config(weights="mini")).encode_text(["a red cat"])
slow = ("torch._dynamo", "sympy", "peft", "accelerate", "transformers")
slow += ("scipy.stats", "scipy.optimize", "trimesh", "matplotlib")
print([name for name in slow if name in sys.modules])
import gc, torch
assert gc.isenabled() and gc.get_freeze_count() > 1000
print(float(torch.compile(lambda x: x + 1, backend="eager")(torch.tensor(2.0))), torch._dynamo.__name__)
"""
    assert run(code).splitlines() == ["[]", "[]", "3.0 torch._dynamo"]


@pytest.mark.slow
def test_the_networks_are_the_same_and_an_adapter_can_be_trained_in_the_same_process(tmp_path):
    """The same numbers with and without, bit for bit; then peft's matrices into the attentions and back from a file."""
    code = """
import torch
from threedgen.diffusion.prior import MultiViewPrior
from threedgen.diffusion.conditions import Conditions
from threedgen.cameras import viewing_cameras
from threedgen.config.scene import CameraConfig
torch.set_num_threads(1)
prior = MultiViewPrior.from_pretrained("mini")
cameras = viewing_cameras(CameraConfig(), [0, 90, 180, 270], 15.0, 64)
noisy = torch.randn(4, 4, 16, 16, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    told = Conditions(prior.encode_text(["a red cat"]), cameras, 4)
    def answer(prior):
        latents = prior.denoise(noisy, torch.tensor(500), told).x0
        return prior.encode_images(prior.decode(latents)).double().sum().item(), latents.double().norm().item()
    print(answer(prior))
"""
    light = f"""{LIGHT}{code}
from threedgen.diffusion.checkpoints.adapters import add_adapter, save_adapter
parts = ("unet", "text_encoder")
before = answer(prior)
torch.manual_seed(0)
add_adapter(prior, 2, parts)
assert answer(prior) == before
trained = [p for n, p in prior.named_parameters() if "lora_" in n]
for parameter in trained:
    parameter.data.add_(0.02)
with torch.no_grad():
    told = Conditions(prior.encode_text(["a red cat"]), cameras, 4)
    changed = answer(prior)
save_adapter(prior, __import__("pathlib").Path({str(tmp_path / "adapter")!r}), "mini", parts, False)
prior = MultiViewPrior.from_pretrained({str(tmp_path / "adapter")!r})
with torch.no_grad():
    told = Conditions(prior.encode_text(["a red cat"]), cameras, 4)
    again = answer(prior)
assert abs(changed[1] - before[1]) > 0.02 and abs(again[1] - changed[1]) < 1e-3, (before, changed, again)
"""
    assert run(light) == run(code)


@pytest.mark.slow
def test_a_program_that_is_not_ours_finds_diffusers_whole():
    code = """
import sys
import threedgen.tasks.sample_views
from diffusers.utils import is_peft_available, is_scipy_available, is_transformers_available
print(is_peft_available(), is_scipy_available(), is_transformers_available(), "torch._dynamo" in sys.modules)
"""
    assert run(code) == "True True True True"


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["raise ImportError", "import torch._dynamo; torch._dynamo.no_such_mark(int)"])
def test_a_version_that_cannot_do_without_is_imported_whole(broken):
    """As if diffusers' UNet needed a package or a part of the compiler that is set aside."""
    code = f"""
import sys, importlib.abc, importlib.machinery
class Needy(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "diffusers.models.unets.unet_2d_condition":
            sys.meta_path.remove(self)
            class Loader(importlib.abc.Loader):
                def exec_module(self, module):
                    exec({broken!r})
            return importlib.machinery.ModuleSpec(name, Loader())
import torch
sys.meta_path.insert(0, Needy())
{LIGHT}
from diffusers import UNet2DConditionModel
from diffusers.utils import is_peft_available
print(is_peft_available(), sys.modules["torch._dynamo"].disable.__module__)
"""
    assert run(code) == "True torch._dynamo.decorators"


@pytest.mark.skipif(any(NATIVE.glob("libthreedgen-*.so")), reason="the package brings its kernels")
def test_kernels_are_compiled_meanwhile_and_a_compiler_that_fails_is_told_to_who_needs_them(tmp_path):
    """A compiler that says when it is asked, and that it cannot: imports go on meanwhile, the reason is not lost."""
    compiler = tmp_path / "compiler"
    compiler.write_text(f"#!/bin/sh\ntouch {tmp_path}/asked\necho no room >&2\nexit 1\n")
    compiler.chmod(0o755)
    code = f"""
import os, sys
os.environ |= {{"XDG_CACHE_HOME": {str(tmp_path / "cache")!r}, "CXX": {str(compiler)!r}}}
from threedgen.core import ahead, light_imports
light_imports.compile_kernels()
ahead.wait(ahead.KERNELS)
print(os.path.exists({str(tmp_path / "asked")!r}))
light_imports.own_process()
light_imports.compile_kernels()
ahead.wait(ahead.KERNELS)
print(os.path.exists({str(tmp_path / "asked")!r}), "torch" in sys.modules)
from threedgen.ops.native import why_not
print("no room" in why_not())
"""
    assert run(code).split() == ["False", "True", "False", "True"]
