"""Tests of the set-up scripts with a fake Python, venv and pip: nothing is downloaded or built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest requires it on 3.10

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ["tools/setup_env.sh", "tools/quickstart.sh", "tools/run_tests.sh", ".ci/run"]
BASH = shutil.which("bash")
pytestmark = pytest.mark.skipif(BASH is None, reason="the scripts need bash")

# All that the scripts call besides Python.
COMMANDS = "awk bash cat dirname flock ls mkdir rm sh sha256sum"

# The modules that the scripts run, with what they import.
MODULES = [f"mmmetaformer/{name}.py" for name in ("stacks", "build_mmcv")]
PINS = "mmmetaformer/constraints/openmmlab.txt"
CONSTRAINTS = [f"mmmetaformer/constraints/{path.name}" for path in
               (ROOT / "mmmetaformer/constraints").iterdir()]  # fmt: skip

# A Python whose installed packages are files of its prefix that hold the version. It runs the
# scripts' own programs with stand-ins for torch and mmcv, plays pip, venv and check_env, and logs
# what it is asked for. FAIL and KILL name the request at which it fails or kills the script.
FAKE = r"""
import importlib.metadata, io, os, runpy, signal, sys, sysconfig, tarfile
from pathlib import Path
from types import ModuleType, SimpleNamespace

me, *args = sys.argv[1:]
prefix = Path(me).parent.parent
packages = prefix / "lib/python3.11/site-packages"


def have(name):
    return (packages / name).read_text() if (packages / name).is_file() else None


def put(name, version):
    packages.mkdir(parents=True, exist_ok=True)
    (packages / name).write_text(version)


def log(text):
    with open(os.environ["HOME"] + "/log", "a") as file:
        file.write(text + "\n")
    if os.environ.get("FAIL", "never") in text:
        sys.exit(f"fake error in {text}")
    if os.environ.get("KILL", "never") in text:
        os.kill(os.getpgid(0), signal.SIGKILL)
        os._exit(1)


def version(name):
    if have(name) is None:
        raise importlib.metadata.PackageNotFoundError(name)
    return have(name).split("|")[0]


def run_module(name, argv):
    importlib.metadata.version, sys.executable = version, me
    sysconfig.get_path = lambda name: str(prefix / dict(scripts="bin").get(name, name))
    sys.argv = [name, *argv]
    sys.version_info = tuple(map(int, (have("python") or "3.11.7").split(".")))
    sys.path.insert(0, os.getcwd())
    runpy.run_module(name, run_name="__main__")


def run_program(code, argv):
    for name in ("torch", "mmcv", "onedl-mmcv", "pip", "mmcv.ops"):
        sys.modules[name] = ModuleType(name) if have(name) else None
    if have("torch"):
        torch, gpu = sys.modules["torch"], os.environ.get("GPU")
        torch.__version__, torch.version = have("torch"), SimpleNamespace(cuda="13.0")
        torch.cuda = SimpleNamespace(
            is_available=lambda: bool(gpu), get_device_capability=lambda: (9, 0))
        sys.modules["torch.utils"] = ModuleType("torch.utils")
        sys.modules["torch.utils.cpp_extension"] = SimpleNamespace(CUDA_HOME=gpu)
    for name in filter(have, ("mmcv", "onedl-mmcv")):
        mmcv = sys.modules["mmcv"] = ModuleType("mmcv")
        mmcv.__version__, built_for, cuda = have(name).split("|")
        if built_for == have("torch"):
            mmcv.ops = sys.modules["mmcv.ops"] = ModuleType("mmcv.ops")
            mmcv.ops.get_compiling_cuda_version = lambda: cuda
    for name in ("ensurepip", "venv"):
        sys.modules[name] = ModuleType(name)
    importlib.metadata.version = version
    sysconfig.get_path = lambda name: str(prefix / name)
    sys.executable, sys.argv = me, ["-c", *argv]
    if have("python"):
        sys.version_info = tuple(map(int, have("python").split(".")))
    exec(code, {})


