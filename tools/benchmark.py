"""What a network costs in this package and in others: time, memory and how both grow.

Interleaves the runs of any number of implementations in one process (A B C A B C ...), after
warming up:

    python tools/benchmark.py poolformer_s12 --sizes 512 --implementations timm plain fused
    python tools/benchmark.py poolformer_s12 --sizes 256 512 1024 --max-exponent 1.05
    python tools/benchmark.py poolformer_s12 --sizes 800x1344 --batch-size 8 --device cuda
        --dtype bfloat16 --implementations timm timm+compile fused plain+compile
    python tools/benchmark.py ffnet_1 --works inference --implementations plain deploy
    python tools/benchmark.py CONFIG.py --works training --implementations plain fused --profile

An implementation is NAME[+compile][+channels_last][@DTYPE]. Names: "plain" and "fused" (this
package, without and with its fused path), "triton" (its kernels for GPUs), "deploy" (plain with
branches folded, as after switch_to_deploy), "timm" and "mmpretrain", where they have the network.
dtypes other than float32 are those of autocast; parameters are in float32 always.

All have the same weights and images, and give the same four maps, without norms on them; in float32
this is checked. Inference is a forward pass without gradients. A training step is a forward pass, a
backward pass from fixed random gradients of the four maps and, with --optimizer-step, a step of
AdamW. Of a config, inference goes from images to predictions and a training step is a whole one,
preprocessing and the config's optimiser included.

"x faster" is the median over the rounds of the ratio to the first implementation.
"difference" is that from our plain network in float32, in standard deviations: of the worst map for
inference, of the gradients of all parameters for training.
"""

from __future__ import annotations

import argparse
import datetime
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from benchmarking.candidates import WORKS, BackboneModel, BenchmarkModel, WholeModel
from benchmarking.cases import Case, Settings, run_cases
from benchmarking.implementations import DTYPES, Implementation, read_implementations
from benchmarking.networks import (
    LIBRARIES,
    OURS,
    has_network,
    require_network,
    require_ours,
)
from benchmarking.report import Growth, describe_machine, draw_growths, growths, rows
from benchmarking.timing import wall_clock
from mmmetaformer.configs import is_config
from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.launch import (
    OldOption,
    check_arch,
    check_sides,
    find_device,
    positive,
    read_config,
    run_cli,
    side_or_size,
)
from tool_support.results import as_json, as_table, make_folder, not_a_file, write_files


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "networks",
        nargs="+",
        metavar="NETWORK",
        help="archs of mmmetaformer.list_archs(), or configs (paths that end in .py)",
    )
    parser.add_argument(
        "--implementations",
        nargs="+",
        metavar="IMPLEMENTATION",
        help="the first is what the others are compared with; all that have the network unless "
        "given, timm in front",
    )
    parser.add_argument("--contenders", nargs="+", dest="implementations", action=OldOption)
    parser.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS))
    parser.add_argument(
        "--sizes",
        nargs="+",
        type=side_or_size,
        default=[(512, 512)],
        metavar="SIZE",
        help="of the images: a side or HEIGHTxWIDTH",
    )
    parser.add_argument("--batch-size", type=positive, default=1, help="images; 1")
    parser.add_argument(
        "--dtype", default="float32", choices=DTYPES, help="where none is named; float32"
    )
    parser.add_argument("--device", help="cuda or cpu; a GPU where there is one")
    parser.add_argument("--threads", type=positive, help="of the CPU")
    parser.add_argument("--rounds", type=positive, default=7, help="rounds that count; 7")
    parser.add_argument("--runs", type=positive, default=4, help="timed runs in a round; 4")
    parser.add_argument("--warmup", type=positive, default=1, help="rounds before those; 1")
    parser.add_argument("--optimizer-step", action="store_true", help="of AdamW, for backbones")
    parser.add_argument(
        "--profile", action="store_true", help="write tables of the operators that take most time"
    )
    parser.add_argument(
        "--max-exponent",
        type=float,
        help="exit with status 1 if the time of one of our own implementations grows faster than "
        "this power of the pixels",
    )
    parser.add_argument("--out", default="work_dirs/benchmark", help="folder of results")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    started = _now()
    if args.threads:
        torch.set_num_threads(args.threads)
    device = find_device(args.device)
    out = not_a_file(args.out)
    _check_sizes(args)
    configs = {
        name: read_config(name, needs=("model", "optim_wrapper"))
        for name in args.networks
        if is_config(name)
    }
    chosen = {name: _implementations(name, args, device) for name in dict.fromkeys(args.networks)}
    make_folder(out)

    MMLogger.get_current_instance().setLevel("WARNING")  # says how each parameter starts
    before = describe_machine(device)
    settings = Settings(args.rounds, args.runs, args.warmup, args.profile)
    cases = []
    for network, implementations in chosen.items():
        for size in args.sizes:
            model = _model(network, configs.get(network), size, args, device)
            for case in run_cases(model, implementations, args.works, settings, wall_clock):
                _show(case)
                cases.append(case)

    lines = growths(cases)
    report = dict(
        command=shlex.join(["python", "tools/benchmark.py", *sys.argv[1:]]),
        started=started,
        finished=_now(),
        machine=dict(before, load_average_after=describe_machine(device)["load_average"]),
        settings=dict(vars(settings), optimizer_step=args.optimizer_step),
        cases=[case.as_dict() for case in cases],
        exponents=[asdict(line) for line in lines],
    )
    machine = before["gpu"]["name"] if "gpu" in before else before["processor"]
    picture = draw_growths(lines, f"{args.batch_size} image(s), {machine}")
    files = [("benchmark.json", as_json(report)), ("benchmark.png", picture), *_profiles(cases)]
    write_files(out, files)
    _check_exponents(lines, args.max_exponent)


