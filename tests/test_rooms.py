"""The house of `lib`: a room imports only from the floors below it, and nothing else is loose."""

import ast

from lib.paths import REPOSITORY

FLOORS = {
    "geometry": 1,
    "fields": 1,
    "networks": 2,
    "rendering": 2,
    "losses": 3,
    "data": 4,
    "systems": 5,
    "training": 6,
    "evaluation": 6,
    "figures": 7,
    "course": 8,
}
GROUND = {"__init__", "paths", "errors", "files"}  # under every room
LIB = REPOSITORY / "lib"


def imported(path):
    """What of `lib` a file imports, also inside functions and under conditions: (line, names as in "data.loading")."""
    package = path.relative_to(REPOSITORY).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = ".".join(package[: len(package) + 1 - node.level]) + "." if node.level else ""
            module = (start + (node.module or "")).rstrip(".")
            names = [f"lib.{alias.name}" for alias in node.names] if module == "lib" else [module]
        yield from ((node.lineno, name.removeprefix("lib.")) for name in names if name.startswith("lib."))


def test_a_room_imports_only_from_floors_below():
    offenders = []
    for path in sorted(LIB.rglob("*.py")):
        place = path.relative_to(LIB)
        room = place.parts[0] if len(place.parts) > 1 else ""
        for line, name in imported(path):
            other = name.split(".")[0]
            if other == room or other in GROUND or other == "__version__":
                continue
            if FLOORS.get(other, 99) >= FLOORS.get(room, 0):
                offenders.append(f"lib/{place}:{line} imports lib.{name}")
    assert not offenders, "a room imports only from floors below it:\n" + "\n".join(offenders)


def test_nothing_is_loose():
    modules = {path.stem for path in LIB.glob("*.py")}
    rooms = {path.parent.name for path in LIB.glob("*/__init__.py")}
    assert modules == GROUND, f"only these are loose at the top of lib, not {sorted(modules ^ GROUND)}"
    assert rooms == set(FLOORS), f"lib has other rooms than the house: {sorted(rooms ^ set(FLOORS))}"


def test_imports_are_found_wherever_they_stand():
    found = list(imported(LIB / "course" / "run.py"))
    assert "evaluation.results" in [name for _, name in found]  # inside a function
    assert all(name.split(".")[0] in {*FLOORS, *GROUND} for _, name in found)
