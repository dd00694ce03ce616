"""Tests of the set-up scripts: nothing is downloaded, and the Pythons they meet are small fakes."""

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

# All that the scripts call besides Python, pip and the compiler.
COMMANDS = "bash sh cat cut sed head tail grep tr dirname mkdir mktemp rm mv ls sleep env".split()


@pytest.fixture
def mini(tmp_path):
    """A copy of what the scripts need, with a PATH on which there is no Python."""
    root = tmp_path / "a checkout"  # a space, as users have them
    for name in [*SCRIPTS, "pyproject.toml", "constraints.txt"]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, root / name)
    (root / "mmmetaformer").mkdir()
    (tmp_path / "bin").mkdir()
    for command in COMMANDS:
        found = shutil.which(command)
        if found:
            (tmp_path / "bin" / command).symlink_to(found)
    return root


def run(mini, *command, **variables):
    """Runs a command with the PATH of the copy and no variables of the user's."""
    env = {"PATH": str(mini.parent / "bin"), "HOME": str(mini.parent), **variables}
    return subprocess.run(
        [BASH, *command], capture_output=True, text=True, env=env, cwd=mini.parent, timeout=120
    )


def call(mini, code, **variables):
    """Runs shell code that has the functions of setup_env.sh."""
    source = f'. "{mini}/tools/setup_env.sh"\nVENV=${{VENV:-$MMF_ROOT/.venv}}\n{code}'
    return run(mini, "-uc", source, MMF_DEFINE_ONLY="1", **variables)


def fake(mini, name, body):
    """Puts a program on the PATH."""
    path = mini.parent / "bin" / name
    path.unlink(missing_ok=True)
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def fake_python(mini, name, verdict):
    """A Python that judges itself as told; -c prints where it is."""
    return fake(
        mini, name, f"case $1 in -) cat >/dev/null; echo '{verdict}';; -c) echo \"$0\";; esac"
    )


# A Python whose OpenMMLab packages work: every program it is given succeeds. What it is asked to
# run as a module is noted.
WORKING = (
    'echo "$@" >>"$HOME/calls"\n'
    'case $1 in -) cat >/dev/null;; -c) case $2 in *sys.executable*) echo "$0";; esac;; esac'
)


