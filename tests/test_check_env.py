"""Tests of mmmetaformer.check_env: no known failure has to be provoked in a real environment."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mmmetaformer import check_env
from mmmetaformer.check_env import State, diagnose, evaluate

ROOT = Path(__file__).resolve().parent.parent
VERSIONS = {"torch": "2.11.0+cu130", "mmcv": "2.1.0", "setuptools": "80.10.2"}

# What was imported, the last line of what it raised, the key part of the command that mends it.
KNOWN = {
    "setuptools 82": (
        "pkg_resources",
        "ModuleNotFoundError: No module named 'pkg_resources'",
        'pip install "setuptools<81"',
    ),
    "no torch": (
        "torch",
        "ModuleNotFoundError: No module named 'torch'",
        "pip install torch==2.11.0 torchvision==0.26.0",
    ),
    "torchvision of another torch": (
        "mmpretrain.models",
        "RuntimeError: operator torchvision::nms does not exist",
        'pip install --force-reinstall --no-deps "torchvision==0.26.*"',
    ),
    "torchvision library of another torch": (
        "torchvision",
        "OSError: /x/torchvision/_C.so: undefined symbol: _ZN3c104cuda9SetDeviceEab",
        'pip install --force-reinstall --no-deps "torchvision==0.26.*"',
    ),
    "no torchvision": (
        "mmpretrain.models",
        "ModuleNotFoundError: No module named 'torchvision'",
        'pip install --no-deps "torchvision==0.26.*" pillow',
    ),
    "mmcv 2.2": (
        "mmdet.models",
        "AssertionError: MMCV==2.2.0 is used but incompatible. "
        "Please install mmcv>=2.0.0rc4, <2.2.0.",
        check_env.BUILD_MMCV,
    ),
    "mmengine too old": (
        "mmseg.models",
        "AssertionError: MMEngine==0.4.0 is used but incompatible. "
        "Please install mmengine>=0.5.0, <1.0.0.",
        'pip install "mmengine>=0.10.3,<1"',
    ),
    "mmcv-lite": (
        "mmcv.ops",
        "ModuleNotFoundError: No module named 'mmcv._ext'",
        check_env.BUILD_MMCV,
    ),
    "mmcv of another torch": (
        "mmcv.ops",
        "ImportError: /x/mmcv/_ext.cpython-311-x86_64-linux-gnu.so: undefined symbol: _ZNK3c105E",
        check_env.BUILD_MMCV,
    ),
    "mmcv of another torch, seen by mmdet": (
        "mmdet.models",
        "ImportError: /x/mmcv/_ext.cpython-311-x86_64-linux-gnu.so: undefined symbol: _ZNK3c105E",
        check_env.BUILD_MMCV,
    ),
    "mmcv of a CUDA that is gone": (
        "mmcv.ops",
        'File "/x/mmcv/ops/__init__.py"\n'
        "ImportError: libcudart.so.11.0: cannot open shared object file: No such file",
        check_env.BUILD_MMCV,
    ),
    "no mmcv": ("mmcv.ops", "ModuleNotFoundError: No module named 'mmcv'", check_env.BUILD_MMCV),
    "mmcv kills Python": (
        "mmcv.ops",
        "ImportError: the import ended the process (signal SIGSEGV)",
        check_env.BUILD_MMCV,
    ),
    "no ftfy": (
        "mmseg.models",
        "ModuleNotFoundError: No module named 'ftfy'",
        "pip install ftfy regex",
    ),
    "no regex": (
        "mmseg.models",
        "ModuleNotFoundError: No module named 'regex'",
        "pip install ftfy regex",
    ),
    "transformers 4.57": (
        "mmpretrain.models",
        "ImportError: cannot import name 'apply_chunking_to_forward' from "
        "'transformers.modeling_utils' (/x/site-packages/transformers/modeling_utils.py)",
        "pip install transformers==4.46.3",
    ),
    "transformers 5": (
        "mmpretrain.models",
        'File "/x/site-packages/transformers/utils/import_utils.py", line 1\n'
        "AttributeError: module has no attribute 'x'",
        "pip install transformers==4.46.3",
    ),
    "no libGL": (
        "mmcv.ops",
        "ImportError: libGL.so.1: cannot open shared object file: No such file or directory",
        "pip uninstall -y opencv-python && pip install --force-reinstall --no-deps "
        "opencv-python-headless",
    ),
    "NumPy ABI, pycocotools": (
        "mmdet.models",
        "ValueError: numpy.dtype size changed, may indicate binary incompatibility. Expected 96",
        "pip install --force-reinstall -c constraints.txt numpy opencv-python pycocotools",
    ),
    "NumPy ABI, OpenCV": (
        "mmcv.ops",
        "AttributeError: _ARRAY_API not found",
        "pip install --force-reinstall -c constraints.txt numpy opencv-python pycocotools",
    ),
    "no mmdet": (
        "mmdet.models",
        "ModuleNotFoundError: No module named 'mmdet'",
        "pip install -c constraints.txt mmdet",
    ),
    "no pycocotools": (
        "mmdet.models",
        "ModuleNotFoundError: No module named 'pycocotools'",
        "pip install -c constraints.txt pycocotools",
    ),
    "no mmseg": (
        "mmseg.models",
        "ModuleNotFoundError: No module named 'mmseg'",
        "pip install -c constraints.txt mmsegmentation",
    ),
    "no cv2": (
        "mmcv.ops",
        "ModuleNotFoundError: No module named 'cv2'",
        "pip install -c constraints.txt opencv-python",
    ),
}


def good_state(**changes) -> State:
    """A state in which everything works, with what a test changes."""
    probes = check_env.STACK_PROBES + check_env.OWN_PROBES
    facts = dict(
        python=(3, 11, 7),
        versions=dict(VERSIONS),
        errors=dict.fromkeys(probes),
        torch={"version": "2.11.0+cu130", "cuda": "13.0", "cuda_available": False, "gpus": []},
        mmcv_cuda="not available",
    )
    return State(**{**facts, **changes})


GPU_TORCH = {
    "version": "2.11.0+cu130",
    "cuda": "13.0",
    "cuda_available": True,
    "gpus": [{"name": "Some GPU", "memory_gib": 24.0}],
}


@pytest.mark.parametrize("case", KNOWN)
def test_known_failure_gives_its_command(case):
    name, text, command = KNOWN[case]
    fix = diagnose(name, text, VERSIONS)
    assert fix is not None
    assert fix.command == command
    assert fix.cause.endswith(".")


def test_every_row_of_the_table_is_reached():
    """A row that an earlier one hides would never help anybody."""
    reached = {diagnose(name, text, VERSIONS).cause for name, text, _ in KNOWN.values()}
    assert reached == {known.cause for known in check_env.KNOWN_FAILURES}


@pytest.mark.parametrize(
    "name, text",
    [
        ("mmdet.models", "RuntimeError: something new"),
        ("mmcv.ops", "ModuleNotFoundError: No module named 'torchfoo'"),
        ("mmpretrain.models", 'File "/home/me/transformers/x.py"\nKeyError: 1'),
        ("mmmetaformer", "ImportError: /x/other.so: undefined symbol: abc"),
    ],
)
def test_unknown_failure_is_not_guessed_at(name, text):
    assert diagnose(name, text, VERSIONS) is None


@pytest.mark.parametrize(
    "torch_version, expected",
    [("2.1.0", "0.16.*"), ("2.11.0+cu130", "0.26.*"), ("2.13.0+cpu", "0.28.*"), (None, "0.26.0")],
)
def test_matching_torchvision(torch_version, expected):
    assert check_env.matching_torchvision(torch_version) == expected


def test_commands_name_the_pinned_versions():
    pins = dict(
        re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "constraints.txt").read_text(), flags=re.M)
    )
    assert f"mmcv=={pins['mmcv']}" in check_env.BUILD_MMCV
    assert check_env.INSTALL_TORCH == (
        f"pip install torch=={pins['torch']} torchvision=={pins['torchvision']}"
    )
    assert "FORCE_CUDA=1" in check_env.BUILD_MMCV_CUDA


def test_no_problem_when_all_works():
    assert evaluate(good_state()) == []


@pytest.mark.parametrize("python, bad", [((3, 9, 1), 1), ((3, 10, 0), 0), ((3, 13, 0), 1)])
def test_python_range(python, bad):
    assert [p.name for p in evaluate(good_state(python=python))] == ["python"] * bad


def test_shared_cause_is_printed_once(monkeypatch, capsys):
    state = good_state()
    for name in ("mmcv.ops", "mmdet.models"):
        state.errors[name] = "ModuleNotFoundError: No module named 'mmcv._ext'"
    monkeypatch.setattr(check_env, "collect", lambda probes: state)
    assert check_env.main(["--quiet"]) == 1
    out = capsys.readouterr().out
    assert out.count("fix:") == 1
    assert out.count("ERROR:") == 2
    assert "Same cause as above." in out


def test_unknown_failure_shows_its_last_line(monkeypatch, capsys):
    state = good_state()
    state.errors["mmseg.models"] = "Traceback\n  File x\nKeyError: 'surprise'\n"
    monkeypatch.setattr(check_env, "collect", lambda probes: state)
    assert check_env.main(["--quiet"]) == 1
    out = capsys.readouterr().out
    assert "ERROR: mmseg.models: KeyError: 'surprise'" in out
    assert "import mmseg.models" in out


@pytest.mark.parametrize("broken", check_env.STACK_PROBES + check_env.OWN_PROBES)
def test_each_probe_is_needed(monkeypatch, capsys, broken):
    state = good_state()
    state.errors[broken] = "RuntimeError: broken"
    monkeypatch.setattr(check_env, "collect", lambda probes: state)
    assert check_env.main([]) == 1
    assert f"ERROR: {broken}: RuntimeError: broken" in capsys.readouterr().out


def test_quiet_says_nothing_when_all_works(monkeypatch, capsys):
    monkeypatch.setattr(check_env, "collect", lambda probes: good_state())
    assert check_env.main(["--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_report_lists_versions_and_the_missing_gpu(monkeypatch, capsys):
    monkeypatch.setattr(check_env, "collect", lambda probes: good_state())
    assert check_env.main([]) == 0
    out = capsys.readouterr().out
    assert "2.11.0+cu130 (CUDA 13.0)" in out
    assert "no GPU: CPU is used" in out
    assert "ok (CPU operators)" in out
    assert out.endswith("everything needed works\n")


def test_json_form(monkeypatch, capsys):
    state = good_state()
    state.errors["torchvision"] = "ModuleNotFoundError: No module named 'torchvision'"
    monkeypatch.setattr(check_env, "collect", lambda probes: state)
    assert check_env.main(["--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["ok"] is False
    assert report["versions"]["torch"] == "2.11.0+cu130"
    assert [p["name"] for p in report["problems"]] == ["torchvision"]
    assert "torchvision==0.26.*" in report["problems"][0]["command"]


def test_stack_leaves_this_package_out(monkeypatch):
    asked = []
    monkeypatch.setattr(
        check_env, "collect", lambda probes: asked.append(tuple(probes)) or good_state()
    )
    check_env.main(["--quiet", "--stack"])
    check_env.main(["--quiet"])
    assert asked == [
        check_env.STACK_PROBES,
        check_env.STACK_PROBES + check_env.OWN_PROBES,
    ]


def test_cpu_operators_on_a_gpu_machine_are_a_warning(monkeypatch, capsys):
    state = good_state(torch=GPU_TORCH)
    monkeypatch.setattr(check_env, "collect", lambda probes: state)
    assert check_env.main(["--quiet"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("WARNING: mmcv.ops")
    assert check_env.BUILD_MMCV_CUDA in out


def test_cuda_operators_on_a_gpu_machine_are_fine():
    assert evaluate(good_state(torch=GPU_TORCH, mmcv_cuda="13.0")) == []


@pytest.mark.parametrize(
    "cuda, visible, expected",
    [
        (None, None, "CPU-only build"),
        ("13.0", None, "cannot use the GPU"),
        ("13.0", "", None),
        (None, "-1", None),
    ],
)
def test_gpu_that_torch_does_not_see(monkeypatch, cuda, visible, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible) if visible is not None else None
    torch = {"version": "2.11.0", "cuda": cuda, "cuda_available": False, "gpus": []}
    problems = evaluate(good_state(torch=torch, driver_gpus=["Some GPU"]))
    assert [p.level for p in problems] == ["warning"] * (expected is not None)
    assert all(expected in p.cause for p in problems)


def write_modules(folder: Path) -> None:
    (folder / "probe_good.py").write_text("print('noise on stdout')\n")
    (folder / "probe_raises.py").write_text("raise AssertionError('MMCV==9 is used but ...')\n")
    (folder / "probe_dies.py").write_text("import os, signal\nos.kill(os.getpid(), 11)\n")
    (folder / "probe_exits.py").write_text("raise SystemExit(0)\n")
    (folder / "probe_leaves.py").write_text("import os\nos._exit(3)\n")


def test_probes_survive_what_an_import_does(tmp_path, monkeypatch):
    write_modules(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    state = State(python=(3, 11, 0))
    names = ["probe_raises", "probe_dies", "probe_exits", "probe_leaves", "probe_good"]
    check_env.run_probes(names, state)
    assert sorted(state.errors) == sorted(names)
    assert state.errors["probe_good"] is None
    assert "AssertionError: MMCV==9" in state.errors["probe_raises"]
    assert "signal SIGSEGV" in state.errors["probe_dies"]
    assert "SystemExit" in state.errors["probe_exits"]
    assert "exit code 3" in state.errors["probe_leaves"]


def test_probes_end_when_no_process_can_start():
    state = State(python=(3, 11, 0))
    check_env.run_probes(["a", "b"], state, script="raise SystemExit(7)")
    assert all("exit code 7" in state.errors[name] for name in ("a", "b"))


def test_runs_without_any_package(tmp_path):
    """The file alone, with the standard library only, names the fix for a missing torch."""
    package = tmp_path / "mmmetaformer"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "check_env.py").write_text((ROOT / "mmmetaformer/check_env.py").read_text())
    # -S: no site-packages, in which torch would be; -E: nothing from variables.
    done = subprocess.run(
        [sys.executable, "-S", "-E", "-c", "import mmmetaformer.check_env as c, sys; "
         "assert 'torch' not in sys.modules; print(c.diagnose('torch', "
         "\"No module named 'torch'\", {}).command)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == check_env.INSTALL_TORCH
