"""How runs are carried out: the device, several at once, the live view."""

from dataclasses import dataclass
from enum import Enum

from threedgen.config.setting import setting


class DeviceName(Enum):
    auto = "auto"  # cuda if there is one
    cpu = "cpu"
    cuda = "cuda"


class MemoryUse(Enum):
    auto = "auto"  # normal, and low from the first step on that does not fit into a GPU's memory
    normal = "normal"
    low = "low"  # large renders and the VAE's encoder are computed again for their gradients


class PriorPrecision(Enum):
    """Numbers that a prior which is not trained is held and multiplied in."""

    auto = "auto"  # float16 on a GPU, float32 on a CPU: the same from the command line, in Python, on every processor
    float32 = "float32"
    bfloat16 = "bfloat16"  # a sixth less time on a CPU that multiplies it in hardware, see docs/performance.md
    float16 = "float16"


@dataclass
class RuntimeConfig:
    device: DeviceName = setting(DeviceName.auto, incidental=True)
    precision: PriorPrecision = PriorPrecision.auto
    memory: MemoryUse = setting(MemoryUse.auto, incidental=True)
    cuda_graphs: bool = setting(True, incidental=True)  # of the frozen networks' calls, where there is memory for them
    threads: int = setting(0, 0, 1024, incidental=True)  # of a CPU; 0: as many as make steps fastest, by measuring them
    deterministic: bool = False  # on CUDA too the same run gives the same bits, more slowly; a CPU always does


class Executor(Enum):
    """Where the workers of a batch are."""

    processes = "processes"  # on this machine
    ray = "ray"  # tasks on the nodes of a Ray cluster, which see the same files


@dataclass
class BatchConfig:
    """How the runs of `prompts` and `seeds` are carried out."""

    workers: int = setting(0, 0, 1024, incidental=True)  # at once, each a process of its own; 0: one after another here
    timeout: float = setting(0.0, 0, incidental=True)  # minutes after which one is ended, with workers; 0: none
    executor: Executor = setting(Executor.processes, incidental=True)  # of the workers


@dataclass
class ViewerConfig:
    """The scene in a browser while it is optimised; the outcome is the same with and without."""

    enable: bool = setting(False, incidental=True)
    host: str = setting("127.0.0.1", incidental=True)  # another address needs a token
    port: int = setting(8080, 1, 65535, incidental=True)
    token: str = setting("", incidental=True)  # asked for by ?token=... in the address; "": nothing is
    share: float = setting(0.1, 0.001, 0.5, incidental=True)  # of wall time, at most
    size: int = setting(384, 16, 4096, incidental=True)  # pixels of the picture's longer edge