def _now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def _check_sizes(args: argparse.Namespace) -> None:
    """Raise ``UserError`` for sizes that no network takes, or that no power law fits."""
    for size in args.sizes:
        check_sides("--sizes", size)
    if len(set(args.sizes)) < len(args.sizes):
        raise UserError("--sizes: one is named twice")
    if args.max_exponent is not None and len({h * w for h, w in args.sizes}) < 2:
        raise UserError("--max-exponent needs --sizes of different numbers of pixels")


def _implementations(
    network: str, args: argparse.Namespace, device: torch.device
) -> list[Implementation]:
    """The implementations of a network to compare.

    Raises:
        UserError: If there is no such network, or one of the implementations does not have it.
    """
    if not is_config(network):
        check_arch(network)
    texts = args.implementations or _usual(network)
    implementations = read_implementations(texts, args.dtype)
    for implementation in implementations:
        if implementation.name == "deploy" and "training" in args.works:
            raise UserError(f"{implementation.label} is for prediction: add --works inference")
        if implementation.name == "triton" and device.type != "cuda":
            raise UserError(f"{implementation.label} needs a GPU: leave it out on {device}")
        if implementation.name == "triton":
            import triton_kernels  # noqa: F401  (makes fused='triton' known)
        require = require_ours if is_config(network) else require_network
        require(implementation.name, network)
    return implementations


def _usual(network: str) -> list[str]:
    """The names of implementations that have the network; prints which do not."""
    if is_config(network):
        return ["plain", "fused"]
    names = (*LIBRARIES, "plain", "fused")
    there = [name for name in names if has_network(name, network)]
    for name in names:
        if name not in there:
            print(f"{name} has no {network}", flush=True)
    return there


def _model(
    network: str,
    cfg: Config | None,
    size: tuple[int, int],
    args: argparse.Namespace,
    device: torch.device,
) -> BenchmarkModel:
    if cfg is None:
        return BackboneModel(network, args.batch_size, size, device, args.optimizer_step)
    return WholeModel(Path(network).stem, args.batch_size, size, device, cfg)


def _show(case: Case) -> None:
    height, width = case.size
    print(f"\n{case.network}, {case.work}, {case.batch_size} x {height}x{width}")
    print(as_table(rows(case)), flush=True)


def _profiles(cases: list[Case]) -> Iterator[tuple[str, bytes]]:
    """A file for each table of operators."""
    for case in cases:
        for one in case.measured:
            if one.profile is not None:
                height, width = case.size
                name = f"{case.network}_{case.work}_{height}x{width}_{one.implementation.label}"
                yield f"profile_{re.sub('[^A-Za-z0-9_-]', '-', name)}.txt", one.profile.encode()


def _check_exponents(lines: list[Growth], largest: float | None) -> None:
    """Print the exponents, and leave with status 1 if one of ours is too large."""
    for line in lines:
        if line.exponent is not None:
            print(f"{line.network}, {line.work}, {line.label}: pixels^{line.exponent:.3f}")
    if largest is None:
        return
    over = [line for line in lines if line.implementation in OURS and line.exponent > largest]
    if over:
        names = ", ".join(f"{line.label} in {line.work} of {line.network}" for line in over)
        sys.exit(f"the time grows faster than pixels^{largest:g}: {names}")


if __name__ == "__main__":
    run_cli(main)
