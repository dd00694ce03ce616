"""Report what is installed and, for what is broken, the fix: ``python -m mmmetaformer.check_env``.

Only the standard library is imported here. The packages are imported in another process, so that a
missing one, or one whose compiled code ends the process, is a row of the report.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .stacks import (
    MMCVS,
    STACKS,
    Stack,
    choose_stack,
    installed_of,
    installed_version,
)

STACK_MODULES = """
    torch torchvision mmengine mmcv.ops mmdet.models mmseg.models mmpretrain.models
""".split()
OWN_MODULES = ["safetensors", "mmmetaformer", "mmmetaformer.backbones"]
# Printed where installed; some provide the same modules.
DISTRIBUTIONS = """
    torch torchvision mmengine mmengine-lite onedl-mmengine mmcv mmcv-lite mmcv-full onedl-mmcv
    mmdet onedl-mmdetection mmsegmentation onedl-mmsegmentation mmpretrain onedl-mmpretrain timm
    numpy opencv-python opencv-python-headless opencv-contrib-python setuptools transformers
""".split()

BUILD_MMCV = "python -m mmmetaformer.build_mmcv"
NVIDIA_DEVICE = "/dev/nvidiactl"

# Failed imports that have been seen before: a regular expression searched in the traceback, the
# cause, the fix. The first match is taken, so specific rows stand before general ones. In a fix,
# {package} is the distribution of the group of that name, {mmengine} mmengine's, {torchvision} the
# series that belongs to the torch, and {constraints} the file with the tested versions.
KNOWN_FAILURES: tuple[tuple[str, str, str], ...] = (
    (
        r"No module named '?pkg_resources",
        "setuptools 82 and later have no pkg_resources, which mmengine 0.10.7 needs at run time.",
        'pip install "setuptools<81"',
    ),
    (
        r"operator torchvision::\w+ does not exist|Couldn't load custom C\+\+ ops"
        r"|torchvision\S*: undefined symbol",
        "torchvision was built for another torch than the installed one.",
        'pip install --force-reinstall --no-deps "torchvision=={torchvision}"',
    ),
    (
        r"No module named '?torchvision",
        "torchvision is not installed; mmpretrain cannot be imported without it.",
        'pip install --no-deps "torchvision=={torchvision}" pillow',
    ),
    (
        r"MMCV==\S+ is used but incompatible",
        "mmdet 3.3 and mmsegmentation 1.2 accept mmcv below 2.2.0 only.",
        BUILD_MMCV,
    ),
    (
        r"MMEngine==\S+ is used but incompatible",
        "The installed OpenMMLab packages do not accept this mmengine.",
        "pip install -c {constraints} {mmengine}",
    ),
    (
        r"No module named '?mmcv",
        "mmcv is not installed, or without compiled operators (mmcv-lite).",
        BUILD_MMCV,
    ),
    (
        r"mmcv\S*: undefined symbol|importing mmcv\S* ended the process"
        r"|(?s:mmcv.*)lib(c10|torch|cudart)\S*: cannot open shared object file",
        "mmcv was compiled for another torch than the installed one.",
        BUILD_MMCV,
    ),
    (
        r"(from|module|named|attribute) '?\"?transformers\b|-packages[/\\]transformers[/\\]",
        "mmpretrain 1.2 imports with transformers 4.46.3 or none, not with this version.",
        "pip install transformers==4.46.3",
    ),
    (
        r"libGL\.so|libgthread|libglib-2|libSM\.so|libXext\.so",
        "OpenCV was built for a desktop and a system library of it is missing.",
        "pip uninstall -y opencv-python && "
        "pip install --force-reinstall --no-deps opencv-python-headless",
    ),
    (
        r"numpy\.dtype size changed|_ARRAY_API not found|compiled using NumPy 1"
        r"|compiled against (ABI|API) version|numpy\._?core\.multiarray failed to import",
        "A compiled package (OpenCV, pycocotools) does not fit the installed NumPy.",
        "pip install --force-reinstall -c {constraints} numpy opencv-python pycocotools",
    ),
    (
        r"No module named '?(?P<package>torch|mmengine|mmdet|mmseg|mmpretrain|pycocotools|ftfy"
        r"|regex|safetensors|numpy|cv2)\b",
        "A package that is needed is not installed (mmsegmentation leaves out ftfy and regex).",
        "pip install -c {constraints} {package}",
    ),
)

# Runs in the other process. Imports print, too: the lines that count have a mark.
PROBE = r"""
import importlib, json, sys, traceback, warnings
warnings.simplefilter("ignore")
for name in sys.argv[1:]:
    error, facts = None, {}
    try:
        module = importlib.import_module(name)
        if name == "torch":
            count = module.cuda.device_count() if module.cuda.is_available() else 0
            gpus = [module.cuda.get_device_name(i) for i in range(count)]
            facts = {"torch": module.__version__, "cuda": module.version.cuda, "gpus": gpus}
        elif name == "mmcv.ops":
            facts = {"mmcv_cuda": module.get_compiling_cuda_version()}
    except BaseException:
        error = traceback.format_exc()
    print("\n@@probe", json.dumps([name, error, facts]), flush=True)
