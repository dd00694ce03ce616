#!/usr/bin/env bash
# Sets up Python for this checkout and prints the path of the interpreter (all else goes to stderr):
#     python=$(bash tools/setup_env.sh [PACKAGE...])
#
# An active Python with a working OpenMMLab is used as it is; only missing PACKAGEs are added.
# Otherwise an environment is made. Its stamp is written last and every step can be repeated, so a
# run that was killed is mended by running it again. Variables:
#
#   PYTHON              the Python to use
#   VENV                folder of the environment (.venv in the repository root)
#   TORCH_INDEX_URL     package index for torch; when unset, the torch of an earlier run stays
#   MMCV_WHEEL          an mmcv wheel to use instead of building one
#   MMMETAFORMER_CACHE  where built mmcv wheels are kept (~/.cache/mmmetaformer)
#   MAX_JOBS            parallel compilations (one for each core)
set -euo pipefail
exec 3>&1 1>&2

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
pins=$root/constraints.txt
VENV=${VENV:-$root/.venv}
[[ $VENV == /* ]] || VENV=$PWD/$VENV
stamp=$VENV/.mmmetaformer # empty until everything is installed

fail() { printf '[setup] ERROR: %s\n' "$*" && exit 1; }
step() { # LABEL COMMAND...
  printf '[setup] %s\n' "$1"
  "${@:2}" || fail "this step failed, see above: $1 (running it again continues from here)"
}
pip() { "$py" -m pip --disable-pip-version-check --no-input "$@" </dev/null; }
check() { (cd "$root" && "$py" -m mmmetaformer.check_env --quiet "$@"); }

use_active() { # PACKAGE...
  local code='import importlib.metadata as m, sys; [m.version(name) for name in sys.argv[1:]]'
  py=$("${PYTHON:-python3}" -c 'import sys; print(sys.executable)' 2>/dev/null) || return
  [[ $py != "$VENV"/bin/* ]] && check --stack >/dev/null 2>&1 || return
  # What is installed keeps its version; what is added gets the tested one.
  "$py" -c "$code" "$@" 2>/dev/null || step "adding to $py: $*" pip install "$@" -c <(
    { pip list --format=freeze && cat "$pins"; } |
      awk -F== '{ name = tolower($1); gsub(/[-_.]+/, "-", name) } !seen[name]++'
  )
}

make_venv() {
  local name base='' names=(python3.12 python3.11 python3.10 python3)
  local code='import ensurepip, os, sys, sysconfig, venv
assert (3, 10) <= sys.version_info[:2] < (3, 13)
assert sys.argv[1] or os.path.exists(sysconfig.get_path("include") + "/Python.h")
print(sys.executable)'
  "$py" -c 'import pip, sys; assert (3, 10) <= sys.version_info[:2] < (3, 13)' 2>/dev/null && return
  [[ -e $stamp || -z $(ls -A "$VENV" 2>/dev/null) ]] || # made by somebody else
    fail "$VENV exists and has no Python 3.10 to 3.12 with pip; remove it or set VENV=/some/folder"
  [[ -z ${PYTHON:-} ]] || names=("$PYTHON")
  for name in "${names[@]}"; do
    base=$("$name" -c "$code" "${MMCV_WHEEL:-}" 2>/dev/null) && break
  done
  [[ -n $base ]] || fail "none of ${names[*]} is Python 3.10 to 3.12 with venv and headers;" \
    "install one (on Debian: apt-get install python3-venv python3-dev) or set PYTHON=/path/to/it"
  rm -rf "$VENV" && mkdir -p "$VENV" && : >"$stamp"
  step "making an environment with $base in $VENV" "$base" -m venv "$VENV"
}

build_mmcv() { # VERSION KEY FOLDER
  local work
  # CFLAGS replaces Python's own flags; -g0 halves the time.
  local -x MMCV_WITH_OPS=1 CFLAGS='-O2 -g0 -DNDEBUG -fwrapv' PATH=$VENV/bin:$PATH
  local -x MAX_JOBS=${MAX_JOBS:-$(getconf _NPROCESSORS_ONLN)}
  if [[ $2 == *-cuda* ]]; then # a toolkit may lack headers that the pip packages have
    local -x FORCE_CUDA=1 CPATH
    CPATH=$(printf '%s:' "$VENV"/lib/python*/site-packages/nvidia/*/include)
  else
    local -x CUDA_VISIBLE_DEVICES=
  fi
  work=$(mkdir -p "$3" && mktemp -d "$3/.build.XXXXXX") ||
    fail "$3 cannot be written; set MMMETAFORMER_CACHE=/some/folder"
  # pip's own cache ignores which torch a wheel was compiled against.
  step "building mmcv with a C++ compiler (on Debian: apt-get install g++), once, some minutes" \
    pip wheel --no-cache-dir --no-build-isolation --no-deps --no-binary mmcv -w "$work" "mmcv==$1"
  mv -f "$work"/*.whl "$3" && rmdir "$work"
}

install_mmcv() {
  local version key folder wheel works='import sys, mmcv, mmcv.ops
assert mmcv.__version__ == sys.argv[1]
assert "-cuda" not in sys.argv[2] or mmcv.ops.get_compiling_cuda_version() != "not available"'
  version=$(sed -n 's/^mmcv==//p' "$pins")
  # CUDA operators need a GPU and an nvcc of torch's CUDA.
  key=$("$py" -c 'import platform, subprocess, sys, torch
from torch.utils.cpp_extension import CUDA_HOME
kind = "cpu"
if torch.cuda.is_available() and CUDA_HOME:
    nvcc = subprocess.run([CUDA_HOME + "/bin/nvcc", "--version"], capture_output=True, text=True)
    if "release " + torch.version.cuda.split(".")[0] + "." in nvcc.stdout:
        kind = "cuda-sm%d.%d" % torch.cuda.get_device_capability()
python = "cp%d%d-%s" % (*sys.version_info[:2], platform.machine())
print(f"torch{torch.__version__}-{python}-{kind}")') || fail "torch does not import, see above"
  if [[ -n ${MMCV_WHEEL:-} ]]; then
    wheel=$MMCV_WHEEL key=any
  else
    "$py" -c "$works" "$version" "$key" >/dev/null 2>&1 && return
    folder=${MMMETAFORMER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mmmetaformer}/wheels/$key
    ls "$folder/mmcv-$version"-*.whl >/dev/null 2>&1 || build_mmcv "$version" "$key" "$folder"
    wheel=$(ls "$folder/mmcv-$version"-*.whl)
  fi
  step "removing any other mmcv" pip uninstall -y mmcv mmcv-lite mmcv-full
  step "installing $wheel" pip install -c "$pins" --no-cache-dir "$wheel"
  "$py" -c "$works" "$version" "$key" ||
    fail "$wheel does not work with the installed torch; remove it, or name another in MMCV_WHEEL"
}

# All that decides what the environment holds; a hash, as an index's address may hold a password.
fingerprint() {
  { "$py" -V && echo "$root ${TORCH_INDEX_URL:-} ${MMCV_WHEEL:-}" &&
    cat "$pins" "$root/pyproject.toml" "$root/tools/setup_env.sh"; } 2>&1 | sha256sum
}
is_ready() { [[ $(cat "$stamp" 2>/dev/null) == "$(fingerprint)" ]]; }

fill_venv() {
  local info
  make_venv
  : >"$stamp"
  # What a killed pip leaves: packages without INSTALLER, which it writes last, and backups, ~*.
  for info in "$VENV"/lib/python*/site-packages/*.dist-info; do
    [[ -e $info/INSTALLER ]] || rm -rf "$info"
  done
  rm -rf "$VENV"/lib/python*/site-packages/~*
  step "installing build tools" pip install -c "$pins" setuptools wheel ninja
  # The same version from another index is another build, which pip does not see.
  [[ -z ${TORCH_INDEX_URL:-} ]] || step "removing torch" pip uninstall -y torch torchvision
  step "installing torch and torchvision, the largest download" pip install -c "$pins" \
    ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch torchvision
  install_mmcv
  step "installing the other packages and mmmetaformer" \
    pip install -c "$pins" --no-build-isolation -e "${root}[test]"
  step "checking that everything imports" check
  fingerprint >"$stamp"
}

if ! use_active safetensors "$@"; then
  py=$VENV/bin/python
  if ! is_ready; then
    printf '[setup] %s has no working OpenMMLab: setting up %s\n' "${PYTHON:-python3}" "$VENV"
    mkdir -p "$(dirname -- "$VENV")"
    if command -v flock >/dev/null; then
      exec 9>"$VENV.lock"
      flock -n 9 || step "waiting for another set-up of this environment" flock 9
    fi
    is_ready || fill_venv
    printf '[setup] ready after %d s\n' "$SECONDS"
  fi
fi
echo "$py" >&3