def download(folder, requirement):
    name, version = requirement.replace("-", "_").split("==")
    setup = b"flags = ['-O2', '-std=c++17']"
    with tarfile.open(folder / f"{name}-{version}.tar.gz", "w:gz") as file:
        entry = tarfile.TarInfo(f"{name}-{version}/setup.py")
        entry.size = len(setup)
        file.addfile(entry, io.BytesIO(setup))


def build(folder, options):
    assert {"--no-build-isolation", "--no-cache-dir", "--no-deps"} <= {*options}, options
    source = Path(options[-1])
    assert "std" not in (source / "setup.py").read_text()
    assert all(map(have, ("torch", "setuptools", "wheel", "ninja")))
    assert os.environ["MMCV_WITH_OPS"] == "1" and "-g0" in os.environ["CFLAGS"]
    assert os.environ["PATH"].startswith(str(prefix / "bin"))
    cuda = "13.0" if os.environ.get("FORCE_CUDA") == "1" else "not available"
    assert cuda == "13.0" or os.environ["CUDA_VISIBLE_DEVICES"] == ""
    (folder / f"{source.name}-cp311-cp311-linux_x86_64.whl").write_text(
        f"{source.name.split('-')[1]}|{have('torch')}|{cuda}")


def install(targets, constraints, local):
    for name in targets:
        if name.endswith(".whl"):
            put("onedl-mmcv" if "onedl" in name else "mmcv", Path(name).read_text())
        elif name.endswith("test]"):
            stack = "onedl-" if "onedl" in name else ""
            for name in "mmengine mmdet mmseg mmpretrain".split():
                put(stack + name, "1")
            put("mmmetaformer", "1")
        elif not have(name):
            (version,) = [x[len(name) + 2:] for x in constraints if x.startswith(name + "==")]
            put(name, version + local)


def pip(command, *rest):
    log(f"pip {command} {' '.join(rest)}".replace(os.environ["HOME"], "~"))
    options = ("-c", "-d", "-w", "-e", "--index-url")
    values = {x: rest[i + 1] for i, x in enumerate(rest) if x in options}
    if command == "list":
        print("\n".join(f"{path.name}=={path.read_text()}" for path in packages.iterdir()))
    elif command == "uninstall":
        for name in rest:
            (packages / name).unlink(missing_ok=True)
    elif command == "download":
        download(Path(values["-d"]), rest[-1])
    elif command == "wheel":
        build(Path(values["-w"]), rest)
    else:
        named = {*rest} - {*values} - {values[x] for x in values if x != "-e"}
        local = "+cpu" if "--index-url" in values else ""
        targets = [x for x in rest if x in named and not x.startswith("-")]
        pins = open(values["-c"]).read().splitlines() if "-c" in values else ()
        install(targets, pins, local)


if args[0] == "-V":
    print("Python 3.11.7")
elif args[0] == "-c":
    run_program(args[1], args[2:])
elif args[:2] == ["-m", "venv"]:
    log("venv begins")
    python = Path(args[2]) / "bin/python"
    python.parent.mkdir()
    python.write_text(Path(me).read_text())
    python.chmod(0o755)
    log("venv goes on")
    (Path(args[2]) / "lib/python3.11/site-packages").mkdir(parents=True)
    (Path(args[2]) / "lib/python3.11/site-packages/pip").write_text("23")
    version_of_base = Path(args[2]) / "lib/python3.11/site-packages/python"
    version_of_base.write_text(have("python") or "3.11.7")
elif args[:2] == ["-m", "pip"]:
    assert args[2:4] == ["--disable-pip-version-check", "--no-input"]
    pip(*args[4:])
elif args[:2] == ["-m", "mmmetaformer.check_env"]:
    assert Path("mmmetaformer/stacks.py").exists(), "not run in the checkout"
    if have("torch"):
        log(" ".join(["check", *args[2:]]))
    stack = "onedl-" if os.environ.get("STACK") == "onedl" or have("onedl-mmengine") else ""
    names = [stack + name for name in ("mmcv", "mmengine", "mmdet", "mmseg")]
    whole = all(map(have, ("torch", "torchvision", *names)))
    sys.exit(not (whole and have(names[0]).split("|")[1] == have("torch")))
