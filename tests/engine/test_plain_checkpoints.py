"""Checkpoints of ``tools/train.py``: torch's safe loader reads them in any process, and training
goes on from them as before."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.hooks import EMAHook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import Runner
from torch import nn

from mmmetaformer.engine.hooks import PlainCheckpointHook
from mmmetaformer.engine.runner import ToolRunner, build_runner

PLAIN = dict(type="mmmetaformer.engine.hooks.PlainCheckpointHook")


class Model(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, *inputs, mode: str):
        return dict(loss=self.layer(torch.stack(inputs)).square().mean())


class Data(torch.utils.data.Dataset):
    metainfo = dict(classes=("a", "b"), palette=[(1, 2, 3)], sizes=np.float32([1, 2]))

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int):
        return torch.full((2,), float(index))


@pytest.fixture
def make(tmp_path) -> Callable[..., Runner]:
    """Runners of a small model; each experiment has a message hub of its own."""

    def build(
        cls: type[Runner] = ToolRunner,
        hooks: tuple = (PLAIN,),
        max_iters: int = 2,
        resumed: Path | None = None,
    ) -> Runner:
        return cls(
            Model(),
            str(tmp_path / "work"),
            train_dataloader=dict(
                batch_size=2, dataset=Data(), sampler=dict(type="DefaultSampler")
            ),
            train_cfg=dict(by_epoch=False, max_iters=max_iters),
            optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.1)),
            param_scheduler=dict(type="MultiStepLR", milestones=[1], by_epoch=False),
            default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=2, by_epoch=False)),
            custom_hooks=[dict(hook) for hook in hooks],
            load_from=resumed and str(resumed),
            resume=resumed is not None,
            experiment_name=uuid.uuid4().hex,
        )

    return build


def update(runner: Runner) -> None:
    """What validation and hooks add to a message hub."""
    runner.message_hub.update_info("best_score", np.float64(0.25))
    runner.message_hub.update_info("best_ckpt", Path("best.pth"))
    runner.message_hub.update_info("keep_ckpt_ids", [dict(step=np.int64(2))])
    runner.message_hub.update_scalar("val/mIoU", np.float32(0.5))


def read_elsewhere(path: Path) -> str:
    """What torch's safe loader says in a process without this package."""
    code = (
        "import sys, torch; c = torch.load(sys.argv[1], weights_only=True);"
        "assert not {'mmmetaformer', 'mmengine'} & sys.modules.keys();"
        "print(sorted(c))"
    )
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    return result.stdout.strip() or result.stderr


EMA = dict(type="EMAHook")


def test_a_training_checkpoint_is_read_anywhere_and_resumed(make, tmp_path):
    runner = make(hooks=(EMA, PLAIN))
    update(runner)
    runner.train()
    path = tmp_path / "work/iter_2.pth"
    assert read_elsewhere(path) == (
        "['ema_state_dict', 'message_hub', 'meta', 'optimizer', 'param_schedulers', 'state_dict']"
    )
    again = make(hooks=(EMA, PLAIN), resumed=path)
    again.train()  # for no iteration more
    before, after = runner.message_hub, again.message_hub
    assert before.log_scalars.keys() == after.log_scalars.keys()
    for name, history in before.log_scalars.items():
        held = after.log_scalars[name]
        assert type(held) is HistoryBuffer and held.max_length == history.max_length
        for left, right in zip(history.data, held.data, strict=True):
            assert left.dtype == right.dtype and np.array_equal(left, right)
        assert held.statistics("mean", 2) == history.statistics("mean", 2)
    resumed = {name for name, kept in before._resumed_keys.items() if kept}
    assert resumed >= {"best_score", "keep_ckpt_ids", "iter", "train/loss", "val/mIoU"}
    assert after.get_info("best_score") == 0.25
    assert after.get_info("best_ckpt") == "best.pth"
    assert after.get_info("keep_ckpt_ids") == [dict(step=2)]
    assert dict(before._resumed_keys) == dict(after._resumed_keys)
    assert again.iter == 2
    (averaged,) = (hook.ema_model for hook in again.hooks if isinstance(hook, EMAHook))
    (expected,) = (hook.ema_model for hook in runner.hooks if isinstance(hook, EMAHook))
    for name, tensor in expected.state_dict().items():
        assert torch.equal(averaged.state_dict()[name], tensor), name
    weights = again.model.state_dict()
    assert all(torch.equal(weights[name], t) for name, t in runner.model.state_dict().items())


