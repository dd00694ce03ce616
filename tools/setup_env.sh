#!/usr/bin/env bash
# Chooses the Python to use and makes it ready. Source it (tools/quickstart.sh and
# tools/run_tests.sh do; it leaves the interpreter in $PY) or run it by itself.
#
# An active Python whose OpenMMLab packages work is used as it is. Otherwise an environment is made
# in .venv and filled step by step. Every step looks at what is there first, so a run that was
# killed, at whatever moment, is mended by running it again; when all is there it takes seconds.
#
# Variables:
#   PYTHON            the Python to try first
#   VENV              folder of the environment (.venv in the repository root)
#   TORCH_INDEX_URL   package index for torch and torchvision, for another CUDA or a CPU build;
#                     when unset, the torch of an earlier run stays
#   MMCV_WHEEL        an mmcv wheel file to use instead of building one
#   MMMETAFORMER_CACHE  where built mmcv wheels are kept (~/.cache/mmmetaformer)
#   MAX_JOBS          parallel compilations (one for each core)
#
# The file sets no shell options and leaves by `return`, because it may be sourced.

MMF_ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
MMF_START=$SECONDS
MMF_DID=0   # 1 once something had to be done; only then is the time worth a line
PY=

mmf_say() { printf '[setup] %s\n' "$*"; }
mmf_err() { printf '[setup] ERROR: %s\n' "$*" >&2; }
mmf_time() {
  if [ "$1" -ge 60 ]; then printf '%d min %d s' $(($1 / 60)) $(($1 % 60)); else printf '%d s' "$1"; fi
}

# The end of a log, without the addresses of package indexes (they may hold a user's password).
mmf_tail() {
  LC_ALL=C sed -E -e '/it is neither a file nor a directory/d' \
    -e 's#[A-Za-z][A-Za-z0-9+]*://[^][:space:],)]+#<address>#g' \
    -e "s#host='[^']*'#host=<host>#g" "$1" | tail -n 30 >&2
}

# Prints how long a step has taken: every 3 s in place on a terminal, else a line every 30 s.
# Counts compiled files where the log has ninja's [31/77].
mmf_ticker() {
  local label=$1 log=$2 parent=$3 from=$SECONDS every=30 count text
  if [ -t 1 ]; then every=3; fi
  # The check of the parent ends this loop when the script was killed.
  while sleep "$every" >/dev/null 2>&1 && kill -0 "$parent" 2>/dev/null; do
    count=$(grep -oE '\[[0-9]+/[0-9]+\]' "$log" 2>/dev/null | tail -n 1 | tr -d '[]')
    text="$label: ${count:+$count files, }$(mmf_time $((SECONDS - from)))"
    if [ -t 1 ]; then printf '\r\033[K[setup] %s' "$text"; else mmf_say "$text"; fi
  done
}

# mmf_run LABEL LOG COMMAND...: runs with the output in LOG; status of the command.
mmf_run() {
  local label=$1 log=$2 rc=0 ticker
  shift 2
  MMF_DID=1
  mmf_say "$label"
  : >"$log" || return 1
  mmf_ticker "$label" "$log" "$$" 9>&- </dev/null &
  ticker=$!
  "$@" >"$log" 2>&1 </dev/null || rc=$?
  kill "$ticker" 2>/dev/null
  wait "$ticker" 2>/dev/null
  if [ -t 1 ]; then printf '\r\033[K'; fi
  return "$rc"
}

mmf_pip() { "$PY" -m pip --disable-pip-version-check --no-input "$@"; }

# mmf_step LABEL NAME COMMAND...: like mmf_run, and shows the end of the log when it fails.
mmf_step() {
  local label=$1 log="$VENV/mmmetaformer-logs/$2.log"
  shift 2
  mmf_run "$label" "$log" "$@" && return 0
  mmf_err "this failed: $label"
  mmf_tail "$log"
  mmf_err "whole log: $log"
  return 1
}

