"""The floors of the house: who may import whom. Reads every import under threedgen/, also those inside functions."""

import ast
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# bottom to top; a room imports only from its own floor and those below
FLOORS = ["core", "config", "cameras", "imaging", "ops", "mesh", "data", "scene", "diffusion", "guidance", "metrics"]
FLOORS += ["runs", "viewer", "training", "tasks", "app", "cli", "__main__"]
HEAVY = {"torch", "diffusers", "transformers", "safetensors", "torchvision"}
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "threedgen").rglob("*.py"))
}


def imports(module: str, lazy: bool = True) -> set[str]:
    """Dotted names that `module` imports; without `lazy` only those that run when it is itself imported."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        is_function = isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        is_for_types = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        if not lazy and (is_function or is_for_types):
            return
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports are written in full"
            found.update(n if n in FILES else node.module for a in node.names for n in [f"{node.module}.{a.name}"])
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(FILES[module].read_text("utf-8")))
    return found


def reached(module: str, lazy: bool) -> set[str]:
    """Everything imported by importing `module`, through all modules of threedgen and their packages."""
    seen, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            if name in FILES:
                todo += imports(name, lazy) | ({name.rpartition(".")[0]} - {""})
    return seen


def rooms(names: set[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("threedgen.")}


@pytest.mark.parametrize("module", [name for name in FILES if "." in name])
def test_floors(module):
    room = module.split(".")[1]
    above = FLOORS[FLOORS.index(room) + 1 :]
    names = imports(module)
    assert not rooms(names) & set(above), f"{module} imports from a floor above it"
    if room in ("diffusion", "guidance"):
        assert "scene" not in rooms(names)
    if room == "scene":
        assert not any(name.split(".")[0] == "diffusers" for name in names)


# within a room with folders of its own, bottom to top; files beside the folders stand above them
INNER = {"diffusion": ["schedule", "text", "formats", "networks", "checkpoints"]}


@pytest.mark.parametrize("room", INNER)
def test_inner_floors(room):
    for module in FILES:
        _, own, *rest = [*module.split("."), ""]
        if own != room or rest[0] not in INNER[room]:
            continue
        below = INNER[room][: INNER[room].index(rest[0]) + 1]
        for name in imports(module):
            parts = name.split(".")
            if name in FILES and parts[:2] == ["threedgen", room]:
                assert parts[2] in below, f"{module} imports {name} from a floor above it"


def no_circle(graph: dict[str, set[str]]) -> None:
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, [*path, name])
            done.add(name)

    for name in graph:
        visit(name, [])


def test_no_file_imports_itself_through_others():
    no_circle({module: {name for name in imports(module) if name in FILES and name != module} for module in FILES})


PACKAGES = [name for name, path in FILES.items() if path.name == "__init__.py"]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_room_imports_itself_through_others(package):
    """What stands in a folder, each folder in it as one: in threedgen/tasks those of `training` and every verb."""
    depth = package.count(".") + 2

    def inside(names: Iterable[str]) -> set[str]:
        return {".".join(name.split(".")[:depth]) for name in names if name in FILES and name.startswith(f"{package}.")}

    graph: dict[str, set[str]] = {name: set() for name in inside(FILES)}
    for module in FILES:
        for own in inside([module]):
            graph[own] |= inside(imports(module)) - {own}
    no_circle(graph)


def test_no_folder_is_full():
    for folder in {path.parent for path in FILES.values()}:
        files = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(files) <= 14, f"{folder} holds {len(files)} files: {', '.join(sorted(files))}"


@pytest.mark.parametrize(
    "module", ["threedgen.cli", "threedgen.config.load", "threedgen.config.schema", "threedgen.app.page"]
)
def test_the_command_line_starts_without_torch(module):
    assert not {name.split(".")[0] for name in reached(module, lazy=False)} & HEAVY


def test_settings_are_imported_from_the_file_of_their_theme():
    schema = "threedgen.config.schema"
    own = {getattr(node, "name", "DRAWING") for node in ast.parse(FILES[schema].read_text("utf-8")).body}
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == schema:
                others = {alias.name for alias in node.names} - own
                assert not others, f"{module} imports {others} from {schema}, which only puts them together"


def test_miniworld_is_numpy_only():
    modules = [name for name in FILES if name.startswith("threedgen.data.miniworld")]
    assert modules
    for module in modules:
        assert not {name.split(".")[0] for name in reached(module, lazy=False)} & HEAVY
