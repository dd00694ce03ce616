"""Tests of mmmetaformer.check_env: no failure has to be provoked in a real environment."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmmetaformer import check_env, stacks
from mmmetaformer.stacks import STACKS

ROOT = Path(__file__).resolve().parent.parent
MODULES = check_env.STACK_MODULES + check_env.OWN_MODULES
PINS = STACKS["openmmlab"].constraints
NUMPY_FIX = f"pip install --force-reinstall -c {PINS} numpy opencv-python pycocotools"
TORCHVISION_FIX = 'pip install --force-reinstall --no-deps "torchvision==0.26.*"'

# What a traceback ends in, and the command that mends it.
KNOWN = [
    ("No module named 'pkg_resources'", 'pip install "setuptools<81"'),
    ("No module named 'torch'", f"pip install -c {PINS} torch"),
    ("operator torchvision::nms does not exist", TORCHVISION_FIX),
    ("OSError: /x/torchvision/_C.so: undefined symbol: _ZN3c10", TORCHVISION_FIX),
    ("Couldn't load custom C++ ops", TORCHVISION_FIX),
    ("No module named 'torchvision'", 'pip install --no-deps "torchvision==0.26.*" pillow'),
    ("AssertionError: MMCV==2.2.0 is used but incompatible.", check_env.BUILD_MMCV),
    ("MMEngine==0.4.0 is used but incompatible.", f"pip install -c {PINS} mmengine"),
    ("No module named 'mmcv'", check_env.BUILD_MMCV),
    ("No module named 'mmcv._ext'", check_env.BUILD_MMCV),
    ("/x/mmcv/_ext.cpython-311.so: undefined symbol: _ZNK3c105E", check_env.BUILD_MMCV),
    ("importing mmcv.ops ended the process (-11)", check_env.BUILD_MMCV),
    (
        'File "/x/mmcv/ops/__init__.py"\nImportError: libcudart.so.11.0: cannot open shared object '
        "file: No such file",
        check_env.BUILD_MMCV,
    ),
    ("No module named 'ftfy'", f"pip install -c {PINS} ftfy"),
    (
        "cannot import name 'x' from 'transformers.modeling_utils'",
        "pip install transformers==4.46.3",
    ),
    (
        'File "/x/site-packages/transformers/utils/import_utils.py", line 1\nAttributeError: y',
        "pip install transformers==4.46.3",
    ),
    (
        "ImportError: libGL.so.1: cannot open shared object file: No such file or directory",
        "pip uninstall -y opencv-python && "
        "pip install --force-reinstall --no-deps opencv-python-headless",
    ),
    ("ValueError: numpy.dtype size changed, may indicate binary incompatibility.", NUMPY_FIX),
    ("AttributeError: _ARRAY_API not found", NUMPY_FIX),
    ("ImportError: numpy.core.multiarray failed to import", NUMPY_FIX),
    ("No module named 'mmdet'", f"pip install -c {PINS} mmdet"),
    ("No module named 'mmseg.models'", f"pip install -c {PINS} mmsegmentation"),
    ("No module named 'cv2'", f"pip install -c {PINS} opencv-python"),
]


@pytest.mark.parametrize("text, fix", KNOWN)
def test_known_failure_gives_its_fix(text, fix):
    assert check_env.diagnose(text, STACKS["openmmlab"], "2.11.0+cu130")[1] == fix


def test_every_row_of_the_table_is_reached():
    """A row that an earlier one hides would never help anybody."""
    reached = {check_env.diagnose(text, STACKS["openmmlab"])[0] for text, _ in KNOWN}
    assert reached == {cause for _, cause, _ in check_env.KNOWN_FAILURES}


@pytest.mark.parametrize(
    "text",
    [
        "RuntimeError: something new",
        "No module named 'torchfoo'",
        'File "/home/me/transformers/x.py"\nKeyError: 1',
        "ImportError: /x/other.so: undefined symbol: abc",
        "importing mmdet.models ended the process (-11)",
    ],
)
def test_unknown_failure_is_not_guessed_at(text):
    assert check_env.diagnose(text, STACKS["openmmlab"]) is None


@pytest.mark.parametrize(
    "torch, torchvision",
    [("2.1.0", "0.16.*"), ("2.13.0+cpu", "0.28.*"), (None, "0.26.0")],
)
def test_torchvision_belongs_to_torch(torch, torchvision):
    _, fix = check_env.diagnose("No module named 'torchvision'", STACKS["openmmlab"], torch)
    assert fix == f'pip install --no-deps "torchvision=={torchvision}" pillow'


@pytest.mark.parametrize(
    "module, package", [("mmseg", "onedl-mmsegmentation"), ("mmdet", "onedl-mmdetection")]
)
def test_a_fix_names_the_packages_of_the_stack(module, package):
    stack = STACKS["onedl"]
    _, fix = check_env.diagnose(f"No module named '{module}'", stack)
    assert fix == f"pip install -c {stack.constraints} {package}"


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command line on imports and facts that the test gives: exit status, output."""
    facts = {"torch": "2.11.0", "cuda": "13.0", "gpus": [], "mmcv_cuda": "not available"}
    monkeypatch.setattr(check_env, "NVIDIA_DEVICE", "/nowhere")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def run(*argv, errors=None, **changes):
        monkeypatch.setattr(
            check_env,
            "import_modules",
            lambda names: (dict.fromkeys(names) | (errors or {}), facts | changes),
        )
        return check_env.main(argv), capsys.readouterr().out

    return run