# Writes by renaming, so that a kill leaves the old file or the new one, never half of one.
mmf_write() { printf '%s\n' "$2" >"$1.new" && mv -f "$1.new" "$1"; }
mmf_read() { if [ -f "$1" ]; then cat "$1"; fi; }

mmf_check() { (cd "$MMF_ROOT" && "$PY" -m mmmetaformer.check_env --quiet "$@"); }

# Prints the version that constraints.txt pins for a package.
mmf_pin() { sed -n "s/^$1==\([^ ;]*\).*/\1/p" "$MMF_ROOT/constraints.txt" | head -n 1; }

# ---------------------------------------------------------------- an environment that is there

# Succeeds when a Python has all packages, by looking for their folders only (about 0.1 s), and is
# not the environment made here, which has its own, stricter way.
mmf_has_stack() {
  "$1" - "$VENV" <<'PY' >/dev/null 2>&1
import importlib.util, os, sys
if not (3, 10) <= sys.version_info[:2] < (3, 13):
    sys.exit(1)
if os.path.realpath(sys.prefix) == os.path.realpath(sys.argv[1]):
    sys.exit(1)
names = "torch torchvision mmengine mmcv mmdet mmseg mmpretrain".split()
sys.exit(any(importlib.util.find_spec(name) is None for name in names))
PY
}

# Succeeds when `import mmmetaformer`, from anywhere, is this checkout.
mmf_is_installed() {
  (cd / && "$PY" - "$MMF_ROOT" <<'PY' >/dev/null 2>&1
import importlib.util, os, sys
spec = importlib.util.find_spec("mmmetaformer")
places = list(spec.submodule_search_locations) if spec else []
want = os.path.realpath(os.path.join(sys.argv[1], "mmmetaformer"))
sys.exit(want not in [os.path.realpath(place) for place in places])
PY
  )
}

mmf_has_module() {
  "$PY" -c 'import importlib.util, sys
sys.exit(any(importlib.util.find_spec(name) is None for name in sys.argv[1:]))' "$@" 2>/dev/null
}

# Adds packages to an environment that is not ours without changing what it has: everything that is
# installed there is pinned to what it is.
mmf_add() {
  local keep log rc=0
  keep=$(mktemp) && log=$(mktemp) || return 1
  "$PY" - >"$keep" <<'PY'
import importlib.metadata, re
seen = {}
for dist in importlib.metadata.distributions():
    name = dist.metadata["Name"]
    if name and re.fullmatch(r"[\w.-]+", name) and dist.version:
        seen.setdefault(re.sub(r"[-_.]+", "-", name).lower(), dist.version)
print("\n".join(f"{name}=={version}" for name, version in sorted(seen.items())))
PY
  mmf_run "adding to the active environment: $*" "$log" mmf_pip install -c "$keep" "$@" || rc=$?
  if [ "$rc" -ne 0 ]; then mmf_err "pip could not add: $*"; mmf_tail "$log"; fi
  rm -f "$keep" "$log"
  return "$rc"
}

# The interpreter behind a name, a shim or a relative path.
mmf_executable() { "$1" -c 'import sys; print(sys.executable)'; }

# Uses the active Python when its packages really import. Status 1: no such Python.
mmf_use_active() {
  local candidate path seen=' ' report log
  for candidate in ${PYTHON:+"$PYTHON"} python python3; do
    path=$(command -v "$candidate" 2>/dev/null) || continue
    case $seen in *" $path "*) continue ;; esac
    seen="$seen$path "
    mmf_has_stack "$path" || continue
    PY=$(mmf_executable "$path")
    # The usual case of a later run: one check, nothing to install.
    if mmf_has_module safetensors && mmf_is_installed && report=$(mmf_check); then
      if [ -n "$report" ]; then printf '%s\n' "$report"; fi
      return 0
    fi
    if ! report=$(mmf_check --stack); then
      mmf_say "the OpenMMLab packages of the active Python ($path) do not work:"
      printf '%s\n' "$report"
      mmf_say "so an environment of its own is used"
      PY=
      continue
    fi
    mmf_has_module safetensors || mmf_add "safetensors" || return 2
    if ! mmf_is_installed; then
      log=$(mktemp) || return 2
      # First with the setuptools that is there: that needs no network.
      if ! mmf_run "installing mmmetaformer into the active environment ($path)" "$log" \
        mmf_pip install --no-deps --no-build-isolation -e "$MMF_ROOT" &&
        ! mmf_run "trying again with a build environment of pip's" "$log" \
          mmf_pip install --no-deps -e "$MMF_ROOT"; then
        mmf_say "it could not be installed there; used from this folder for this run instead"
        export PYTHONPATH="$MMF_ROOT${PYTHONPATH:+:$PYTHONPATH}"
      fi
      rm -f "$log"
    fi
    mmf_check || return 2
    return 0
  done
  return 1
}