@pytest.mark.parametrize("script", SCRIPTS)
def test_script_is_executable_and_parses(script):
    assert os.access(ROOT / script, os.X_OK)
    done = subprocess.run([BASH, "-n", str(ROOT / script)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", [*SCRIPTS, "constraints.txt", "pyproject.toml"])
def test_no_address_and_no_machine_path(name):
    text = (ROOT / name).read_text()
    assert not re.search(r"\w://\w|--hash|@ file|--(extra-)?index-url[= ]\w", text)
    assert not re.search(r"/(home|root|opt|work)/", text)


# ---------------------------------------------------------------- the choice of a Python


@pytest.mark.parametrize(
    "pythons, chosen",
    [
        ({"python3.10": "ok", "python3.11": "ok", "python3.12": "ok"}, "python3.12"),
        ({"python3.10": "ok", "python3.12": ""}, "python3.10"),
        ({"python3.11": "has no venv", "python3": "ok"}, "python3"),
        ({"python3": "is Python 3.13, not 3.10 to 3.12", "python": "ok"}, "python"),
        ({"python3.12": "ok-no-headers", "python3.11": "ok"}, "python3.11"),
        ({"python3.12": "ok-no-headers", "python3.11": "ok-no-headers"}, "python3.12"),
    ],
)
def test_first_python_that_serves_is_chosen(mini, pythons, chosen):
    for name, verdict in pythons.items():
        fake_python(mini, name, verdict)
    done = call(mini, "mmf_find_python")
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).name == chosen


def test_python_variable_comes_first(mini):
    fake_python(mini, "python3.12", "ok")
    mine = fake_python(mini, "mine", "ok")
    assert call(mini, "mmf_find_python", PYTHON=str(mine)).stdout.strip() == str(mine)
    mine.write_text("#!/bin/sh\nexit 1\n")
    done = call(mini, "mmf_find_python", PYTHON=str(mine))
    assert Path(done.stdout.strip()).name == "python3.12"


def test_no_python_is_a_clear_error(mini):
    fake(mini, "python3.12", "echo 'version not switched on' >&2; exit 127")
    fake_python(mini, "python3", "is Python 3.13, not 3.10 to 3.12")
    done = call(mini, "mmf_find_python")
    assert (done.returncode, done.stdout) == (1, "")
    assert "python3.12 does not run" in done.stderr
    assert "python3 is Python 3.13" in done.stderr
    assert "apt-get install python3 python3-venv python3-dev" in done.stderr


def test_this_python_is_judged_fit(mini):
    link = mini.parent / "bin" / "python3.11"
    link.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    link.chmod(0o755)
    done = call(mini, "mmf_judge_python python3.11")
    assert done.stdout.strip() in ("ok", "ok-no-headers")


# ---------------------------------------------------------------- an environment that is there


def test_active_environment_that_works_is_used(mini):
    python = fake(mini, "python", WORKING)
    done = run(mini, "-euo", "pipefail", "-c", f'. "{mini}/tools/setup_env.sh"; echo "PY=$PY"')
    assert (done.returncode, done.stdout) == (0, f"PY={python}\n"), done.stderr
    calls = (mini.parent / "calls").read_text()
    assert "-m mmmetaformer.check_env --quiet" in calls
    assert "pip" not in calls
    assert not (mini / ".venv").exists()


def test_active_environment_that_is_broken_is_left_alone(mini):
    fake(
        mini,
        "python",
        WORKING + '\ncase "$*" in *check_env*) echo "ERROR: mmcv.ops: broken"; exit 1;; esac',
    )
    done = run(mini, f"{mini}/tools/setup_env.sh")
    assert "ERROR: mmcv.ops: broken" in done.stdout
    assert "an environment of its own is used" in done.stdout
    assert "-m pip" not in (mini.parent / "calls").read_text()


def test_checkout_is_installed_without_dependencies(mini):
    # Not installed yet: the program that mmf_is_installed gives it fails.
    fake(
        mini,
        "python",
        WORKING.replace(
            "-) cat >/dev/null", "-) if grep -q submodule_search_locations; then exit 1; fi"
        ),
    )
    done = run(mini, f"{mini}/tools/setup_env.sh")
    assert done.returncode == 0, done.stderr
    assert "installing mmmetaformer into the active environment" in done.stdout
    assert "set-up took" in done.stdout
    pip = [x for x in (mini.parent / "calls").read_text().splitlines() if x.startswith("-m pip")]
    assert len(pip) == 1
    assert pip[0].endswith(f"install --no-deps --no-build-isolation -e {mini}")


@pytest.mark.parametrize("code", [0, 1, 5])
@pytest.mark.parametrize("script", ["tools/run_tests.sh", ".ci/run"])
def test_exit_code_of_pytest_is_passed_on(mini, script, code):
    fake(mini, "python", WORKING + f'\ncase "$*" in *"-m pytest"*) exit {code};; esac')
    assert run(mini, f"{mini}/{script}").returncode == code


def test_arguments_are_passed_on(mini):
    fake(mini, "python", WORKING + '\ncase $1 in *quickstart.py) printf "<%s>" "$@";; esac')
    done = run(mini, f"{mini}/tools/quickstart.sh", "--out", "two words")
    assert done.stdout == f"<{mini}/tools/quickstart.py><--out><two words>"


def test_missing_test_packages_are_added_with_their_pins(mini):
    missing = 'case "$1 $*" in "-c "*find_spec*timm*) exit 1;; esac'
    fake(mini, "python", WORKING + "\n" + missing)
    done = run(mini, f"{mini}/tools/run_tests.sh")
    assert done.returncode == 0, done.stderr
    calls = (mini.parent / "calls").read_text()
    assert re.search(r"-m pip .*install -c \S+ timm==[\d.]+\n", calls)
    assert "pytest==" not in calls


# ---------------------------------------------------------------- an environment made here


def test_stamp_follows_what_decides(mini):
    python = f'PY="{sys.executable}"; mkdir -p "$VENV"; '
    first = call(mini, python + "mmf_stamp").stdout
    assert re.fullmatch(r"[0-9a-f]{64}\n", first)
    assert call(mini, python + "mmf_stamp").stdout == first

    index = "https" + "://user:secret@some.where/cpu"
    other = call(mini, python + "mmf_stamp", TORCH_INDEX_URL=index).stdout
    assert other != first
    # The index of an earlier run stays when the variable is unset, and is kept as a hash only.
    code = python + 'mmf_write "$VENV/.mmmetaformer-torch" "$(mmf_index_id)"'
    assert call(mini, code, TORCH_INDEX_URL=index).returncode == 0
    assert call(mini, python + "mmf_stamp").stdout == other
    assert "secret" not in (mini / ".venv/.mmmetaformer-torch").read_text()

    for name in ("constraints.txt", "pyproject.toml"):
        before = call(mini, python + "mmf_stamp").stdout
        (mini / name).write_text((mini / name).read_text() + "# changed\n")
        assert call(mini, python + "mmf_stamp").stdout != before


def test_stamp_and_named_wheel(mini):
    code = f'PY="{sys.executable}"; mkdir -p "$VENV"; '
    fits = code + 'mmf_stamp_fits && echo fits || echo "does not"'
    assert call(mini, fits).stdout == "does not\n"
    call(mini, code + 'mmf_write "$VENV/.mmmetaformer-stamp" "$(mmf_stamp)"')
    assert call(mini, fits).stdout == "fits\n"
    assert call(mini, fits, MMCV_WHEEL="/some/mmcv.whl").stdout == "does not\n"
    call(mini, 'mmf_write "$VENV/.mmmetaformer-wheel" /some/mmcv.whl')
    assert call(mini, fits, MMCV_WHEEL="/some/mmcv.whl").stdout == "fits\n"


def test_folder_of_somebody_else_is_never_removed(mini):
    mine = mini.parent / "papers"
    mine.mkdir()
    (mine / "thesis.tex").write_text("text")
    fake_python(mini, "python3.11", "ok")
    done = run(mini, f"{mini}/tools/setup_env.sh", VENV=str(mine))
    assert done.returncode == 1
    assert "choose another folder" in done.stderr
    assert [path.name for path in mine.iterdir()] == ["thesis.tex"]


def test_interrupted_creation_is_started_anew_and_half_packages_are_dropped(mini):
    """Makes a real environment over the remains of an interrupted one."""
    pytest.importorskip("ensurepip")
    venv = mini / ".venv"
    (venv / "bin").mkdir(parents=True)
    (venv / ".mmmetaformer").touch()
    (venv / "bin" / "python").symlink_to("/nowhere/python")
    fake(mini, "python3.11", f'exec "{sys.executable}" "$@"')
    done = call(mini, "mmf_make_venv && mmf_venv_works")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "making it anew" in done.stdout

    site = next((venv / "lib").glob("python*/site-packages"))
    for name, files in {
        "whole-1.dist-info": ["METADATA", "INSTALLER", "RECORD"],
        "half-1.dist-info": ["METADATA", "RECORD"],
        "quarter-1.dist-info": ["METADATA"],
        "~orch": [],
    }.items():
        (site / name).mkdir()
        for file in files:
            (site / name / file).touch()
    done = call(mini, 'PY="$VENV/bin/python"; mmf_drop_half_installed')
    assert done.returncode == 0, done.stderr
    left = {path.name for path in site.iterdir()}
    assert "whole-1.dist-info" in left
    assert not left & {"half-1.dist-info", "quarter-1.dist-info", "~orch"}
    assert any(name.startswith("pip-") for name in left)

    # And a second run has nothing to make.
    assert call(mini, "mmf_make_venv").stdout == ""


def test_failed_step_shows_its_log_without_addresses(mini):
    address = "https" + "://user:secret@some.where/simple/"
    fake(mini, "failing", f'echo "looked at {address}"; echo "host=\'some.where\'"; exit 3')
    done = call(
        mini,
        'mkdir -p "$VENV/mmmetaformer-logs"; mmf_step "doing it" it failing || echo "status $?"',
    )
    assert done.stdout == "[setup] doing it\nstatus 1\n"
    assert "looked at <address>" in done.stderr
    assert "some.where" not in done.stderr
    assert ".venv/mmmetaformer-logs/it.log" in done.stderr


def test_progress_counts_compiled_files(mini):
    """The ticker, with its pause shortened, reads the last count of the log."""
    log = mini.parent / "log"
    log.write_text("  [1/77] c++ a.cpp\n  [31/77] c++ b.cpp -o x.o\n  warning: x[0]\n")
    fake(mini, "sleep", 'test ! -e "$HOME/slept" && : >"$HOME/slept"')
    done = call(mini, f'mmf_ticker "building mmcv" "{log}" $$')
    assert re.fullmatch(r"\[setup\] building mmcv: 31/77 files, \d+ s\n", done.stdout)


def test_missing_compiler_is_a_clear_error(mini):
    fake(mini, "python", WORKING)
    done = call(mini, f'PY=python; mmf_build_mmcv cpu "{mini}"')
    assert done.returncode == 1
    assert "apt-get install g++" in done.stderr


@pytest.mark.parametrize(
    "seconds, text", [(0, "0 s"), (59, "59 s"), (60, "1 min 0 s"), (130, "2 min 10 s")]
)
def test_time(mini, seconds, text):
    assert call(mini, f"mmf_time {seconds}").stdout == text


# ---------------------------------------------------------------- the pins


def constraint_lines():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(x) for x in lines if x.strip() and not x.startswith("#")]


