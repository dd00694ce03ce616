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
#   STACK               openmmlab (original packages) or onedl (OneDL's continuation); when unset,
#                       the one that is installed, else the first that works on this Python
#   CONSTRAINTS         a file of versions in place of mmmetaformer/constraints/STACK.txt
#   TORCH_INDEX_URL     package index for torch; when unset, the torch of an earlier run stays
#   MMCV_WHEEL          an mmcv wheel to use instead of building one
#   MMMETAFORMER_CACHE  where built mmcv wheels are kept (~/.cache/mmmetaformer)
#   MAX_JOBS            parallel compilations (one for each core)
set -euo pipefail
exec 3>&1 1>&2

root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=${VENV:-$root/.venv}
for name in VENV CONSTRAINTS MMCV_WHEEL; do # some commands run in the root
  [[ -z ${!name:-} || ${!name} == /* ]] || export "$name=$PWD/${!name}"
done
stamp=$VENV/.mmmetaformer # empty until everything is installed

fail() { printf '[setup] ERROR: %s\n' "$*" && exit 1; }
step() { # LABEL COMMAND...
  printf '[setup] %s\n' "$1"
  "${@:2}" || fail "this step failed, see above: $1 (running it again continues from here)"
}
pip() { "$py" -m pip --disable-pip-version-check --no-input "$@" </dev/null; }
own() { (cd "$root" && "$py" -m mmmetaformer."$@"); } # MODULE ARGUMENT...
check() { own check_env --quiet "$@"; }
choose_stack() {
  stack=$(own stacks) || fail "this Python cannot say which packages it has, see above"
  pins=${CONSTRAINTS:-$root/mmmetaformer/constraints/$stack.txt}
  [[ -r $pins ]] || fail "CONSTRAINTS=$pins is no file that can be read"
}

use_active() { # PACKAGE...
  local code='import importlib.metadata as m, sys; [m.version(name) for name in sys.argv[1:]]'
  py=$("${PYTHON:-python3}" -c 'import sys; print(sys.executable)' 2>/dev/null) || return
  [[ $py != "$VENV"/bin/* ]] && check --stack >/dev/null 2>&1 || return
  choose_stack
  # What is installed keeps its version; what is added gets the tested one.
  "$py" -c "$code" "$@" 2>/dev/null || step "adding to $py: $*" pip install "$@" -c <(
    { pip list --format=freeze && cat "$pins"; } |
      awk -F== '{ name = tolower($1); gsub(/[-_.]+/, "-", name) } !seen[name]++'
  )
}

make_venv() {
  local name base='' other=none names=(python3.12 python3.11 python3.10 python3.13 python3)
  local code='import ensurepip, os, sys, sysconfig, venv
assert (3, 10) <= sys.version_info[:2] < (3, 14)
assert sys.argv[1] or os.path.exists(sysconfig.get_path("include") + "/Python.h")
print(sys.executable)'
  case ${STACK:-} in # packages of the other stack have the same modules
    openmmlab) other=onedl_mmengine ;;
    onedl) other=mmengine ;;
  esac
  "$py" -c 'import pip, sys; assert (3, 10) <= sys.version_info[:2] < (3, 14)' 2>/dev/null &&
    ! compgen -G "$VENV/lib/python*/site-packages/$other-*.dist-info" >/dev/null && return
  [[ -e $stamp || -z $(ls -A "$VENV" 2>/dev/null) ]] || # made by somebody else
    fail "$VENV exists and has no Python 3.10 to 3.13 with pip; remove it or set VENV=/some/folder"
  [[ -z ${PYTHON:-} ]] || names=("$PYTHON")
  for name in "${names[@]}"; do
    base=$("$name" -c "$code" "${MMCV_WHEEL:-}" 2>/dev/null) && break
  done
  [[ -n $base ]] || fail "none of ${names[*]} is Python 3.10 to 3.13 with venv and headers;" \
    "install one (on Debian: apt-get install python3-venv python3-dev) or set PYTHON=/path/to/it"
  rm -rf "$VENV" && mkdir -p "$VENV" && : >"$stamp"
  step "making an environment with $base in $VENV" "$base" -m venv "$VENV"
}

# All that decides what the environment holds; a hash, as an index's address may hold a password.
fingerprint() {
  { "$py" -V && echo "$root ${STACK:-} ${TORCH_INDEX_URL:-} ${MMCV_WHEEL:-}" &&
    cat "$root"/mmmetaformer/constraints/* ${CONSTRAINTS:+"$CONSTRAINTS"} "$root/pyproject.toml" \
      "$root/mmmetaformer/build_mmcv.py" "$root/tools/setup_env.sh"; } 2>&1 | sha256sum
}
is_ready() { [[ $(cat "$stamp" 2>/dev/null) == "$(fingerprint)" ]]; }

fill_venv() {
  local info
  make_venv
  : >"$stamp"
  choose_stack
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
  step "installing the packages of $stack and mmmetaformer" \
    pip install -c "$pins" --no-build-isolation -e "${root}[$stack,test]"
  step "having mmcv for this torch (where it is compiled, with a C++ compiler, once, some minutes)" \
    own build_mmcv ${MMCV_WHEEL:+--wheel "$MMCV_WHEEL"}
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
