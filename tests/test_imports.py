"""Imports go one way, from the rooms that use to the rooms that are used, and never in a circle.

LEVELS is the one place where the order stands. docs/architecture.md is drawn from it.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the bottom up: a module may import those of its own level and of all levels above it here.
# The longest name that a module's own begins with says where it belongs.
LEVELS: dict[str, list[str]] = {
    "errors": ["tinymixnet.errors", "tinymixnet.engine"],
    "kernels and architecture": [
        "tinymixnet.engine.budget",
        "tinymixnet.engine.files",
        "tinymixnet.engine.kernels",
        "tinymixnet.engine.progress",
        "tinymixnet.engine.architecture",
        "tinymixnet.mixnet",
    ],
    "weights and images": [
        "tinymixnet.engine.explain",
        "tinymixnet.engine.hdf5",
        "tinymixnet.engine.hdf5_structure",
        "tinymixnet.engine.images",
        "tinymixnet.engine.metadata",
        "tinymixnet.engine.network",
        "tinymixnet.engine.photo_files",
        "tinymixnet.engine.pixels",
        "tinymixnet.engine.rgb",
        "tinymixnet.engine.weights",
        "tinymixnet.engine.weights_writer",
    ],
    "fast": ["tinymixnet.fast"],
    # What `evaluate` reads and writes with; the rest of `debug` needs a model.
    "arrays and JSON": [
        "tinymixnet.debug.arrays",
        "tinymixnet.debug.checks",
        "tinymixnet.debug.strict_json",
    ],
    "evaluate": ["tinymixnet.evaluate"],
    "model": ["tinymixnet.model"],
    "debug": ["tinymixnet.debug"],
    "report": ["tinymixnet.report"],
    "command line": [
        "tinymixnet.evaluate.commands",
        "tinymixnet",
        "tinymixnet.cli",
        "tinymixnet.__main__",
    ],
    "weights_tools": ["weights_tools"],
    "around the package": ["benchmarks", "docs", "notebooks", "tests"],
}
# What comes with an extra of setup.cfg, and the modules that import it.
EXTRAS = {
    "tinymixnet.evaluate.cluster": {"distributed"},
    "tinymixnet.evaluate.cluster_worker": {"distributed"},
    "tinymixnet.evaluate.progress": {"tqdm"},
}
FOLDERS = ("tinymixnet", "weights_tools", "benchmarks", "docs", "notebooks", "tests")
LARGEST_TOP = 13  # entries of tinymixnet/ itself


def modules() -> dict[str, Path]:
    """All modules of the repository by full name."""
    paths = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    return {module_name(path): path for path in sorted(paths)}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def level_of(module: str) -> str:
    fits = [
        (len(name), level)
        for level, names in LEVELS.items()
        for name in names
        if module == name or (module.startswith(f"{name}.") and name != "tinymixnet")
    ]
    assert fits, f"{module} has no place in LEVELS"
    return max(fits)[1]


def imports(path: Path, known: dict[str, Path]) -> Iterator[str]:
    """Which of our modules a module imports, wherever: also in functions and for types alone."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import; write the full name"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                module = inner if inner in known else node.module or ""
                if module in known:
                    yield module


def graph() -> dict[str, set[str]]:
    """For each module the modules that it imports."""
    known = modules()
    return {name: {*imports(path, known)} - {name} for name, path in known.items()}


GRAPH = graph()
ORDER = list(LEVELS)


@pytest.mark.parametrize("module", GRAPH)
def test_imports_go_one_way(module: str) -> None:
    here = ORDER.index(level_of(module))
    wrong = [name for name in GRAPH[module] if ORDER.index(level_of(name)) > here]
    assert not wrong, f"{module} ({ORDER[here]}) imports {wrong}, which is further up"


def circle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one circle, or none."""
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> list[str]:
        if module in path:
            return [*path[path.index(module) :], module]
        if module in done:
            return []
        for used in sorted(graph.get(module, ())):
            if found := visit(used, [*path, module]):
                return found
        done.add(module)
        return []

    return next((found for module in sorted(graph) if (found := visit(module, []))), [])


def test_there_is_no_circle() -> None:
    assert circle(GRAPH) == []


def test_a_circle_would_show() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c", "b"]


def test_an_arrow_that_runs_back_up_would_show() -> None:
    path = ROOT / "tests" / "test_imports.py"
    assert "tinymixnet.model" not in {*imports(path, modules())}
    assert ORDER.index(level_of("tinymixnet.debug.compare")) > ORDER.index(
        level_of("tinymixnet.model")
    )


def test_no_import_hides_in_a_string() -> None:
    """Modules that are imported by a computed name would escape the test above."""
    dynamic = {
        name
        for name, path in modules().items()
        if name.startswith(("tinymixnet", "weights_tools"))
        and any(word in path.read_text("utf-8") for word in ("import_module(", "__import__("))
    }
    # The package's face hands out the debugger's modules; the others import other frameworks.
    frameworks = {"extras", "recorders.tensorflow_graphs", "recorders.tflite_files"}
    graphs = ("from_keras", "from_tensorflow", "from_tflite", "tensorflow_safety")
    frameworks |= {f"graphs.{name}" for name in graphs}
    assert dynamic <= {"tinymixnet", *(f"weights_tools.{name}" for name in frameworks)}


def test_the_engine_imports_three_libraries() -> None:
    needed = {"numpy", "PIL", "h5py", "tinymixnet", *sys.stdlib_module_names}
    for name, path in modules().items():
        if not name.startswith("tinymixnet"):
            continue
        allowed = needed | EXTRAS.get(name, set())
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for imported in names:
                assert imported.split(".")[0] in allowed, f"{name} imports {imported}"


def test_the_top_of_the_package_is_short() -> None:
    entries = [
        path.name
        for path in (ROOT / "tinymixnet").iterdir()
        if path.name != "__pycache__" and not path.name.startswith(".")
    ]
    assert len(entries) <= LARGEST_TOP, sorted(entries)
