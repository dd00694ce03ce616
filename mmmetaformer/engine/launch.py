"""Reading command lines and configs, and starting processes."""

from __future__ import annotations

import argparse
import difflib
import logging
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict, DictAction

from ..configs import find_config
from ..stacks import explain_missing
from ..variants import list_archs
from ..weights import WeightsError
from .errors import UserError

_LARGEST_STRIDE = 32


def run_cli(main: Callable[[], None]) -> None:
    """Run a tool; what the user can mend is reported in one sentence and exit status 2."""
    # Said by dependencies at every start, and nothing a user could act on.
    for message in (
        "pkg_resources is deprecated", "builtin type Swig", "builtin type swig",
        "Detected pickle protocol",
    ):  # fmt: skip
        warnings.filterwarnings("ignore", message=message)
    # As for `python -m`: modules of the user's own, such as mixers, are found where they stand.
    sys.path.append(os.getcwd())
    try:
        main()
    except (UserError, WeightsError) as error:
        _fail(str(error))
    except ModuleNotFoundError as error:
        missing = explain_missing(error, Path(sys.argv[0]).name)
        if missing is None:
            raise
        _fail(missing)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        _leave_process_group()


def _leave_process_group() -> None:
    """End the process group, which mmengine leaves to the end of the interpreter.

    gloo's threads may still be running then and abort a process that has done all its work, so
    such a process ends here, behind the others' last message, without finalisation.
    """
    if torch.distributed.get_backend() != "gloo":
        torch.distributed.destroy_process_group()
        return
    torch.distributed.barrier()
    for child in multiprocessing.active_children():  # workers of data loaders
        child.terminate()
        child.join()
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def warn(message: str) -> None:
    """Say once, and not once per process, what the user should know."""
    if os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0":
        print(f"warning: {message}", file=sys.stderr, flush=True)


