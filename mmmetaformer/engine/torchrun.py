"""torchrun without its stack trace: ``python -m mmmetaformer.engine.torchrun`` takes the same
options. A process that fails has said why; the launcher adds one line and its exit status."""

from __future__ import annotations

import os
import sys

import torch
from torch.distributed import run
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError


def main(argv: list[str] | None = None) -> None:
    """Start the processes and exit with the status of the first that failed."""
    args = run.parse_args(argv)
    if not torch.cuda.is_available() and args.nproc_per_node.isdigit():
        # On the CPU the processes share the cores; torchrun would give each of them one.
        threads = max(1, (os.cpu_count() or 1) // int(args.nproc_per_node))
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    try:
        run.run(args)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        print(f"process {rank} ended with status {failure.exitcode}", file=sys.stderr)
        # A negative status is the signal that ended the process.
        sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)


if __name__ == "__main__":
    main()
