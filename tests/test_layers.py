"""The layers of the package: imports point down only, and modules stay small."""

import ast
from pathlib import Path

import pytest

import blur_lightning

ROOT = Path(blur_lightning.__file__).parent
# Lower layers first; the parts of a layer never import one another.
LAYERS = [
    {"errors", "__init__"},
    {"yaml_files"},
    {"images", "parsing", "tiles"},
    {"weights"},
    {
        "blur",
        "blur_estimate",
        "models",
        "boundaries",
        "voc_layout",
        "pair_layouts",
        "png",
        "records",
        "online",
    },
    {"metrics", "image_quality", "report", "starting", "exporting", "resuming", "workers"},
    {"data", "tasks", "photograph", "wild", "sweeps"},
    {"analysis", "batch_norm", "checkpoints", "copies", "tracking"},
    {"trainer", "checkpoint_choice"},
    {"lightning_cli", "downloads"},
    {"doctor"},
    {"cli"},
    {"__main__", "checking"},
]
HEIGHT = {part: height for height, parts in enumerate(LAYERS) for part in parts}
MODULES = sorted(ROOT.rglob("*.py"))


def part(module):
    """Which part of a layer a dotted module is: blur_lightning.data.base -> data."""
    return [*module.split("."), "__init__"][1]


def name(path):
    return ".".join(["blur_lightning", *path.relative_to(ROOT).with_suffix("").parts])


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"{path}: relative import; layers are read from full names")
        elif isinstance(node, ast.ImportFrom):
            # `from package import module` means the module, not what the package exports.
            package = ROOT.parent / Path(*node.module.split("."))
            for alias in node.names:
                is_module = (package / f"{alias.name}.py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_imports_point_down(path):
    own = part(name(path))
    for module in imports(path):
        if module.startswith("blur_lightning.") and part(module) != own:
            assert HEIGHT[part(module)] < HEIGHT[own], f"{name(path)} imports {module}"


def test_no_cycles_inside_a_part():
    graph = {name(path).removesuffix(".__init__"): set(imports(path)) for path in MODULES}

    def visit(module, trail):
        assert module not in trail, " -> ".join([*trail, module])
        for below in graph.get(module, ()):
            visit(below, [*trail, module])

    for module in graph:
        if not module.endswith("__init__"):
            visit(module, [])


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_no_module_is_longer_than_300_lines(path):
    assert len(path.read_text().splitlines()) <= 300


def test_reports_and_records_need_no_torch():
    light = [
        ROOT / f"{module}.py"
        for module in ("blur_estimate", "cli", "copies", "doctor", "downloads")
    ]
    light += [
        ROOT / f"{module}.py"
        for module in ("images", "online", "parsing", "photograph", "resuming")
    ]
    light += [ROOT / f"{module}.py" for module in ("pair_layouts", "starting", "voc_layout")]
    light += [
        ROOT / "workers.py",
        ROOT / "yaml_files.py",
        ROOT / "exporting.py",
        ROOT / "analysis" / "invariance_page.py",
    ]
    for package in ("records", "report", "sweeps", "wild"):
        light += (ROOT / package).glob("*.py")
    for module in light:
        heavy = {"torch", "lightning", "torchvision", "timm"}
        tree = ast.parse(module.read_text())
        at_import = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in at_import for alias in node.names}
        names |= {node.module for node in at_import if isinstance(node, ast.ImportFrom)}
        assert not {n.split(".")[0] for n in names} & heavy, name(module)