elif args[0] == "-m" and args[1] in ("mmmetaformer.stacks", "mmmetaformer.build_mmcv"):
    run_module(args[1], args[2:])
else:
    ran = f"run {' '.join(args)} in {os.environ.get('PYTHONPATH', '')}"
    log(ran.replace(os.environ["HOME"], "~"))
    sys.exit(int(os.environ.get("STATUS", 0)))
"""

# The requests that fill a new environment, in this order; each can fail or be killed.
STEPS = [
    "venv begins",
    "venv goes on",
    f"pip install -c ~/a checkout/{PINS} setuptools wheel ninja",
    f"pip install -c ~/a checkout/{PINS} torch torchvision",
    f"pip install -c ~/a checkout/{PINS} --no-build-isolation -e ~/a checkout[openmmlab,test]",
    "pip download --no-cache-dir --no-build-isolation --no-deps --no-binary :all: -d ",
    "pip wheel --no-cache-dir --no-build-isolation --no-deps -w ",
    "pip uninstall -y mmcv mmcv-lite mmcv-full onedl-mmcv",
    "pip install --no-cache-dir --no-deps ",
    "check --quiet",
]


class Machine:
    """A checkout, a home and a PATH on which only fakes are called Python."""

    def __init__(self, home: Path) -> None:
        self.home, self.root = home, home / "a checkout"  # a space, as users have them
        self.venv = self.root / ".venv"
        self.packages = self.venv / "lib/python3.11/site-packages"
        shutil.copytree(ROOT / "mmmetaformer/constraints", self.root / "mmmetaformer/constraints")
        (self.root / "mmmetaformer/__init__.py").touch()
        for name in [*SCRIPTS, *MODULES, "pyproject.toml"]:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, self.root / name)
        (home / "bin").mkdir()
        for command in filter(shutil.which, COMMANDS.split()):
            (home / "bin" / command).symlink_to(shutil.which(command))
        (home / "fake.py").write_text(FAKE)

    def add_python(self, name: str, version: str = "3.11.7", **packages: str) -> Path:
        """Puts a Python on the PATH, with headers and with some packages."""
        prefix = self.home / f"python of {name}"
        python = prefix / "bin" / name
        site = prefix / "lib/python3.11/site-packages"
        for folder in (python.parent, site, prefix / "include"):
            folder.mkdir(parents=True)
        (prefix / "include/Python.h").touch()
        python.write_text(
            f'#!/bin/sh\nexec "{sys.executable}" -IS "{self.home}/fake.py" "$0" "$@"\n'
        )
        python.chmod(0o755)
        for package, text in {"python": version, "pip": "23", **packages}.items():
            (site / package).write_text(text)
        link = self.home / "bin" / name
        link.write_text(f'#!/bin/sh\nexec "{python}" "$@"\n')
        link.chmod(0o755)
        return python

    def start(self, script: str, *args: str, **variables: str) -> subprocess.Popen:
        env = {"PATH": str(self.home / "bin"), "HOME": str(self.home), **variables}
        command = [BASH, str(self.root / script), *args]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command,
            stdout=pipe,
            stderr=pipe,
            text=True,
            env=env,
            cwd=self.home,
            start_new_session=True,  # so that KILL knows the script
        )

    def run(self, script: str = "tools/setup_env.sh", *args: str, **variables: str):
        """Runs a script: its exit status, stdout and stderr."""
        process = self.start(script, *args, **variables)
        out, err = process.communicate(timeout=60)
        return process.returncode, out, err

    def log(self) -> list[str]:
        """What was asked for since the last call."""
        file = self.home / "log"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return lines

    def installed(self, venv: Path | None = None) -> dict[str, str]:
        site = (venv or self.venv) / "lib/python3.11/site-packages"
        return {path.name: path.read_text() for path in site.iterdir()}


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.fixture
def bare(machine):
    """A machine with a Python that has nothing but pip."""
    machine.add_python("python3")
    return machine


WORKING = dict.fromkeys("torchvision mmengine mmdet mmseg mmpretrain safetensors".split(), "1")
WORKING |= {"torch": "2.5.0", "mmcv": "2.1.0|2.5.0|not available"}


# ---------------------------------------------------------------- an environment made here


def test_steps_and_their_order(bare):
    status, out, err = bare.run()
    assert (status, out) == (0, f"{bare.venv}/bin/python\n"), err
    log = bare.log()
    assert len(log) == len(STEPS)
    assert all(line.startswith(step) for line, step in zip(log, STEPS, strict=True)), log
    assert bare.installed()["torch"] == "2.11.0"
    assert bare.installed()["mmcv"] == "2.1.0|2.11.0|not available"


def test_second_run_does_nothing(bare):
    first = bare.run()
    bare.log()
    assert bare.run() == (0, first[1], "")
    assert bare.log() == []


@pytest.mark.parametrize("step", STEPS)
def test_killed_run_is_mended_by_the_next(bare, step):
    assert bare.run(KILL=step)[0] == -9
    assert bare.log()[-1].startswith(step)
    status, _, err = bare.run()
    assert status == 0, err
    assert {"torch", "mmcv", "mmdet", "mmmetaformer"} <= bare.installed().keys()
    bare.log()
    assert bare.run()[0] == 0
    assert bare.log() == []


def test_killed_update_is_not_taken_for_ready_when_its_cause_is_undone(bare):
    bare.run()
    pins = (bare.root / PINS).read_text()
    (bare.root / PINS).write_text(pins + "# changed\n")
    assert bare.run(KILL=STEPS[3])[0] == -9
    (bare.root / PINS).write_text(pins)
    bare.log()
    assert bare.run()[0] == 0
    assert STEPS[4] in bare.log()


@pytest.mark.parametrize("step", STEPS)
def test_failed_step_is_one_sentence(bare, step):
    status, out, err = bare.run(FAIL=step)
    assert (status, out) == (1, "")
    errors = [line for line in err.splitlines() if "ERROR" in line]
    assert len(errors) == 1, err
    assert re.match(r"\[setup\] ERROR: .*see above", errors[0])
    assert "fake error in" in err


def test_what_a_killed_pip_leaves_is_removed(bare):
    assert bare.run(KILL=STEPS[3])[0] == -9
    for name in ["whole-1.dist-info", "half-1.dist-info", "~orch"]:
        (bare.packages / name).mkdir()
        (bare.packages / name / "RECORD").touch()
    (bare.packages / "whole-1.dist-info/INSTALLER").touch()
    assert bare.run(FAIL=STEPS[3])[0] == 1
    left = {path.name for path in bare.packages.iterdir() if path.is_dir()}
    assert left == {"whole-1.dist-info"}


def test_two_runs_at_once_share_the_work(bare):
    if not shutil.which("flock"):
        pytest.skip("no flock, no lock")
    runs = [bare.start("tools/setup_env.sh") for _ in range(2)]
    errors = [run.communicate(timeout=60)[1] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], errors
    assert len(bare.log()) == len(STEPS)


@pytest.mark.parametrize(
    "name", [PINS, "pyproject.toml", "tools/setup_env.sh", "mmmetaformer/build_mmcv.py"]
)
def test_changed_file_brings_the_environment_up_to_date(bare, name):
    bare.run()
    bare.log()
    with open(bare.root / name, "a") as file:
        file.write("# changed\n")
    assert bare.run()[0] == 0
    assert bare.log() == [step for step in STEPS[2:] if "mmcv" not in step and "cache" not in step]


def test_torch_of_another_index(bare):
    index = "https" + "://user:secret@some.where/cpu"
    bare.run()
    assert bare.run(TORCH_INDEX_URL=index)[0] == 0
    assert bare.installed()["torch"] == "2.11.0+cpu"
    # Unset, it stays; and its wheel of mmcv was built for it.
    assert bare.run()[0] == 0
    assert bare.installed()["torch"] == "2.11.0+cpu"
    assert bare.installed()["mmcv"] == "2.1.0|2.11.0+cpu|not available"
    for file in bare.venv.glob(".mmm*"):
        assert "secret" not in file.read_text()


# ---------------------------------------------------------------- mmcv


def wheels(machine):
    folder = machine.home / ".cache/mmmetaformer/wheels"
    return sorted(re.sub(r"^torch|-x86_64|-aarch64", "", path.name) for path in folder.iterdir())


def test_wheel_is_built_once_for_each_torch(bare):
    def builds(name, **variables):
        assert bare.run(VENV=str(bare.home / name), **variables)[0] == 0
        return sum(line.startswith("pip wheel") for line in bare.log())

    assert [builds("one"), builds("two")] == [1, 0]
    assert bare.installed(bare.home / "two")["mmcv"] == "2.1.0|2.11.0|not available"
    assert [builds("three", TORCH_INDEX_URL="cpu"), builds("four", TORCH_INDEX_URL="cpu")] == [1, 0]
    assert builds("five", MMMETAFORMER_CACHE=str(bare.home / "elsewhere")) == 1
    python = f"cp{sys.version_info[0]}{sys.version_info[1]}"
    assert wheels(bare) == [f"2.11.0+cpu-{python}-cpu", f"2.11.0-{python}-cpu"]


def test_gpu_with_the_right_compiler_gets_cuda_operators(bare):
    nvcc = bare.home / "cuda/bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 13.1, V13.1.2'\n")
    nvcc.chmod(0o755)
    bare.run()
    assert bare.run(GPU=str(bare.home / "cuda"), VENV="other")[0] == 0
    assert bare.installed(bare.home / "other")["mmcv"] == "2.1.0|2.11.0|13.0"
    assert [name.split("-")[2:] for name in wheels(bare)] == [["cpu"], ["cuda", "sm9.0"]]
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.8, V12.8.9'\n")
    assert bare.run(GPU=str(bare.home / "cuda"), VENV="third")[0] == 0
    assert bare.installed(bare.home / "third")["mmcv"] == "2.1.0|2.11.0|not available"


def test_named_wheel_is_used_and_none_is_built(bare):
    (bare.home / "mine.whl").write_text("2.1.0|2.11.0|mine")
    assert bare.run(MMCV_WHEEL="mine.whl")[0] == 0
    assert bare.installed()["mmcv"] == "2.1.0|2.11.0|mine"
    assert not [line for line in bare.log() if line.startswith("pip wheel")]
    # Another one replaces it; unset, it stays.
    (bare.home / "other.whl").write_text("2.1.0|2.11.0|other")
    assert bare.run(MMCV_WHEEL="other.whl")[0] == 0
    assert bare.run()[0] == 0
    assert bare.installed()["mmcv"] == "2.1.0|2.11.0|other"


def test_named_wheel_of_another_torch_is_refused(bare):
    (bare.home / "old.whl").write_text("2.1.0|2.1.0|not available")
    status, out, err = bare.run(MMCV_WHEEL="old.whl")
    assert (status, out) == (1, "")
    assert "old.whl does not work with torch 2.11.0" in err


# ---------------------------------------------------------------- which Python


def test_active_environment_is_used_as_it_is(machine):
    python = machine.add_python("python3", **WORKING)
    assert machine.run() == (0, f"{python}\n", "")
    assert machine.log() == ["check --quiet --stack"]
    assert not machine.venv.exists()


def test_active_environment_gets_only_what_is_missing(machine):
    machine.add_python("python3", **WORKING, pytest="7.1")
    status, _, err = machine.run("tools/setup_env.sh", "pytest", "timm")
    assert status == 0, err
    installed = machine.installed(machine.home / "python of python3")
    timm = re.search(r"^timm==(\S+)", (ROOT / PINS).read_text(), flags=re.M)[1]
    assert (installed["pytest"], installed["timm"], installed["torch"]) == ("7.1", timm, "2.5.0")


def test_active_environment_that_is_broken_is_left_alone(machine):
    broken = WORKING | {"mmcv": "2.1.0|2.4.0|not available"}
    machine.add_python("python3", **broken)
    status, out, err = machine.run()
    assert (status, out) == (0, f"{machine.venv}/bin/python\n"), err
    assert "python3 has no working OpenMMLab" in err
    installed = machine.installed(machine.home / "python of python3")
    assert installed == {"python": "3.11.7", "pip": "23", **broken}


def test_activated_environment_of_ours_is_kept_up_to_date(bare):
    bare.run()
    bare.log()
    with open(bare.root / PINS, "a") as file:
        file.write("# changed\n")
    status, out, _ = bare.run(PYTHON=f"{bare.venv}/bin/python")
    assert (status, out) == (0, f"{bare.venv}/bin/python\n")
    assert STEPS[2] in bare.log()


@pytest.mark.parametrize(
    "versions, chosen",
    [
        ({"python3.10": "3.10.1", "python3.11": "3.11.7", "python3.12": "3.12.2"}, "python3.12"),
        ({"python3.13": "3.13.1", "python3.10": "3.10.1"}, "python3.10"),
        ({"python3": "3.12.2"}, "python3"),
        ({"python3": "3.13.1"}, "python3"),
    ],
)
def test_newest_python_that_serves_is_chosen(machine, versions, chosen):
    for name, version in versions.items():
        machine.add_python(name, version)
    _, _, err = machine.run()
    assert re.search(rf"making an environment with \S.*/bin/{re.escape(chosen)} in ", err), err


def test_python_with_headers_is_preferred_unless_there_is_a_wheel(machine):
    machine.add_python("python3.12")
    machine.add_python("python3.11")
    (machine.home / "python of python3.12/include/Python.h").unlink()
    assert "/bin/python3.11 in" in machine.run(VENV="one")[2]
    assert "/bin/python3.12 in" in machine.run(VENV="two", MMCV_WHEEL="some.whl")[2]


def test_named_python_is_the_only_one_tried(machine):
    machine.add_python("python3", "3.12.2")
    mine = machine.add_python("mine")
    assert f"with {mine} in" in machine.run(PYTHON=str(mine))[2]
    machine.add_python("old", "3.9.1")
    status, out, err = machine.run(PYTHON="old", VENV="other")
    assert (status, out) == (1, "")
    assert "ERROR: none of old is Python 3.10 to 3.13 with venv and headers" in err
    assert not (machine.home / "other").exists()


def test_folder_of_somebody_else_is_never_removed(bare):
    (bare.home / "papers").mkdir()
    (bare.home / "papers/thesis.tex").write_text("text")
    status, _, err = bare.run(VENV="papers")
    assert status == 1
    assert "papers exists and has no Python 3.10 to 3.13 with pip; remove it or set VENV=" in err
    assert [path.name for path in (bare.home / "papers").iterdir()] == ["thesis.tex"]


# ---------------------------------------------------------------- which stack


def test_named_stack_is_set_up_and_stays(bare):
    assert bare.run(STACK="onedl")[0] == 0
    assert {"onedl-mmengine", "onedl-mmcv"} <= bare.installed().keys()
    assert "mmengine" not in bare.installed()
    assert bare.installed()["torch"] == "2.14.1"
    assert bare.installed()["onedl-mmcv"] == "2.3.6|2.14.1|not available"
    assert bare.run()[0] == 0
    assert "mmengine" not in bare.installed()


def test_another_stack_gets_an_environment_of_its_own(bare):
    bare.run()
    (bare.packages / "mmengine-0.10.7.dist-info").mkdir()
    assert bare.run(STACK="onedl")[0] == 0
    assert "onedl-mmengine" in bare.installed()
    assert "mmengine" not in bare.installed()


def test_new_python_gets_the_stack_that_works_on_it(machine):
    machine.add_python("python3", "3.13.1")
    machine.run()
    assert "pip install -c ~/a checkout/mmmetaformer/constraints/onedl.txt" in machine.log()[2]


def test_active_environment_of_another_stack_is_not_used(machine):
    machine.add_python("python3", **WORKING)
    status, out, err = machine.run(STACK="onedl")
    assert (status, out) == (0, f"{machine.venv}/bin/python\n"), err


def test_other_versions(bare):
    pins = (ROOT / PINS).read_text().replace("torch==2.11.0", "torch==2.5.1")
    (bare.home / "mine.txt").write_text(pins)
    assert bare.run(CONSTRAINTS="mine.txt")[0] == 0
    assert bare.installed()["torch"] == "2.5.1"
    assert bare.installed()["mmcv"] == "2.1.0|2.5.1|not available"


@pytest.mark.parametrize("variables, message", [
    ({"STACK": "mmlab"}, "error: STACK=mmlab: expected one of openmmlab, onedl"),
    ({"CONSTRAINTS": "none.txt"}, "none.txt is no file that can be read"),
])  # fmt: skip
def test_wrong_variable_is_one_sentence(bare, variables, message):
    status, _, err = bare.run(**variables)
    assert status == 1
    assert message in err


# ---------------------------------------------------------------- the commands of README


@pytest.mark.parametrize("status", [0, 1, 5])
@pytest.mark.parametrize("script", ["tools/run_tests.sh", ".ci/run", "tools/quickstart.sh"])
def test_exit_status_is_passed_on(machine, script, status):
    machine.add_python("python3", **WORKING)
    assert machine.run(script, STATUS=str(status))[0] == status
    assert machine.log()[-1].startswith("run ")


def test_arguments_and_the_checkout_reach_the_program(machine):
    machine.add_python("python3", **WORKING)
    machine.run("tools/quickstart.sh", "--out", "two words", PYTHONPATH="/mine")
    assert machine.log()[-1] == (
        "run ~/a checkout/tools/quickstart.py --out two words in ~/a checkout:/mine"
    )
    machine.run("tools/run_tests.sh", "-m", "not slow")
    run = machine.log()[-1]
    assert run.startswith("run -m pytest ")
    assert run.endswith(" -m not slow in ~/a checkout")


@pytest.mark.parametrize("script", ["tools/run_tests.sh", "tools/quickstart.sh"])
def test_failed_set_up_ends_the_command(bare, script):
    status, out, _ = bare.run(script, FAIL=STEPS[3])
    assert (status, out) == (1, "")
    assert not [line for line in bare.log() if line.startswith("run")]


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_executable(script):
    assert os.access(ROOT / script, os.X_OK)


@pytest.mark.parametrize("name", [*SCRIPTS, *MODULES, *CONSTRAINTS, "pyproject.toml"])
def test_no_address_and_no_machine_path(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"\w://\w|--hash|@ file|--(extra-)?index-url[= ]\w", text)
    assert not re.search(r"/(home|root|opt|work)/", text)


# ---------------------------------------------------------------- the pins


def constraint_lines(name):
    lines = (ROOT / name).read_text().splitlines()
    return [Requirement(x) for x in lines if x.strip() and not x.startswith("#")]


def wanted(name):
    """What is installed with a constraints file: no extra of the other stack."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    (other,) = {"openmmlab", "onedl"} - {Path(name).stem.partition("-")[0]}
    every = [item for extra, items in extras.items() if extra != other for item in items]
    every = map(Requirement, project["dependencies"] + every)
    return [r for r in every if canonicalize_name(r.name) != project["name"]]


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_constraints_are_exact_pins(name):
    for line in constraint_lines(name):
        assert [spec.operator for spec in line.specifier] == ["=="], str(line)
        assert line.url is None
        assert not line.extras


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_every_dependency_is_pinned_to_what_it_allows(name):
    for requirement in wanted(name):
        wants = canonicalize_name(requirement.name)
        pins = [line for line in constraint_lines(name) if canonicalize_name(line.name) == wants]
        assert pins, f"{requirement} has no pin"
        for pin in pins:
            (spec,) = pin.specifier
            assert requirement.specifier.contains(spec.version, prereleases=True), pin


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("name", CONSTRAINTS)
def test_each_name_is_pinned_once_for_a_python(name, python):
    env = {"python_version": python, "python_full_version": python + ".1"}
    names = [
        canonicalize_name(line.name)
        for line in constraint_lines(name)
        if line.marker is None or line.marker.evaluate(env)
    ]
    assert len(names) == len(set(names))
    mmcv = "onedl-mmcv" if "onedl" in name else "mmcv"
    assert {"torch", mmcv, "numpy"} <= set(names)


def test_version_is_single_sourced():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    attr = project["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attr == "mmmetaformer.version.__version__"
    scope = {}
    exec((ROOT / "mmmetaformer/version.py").read_text(), scope)
    assert re.fullmatch(r"\d+\.\d+\.\d+", scope["__version__"])