# What run_tests.sh asks for. The environment made here has the packages already.
mmf_need_test_packages() {
  local name missing=''
  for name in pytest timm hypothesis pytest-xdist; do
    mmf_has_module "${name#pytest-}" || missing="$missing $name==$(mmf_pin "$name")"
  done
  [ -n "$missing" ] || return 0
  # shellcheck disable=SC2086  # a list of words
  mmf_add $missing
}

# ---------------------------------------------------------------- an environment made here

# Prints "ok", "ok-no-headers" or why a Python does not serve. It is run, not only looked for:
# a version manager's shim exists for versions that are not switched on.
mmf_judge_python() {
  local answer
  answer=$("$1" - <<'PY' 2>/dev/null
import os, sys, sysconfig
def judge():
    if not (3, 10) <= sys.version_info[:2] < (3, 13):
        return "is Python %d.%d, not 3.10 to 3.12" % sys.version_info[:2]
    try:
        import ensurepip, venv
    except ImportError:
        return "has no venv (on Debian and Ubuntu: apt-get install python%d.%d-venv)" % (
            sys.version_info[:2])
    headers = os.path.join(sysconfig.get_path("include"), "Python.h")
    return "ok" if os.path.exists(headers) else "ok-no-headers"
print(judge())
PY
  )
  printf '%s\n' "${answer:-does not run}"
}

# Prints the Python to make the environment from. One with headers (mmcv is compiled) is preferred.
mmf_find_python() {
  local candidate path verdict second='' why=''
  for candidate in ${PYTHON:+"$PYTHON"} python3.12 python3.11 python3.10 python3 python; do
    path=$(command -v "$candidate" 2>/dev/null) || continue
    verdict=$(mmf_judge_python "$path")
    case $verdict in
      ok) mmf_executable "$path"; return 0 ;;
      ok-no-headers) [ -n "$second" ] || second=$(mmf_executable "$path") ;;
      *) why="$why
    $candidate $verdict" ;;
    esac
  done
  if [ -n "$second" ]; then printf '%s\n' "$second"; return 0; fi
  mmf_err "no Python 3.10, 3.11 or 3.12 that can make environments was found.${why:-}
  Install one (on Debian and Ubuntu: apt-get install python3 python3-venv python3-dev), or name
  one: PYTHON=/path/to/python3.11"
  return 1
}

# Succeeds when $VENV is an environment that runs and has pip.
mmf_venv_works() {
  [ -x "$VENV/bin/python" ] && "$VENV/bin/python" -c '
import sys
assert sys.prefix != sys.base_prefix and (3, 10) <= sys.version_info[:2] < (3, 13)
import pip, ssl' >/dev/null 2>&1
}

mmf_make_venv() {
  local base
  mmf_venv_works && return 0
  if [ -e "$VENV" ] && [ ! -e "$VENV/.mmmetaformer" ] && [ -n "$(ls -A "$VENV" 2>/dev/null)" ]; then
    # Somebody else's folder: never removed.
    mmf_err "$VENV is there, but is no working environment with pip and Python 3.10 to 3.12.
  Remove it, or choose another folder: VENV=/some/folder"
    return 1
  fi
  base=$(mmf_find_python) || return 1
  if [ -e "$VENV" ]; then mmf_say "the environment is incomplete; making it anew"; fi
  rm -rf "$VENV"
  # The mark comes first, so that an interrupted creation is known to be ours.
  mkdir -p "$VENV/mmmetaformer-logs" && : >"$VENV/.mmmetaformer" || return 1
  mmf_step "making an environment with $("$base" -V 2>&1) in $VENV" venv "$base" -m venv "$VENV" || return 1
  if ! mmf_venv_works; then
    mmf_err "the new environment $VENV does not run"
    return 1
  fi
}

