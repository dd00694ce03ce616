"""Build and install mmcv for the torch that is installed: ``python -m mmmetaformer.build_mmcv``.

mmcv's operators are compiled, and have to be for exactly this torch. Ready wheels exist for some
versions only, so this builds one from source, keeps it, and installs it in place of any other mmcv.
Only the standard library is imported here.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .stacks import MMCVS, STACKS, Stack, choose_stack, installed_version

# What is installed: torch, and the kind of operators that mmcv can have.
TORCH = """
import json, subprocess, torch
from torch.utils.cpp_extension import CUDA_HOME
kind = "cpu"
if torch.cuda.is_available() and CUDA_HOME:
    nvcc = subprocess.run([CUDA_HOME + "/bin/nvcc", "--version"], capture_output=True, text=True)
    if "release " + torch.version.cuda.split(".")[0] + "." in nvcc.stdout:
        kind = "cuda-sm%d.%d" % torch.cuda.get_device_capability()
print(json.dumps([torch.__version__, kind]))
"""
WORKS = """
import sys, mmcv.ops
assert sys.argv[1] == "cpu" or mmcv.ops.get_compiling_cuda_version() != "not available"
"""


class BuildError(Exception):
    """A step that failed; the message says which and what to do."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 if mmcv works afterwards, else 1."""
    parser = argparse.ArgumentParser("python -m mmmetaformer.build_mmcv", description=__doc__)
    parser.add_argument("--stack", choices=STACKS, help="whose mmcv; the installed stack's")
    parser.add_argument("--wheel", type=Path, help="a wheel to install instead of building one")
    args = parser.parse_args(argv)
    try:
        install_mmcv(STACKS[args.stack] if args.stack else choose_stack(), args.wheel)
    except (BuildError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def install_mmcv(stack: Stack, wheel: Path | None = None) -> None:
    """Have a working mmcv: the installed one, the one kept from an earlier build, or a new one.

    Args:
        stack: Whose mmcv.
        wheel: A wheel to install instead.

    Raises:
        BuildError: If torch is missing, or a step fails.
    """
    found = _python(TORCH)
    if found.returncode:
        raise BuildError(
            "torch cannot be imported; install it first: pip install torch torchvision"
        )
    torch, kind = json.loads(found.stdout.splitlines()[-1])
    name = stack.distributions["mmcv"]
    version = stack.version_of(name)
    if wheel is None:
        if installed_version(name) == version and not _python(WORKS, kind).returncode:
            return
        python = f"cp{sys.version_info[0]}{sys.version_info[1]}-{platform.machine()}"
        folder = cache_folder() / "wheels" / f"torch{torch}-{python}-{kind}"
        kept = folder.glob(f"{name.replace('-', '_')}-{version}-*.whl")
        wheel = next(kept, None) or build_wheel(f"{name}=={version}", kind, folder)
    _pip("uninstall", "-y", *MMCVS)
    _pip("install", "--no-cache-dir", "--no-deps", str(wheel))
    works = _python(WORKS, kind)
    if works.returncode:
        reason = (works.stderr.strip().splitlines() or ["the import ends the process"])[-1]
        raise BuildError(
            f"{wheel} does not work with torch {torch} ({reason}): remove it and run this again, "
            "or name another wheel"
        )


def build_wheel(requirement: str, kind: str, folder: Path) -> Path:
    """Compile a wheel, some minutes on all cores, and keep it.

    Args:
        requirement: What to build, ``'mmcv==2.1.0'``.
        kind: ``'cpu'``, or ``'cuda-sm9.0'`` and the like for operators on GPUs, too.
        folder: Where the wheel goes.

    Raises:
        BuildError: If the source cannot be downloaded or compiled.
    """
    print(f"building {requirement} with a C++ compiler, once, some minutes", flush=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        work = tempfile.TemporaryDirectory(dir=folder, prefix=".build.")
    except OSError as error:
        raise BuildError(
            f"{folder} cannot be written; set MMMETAFORMER_CACHE to another folder"
        ) from error
    with work as place:
        # pip's own cache ignores which torch a wheel was compiled against.
        options = ["--no-cache-dir", "--no-build-isolation", "--no-deps"]
        _pip("download", *options, "--no-binary", ":all:", "-d", place, requirement)
        archive = next(Path(place).glob("*.tar.gz"))
        with tarfile.open(archive) as file:
            file.extractall(place)
        source = Path(str(archive).removesuffix(".tar.gz"))
        setup = source / "setup.py"
        setup.write_text(let_torch_choose_standard(setup.read_text()))
        _pip("wheel", *options, "-w", place, str(source), env=_environment(kind))
        built = next(Path(place).glob("*.whl"))
        return built.replace(folder / built.name)


def let_torch_choose_standard(setup: str) -> str:
    """mmcv's ``setup.py`` without the C++ standard that it names.

    torch adds the one that its headers ask for (C++17 until 2.13, C++20 from 2.14) where none is.
    """
    return re.sub(r"""(['"])-std=c\+\+\d\d\1,?""", "", setup)


def cache_folder() -> Path:
    """Where built wheels are kept: ``MMMETAFORMER_CACHE``, or a folder of the user's cache."""
    own = os.environ.get("MMMETAFORMER_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(own) if own else Path(shared) / "mmmetaformer"


def _environment(kind: str) -> dict[str, str]:
    """The environment variables of a build."""
    scripts = sysconfig.get_path("scripts")  # where ninja is
    values = dict(os.environ, MMCV_WITH_OPS="1", PATH=f"{scripts}{os.pathsep}{os.environ['PATH']}")
    # It replaces Python's own flags; -g0 halves the time.
    values["CFLAGS"] = "-O2 -g0 -DNDEBUG -fwrapv"
    values.setdefault("MAX_JOBS", str(os.cpu_count() or 1))
    if kind == "cpu":
        return values | {"CUDA_VISIBLE_DEVICES": ""}
    # A toolkit may lack headers that the packages of torch's CUDA have.
    headers = Path(sysconfig.get_path("purelib")).glob("nvidia/*/include")
    return values | {"FORCE_CUDA": "1", "CPATH": ":".join(map(str, headers))}


def _python(code: str, *args: str) -> subprocess.CompletedProcess:
    """Run a piece of code in another process, since compiled code may end it."""
    command = [sys.executable, "-c", code, *args]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def _pip(*args: str, env: dict[str, str] | None = None) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", *args]
    if subprocess.run(command, stdin=subprocess.DEVNULL, env=env).returncode:
        raise BuildError(f"pip {args[0]} failed, see above (running this again starts it anew)")


if __name__ == "__main__":
    sys.exit(main())
