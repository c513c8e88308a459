"""Libraries that take seconds to import are imported by what needs them, and not when settings are read."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from test_layers import modules
from test_packaging import imported

ROOT = Path(__file__).resolve().parent.parent

NETWORKS = {"accelerate", "diffusers", "peft", "transformers"}
"""Libraries that load networks."""

USERS = {"sds3d.evaluation.prior_speed"} | {f"sds3d.toybox.{name}" for name in (
    "autoencoder", "card", "dataset", "diffusion", "train", "train_condition", "train_light", "train_pictures",
    "train_structure",
)}  # fmt: skip
"""Modules that only training and measuring import."""


def imported_at_once(path: Path) -> set[str]:
    """Return the packages that a module imports when it is imported: outside of functions and `if TYPE_CHECKING`."""
    found = set()
    todo: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            todo += node.orelse
        elif not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            todo += ast.iter_child_nodes(node)
    return found


def test_libraries_of_networks_are_imported_where_networks_are_loaded():
    assert {name for name, path in modules().items() if imported_at_once(path) & NETWORKS} == USERS


def test_imports_are_told_apart(tmp_path: Path):
    file = tmp_path / "some.py"
    file.write_text(
        "import a.b\nfrom c.d import e\nif TYPE_CHECKING:\n    import f\nelse:\n    import g\n"
        "def h():\n    import i\nclass J:\n    import k\ntry:\n    import m\nexcept ImportError:\n    import n\n"
    )
    assert imported_at_once(file) == {"a", "c", "g", "k", "m", "n"}


READ = "from sds3d.run.config import make_config; make_config('a red mug', 'mesh', ['prior.chunk=4'])"
PLAN = "import sds3d.jobs.batch, sds3d.jobs.worker, sds3d.jobs.gallery, sds3d.run.asset, sds3d.run.settings"


OF_SCIPY = {"scipy.ndimage", "scipy.sparse", "scipy.spatial", "scipy.special"}


def imported_by(script: str, watched: set[str]) -> set[str]:
    """Return which of the watched modules a script imports in a process of its own."""
    watch = f"\nimport sys; print(*{watched} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script + watch], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_a_configuration_needs_no_part_of_scipy_and_a_batch_without_a_prior_no_library_of_networks():
    """In one process: `PLAN` imports all that `READ` does."""
    checked = f"{READ}\nimport sys; assert not {OF_SCIPY} & set(sys.modules), set(sys.modules)\n{PLAN}"
    assert imported_by(checked, NETWORKS) == set()


RUN = """
import sds3d
export = {"resolution": 32, "faces": 500, "texture_size": 64, "picture_size": 32, "frames": 4}
for preset in ("toybox", "mesh", "splats"):
    sds3d.generate("a red mug", preset=preset, out="OUT", steps=3, threads=1, cameras={"size": 32}, export=export)
"""
FOR_RUNS = {
    "PIL", "accelerate", "diffusers", "fast_simplification", "huggingface_hub", "imageio_ffmpeg", "llvmlite", "numba",
    "numpy", "peft", "psutil", "pydantic", "rich", "safetensors", "scipy", "skimage", "torch", "transformers",
    "trimesh", "xatlas", "yaml", "zstandard",
}  # fmt: skip
"""What this project may import for a NeRF, a mesh or splats of the embedded prior, exports included."""


@pytest.mark.slow
def test_a_run_imports_only_what_it_needs(tmp_path: Path):
    assert imported_by(RUN.replace("OUT", str(tmp_path)), imported("sds3d")) <= FOR_RUNS


WORKER = """
import os, threading
from pathlib import Path
from sds3d.jobs import supervisor, worker
from sds3d.jobs.worker_settings import WorkerSettings
worker.work = lambda *arguments: None
supervisor._work(Path(), None, "cpu", WorkerSettings(), os.getppid(), threading.Event())
"""


@pytest.mark.slow
def test_a_worker_imports_the_libraries_before_it_waits_for_runs():
    assert {"diffusers", "transformers"} <= imported_by(WORKER, NETWORKS)