# A kill in the middle of a pip install leaves packages that pip takes for installed. INSTALLER and
# RECORD are what pip writes last; without them the entry is removed, and pip installs it again.
mmf_drop_half_installed() {
  "$PY" - <<'PY'
import pathlib, shutil, sysconfig
for place in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
    for entry in pathlib.Path(place).iterdir():
        half = entry.name.endswith(".dist-info") and not (
            (entry / "INSTALLER").exists() and (entry / "RECORD").exists()
        )
        # ~name is what pip calls a package that it is about to remove.
        if half or entry.name.startswith("~"):
            print(f"[setup] removing what an interrupted installation left: {entry.name}")
            shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()
PY
}

mmf_sha() { "$PY" -c 'import hashlib, sys; print(hashlib.sha256(sys.argv[1].encode()).hexdigest()[:16])' "$1"; }

# The CUDA compiler, or nothing.
mmf_nvcc() {
  if [ -n "${CUDA_HOME:-}" ] && [ -x "$CUDA_HOME/bin/nvcc" ]; then
    printf '%s\n' "$CUDA_HOME/bin/nvcc"
  else
    command -v nvcc 2>/dev/null || true
  fi
}

# A GPU and a compiler that appear later have mmcv built again; looked at without importing torch.
mmf_cuda_hint() {
  if [ -e /dev/nvidiactl ] || [ -e /dev/dxg ]; then printf 'gpu %s' "$(mmf_nvcc)"; else printf 'no gpu'; fi
}

# The index that torch is to come from, as a hash (it may hold a password).
mmf_index_id() {
  if [ -n "${TORCH_INDEX_URL:-}" ]; then
    mmf_sha "$TORCH_INDEX_URL"
  else
    mmf_read "$VENV/.mmmetaformer-torch"
  fi
}

# Everything that decides what the environment holds.
mmf_stamp() {
  "$PY" - "$MMF_ROOT" "$(mmf_index_id)" "$(mmf_cuda_hint)" <<'PY'
import hashlib, pathlib, sys
digest = hashlib.sha256(repr((sys.argv[1:], sys.version, sys.prefix)).encode())
for name in ("pyproject.toml", "constraints.txt", "tools/setup_env.sh"):
    digest.update((pathlib.Path(sys.argv[1]) / name).read_bytes())
print(digest.hexdigest())
PY
}

mmf_stamp_fits() {
  [ "$(mmf_read "$VENV/.mmmetaformer-stamp")" = "$(mmf_stamp)" ] || return 1
  # Unset means: what is there may stay.
  [ -z "${MMCV_WHEEL:-}" ] || [ "$(mmf_read "$VENV/.mmmetaformer-wheel")" = "$MMCV_WHEEL" ]
}

mmf_install_torch() {
  local record="$VENV/.mmmetaformer-torch" want
  want=$(mmf_index_id)
  : "${want:=default}"
  if [ -n "${TORCH_INDEX_URL:-}" ] && [ "$(mmf_read "$record")" != "$want" ]; then
    # The same version number from another index is another build, which pip would not notice.
    mmf_pip uninstall -y torch torchvision >/dev/null 2>&1
  fi
  # The default index, unless another is named, for this one step.
  set -- install -c "$MMF_ROOT/constraints.txt"
  if [ -n "${TORCH_INDEX_URL:-}" ]; then set -- "$@" --index-url "$TORCH_INDEX_URL"; fi
  mmf_step "installing torch and torchvision (the largest download)" torch \
    mmf_pip "$@" torch torchvision || return 1
  if ! mmf_torch_works; then
    mmf_step "torch does not import; installing it again" torch \
      mmf_pip "$@" --force-reinstall --no-cache-dir torch torchvision || return 1
    if ! mmf_torch_works; then
      mmf_err "torch and torchvision were installed but do not import:"
      "$PY" -c 'import torch, torchvision.ops' 2>&1 | tail -n 1 >&2
      return 1
    fi
  fi
  mmf_write "$record" "$want"
}

