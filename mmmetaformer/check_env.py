"""Says whether this environment can run the package, and how to mend it where it cannot.

Run it with ``python -m mmmetaformer.check_env``. It needs nothing but the standard library, so it
works when torch is missing or broken: what has to be imported is imported in another process, and
a native library that kills that process is reported like any other failure.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

__all__ = [
    "Fix",
    "KnownFailure",
    "KNOWN_FAILURES",
    "Problem",
    "State",
    "collect",
    "diagnose",
    "evaluate",
    "main",
]

PYTHON_RANGE = ((3, 10), (3, 13))

# Imported in this order, each reported on its own. Needed: all of them.
STACK_PROBES = (
    "pkg_resources",
    "torch",
    "torchvision",
    "mmengine",
    "mmcv.ops",
    "mmdet.models",
    "mmseg.models",
    "mmpretrain.models",
)
OWN_PROBES = ("mmmetaformer", "mmmetaformer.backbones")

# What is listed, and the distributions that may provide it.
DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "torchvision": ("torchvision",),
    "mmengine": ("mmengine", "mmengine-lite", "onedl-mmengine"),
    "mmcv": ("mmcv", "onedl-mmcv", "mmcv-full"),
    "mmcv-lite": ("mmcv-lite",),
    "mmdet": ("mmdet", "onedl-mmdetection"),
    "mmseg": ("mmsegmentation", "onedl-mmsegmentation"),
    "mmpretrain": ("mmpretrain", "onedl-mmpretrain"),
    "timm": ("timm",),
    "numpy": ("numpy",),
    "opencv": ("opencv-python", "opencv-python-headless", "opencv-contrib-python"),
    "setuptools": ("setuptools",),
    "transformers": ("transformers",),
}

INSTALL_TORCH = "pip install torch==2.11.0 torchvision==0.26.0"
BUILD_TOOLS = 'pip install "setuptools<81" wheel ninja'
# --no-cache-dir: pip's wheel cache ignores the torch version that a wheel was compiled against.
BUILD_MMCV = (
    "pip uninstall -y mmcv mmcv-lite mmcv-full && "
    f"{BUILD_TOOLS} && "
    'MMCV_WITH_OPS=1 CFLAGS="-O2 -g0" pip install --no-cache-dir --no-build-isolation '
    "--no-binary mmcv mmcv==2.1.0"
)
BUILD_MMCV_CUDA = BUILD_MMCV.replace("MMCV_WITH_OPS=1", "MMCV_WITH_OPS=1 FORCE_CUDA=1")
REINSTALL_TORCHVISION = 'pip install --force-reinstall --no-deps "torchvision=={torchvision}"'


@dataclass(frozen=True)
class Fix:
    """What is wrong and what mends it.

    Attributes:
        cause: One sentence.
        command: A command line to copy.
    """

    cause: str
    command: str


@dataclass(frozen=True)
class KnownFailure:
    """One row of the table of failures that have been seen.

    Attributes:
        pattern: Regular expression, searched in the traceback of the failed import.
        cause: One sentence for the reader.
        command: Command line that mends it. ``{torchvision}`` stands for the torchvision that
            belongs to the installed torch, ``{module}`` for the first group of the pattern.
        module: Regular expression that the name of the failed import has to match.
    """

    pattern: str
    cause: str
    command: str
    module: str = ""


# The first row that matches is taken, so the specific ones stand before the general ones.
KNOWN_FAILURES: tuple[KnownFailure, ...] = (
    KnownFailure(
        r"No module named '?pkg_resources",
        "setuptools 82 and later have no pkg_resources, which mmengine 0.10.7 needs at run time.",
        'pip install "setuptools<81"',
    ),
    KnownFailure(
        r"No module named '?(torch)(\.|'|$)",
        "torch is not installed.",
        INSTALL_TORCH,
    ),
    KnownFailure(
        r"operator torchvision::\w+ does not exist",
        "torchvision was built for another torch than the installed one.",
        REINSTALL_TORCHVISION,
    ),
    KnownFailure(
        r"(?s)torchvision.*(undefined symbol|Couldn't load custom C\+\+ ops)",
        "torchvision was built for another torch than the installed one.",
        REINSTALL_TORCHVISION,
        module=r"^torchvision$",
    ),
    KnownFailure(
        r"No module named '?torchvision",
        "torchvision is not installed; mmpretrain cannot be imported without it.",
        'pip install --no-deps "torchvision=={torchvision}" pillow',
    ),
    KnownFailure(
        r"MMCV==\S+ is used but incompatible",
        "mmdet 3.3 and mmsegmentation 1.2 accept mmcv below 2.2.0 only.",
        BUILD_MMCV,
    ),
    KnownFailure(
        r"MMEngine==\S+ is used but incompatible",
        "This mmengine is not one that the installed OpenMMLab packages accept.",
        'pip install "mmengine>=0.10.3,<1"',
    ),
    KnownFailure(
        r"No module named '?mmcv\._ext",
        "The installed mmcv has no compiled operators (mmcv-lite, or built without them).",
        BUILD_MMCV,
    ),
    KnownFailure(
        r"(?s)(_ext\.\S*so|mmcv).*undefined symbol",
        "mmcv was compiled against another torch than the installed one.",
        BUILD_MMCV,
        module=r"^mm(cv|det|seg|pretrain)",
    ),
    KnownFailure(
        r"(?s)mmcv.*lib(c10|torch|cudart)\S*: cannot open shared object file",
        "mmcv was compiled against another torch than the installed one.",
        BUILD_MMCV,
        module=r"^mm(cv|det|seg|pretrain)",
    ),
    KnownFailure(
        r"No module named '?mmcv",
        "mmcv is not installed, or only in part.",
        BUILD_MMCV,
    ),
    KnownFailure(
        r"No module named '?(ftfy|regex)",
        "mmseg.models needs ftfy and regex, which mmsegmentation does not install itself.",
        "pip install ftfy regex",
    ),
    KnownFailure(
        r"(from|module|named|attribute) '?\"?transformers\b|-packages[/\\]transformers[/\\]",
        "mmpretrain 1.2.0 does not import with this transformers; it does with 4.46.3 and without "
        "any (then: pip uninstall -y transformers).",
        "pip install transformers==4.46.3",
    ),
    KnownFailure(
        r"libGL\.so|libgthread|libglib-2|libSM\.so|libXext\.so",
        "OpenCV was built for a desktop and a system library of it is missing.",
        "pip uninstall -y opencv-python && pip install --force-reinstall --no-deps "
        "opencv-python-headless",
    ),
    KnownFailure(
        r"numpy\.dtype size changed|_ARRAY_API not found|compiled using NumPy 1|"
        r"compiled against (ABI|API) version|numpy\.core\.multiarray failed to import|"
        r"numpy\._core\.multiarray failed to import",
        "A compiled package (OpenCV, pycocotools) and NumPy do not fit together.",
        "pip install --force-reinstall -c constraints.txt numpy opencv-python pycocotools",
    ),
    KnownFailure(
        r"No module named '?(mmengine|mmdet|mmpretrain|pycocotools|safetensors|numpy)\b",
        "A package that is needed is not installed.",
        "pip install -c constraints.txt {module}",
    ),
    KnownFailure(
        r"No module named '?mmseg\b",
        "MMSegmentation is not installed.",
        "pip install -c constraints.txt mmsegmentation",
    ),
    KnownFailure(
        r"No module named '?cv2",
        "OpenCV is not installed.",
        "pip install -c constraints.txt opencv-python",
    ),
    KnownFailure(
        r"the import ended the process",
        "The compiled operators of mmcv do not fit the installed torch.",
        BUILD_MMCV,
        module=r"^mmcv",
    ),
)


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        name: The module or subject.
        level: ``error`` (something needed does not work) or ``warning``.
        detail: What was seen, one line.
        cause: What it means; empty when unknown.
        command: What mends it; empty when unknown.
    """

    name: str
    level: str
    detail: str
    cause: str = ""
    command: str = ""