def test_report_when_all_works(run):
    status, out = run()
    assert status == 0
    assert out.endswith("everything needed works\n")
    rows = dict(re.split(r" {2,}", line, maxsplit=1) for line in out.splitlines()[:-1])
    assert rows["stack"].startswith(f"{stacks.choose_stack().name} ")
    assert rows["python"].startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.")
    mmcv = stacks.choose_stack().distributions["mmcv"]
    assert {"torch", mmcv, "numpy", "CUDA of torch"} <= rows.keys()
    assert rows["GPU"] == "none: the CPU is used"
    assert [rows[f"import {name}"] for name in MODULES] == ["ok"] * len(MODULES)
    assert run("--quiet") == (0, "")


@pytest.mark.parametrize("broken", MODULES)
def test_each_module_is_needed(run, broken):
    status, out = run(errors={broken: "Traceback\n  File x\nKeyError: 'surprise'\n"})
    assert status == 1
    assert re.search(rf"^import {broken} +FAILED$", out, flags=re.M)
    assert f"ERROR: {broken}: KeyError: 'surprise'\n" in out
    assert f"see python -c 'import {broken}'" in out
    assert "everything" not in out


def test_fix_of_two_failures_is_printed_once(run):
    text = "ModuleNotFoundError: No module named 'mmcv._ext'"
    status, out = run("--quiet", errors={"mmcv.ops": text, "mmdet.models": text})
    assert status == 1
    assert out.count("ERROR: ") == 2
    assert out.count(f"fix: {check_env.BUILD_MMCV}") == 1
    assert out.endswith("same fix as above\n")


@pytest.mark.parametrize(
    "stack, version, status",
    [
        ("openmmlab", (3, 9), 1),
        ("openmmlab", (3, 10), 0),
        ("openmmlab", (3, 13), 1),
        ("onedl", (3, 13), 0),
        ("onedl", (3, 14), 1),
    ],
)
def test_python_version(run, monkeypatch, stack, version, status):
    monkeypatch.setenv("STACK", stack)
    monkeypatch.setattr(sys, "version_info", version)
    done, out = run("--quiet")
    assert (done, f"The packages of {stack} need Python 3.10 to 3.1" in out) == (status, status > 0)


def test_packages_of_both_stacks_are_one_error(run, monkeypatch):
    """The fix keeps the stack of which more is there."""
    there = {"mmengine": "0.10.7", "mmdet": "3.3.0", "onedl-mmcv": "2.3.6"}
    for module in (stacks, check_env):
        monkeypatch.setattr(module, "installed_version", there.get)
    status, out = run("--quiet")
    assert status == 1
    (error,) = re.findall("^ERROR: (.*)", out, re.M)
    assert error == (
        "two stacks are installed, of openmmlab: mmengine 0.10.7, mmdet 3.3.0; "
        "of onedl: onedl-mmcv 2.3.6"
    )
    assert (
        f"pip uninstall -y mmengine mmdet onedl-mmcv; pip install -c {PINS} mmengine mmdet" in out
    )
    assert out.endswith(f"{check_env.BUILD_MMCV}\n")