mmf_torch_works() {
  "$PY" -c 'import torch, torchvision.ops; torch.ops.torchvision.nms' >/dev/null 2>&1
}

# Prints two lines: the name of the wheel folder without its last part, and torch's CUDA version
# followed by the capability of the GPU that torch sees ("13.0 9.0"; empty without a GPU).
mmf_torch_facts() {
  "$PY" - <<'PY' 2>/dev/null
import platform, sys, torch
print("torch%s-cp%d%d-%s" % (torch.__version__, *sys.version_info[:2], platform.machine()))
if torch.cuda.is_available() and torch.version.cuda:
    print(torch.version.cuda, "%d.%d" % torch.cuda.get_device_capability(0))
PY
}

# mmf_mmcv_works cpu|cuda: does the installed mmcv have working operators of that kind?
mmf_mmcv_works() {
  "$PY" - "$1" "$(mmf_pin mmcv)" <<'PY' >/dev/null 2>&1
import sys
import mmcv, mmcv.ops
from importlib.metadata import version
import torch
assert version("mmcv").split("+")[0] == sys.argv[2]
keep = mmcv.ops.nms(torch.tensor([[0.0, 0.0, 9.0, 9.0]]), torch.tensor([0.9]), 0.5)[1]
assert keep.tolist() == [0]
if sys.argv[1] == "cuda":
    assert mmcv.ops.get_compiling_cuda_version() != "not available"
PY
}

# mmf_try_mmcv KIND LABEL REQUIREMENT...: installs, keeps it only if its operators work.
# Status 1: pip could not install it; 2: it does not work.
mmf_try_mmcv() {
  local kind=$1 label=$2 log="$VENV/mmmetaformer-logs/mmcv-install.log"
  shift 2
  mmf_pip uninstall -y mmcv mmcv-lite mmcv-full >/dev/null 2>&1
  mmf_run "$label" "$log" mmf_pip install -c "$MMF_ROOT/constraints.txt" --no-cache-dir "$@" || return 1
  mmf_mmcv_works "$kind" && return 0
  mmf_say "its operators do not work with this torch; removed again"
  mmf_pip uninstall -y mmcv >/dev/null 2>&1
  return 2
}

