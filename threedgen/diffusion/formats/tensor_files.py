"""Tensors in files, read one by one, and matched by name and shape with the module that they are for.

A model never stands in memory twice: modules are built on the meta device, and each tensor is read, converted and
assigned (or written) on its own.
"""

import json
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from threedgen.core.errors import ThreedgenError

NAMED_IN_ERRORS = 5
_BEFORE_ZIP = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # how torch's files began until 2020
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_DTYPES |= {"I64": torch.int64}  # of buffers; weights are of the four above


class _NothingDrawn(TorchFunctionMode):
    """Normal numbers stay undrawn."""

    def __torch_function__(
        self, func: Callable[..., Any], types: object, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (nn.init.normal_, Tensor.normal_):
            return next(iter((*args, *kwargs.values())))
        return func(*args, **kwargs)


@contextmanager
def on_meta() -> Iterator[None]:
    """What is built meanwhile stands on the meta device: shapes without numbers, of which none are drawn either.

    (For normal numbers without numbers torch would import its compiler, which takes a second.)
    """
    with torch.device("meta"), _NothingDrawn():
        yield


class StoredTensor(NamedTuple):
    """A tensor that is not read yet."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]


class Source(NamedTuple):
    """Where a module's tensor comes from."""

    key: str
    third: int | None = None  # one third of its rows: q, k and v are stacked in the file
    unit_axes: int = 0  # a linear layer that the file holds as a convolution of size 1 over so many axes

    def stored_shape(self, shape: torch.Size) -> tuple[int, ...]:
        """The shape in the file of a tensor that has `shape` in the module."""
        own = (*shape, *(1,) * self.unit_axes)
        return own if self.third is None else (3 * own[0], *own[1:])


def stored_tensors(tensors: Mapping[str, Tensor]) -> dict[str, StoredTensor]:
    """Tensors that are in memory already, as if they were in a file."""
    return {
        key: StoredTensor(tuple(tensor.shape), tensor.dtype, partial(_itself, tensor))
        for key, tensor in tensors.items()
    }


def _itself(tensor: Tensor) -> Tensor:
    return tensor


def open_tensors(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a `.safetensors` file or of a torch checkpoint (a dictionary, or one under "state_dict").

    Torch checkpoints are unpickled without running code (`weights_only`), and mapped into memory but for those of the
    format before torch 1.6.
    Raises ThreedgenError if the file is neither, is cut off, or holds anything but tensors.
    """
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    is_zip = zipfile.is_zipfile(path)
    if not is_zip and not _begins_with(path, _BEFORE_ZIP):
        raise ThreedgenError(f"{path} is no checkpoint that can be read: not a .safetensors or torch file, or cut off")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
    except pickle.UnpicklingError as error:
        raise ThreedgenError(
            f"{path} is refused: besides tensors it holds Python objects, which could run code when they are loaded"
        ) from error
    except Exception as error:  # of a file that is cut off torch reads on, into whatever error comes first
        raise ThreedgenError(f"{path} cannot be read as a torch checkpoint: it is damaged or something else") from error
    if isinstance(loaded, dict):
        loaded = loaded.get("state_dict", loaded)
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise ThreedgenError(f"{path} is no checkpoint: it must hold named tensors and nothing else")
    return stored_tensors(loaded)


def _begins_with(path: Path, expected: bytes) -> bool:
    with open(path, "rb") as file:
        return file.read(len(expected)) == expected


def _open_safetensors(path: Path) -> dict[str, StoredTensor]:
    try:
        # pread, not a memory map: pages of a map count as this process's memory for as long as it is open
        file = safe_open(path, framework="pt", backend="pread")
        slices = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)
        return {
            key: StoredTensor(tuple(part.get_shape()), _DTYPES[part.get_dtype()], partial(file.get_tensor, key))
            for key, part in slices.items()
        }
    except KeyError as error:
        raise ThreedgenError(f"{path} holds numbers of type {error}, which no model here has") from error
    except (SafetensorError, OSError) as error:
        raise ThreedgenError(f"{path} cannot be read: it is no .safetensors file, or it is cut off") from error


def check_keys(tensors: Mapping[str, StoredTensor], expected: Mapping[str, tuple[int, ...]], where: str) -> None:
    """Raise ThreedgenError, naming the first keys of each kind, unless keys and shapes are those expected."""
    wrong = (key for key, shape in expected.items() if key in tensors and tensors[key].shape != shape)
    problems = [
        listed("missing", (key for key in sorted(expected) if key not in tensors)),
        listed("not known", (key for key in tensors if key not in expected)),
        listed("of another shape", (f"{k} {list(tensors[k].shape)} instead of {list(expected[k])}" for k in wrong)),
    ]
    if any(problems):
        raise ThreedgenError(f"{where}: {'; '.join(filter(None, problems))}")


_Module = TypeVar("_Module", bound=nn.Module)


class MatchedTensors(Generic[_Module]):
    """The tensors of a file under the names of a module; every one is there, fits, and none is left over."""

    def __init__(
        self,
        module: _Module,
        sources: Mapping[str, Source],
        tensors: Mapping[str, StoredTensor],
        where: str,
        unused: Mapping[str, tuple[int, ...]] | None = None,
    ) -> None:
        """module: may be on the meta device; sources: for each name of its state_dict; unused: keys and shapes of
        what the file holds although the module does without.

        Raises ThreedgenError naming the first keys that are missing, not known, or of another shape.
        """
        self.module, self.tensors, self.where = module, tensors, where
        self.sources = {name: sources[name] for name in module.state_dict()}
        shapes = {self.sources[name]: value.shape for name, value in module.state_dict().items()}
        self.used = {source.key: source.stored_shape(shape) for source, shape in shapes.items()}  # keys and shapes
        check_keys(tensors, {**self.used, **(unused or {})}, where)
        weights = set(_DTYPES.values()) - {torch.int64}
        if odd := listed(
            "of a number type that weights do not have", (k for k in self.used if tensors[k].dtype not in weights)
        ):
            raise ThreedgenError(f"{where}: {odd}")

    def read(self, name: str, dtype: torch.dtype | None, device: torch.device | str = "cpu") -> Tensor:
        """One tensor under the module's own name; dtype None leaves it as it is in the file."""
        key, third, _ = self.sources[name]
        value = self.tensors[key].read()
        if third is not None:
            value = value.chunk(3)[third]
        converted = value.reshape(self.module.get_parameter(name).shape).to(device=device, dtype=dtype)
        if converted.dtype == torch.float16 != value.dtype and not torch.stack(converted.aminmax()).isfinite().all():
            raise ThreedgenError(f"{self.where}: {key} has values beyond float16's range; bfloat16 holds them")
        return converted

    def fill(self, dtype: torch.dtype | None = None, device: torch.device | str = "cpu") -> None:
        """Give the module its tensors, without a copy where dtype and device are the file's."""
        self.module.load_state_dict({name: self.read(name, dtype, device) for name in self.sources}, assign=True)
        nn.Module.to(self.module, device)  # buffers that no file holds

    def save(self, path: Path, dtype: torch.dtype | None = None, prefix: str = "") -> None:
        """Write the tensors under the module's names to a `.safetensors` file, one by one.

        (The library's own writer wants all of them in memory; the format is a header in JSON and the plain numbers.)
        """
        names = {torch_dtype: name for name, torch_dtype in _DTYPES.items()}
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        position = 0
        for name, source in self.sources.items():
            shape, number = self.module.get_parameter(name).shape, dtype or self.tensors[source.key].dtype
            size = shape.numel() * number.itemsize
            offsets = [position, position + size]
            header[prefix + name] = {"dtype": names[number], "shape": list(shape), "data_offsets": offsets}
            position += size
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of 8
        with open(path, "wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for name in self.sources:
                file.write(self.read(name, dtype).contiguous().flatten().view(torch.uint8).numpy().data)


def listed(what: str, keys: Iterable[str]) -> str:
    """For instance "7 keys missing (a, b, c, d, e, ...)"; nothing where there are none."""
    found = list(keys)
    if not found:
        return ""
    names = ", ".join(found[:NAMED_IN_ERRORS]) + (", ..." if len(found) > NAMED_IN_ERRORS else "")
    return f"{len(found)} {'key' if len(found) == 1 else 'keys'} {what} ({names})"