def test_pkg_resources_is_needed_by_the_original_stack_only(monkeypatch):
    asked = []
    monkeypatch.setattr(
        check_env, "import_modules", lambda names: asked.append(names) or (dict.fromkeys(names), {})
    )
    for name in STACKS:
        monkeypatch.setenv("STACK", name)
        check_env.main(["--quiet"])
    assert ["pkg_resources" in names for names in asked] == [True, False]


def test_unknown_stack_is_one_sentence(run, monkeypatch):
    monkeypatch.setenv("STACK", "mmlab")
    assert run() == (1, "ERROR: STACK=mmlab: expected one of openmmlab, onedl\n")


@pytest.mark.parametrize(
    "mmcv_cuda, warns", [("not available", True), ("13.0", False)], ids=["cpu", "cuda"]
)
def test_cpu_operators_on_a_gpu_are_a_warning(run, mmcv_cuda, warns):
    status, out = run("--quiet", gpus=["Some GPU"], mmcv_cuda=mmcv_cuda)
    assert status == 0
    assert out.startswith("WARNING: mmcv.ops has CPU operators only") == warns
    assert (f"fix: export FORCE_CUDA=1; {check_env.BUILD_MMCV}" in out) == warns


@pytest.mark.parametrize("visible, warns", [("0", True), ("", False), ("-1", False)])
def test_gpu_that_torch_does_not_see_is_a_warning(run, monkeypatch, tmp_path, visible, warns):
    monkeypatch.setattr(check_env, "NVIDIA_DEVICE", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    status, out = run("--quiet")
    assert status == 0
    assert out.startswith("WARNING: torch does not see the GPU") == warns


def test_imports_that_raise_or_end_the_process(tmp_path, monkeypatch):
    programs = {
        "probe_raises": "raise AssertionError('MMCV==9 is used but ...')",
        "probe_dies": "import os, signal\nos.kill(os.getpid(), 11)",
        "probe_exits": "raise SystemExit(0)",
        "probe_leaves": "import os\nos._exit(3)",
        "probe_good": "print('noise on stdout')",
    }
    for name, program in programs.items():
        (tmp_path / f"{name}.py").write_text(program)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    errors, facts = check_env.import_modules(list(programs))
    assert list(errors) == list(programs)
    assert "AssertionError: MMCV==9" in errors["probe_raises"]
    assert "importing probe_dies ended the process (-11)" in errors["probe_dies"]
    assert "SystemExit" in errors["probe_exits"]
    assert "importing probe_leaves ended the process (3)" in errors["probe_leaves"]
    assert errors["probe_good"] is None
    assert facts == {}


def test_facts_come_from_torch_and_mmcv(tmp_path, monkeypatch):
    (tmp_path / "torch.py").write_text(
        "from types import SimpleNamespace as N\n__version__ = '2.11.0'\n"
        "version = N(cuda='13.0')\ncuda = N(is_available=lambda: True, device_count=lambda: 1, "
        "get_device_name=lambda i: f'GPU {i}')\n"
    )
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv/__init__.py").write_text("")
    (tmp_path / "mmcv/ops.py").write_text("def get_compiling_cuda_version():\n    return '13.0'\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    errors, facts = check_env.import_modules(["torch", "mmcv.ops"])
    assert errors == {"torch": None, "mmcv.ops": None}
    assert facts == {"torch": "2.11.0", "cuda": "13.0", "gpus": ["GPU 0"], "mmcv_cuda": "13.0"}


def test_runs_without_any_package(tmp_path):
    """The module alone, with the standard library only, reports all as missing."""
    package = tmp_path / "mmmetaformer"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name in ("check_env.py", "stacks.py"):
        (package / name).write_text((ROOT / "mmmetaformer" / name).read_text())
    shutil.copytree(ROOT / "mmmetaformer/constraints", package / "constraints")
    # An environment without packages: -I leaves out variables, the folder is added by hand.
    program = (
        "import sys; sys.path.insert(0, '.'); import mmmetaformer.check_env as c; "
        "c.PROBE = 'import sys; sys.path = [p for p in sys.path if \"-packages\" not in p]' "
        "+ c.PROBE; sys.exit(c.main(['--quiet']))"
    )
    done = subprocess.run(
        [sys.executable, "-SI", "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (1, "")
    assert "ERROR: torch: ModuleNotFoundError: No module named 'torch'" in done.stdout
    pins = package / "constraints/openmmlab.txt"
    assert f"fix: pip install -c {pins} torch\n" in done.stdout