# mmf_build_mmcv KIND FOLDER: compiles mmcv and puts the wheel into FOLDER.
mmf_build_mmcv() {
  local kind=$1 folder=$2 log="$VENV/mmmetaformer-logs/mmcv-build.log" work jobs rc=0 cuda=''
  if ! command -v "${CXX:-c++}" >/dev/null 2>&1; then
    mmf_err "mmcv has to be compiled and there is no C++ compiler (${CXX:-c++}).
  Install one (on Debian and Ubuntu: apt-get install g++) and run this again."
    return 1
  fi
  if ! "$PY" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'; then
    mmf_err "mmcv has to be compiled and the headers of $("$PY" -V) are missing.
  Install them (on Debian and Ubuntu: apt-get install python3-dev) and run this again."
    return 1
  fi
  jobs=${MAX_JOBS:-$(nproc 2>/dev/null || getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)}
  work=$(mktemp -d "$folder/.build.XXXXXX") || return 1
  # CFLAGS replaces Python's own flags under recent setuptools, so the optimisation has to be said;
  # -g0 halves the time. pip's wheel cache ignores the torch version, hence --no-cache-dir.
  # ninja (parallel compilation, the count of files) is looked for on PATH.
  set -- env PATH="$VENV/bin:$PATH" MMCV_WITH_OPS=1 CFLAGS='-O2 -g0 -DNDEBUG -fwrapv' MAX_JOBS="$jobs"
  if [ "$kind" = cuda ]; then
    cuda=$(dirname -- "$(dirname -- "$(mmf_nvcc)")")
    # A toolkit may lack the headers of cuBLAS and others that torch's pip packages carry.
    set -- "$@" FORCE_CUDA=1 CUDA_HOME="${CUDA_HOME:-$cuda}" CPATH="$("$PY" -c '
import glob, os, sysconfig
print(":".join(sorted(glob.glob(sysconfig.get_path("purelib") + "/nvidia/*/include"))
               + [p for p in [os.environ.get("CPATH")] if p]))')"
  else
    set -- "$@" FORCE_CUDA=0 CUDA_VISIBLE_DEVICES=
  fi
  mmf_run "building mmcv ($kind operators, $jobs at a time; minutes, kept for the next time)" "$log" \
    "$@" "$PY" -m pip --disable-pip-version-check --no-input wheel -v --no-cache-dir \
    --no-build-isolation --no-deps --no-binary mmcv -w "$work" "mmcv==$(mmf_pin mmcv)" || rc=$?
  if [ "$rc" -eq 0 ]; then
    mv -f "$work"/mmcv-*.whl "$folder/" || rc=1
  else
    mmf_err "building mmcv failed"
    # What went wrong stands in the middle: the other compilations end and pip cleans up after it.
    grep -m 5 -E '(^|[^a-z])([Ee]rror|fatal error):|FAILED:' "$log" | cut -c 1-300 | mmf_tail - >&2
    mmf_tail "$log"
    mmf_err "whole log: $log"
  fi
  rm -rf "$work"
  return "$rc"
}

mmf_install_mmcv() {
  local facts base cuda arch nvcc release kind=cpu key folder wheel version rc
  local record="$VENV/.mmmetaformer-mmcv" source="$VENV/.mmmetaformer-wheel"
  version=$(mmf_pin mmcv)
  facts=$(mmf_torch_facts)
  base=$(printf '%s\n' "$facts" | sed -n 1p)
  read -r cuda arch <<<"$(printf '%s\n' "$facts" | sed -n 2p)"
  if [ -n "$cuda" ]; then
    nvcc=$(mmf_nvcc)
    release=
    if [ -n "$nvcc" ]; then release=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\).*/\1/p'); fi
    if [ -n "$release" ] && [ "${release%%.*}" = "${cuda%%.*}" ]; then
      kind=cuda
    else
      mmf_say "a GPU is there but no CUDA $cuda compiler (nvcc): mmcv gets CPU operators and the GPU is not used; install the CUDA $cuda toolkit, or name an mmcv wheel in MMCV_WHEEL, and run this again"
    fi
  fi
  key="$base-$kind"
  if [ "$kind" = cuda ]; then key="$key-sm$arch"; fi

  if [ "$(mmf_read "$record")" = "$key" ] &&
    { [ -z "${MMCV_WHEEL:-}" ] || [ "$(mmf_read "$source")" = "$MMCV_WHEEL" ]; } &&
    mmf_mmcv_works cpu; then
    return 0
  fi
  rm -f "$record" "$source"

  if [ -n "${MMCV_WHEEL:-}" ]; then
    if mmf_try_mmcv cpu "installing the mmcv wheel that MMCV_WHEEL names" "$MMCV_WHEEL"; then
      mmf_write "$source" "$MMCV_WHEEL" && mmf_write "$record" "$key"
      return
    fi
    mmf_say "the wheel that MMCV_WHEEL names could not be used; going on without it"
  fi

  folder="${MMMETAFORMER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/mmmetaformer}/wheels/$key"
  if ! mkdir -p "$folder" 2>/dev/null || [ ! -w "$folder" ]; then
    folder="$VENV/mmmetaformer-wheels/$key"
    mkdir -p "$folder" || return 1
  fi
  for wheel in "$folder/mmcv-$version"-*.whl; do
    [ -f "$wheel" ] || continue
    rc=0
    mmf_try_mmcv "$kind" "installing mmcv from the wheel built earlier" "$wheel" || rc=$?
    if [ "$rc" -eq 0 ]; then
      mmf_write "$record" "$key"
      return
    fi
    if [ "$rc" -eq 1 ] && "$PY" -m zipfile -t "$wheel" >/dev/null 2>&1; then
      # A whole wheel that pip could not install: what it requires could not be fetched. Building
      # for minutes would end the same way.
      mmf_err "mmcv or what it requires could not be installed"
      mmf_tail "$VENV/mmmetaformer-logs/mmcv-install.log"
      return 1
    fi
    rm -f "$wheel"
  done
  if mmf_try_mmcv "$kind" "looking for a ready mmcv wheel" --only-binary mmcv "mmcv==$version"; then
    mmf_write "$record" "$key"
    return
  fi
  if ! mmf_build_mmcv "$kind" "$folder"; then
    [ "$kind" = cuda ] || return 1
    mmf_say "building CPU operators instead: the GPU is not used until mmcv has CUDA operators"
    kind=cpu
    folder="${folder%-cuda-sm*}-cpu"
    mkdir -p "$folder" && mmf_build_mmcv cpu "$folder" || return 1
  fi
  for wheel in "$folder/mmcv-$version"-*.whl; do
    if mmf_try_mmcv "$kind" "installing mmcv" "$wheel"; then
      mmf_write "$record" "$key"
      return
    fi
  done
  mmf_err "mmcv was built, but could not be installed or its operators do not work:"
  mmf_tail "$VENV/mmmetaformer-logs/mmcv-install.log"
  return 1
}

