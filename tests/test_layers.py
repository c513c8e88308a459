"""Rooms are arranged in layers, and imports only lead down. The source is parsed, not imported.

`python tests/test_layers.py` prints the number of rooms, layers, imports between rooms, and circles.
"""

import ast
from collections import defaultdict
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "sds3d"

LAYERS = [
    {"sds3d", "__main__"},
    {"cli"},
    {"app", "evaluation"},
    {"jobs"},
    {"run"},
    {"generators", "toybox"},
    {"guidance", "representations"},
    {"priors", "formats"},
    {"rendering"},
    {"geometry", "prompts"},
    {"cameras", "console", "devices", "plugins", "presets"},
    {"compiled", "config"},
    {"extras", "files", "garbage", "ramps", "states", "updates", "version"},
]
"""Rooms from the top to the bottom; a room imports only rooms that stand below it."""


def modules() -> dict[str, Path]:
    """Return every module of the package by its dotted name."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports() -> dict[str, set[str]]:
    """Return the modules of the package that each module imports, also within functions and for types."""
    known = modules()
    edges: dict[str, set[str]] = defaultdict(set)
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            wanted = []
            if isinstance(node, ast.Import):
                wanted = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                assert node.level == 0, f"{path}: a relative import"
                wanted = [f"{node.module}.{alias.name}" for alias in node.names]
            for word in wanted:
                target = word if word in known else word.rpartition(".")[0]
                if target in known and target != name:
                    edges[name].add(target)
    return edges


def room(module: str) -> str:
    """Return the room of a module: its folder or single file in the package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def circles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Return groups of several nodes that reach each other (Tarjan, 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in edges.get(node, ()):
            if other not in index:
                visit(other)
            if other in stack:
                low[node] = min(low[node], low[other])
        if low[node] == index[node]:
            group = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for node in list(edges):
        if node not in index:
            visit(node)
    return groups


def rooms() -> dict[str, set[str]]:
    """Return the other rooms that each room imports."""
    edges: dict[str, set[str]] = {room(name): set() for name in modules()}
    for name, targets in imports().items():
        edges[room(name)] |= {room(target) for target in targets} - {room(name)}
    return edges


def test_every_room_has_a_layer():
    assert set(rooms()) == set().union(*LAYERS)


def test_imports_lead_down():
    height = {name: len(LAYERS) - i for i, layer in enumerate(LAYERS) for name in layer}
    wrong = [
        f"{name} imports {target}"
        for name, targets in imports().items()
        for target in targets
        if room(name) != room(target) and height[room(target)] >= height[room(name)]
    ]
    assert not wrong


def test_no_modules_import_each_other():
    # `import sds3d` alone is the package's own front page, which imports lazily.
    edges = {name: targets - {"sds3d"} for name, targets in imports().items()}
    assert circles(edges) == []


def test_a_circle_is_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [["b", "c"]]


if __name__ == "__main__":
    between = rooms()
    floors: dict[str, int] = {}
    while len(floors) < len(between):
        floors |= {n: 1 + max((floors[t] for t in ts), default=0) for n, ts in between.items() if ts <= floors.keys()}
    counts = f"{len(between)} rooms, {max(floors.values())} floors, {sum(map(len, between.values()))} arrows"
    print(f"{counts} between rooms,")
    print(f"{len(modules())} modules, {sum(map(len, imports().values()))} imports, {len(circles(imports()))} circles")
