"""The console command: ``mmmetaformer VERB ...``, or ``python -m mmmetaformer VERB ...``.

Only the module of the verb is imported, so that the first lines of help, ``check`` and ``configs``
need neither torch nor OpenMMLab.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module

from . import check_env
from .engine.errors import UserError
from .stacks import explain_missing

VERBS = {
    "train": "train a detector, a segmentor or an image classifier",
    "test": "evaluate one",
    "predict": "predict on images and draw what is found",
    "export": "write a backbone as ONNX",
    "convert": "bring published weights from one key layout into another",
    "configs": "list the configs by name",
    "check": "say what is installed, and the fix for what is broken",
    "quickstart": "train, evaluate and draw on generated shapes",
}


def main() -> None:
    """Run the console command."""
    verb, argv = (sys.argv[1:2] or ["--help"])[0], sys.argv[2:]
    if verb in ("-h", "--help"):
        lines = (f"  {name:<12}{text}" for name, text in VERBS.items())
        print("usage: mmmetaformer VERB ... (--help behind a verb says more)\n", *lines, sep="\n")
        return
    if verb not in VERBS:
        sys.exit(_error(f"unknown verb {verb!r}: expected one of {', '.join(VERBS)}"))
    if verb == "check":
        sys.exit(check_env.main(argv))
    try:
        module = import_module(f"{__package__}.commands.{verb}")
        command = partial(module.main, argv, f"mmmetaformer {verb}")
        if verb == "configs":
            command()
        else:
            import_module(f"{__package__}.engine.launch").run_cli(command)
    except UserError as error:
        sys.exit(_error(str(error)))
    except ModuleNotFoundError as error:
        message = explain_missing(error, f"mmmetaformer {verb}")
        if message is None:
            raise
        sys.exit(_error(message))


def _error(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
