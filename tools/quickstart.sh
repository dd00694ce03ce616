#!/usr/bin/env bash
# Sets the environment up where needed, then runs the quickstart in it.
# Arguments go to tools/quickstart.py; works from any directory.
set -euo pipefail

here=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd -P)
# shellcheck source=tools/setup_env.sh
. "$here/setup_env.sh" || exit $?

# No cd: paths among the arguments stay relative to where the user stands.
exec "$PY" "$here/quickstart.py" "$@"