@dataclass
class State:
    """What was found in the environment.

    Attributes:
        python: Python version as three numbers.
        versions: Name to version, for what is installed.
        errors: Probe name to traceback, ``None`` for an import that worked.
        torch: ``cuda`` (what torch was built for), ``cuda_available``, ``gpus`` as a list of
            ``{name, memory_gib}``.
        mmcv_cuda: CUDA version that mmcv's operators were compiled with, ``not available`` for
            CPU operators, ``None`` when mmcv.ops does not import.
        driver_gpus: GPUs that the driver lists, whether or not torch sees them.
    """

    python: tuple[int, int, int]
    versions: dict[str, str] = field(default_factory=dict)
    errors: dict[str, str | None] = field(default_factory=dict)
    torch: dict = field(default_factory=dict)
    mmcv_cuda: str | None = None
    driver_gpus: list[str] = field(default_factory=list)


def matching_torchvision(torch_version: str | None) -> str:
    """The torchvision series that belongs to a torch version.

    Args:
        torch_version: For example ``2.11.0+cu130``; None when torch is absent.

    Returns:
        A version for ``==``, for example ``0.26.*``. torchvision's minor number has stayed 15
        ahead of torch's since 2.0.

    Examples:
        >>> matching_torchvision("2.11.0+cu130")
        '0.26.*'
    """
    match = re.match(r"2\.(\d+)", torch_version or "")
    return f"0.{int(match[1]) + 15}.*" if match else "0.26.0"


