"""Memory of one training step: ``python tools/step_memory.py CONFIG [--size 800x1344]``.

Runs the whole detector, segmentor or image classifier on a batch of generated images. Prints the
bytes that autograd holds for the backward pass and, on a GPU, the peak of the memory allocated in a
step with the optimiser of the config.
"""

import argparse

import torch
from mmengine.optim import build_optim_wrapper

from mmmetaformer.engine.complexity import saved_for_backward
from mmmetaformer.engine.launch import add_common_arguments, image_size, load_config, run_cli
from tool_support.whole_model import build_whole_model, generated_batch, usual_size


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("--size", type=image_size, help="else the usual one of the task")
    parser.add_argument("--batch-size", type=int, help="images; the config's unless given")
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision")
    add_common_arguments(parser)
    args = parser.parse_args()
    cfg = load_config(args, needs=("model", "train_dataloader", "optim_wrapper"))
    size = args.size or usual_size(cfg)
    batch_size = args.batch_size or cfg.train_dataloader.batch_size
    gpu = torch.cuda.is_available()

    if args.amp:
        cfg.optim_wrapper.update(type="AmpOptimWrapper", loss_scale="dynamic")
    model = build_whole_model(cfg, size)
    model = model.cuda() if gpu else model
    optimiser = build_optim_wrapper(model, cfg.optim_wrapper)

    def step() -> int:
        batch = model.data_preprocessor(generated_batch(cfg, batch_size, size), True)
        with saved_for_backward() as saved, optimiser.optim_context(model):
            loss, _ = model.parse_losses(model(**batch, mode="loss"))
        held = saved.total(exclude=model)
        del saved
        optimiser.update_params(loss)
        return held

    held = step()
    print(f"{args.config}: {batch_size} x {size[0]}x{size[1]}{', AMP' if args.amp else ''}")
    print(f"saved for backward: {held / 2**20:.0f} MiB")
    if gpu:
        # A second step, with the states of the optimiser there.
        torch.cuda.reset_peak_memory_stats()
        step()
        print(f"peak allocated: {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")


if __name__ == "__main__":
    run_cli(main)
