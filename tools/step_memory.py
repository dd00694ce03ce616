"""Memory of one training step: ``python tools/step_memory.py CONFIG [--size 800x1344]``.

Runs the whole detector, segmentor or image classifier on a batch of generated images. Prints the
bytes that autograd holds for the backward pass and, on a GPU, the peak of the memory allocated in a
step with the optimiser of the config.
"""

import argparse
from importlib import import_module

import torch
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData

from mmmetaformer.engine.complexity import saved_for_backward
from mmmetaformer.engine.errors import UserError
from mmmetaformer.engine.launch import (
    add_common_arguments,
    image_size,
    load_config,
    replace_sync_bn,
    run_cli,
    walk,
)


def detection_batch(batch_size: int, height: int, width: int, classes: int) -> dict:
    from mmdet.testing import demo_mm_inputs

    return demo_mm_inputs(
        batch_size,
        (3, height, width),
        num_items=[8] * batch_size,
        num_classes=classes,
        with_mask=True,
    )


def segmentation_batch(batch_size: int, height: int, width: int, classes: int) -> dict:
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(batch_size):
        shape = (height, width)
        sample = SegDataSample(metainfo=dict(img_shape=shape, ori_shape=shape))
        labels = torch.randint(0, classes, (1, height, width), generator=generator)
        samples.append(sample.set_data(dict(gt_sem_seg=PixelData(data=labels))) or sample)
    images = torch.randint(0, 256, (batch_size, 3, height, width), generator=generator)
    return dict(inputs=list(images.byte()), data_samples=samples)


def classification_batch(batch_size: int, height: int, width: int, classes: int) -> dict:
    from mmpretrain.structures import DataSample

    images = torch.randint(0, 256, (batch_size, 3, height, width)).byte()
    labels = torch.randint(0, classes, (batch_size,))
    samples = [DataSample().set_gt_label(label) for label in labels]
    return dict(inputs=list(images), data_samples=samples)


# By the default scope of a config: the batch and the usual size.
KINDS = {
    "mmdet": (detection_batch, (800, 1344)),
    "mmseg": (segmentation_batch, (512, 512)),
    "mmpretrain": (classification_batch, (224, 224)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("--size", type=image_size, help="else the usual one of the task")
    parser.add_argument("--batch-size", type=int, help="images; the config's unless given")
    parser.add_argument("--amp", action="store_true", help="automatic mixed precision")
    add_common_arguments(parser)
    args = parser.parse_args()
    cfg = load_config(args, needs=("model", "train_dataloader", "optim_wrapper"))
    scope = cfg.get("default_scope")
    if scope not in KINDS:
        raise UserError(f"default_scope must be one of {', '.join(KINDS)}, got {scope!r}")
    make, usual_size = KINDS[scope]
    height, width = args.size or usual_size
    batch_size = args.batch_size or cfg.train_dataloader.batch_size
    gpu = torch.cuda.is_available()

    for part in walk(cfg.model):
        part.pop("init_cfg", None)  # figures do not depend on the weights
    replace_sync_bn(cfg.model)  # one process
    torch.manual_seed(0)
    init_default_scope(scope)
    if scope == "mmseg" and cfg.model.get("data_preprocessor", {}).get("size"):
        cfg.model.data_preprocessor.size = (height, width)
    if scope == "mmpretrain" and "data_preprocessor" in cfg:  # beside the model, as in its configs
        cfg.model.setdefault("data_preprocessor", cfg.data_preprocessor)
    models = import_module(f"{scope}.registry").MODELS
    from mmengine.optim import build_optim_wrapper

    if args.amp:
        cfg.optim_wrapper.update(type="AmpOptimWrapper", loss_scale="dynamic")
    model = models.build(cfg.model).train()
    model = model.cuda() if gpu else model
    optimiser = build_optim_wrapper(model, cfg.optim_wrapper)
    classes = min(part["num_classes"] for part in walk(cfg.model) if "num_classes" in part)

    def step() -> int:
        batch = model.data_preprocessor(make(batch_size, height, width, classes), True)
        with saved_for_backward() as saved, optimiser.optim_context(model):
            loss, _ = model.parse_losses(model(**batch, mode="loss"))
        held = saved.total(exclude=model)
        del saved
        optimiser.update_params(loss)
        return held

    held = step()
    print(f"{args.config}: {batch_size} x {height}x{width}{', AMP' if args.amp else ''}")
    print(f"saved for backward: {held / 2**20:.0f} MiB")
    if gpu:
        # A second step, with the states of the optimiser there.
        torch.cuda.reset_peak_memory_stats()
        step()
        print(f"peak allocated: {torch.cuda.max_memory_allocated() / 2**20:.0f} MiB")


if __name__ == "__main__":
    run_cli(main)