def diagnose(name: str, exception_text: str, versions: Mapping[str, str]) -> Fix | None:
    """Looks a failed import up in the table of known failures.

    Args:
        name: What was imported, for example ``mmcv.ops``.
        exception_text: The traceback, or its last line.
        versions: Name to installed version; used to name a fitting one.

    Returns:
        The cause and the fix, or None for a failure that is not in the table.
    """
    for known in KNOWN_FAILURES:
        if not re.search(known.module, name):
            continue
        match = re.search(known.pattern, exception_text)
        if match:
            # Not str.format: a command line may hold braces of its own.
            command = known.command.replace(
                "{torchvision}", matching_torchvision(versions.get("torch"))
            )
            if "{module}" in command:
                command = command.replace("{module}", match[1])
            return Fix(known.cause, command)
    return None


def installed_versions() -> dict[str, str]:
    """Versions of the listed distributions, read from their metadata without importing them."""
    found = {}
    for name, candidates in DISTRIBUTIONS.items():
        for candidate in candidates:
            try:
                found[name] = importlib.metadata.version(candidate)
                break
            except importlib.metadata.PackageNotFoundError:
                continue
    return found


# Runs in the other process. Each line that counts starts with a mark, because imports print too.
_PROBE = r"""
import importlib, json, sys, traceback, warnings
warnings.simplefilter("ignore")
def tell(**facts):
    sys.stdout.write("\n@@probe " + json.dumps(facts) + "\n")
    sys.stdout.flush()
for name in sys.argv[1:]:
    tell(start=name)
    try:
        module = importlib.import_module(name)
    except BaseException:
        tell(done=name, error=traceback.format_exc())
        continue
    tell(done=name, error=None)
    try:
        if name == "torch":
            ok = module.cuda.is_available()
            gpus = [module.cuda.get_device_properties(i) for i in range(module.cuda.device_count())]
            tell(torch=dict(
                version=module.__version__, cuda=module.version.cuda, cuda_available=ok,
                gpus=[dict(name=g.name, memory_gib=round(g.total_memory / 2**30, 1)) for g in gpus],
            ))
        if name == "mmcv.ops":
            tell(mmcv_cuda=module.get_compiling_cuda_version())
    except Exception:
        tell(extra_error=traceback.format_exc())
"""


def _describe_exit(returncode: int) -> str:
    if returncode < 0:
        try:
            return f"signal {signal.Signals(-returncode).name}"
        except ValueError:
            return f"signal {-returncode}"
    return f"exit code {returncode}"


def run_probes(names: Sequence[str], state: State, script: str = _PROBE) -> None:
    """Imports modules in one other process and fills ``state``.

    When an import ends the process, that module counts as failed and a new process goes on with
    the modules after it.

    Args:
        names: Modules to import, in order.
        state: Receives ``errors``, ``torch`` and ``mmcv_cuda``.
        script: The probing program.
    """
    left = list(names)
    while left:
        done = subprocess.run(
            [sys.executable, "-c", script, *left],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            stdin=subprocess.DEVNULL,
            text=True,
            errors="replace",
        )
        running = None
        for line in done.stdout.splitlines():
            if not line.startswith("@@probe "):
                continue
            facts = json.loads(line[len("@@probe ") :])
            if "start" in facts:
                running = facts["start"]
            elif "done" in facts:
                state.errors[facts["done"]] = facts["error"]
                running = None
            elif "torch" in facts:
                state.torch = facts["torch"]
                state.versions["torch"] = facts["torch"]["version"]
            elif "mmcv_cuda" in facts:
                state.mmcv_cuda = facts["mmcv_cuda"]
        remaining = [name for name in left if name not in state.errors]
        if not remaining:
            return
        # The process ended early: inside an import, or before or between them.
        culprit = running or remaining[0]
        state.errors[culprit] = (
            f"ImportError: the import ended the process ({_describe_exit(done.returncode)})"
        )
        left = [name for name in remaining if name != culprit]


