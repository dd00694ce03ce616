"""List the configs by name, or say where the file of one is."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..configs import find_config, list_configs
from ..engine.errors import UserError


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Run the command line; arguments as of :func:`mmmetaformer.commands.train.main`."""
    parser = argparse.ArgumentParser(prog, description=__doc__)
    parser.add_argument("pattern", nargs="?", default="*", help="names, e.g. 'mask-rcnn_caformer*'")
    parser.add_argument("--path", metavar="NAME", help="print the path of one config")
    args = parser.parse_args(argv)
    if args.path is not None:
        try:
            print(find_config(args.path))
        except ValueError as error:
            raise UserError(str(error)) from error
        return
    names = list_configs(args.pattern)
    if not names:
        raise UserError(f"no config matches {args.pattern!r}: without a pattern, all are listed")
    print("\n".join(names))