def _fail(message: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") != "0":
        # Nearly always the first process finds the same, says so, and the launcher ends the others
        # meanwhile. What only this one has found is still said.
        time.sleep(5)
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(2)


class _Options(DictAction):
    """mmengine's ``KEY=VALUE`` pairs, with a usage error for what is no pair."""

    def __call__(self, parser, namespace, values, option_string=None):  # noqa: ANN001, ANN204
        for value in values:
            if "=" not in value:
                parser.error(f"{option_string} takes KEY=VALUE, got {value!r}")
        try:
            super().__call__(parser, namespace, values, option_string)
        except (AssertionError, RecursionError):  # unbalanced brackets, calls such as dict(...)
            parser.error(f"{option_string} cannot read {' '.join(values)!r}")


class OldOption(argparse.Action):
    """An option under its old name: hidden, with a line that says the new one, its ``dest``."""

    def __init__(self, option_strings: list[str], dest: str, **kwargs: Any) -> None:
        hidden: dict[str, Any] = dict(default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        super().__init__(option_strings, dest, **hidden, **kwargs)

    def __call__(self, parser, namespace, values, option_string=None):  # noqa: ANN001, ANN204
        warn(f"{option_string} is called --{self.dest.replace('_', '-')} now")
        setattr(namespace, self.dest, values)


def add_common_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments that training and testing share."""
    parser.add_argument("--work-dir", help="where logs and checkpoints go")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        action=_Options,
        metavar="KEY=VALUE",
        help="settings that replace those of the config, e.g. train_dataloader.batch_size=4; a "
        'list is written key="[a,b]", without white space',
    )
    parser.add_argument("--launcher", choices=["none", "pytorch", "slurm", "mpi"], default="none")
    # Passed by torch's older launcher; torchrun sets the variable itself.
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0)


def add_gpus_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--gpus``, for :func:`run_in_processes`.

    Verbs of the console command have it. Scripts do not: mim hands other options to one that has.
    """
    parser.add_argument(
        "--gpus",
        type=positive,
        metavar="N",
        help="train or test in N processes, each with a GPU; without a GPU they share the CPU. "
        "Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT",
    )


def run_in_processes(args: argparse.Namespace, verb: str, argv: Sequence[str]) -> bool:
    """Run a verb of the console command in several processes, if ``--gpus`` asks for them.

    On one machine a free port is taken unless ``PORT`` is set. Several machines are told of each
    other by ``NNODES``, ``NODE_RANK``, ``MASTER_ADDR`` and ``PORT``.

    Args:
        args: The parsed command line.
        verb: The verb.
        argv: Its arguments.

    Returns:
        Whether it has run; the processes themselves have a launcher.
    """
    processes = getattr(args, "gpus", None)
    if processes is None or args.launcher != "none":
        return False
    setting = os.environ.get
    where = ["--standalone"]
    if setting("NNODES", "1") != "1" or setting("PORT"):
        where = [
            f"--nnodes={setting('NNODES', '1')}",
            f"--node_rank={setting('NODE_RANK', '0')}",
            f"--master_addr={setting('MASTER_ADDR', '127.0.0.1')}",
            f"--master_port={setting('PORT') or '29500'}",
        ]
    command = ["-m", "mmmetaformer", verb, *argv, "--launcher", "pytorch"]
    from . import torchrun  # not in every build of torch

    torchrun.main([*where, f"--nproc_per_node={processes}", *command])
    return True


def image_size(text: str) -> tuple[int, int]:
    """A command-line argument HEIGHTxWIDTH, such as ``800x1344``."""
    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise argparse.ArgumentTypeError(f"expected HEIGHTxWIDTH such as 800x1344, got {text!r}")
    return int(height), int(width)


def check_sides(option: str, size: tuple[int, int]) -> None:
    """Raise ``UserError`` for images that are smaller than the stride of the last maps."""
    if min(size) < _LARGEST_STRIDE:
        sides = "{}x{}".format(*size)
        raise UserError(f"{option} {sides}: each side must be at least {_LARGEST_STRIDE}")


def check_arch(name: str) -> None:
    """Raise ``UserError`` unless a network has that name, where configs are taken, too."""
    known = list_archs()
    if name not in known:
        near = difflib.get_close_matches(name, known)
        raise UserError(
            f"unknown network {name!r}: expected one of mmmetaformer.list_archs()"
            + (f", such as {', '.join(near)}," if near else "")
            + " or a config, by its path or its name"
        )


def add_compile_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--compile``, for :func:`compile_backbone_of`."""
    parser.add_argument(
        "--compile",
        action="store_true",
        help="run the backbone under torch.compile, for images of any size",
    )


def compile_backbone_of(cfg: Config) -> None:
    """Have the backbone of a config's model compiled when a run starts."""
    hook = dict(type="mmmetaformer.engine.hooks.CompileBackboneHook")
    cfg.custom_hooks = [*cfg.get("custom_hooks", []), hook]


def side_or_size(text: str) -> tuple[int, int]:
    """A command-line argument SIDE or HEIGHTxWIDTH, such as ``512`` or ``800x1344``."""
    return image_size(f"{text}x{text}" if text.isdigit() else text)


def positive(text: str) -> int:
    """A command-line argument that is a positive integer."""
    if not text.isdigit() or not int(text):
        raise argparse.ArgumentTypeError(f"expected a positive integer, got {text!r}")
    return int(text)


def find_device(name: str | None) -> torch.device:
    """The device that ``--device`` names; a GPU where there is one for None.

    Raises:
        UserError: If there is no such device.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError("expected cpu or cuda")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"--device {name}: {reason}") from error
    return device


def load_config(args: argparse.Namespace, needs: tuple[str, ...]) -> Config:
    """The config with the command line's options, work directory and launcher.

    Args:
        args: The parsed command line.
        needs: Settings without which the tool can do nothing.

    Raises:
        UserError: If the file does not exist, cannot be read or lacks a setting.
    """
    cfg = read_config(args.config, needs, args.cfg_options)
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    cfg.launcher = args.launcher
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get("work_dir") is None:
        cfg.work_dir = str(Path("work_dirs") / Path(cfg.filename).stem)
    return cfg


def read_config(config: str, needs: tuple[str, ...], options: dict | None = None) -> Config:
    """A config.

    Args:
        config: Its file or name; see :func:`~mmmetaformer.get_config`.
        needs: Settings without which the tool can do nothing.
        options: Settings that replace those of the file.

    Raises:
        UserError: If the file does not exist, cannot be read or lacks a setting.
    """
    try:
        path = find_config(config)
    except ValueError as error:
        raise UserError(str(error)) from error
    try:
        cfg = Config.fromfile(path)
        if options:
            cfg.merge_from_dict(options)
    except Exception as error:  # a config is code: whatever it raises is about the config
        raise UserError(f"config {config!r}: {type(error).__name__}: {error}") from error
    absent = [name for name in needs if cfg.get(name) is None]
    if absent:
        raise UserError(f"config {config!r} has no {', '.join(absent)}: not a whole config")
    return cfg


def prepare_processes(cfg: Config) -> None:
    """Make the config run on the processes and devices that there are.

    With a GPU for each process nothing is changed. On a machine without one, several processes
    talk through gloo, and SyncBN, of which torch's own refuses the CPU, is this package's there. In
    a single process mmengine makes it BN by itself.

    Raises:
        UserError: If more processes were started than this machine has GPUs.
    """
    if cfg.launcher == "none":
        return
    if torch.cuda.is_available():
        wanted, there = int(os.environ.get("LOCAL_WORLD_SIZE", 1)), torch.cuda.device_count()
        if wanted > there:
            raise UserError(f"{wanted} processes need as many GPUs, and this machine has {there}")
        return
    if cfg.launcher != "pytorch":
        raise UserError(f"--launcher {cfg.launcher} needs a GPU; on the CPU use pytorch or none")
    torch.distributed.init_process_group("gloo")
    replace_sync_bn(cfg.model, by="mmmetaformer.CPUSyncBatchNorm")
    # mmengine's default wrapper names a device, which modules on the CPU refuse.
    cfg.model_wrapper_cfg = dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )


def replace_sync_bn(model: ConfigDict, by: str = "BN") -> None:
    """Replace torch's SyncBN in the config of a model, in every spelling, by another norm."""

    def plain(value: Any) -> Any:
        if isinstance(value, list | tuple):  # one norm per stage
            return type(value)(plain(item) for item in value)
        name = value.rpartition(".")[2] if isinstance(value, str) else value
        if name not in ("SyncBN", "SyncBatchNorm", torch.nn.SyncBatchNorm):
            return value
        return by

    for part in walk(model):
        for key, value in part.items():
            part[key] = plain(value)


def walk(node: Any) -> Iterator[ConfigDict]:
    """Every dict in a config, outer ones first."""
    if isinstance(node, dict):
        yield node
        for value in node.values():
            yield from walk(value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from walk(value)