# Takes the lock on file descriptor 9, so that two runs do not write into each other's environment.
mmf_lock() {
  command -v flock >/dev/null 2>&1 || return 0
  exec 9>"$VENV.lock" || return 1
  if ! flock -n 9; then
    mmf_say "another set-up of this environment is running; waiting for it"
    flock 9
  fi
}

mmf_use_venv() {
  local rc=0
  PY="$VENV/bin/python"
  if mmf_venv_works && mmf_stamp_fits && mmf_check; then return 0; fi
  mkdir -p "$(dirname -- "$VENV")" && mmf_lock || return 1
  mmf_fill_venv || rc=$?
  exec 9>&-
  return "$rc"
}

mmf_fill_venv() {
  mmf_make_venv || return 1
  # The run that was waited for may have done it all.
  if mmf_stamp_fits && mmf_check; then return 0; fi
  rm -f "$VENV/.mmmetaformer-stamp"
  mkdir -p "$VENV/mmmetaformer-logs" || return 1
  mmf_drop_half_installed || return 1
  mmf_step "installing build tools" tools \
    mmf_pip install -c "$MMF_ROOT/constraints.txt" setuptools wheel ninja || return 1
  mmf_install_torch || return 1
  mmf_install_mmcv || return 1
  # torch and mmcv satisfy their pins by now (2.11.0+cu130 satisfies ==2.11.0): pip leaves them.
  mmf_step "installing the other packages and mmmetaformer" rest \
    mmf_pip install -c "$MMF_ROOT/constraints.txt" --no-build-isolation -e "${MMF_ROOT}[test]" || return 1
  mmf_say "checking that everything imports"
  mmf_check || return 1
  mmf_write "$VENV/.mmmetaformer-stamp" "$(mmf_stamp)"
}

mmf_main() {
  local rc=0
  VENV=${VENV:-$MMF_ROOT/.venv}
  case $VENV in /*) ;; *) VENV=$PWD/$VENV ;; esac
  mmf_use_active || rc=$?
  if [ "$rc" -eq 1 ]; then rc=0; mmf_use_venv || rc=$?; fi
  if [ "$rc" -ne 0 ]; then
    mmf_err "the environment is not ready; running this again goes on where it stopped"
    return 1
  fi
  if [ "$MMF_DID" -eq 1 ]; then
    mmf_say "ready: $PY (set-up took $(mmf_time $((SECONDS - MMF_START))))"
  fi
}

# The tests source the functions alone.
if [ -z "${MMF_DEFINE_ONLY:-}" ]; then mmf_main; fi