@pytest.mark.parametrize(
    ("saving", "loading", "history"),
    [
        ((), (PLAIN,), True),  # a checkpoint of before
        ((PLAIN,), (), False),  # somebody else's runner: mmengine skips what it does not know
    ],
)
def test_with_the_hook_on_one_side_only(saving, loading, history, make, tmp_path):
    make(hooks=saving).train()
    path = tmp_path / "work/iter_2.pth"
    assert ("Unsupported" in read_elsewhere(path)) == (not saving)
    runner = make(Runner, loading, max_iters=4, resumed=path)
    runner.train()
    assert runner.iter == 4
    assert len(runner.message_hub.get_scalar("train/loss").data[0]) == (4 if history else 2)


def test_values_of_many_kinds():
    content = dict(
        message_hub=dict(
            log_scalars={"a": HistoryBuffer([1.0, 2.0], [1, 1], max_length=5)},
            runtime_info=dict(
                array=np.arange(3), text=np.array(["x"]), flag=np.bool_(True), path=Path("a/b"),
                config=ConfigDict(x=(np.int64(1), [None, "y"])), numbers={np.int64(3), 4},
                other=object(),
            ),
        ),
        meta=dict(epoch=np.int32(1)),
        optimizer=dict(state={0: dict(step=torch.tensor(1.0))}, param_groups=[dict(lr=0.1)]),
    )  # fmt: skip
    live = content["message_hub"]
    PlainCheckpointHook().before_save_checkpoint(None, content)
    assert isinstance(live["log_scalars"]["a"], HistoryBuffer)  # the runner's own stays
    info = content["message_hub"]["runtime_info"]
    assert torch.equal(info.pop("array"), torch.arange(3))
    assert info == dict(
        text=["x"], flag=True, path="a/b", config=dict(x=(1, [None, "y"])), numbers={3, 4},
        other=None,
    )  # fmt: skip
    assert type(info["config"]) is dict and type(info["flag"]) is bool
    assert {type(number) for number in info["numbers"]} == {int}
    assert content["meta"] == dict(epoch=1) and type(content["meta"]["epoch"]) is int
    assert content["optimizer"]["param_groups"] == [dict(lr=0.1)]
    PlainCheckpointHook().after_load_checkpoint(None, content)
    log, count = content["message_hub"]["log_scalars"]["a"].data
    assert log.tolist() == [1, 2] and count.tolist() == [1, 1]


def test_what_cannot_be_saved_is_told(capsys):
    PlainCheckpointHook().before_save_checkpoint(None, dict(meta=dict(x=[object()])))
    assert "warning: meta.x is of object, which checkpoints cannot hold" in capsys.readouterr().err


def test_runners_that_read_checkpoints_themselves_keep_their_way(monkeypatch):
    class Own(Runner):
        def load_checkpoint(self, filename, **options):
            return filename

    class Plain(Runner):
        pass

    for cls, expected in ((Own, False), (Plain, True)):
        monkeypatch.setattr("mmengine.registry.RUNNERS.get", lambda name, cls=cls: cls)
        monkeypatch.setattr("mmengine.registry.RUNNERS.build", lambda cfg, cls=cls: cls)
        monkeypatch.setattr(Runner, "from_cfg", classmethod(lambda cls, cfg: cls))
        built = build_runner(dict(runner_type="x"))
        assert issubclass(built, cls) and issubclass(built, ToolRunner) == expected
