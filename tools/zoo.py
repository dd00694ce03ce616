"""Metafiles and tables of the zoo: ``python tools/zoo.py --check`` or ``--write``.

``configs/<family>/metafile.yml`` holds what is published and what was measured. ``--write`` counts
parameters and operations of every config into them (some minutes), adds those that have no entry,
and generates ``model-index.yml``, ``configs/<family>/README.md`` and what is between the markers of
``README.md``.
"""

import argparse
import sys
from pathlib import Path

from mmmetaformer.engine.launch import run_cli
from model_zoo.checks import check, recount, write


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="bring everything in step")
    action.add_argument("--check", action="store_true", help="say what is out of step")
    parser.add_argument(
        "--tables",
        action="store_true",
        help="with --write: count only configs without an entry",
    )
    parser.add_argument(
        "--recount", action="store_true", help="with --check: count every config, too"
    )
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[1])
    args = parser.parse_args()
    if args.tables and not args.write or args.recount and not args.check:
        parser.error("--tables goes with --write, --recount with --check")

    if args.write:
        changed = write(args.root, count=not args.tables)
        print("\n".join(f"wrote {path}" for path in changed) or "nothing to change")
        return
    problems = check(args.root)
    if args.recount and not problems:
        problems = recount(args.root)
    if problems:
        print("\n".join(problems), file=sys.stderr)
        sys.exit(1)
    print("metafiles, configs and READMEs are in step")


if __name__ == "__main__":
    run_cli(main)