def wanted():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    every = project["dependencies"] + [item for extra in extras for item in extra]
    return [r for r in map(Requirement, every) if canonicalize_name(r.name) != project["name"]]


def test_constraints_are_exact_pins():
    for line in constraint_lines():
        assert [spec.operator for spec in line.specifier] == ["=="], str(line)
        assert line.url is None
        assert not line.extras


@pytest.mark.parametrize("requirement", wanted(), ids=str)
def test_every_dependency_is_pinned_to_what_it_allows(requirement):
    name = canonicalize_name(requirement.name)
    pins = [line for line in constraint_lines() if canonicalize_name(line.name) == name]
    assert pins, f"{requirement} has no pin"
    for pin in pins:
        (spec,) = pin.specifier
        assert requirement.specifier.contains(spec.version, prereleases=True)


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12"])
def test_each_name_is_pinned_once_for_a_python(python):
    env = {"python_version": python, "python_full_version": python + ".1"}
    names = [
        canonicalize_name(line.name)
        for line in constraint_lines()
        if line.marker is None or line.marker.evaluate(env)
    ]
    assert len(names) == len(set(names))
    assert {"torch", "mmcv", "numpy"} <= set(names)


@pytest.mark.parametrize("name", ["torch", "mmcv", "numpy", "regex", "timm"])
def test_pin_is_read_from_the_constraints(mini, name):
    first = next(line for line in constraint_lines() if line.name == name)
    assert f"=={call(mini, f'mmf_pin {name}').stdout.strip()}" == str(first.specifier)


def test_version_is_single_sourced():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" in project["project"]["dynamic"]
    attr = project["tool"]["setuptools"]["dynamic"]["version"]["attr"]
    assert attr == "mmmetaformer.version.__version__"
    scope = {}
    exec((ROOT / "mmmetaformer/version.py").read_text(), scope)
    assert re.fullmatch(r"\d+\.\d+\.\d+", scope["__version__"])