"""


def import_modules(names: Sequence[str]) -> tuple[dict[str, str | None], dict[str, Any]]:
    """Import modules in another process; after one that ends it, a new process goes on.

    Returns:
        The traceback for each module, None for one that works; and the facts ``torch``
        (version), ``cuda``, ``gpus`` and ``mmcv_cuda``, where torch and mmcv.ops work.
    """
    errors: dict[str, str | None] = {}
    facts: dict[str, Any] = {}
    while left := [name for name in names if name not in errors]:
        command = [sys.executable, "-c", PROBE, *left]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
        for line in done.stdout.decode(errors="replace").splitlines():
            if line.startswith("@@probe "):
                name, error, found = json.loads(line[len("@@probe ") :])
                errors[name] = error
                facts.update(found)
        for name in [name for name in left if name not in errors][:1]:
            errors[name] = f"ImportError: importing {name} ended the process ({done.returncode})"
    return errors, facts


def diagnose(error: str, stack: Stack, torch: str | None = None) -> tuple[str, str] | None:
    """Look a traceback up in the table of known failures.

    Args:
        error: The traceback, or its last line.
        stack: The stack whose distributions a fix names.
        torch: Version of the installed torch.

    Returns:
        The cause and the fix, None for a failure that is not in the table.
    """
    names = {"cv2": "opencv-python", **stack.distributions}
    for pattern, cause, fix in KNOWN_FAILURES:
        if match := re.search(pattern, error):
            # torchvision's minor version has stayed 15 ahead of torch's since 2.0.
            minor = re.match(r"2\.(\d+)", torch or "")
            series = f"0.{int(minor[1]) + 15}.*" if minor else stack.version_of("torchvision")
            package = match.groupdict().get("package", "")
            return cause, fix.format(
                package=names.get(package, package),
                mmengine=names["mmengine"],
                torchvision=series,
                constraints=stack.constraints,
            )
    return None


def find_mixture() -> tuple[str, str, str] | None:
    """Observation, cause and fix where packages of both stacks are installed, else None.

    The fix keeps the stack of which more is there.
    """
    parts = {name: installed_of(stack) for name, stack in STACKS.items()}
    if not all(parts.values()):
        return None
    seen = "; ".join(
        f"of {name}: {', '.join(f'{package} {version}' for package, version in part.items())}"
        for name, part in parts.items()
    )
    keep = max(parts, key=lambda name: len(parts[name]))
    rest = [name for name in parts[keep] if name not in MMCVS]
    remove = " ".join(package for part in parts.values() for package in part)
    fix = f"pip uninstall -y {remove}; pip install -c {STACKS[keep].constraints} {' '.join(rest)}"
    cause = "Both stacks have the same modules, and each has written over the other's files."
    return f"two stacks are installed, {seen}", cause, f"{fix}; {BUILD_MMCV}"


def find_problems(
    errors: Mapping[str, str | None], facts: Mapping[str, Any], stack: Stack
) -> Iterator[tuple[str, str, str, str]]:
    """Yield level, observation, cause and fix of what is wrong in :func:`import_modules`' results.

    The level is ``ERROR`` where something needed does not work, else ``WARNING``.
    """
    if not 10 <= sys.version_info[1] <= stack.last_python:
        cause = f"The packages of {stack.name} need Python 3.10 to 3.{stack.last_python}."
        yield "ERROR", f"Python {platform.python_version()}", cause, "PYTHON=/path/to/python3.11"
    if mixture := find_mixture():
        yield "ERROR", *mixture
    for name, error in errors.items():
        if error is not None:
            unknown = "This failure is not a known one.", f"see python -c 'import {name}'"
            detail = f"{name}: {error.strip().splitlines()[-1]}"
            yield "ERROR", detail, *(diagnose(error, stack, facts.get("torch")) or unknown)
    if facts.get("gpus") and facts.get("mmcv_cuda") == "not available":
        cause = f"Detectors cannot use the GPU; the fix needs nvcc of CUDA {facts['cuda']}."
        fix = f"export FORCE_CUDA=1; {BUILD_MMCV}"
        yield "WARNING", "mmcv.ops has CPU operators only", cause, fix
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")  # on purpose
    if facts.get("gpus") == [] and os.path.exists(NVIDIA_DEVICE) and not hidden:
        cause = (
            f"It is a build for CUDA {facts['cuda']}; nvidia-smi says what CUDA the driver runs."
        )
        fix = f"pip install --force-reinstall -c {stack.constraints} torch torchvision"
        yield "WARNING", "torch does not see the GPU", cause, fix


def print_report(errors: Mapping[str, str | None], facts: Mapping[str, Any], stack: Stack) -> None:
    """Print a row for Python, each installed distribution, CUDA, the GPUs and each import."""
    rows = [("python", f"{platform.python_version()} ({platform.platform()})")]
    rows.append(("stack", f"{stack.name} (tested versions: {stack.constraints})"))
    versions = [(name, installed_version(name)) for name in DISTRIBUTIONS]
    rows += [(name, version) for name, version in versions if version is not None]
    rows.append(("CUDA of torch", facts.get("cuda") or "none"))
    rows.append(("CUDA of mmcv.ops", facts.get("mmcv_cuda") or "none"))
    rows.append(("GPU", ", ".join(facts.get("gpus") or ["none: the CPU is used"])))
    rows += [(f"import {name}", "FAILED" if error else "ok") for name, error in errors.items()]
    for name, text in rows:
        print(f"{name:<30} {text}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 if everything needed works, else 1."""
    parser = argparse.ArgumentParser("python -m mmmetaformer.check_env", description=__doc__)
    parser.add_argument("--quiet", action="store_true", help="print problems only")
    parser.add_argument("--stack", action="store_true", help="leave mmmetaformer itself out")
    args = parser.parse_args(argv)

    try:
        stack = choose_stack()
    except ValueError as error:
        print(f"ERROR: {error}")
        return 1
    # mmengine of the original stack needs it when a config inherits from a package.
    needed = ["pkg_resources"] * (stack.name == "openmmlab")
    errors, facts = import_modules(needed + STACK_MODULES + OWN_MODULES * (not args.stack))
    if not args.quiet:
        print_report(errors, facts, stack)
    levels, fixes = set(), set()
    for level, detail, cause, fix in find_problems(errors, facts, stack):
        print(f"{level}: {detail}")
        print("    same fix as above" if fix in fixes else f"    {cause}\n    fix: {fix}")
        levels.add(level)
        fixes.add(fix)
    if not args.quiet and "ERROR" not in levels:
        print("everything needed works")
    return int("ERROR" in levels)


if __name__ == "__main__":
    sys.exit(main())