def driver_gpus() -> list[str]:
    """Names of the GPUs that nvidia-smi lists; empty without it."""
    smi = shutil.which("nvidia-smi")
    if smi is None:
        return []
    try:
        done = subprocess.run(
            [smi, "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=30,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()] * (
        done.returncode == 0
    )


def collect(probes: Sequence[str] = STACK_PROBES + OWN_PROBES) -> State:
    """Looks at this environment.

    Args:
        probes: Modules to import.

    Returns:
        What was found.
    """
    state = State(python=tuple(sys.version_info[:3]), versions=installed_versions())
    run_probes(probes, state)
    state.driver_gpus = driver_gpus()
    return state


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def evaluate(state: State) -> list[Problem]:
    """Turns what was found into a list of problems, errors first.

    Args:
        state: What :func:`collect` found.

    Returns:
        The problems. A cause that several imports share is named once, under the first of them.
    """
    errors: list[Problem] = []
    warnings: list[Problem] = []

    low, high = PYTHON_RANGE
    if not low <= state.python[:2] < high:
        errors.append(
            Problem(
                "python",
                "error",
                f"Python {'.'.join(map(str, state.python))}",
                "Python 3.10, 3.11 or 3.12 is needed.",
                "PYTHON=python3.11 bash tools/setup_env.sh",
            )
        )

    named: set[str] = set()
    for name, error in state.errors.items():
        if error is None:
            continue
        fix = diagnose(name, error, state.versions)
        if fix is None:
            errors.append(Problem(name, "error", _last_line(error)))
        elif fix.command not in named:
            named.add(fix.command)
            errors.append(Problem(name, "error", _last_line(error), fix.cause, fix.command))
        else:
            errors.append(
                Problem(name, "error", _last_line(error), "Same cause as above.", fix.command)
            )

    sees_gpu = bool(state.torch.get("cuda_available"))
    # CUDA_VISIBLE_DEVICES='' hides GPUs on purpose; nothing is wrong then.
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if state.torch and state.driver_gpus and not sees_gpu and not hidden:
        if state.torch.get("cuda") is None:
            cause = "This torch is a CPU-only build, so the GPU is not used."
            command = (
                "pip install --force-reinstall torch==2.11.0 torchvision==0.26.0 "
                "(from an index with CUDA builds), then build mmcv again: " + BUILD_MMCV_CUDA
            )
        else:
            cause = (
                f"torch was built for CUDA {state.torch['cuda']} but cannot use the GPU; most "
                "often the driver is older than that."
            )
            command = "nvidia-smi  # the CUDA version it names must not be lower"
        warnings.append(
            Problem("gpu", "warning", f"driver lists {state.driver_gpus[0]}", cause, command)
        )
    if sees_gpu and state.mmcv_cuda == "not available":
        warnings.append(
            Problem(
                "mmcv.ops",
                "warning",
                "mmcv.ops has CPU operators only",
                f"The GPU cannot run detectors until mmcv has CUDA operators; building them needs "
                f"the CUDA {state.torch.get('cuda')} toolkit (nvcc).",
                BUILD_MMCV_CUDA,
            )
        )
    return errors + warnings


def _print_problem(problem: Problem) -> None:
    print(f"{problem.level.upper()}: {problem.name}: {problem.detail}")
    if problem.cause:
        print(f"    {problem.cause}")
    if problem.command and problem.cause != "Same cause as above.":
        print(f"    fix: {problem.command}")
    if not problem.cause:
        print(f"    not a known failure; whole message: python -c 'import {problem.name}'")


def _print_state(state: State) -> None:
    print(f"{'python':<14}{'.'.join(map(str, state.python))} ({platform.platform()})")
    for name in DISTRIBUTIONS:
        version = state.versions.get(name)
        if version is None:
            if name in ("mmcv-lite", "transformers"):
                continue
            version = "not installed" + (" (optional)" if name == "timm" else "")
        if name == "torch" and state.torch:
            version += f" (CUDA {state.torch['cuda']})" if state.torch["cuda"] else " (CPU build)"
        print(f"{name:<14}{version}")
    gpus = state.torch.get("gpus") or []
    for gpu in gpus:
        print(f"{'GPU':<14}{gpu['name']}, {gpu['memory_gib']} GiB")
    if not gpus:
        print(f"{'GPU':<14}no GPU: CPU is used")
    for name, error in state.errors.items():
        word = "ok" if error is None else "FAILED"
        if name == "mmcv.ops" and state.mmcv_cuda:
            cpu_only = state.mmcv_cuda == "not available"
            word += " (CPU operators)" if cpu_only else f" (CUDA {state.mmcv_cuda} operators)"
        print(f"import {name:<24}{word}")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line entry point.

    Args:
        argv: Arguments; those of the process when None.

    Returns:
        0 when everything needed works, else 1. Warnings do not count.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mmmetaformer.check_env", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--quiet", action="store_true", help="print problems only")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--stack", action="store_true", help="check the packages underneath, not mmmetaformer"
    )
    args = parser.parse_args(argv)

    state = collect(STACK_PROBES if args.stack else STACK_PROBES + OWN_PROBES)
    problems = evaluate(state)
    failed = any(problem.level == "error" for problem in problems)
    if args.json:
        report = {
            "ok": not failed,
            **asdict(state),
            "problems": [asdict(problem) for problem in problems],
        }
        print(json.dumps(report, indent=2))
        return int(failed)
    if not args.quiet:
        _print_state(state)
    for problem in problems:
        _print_problem(problem)
    if not args.quiet and not failed:
        print("everything needed works")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
