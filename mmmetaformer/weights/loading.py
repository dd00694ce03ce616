"""Loading pretrained weights into a backbone, with a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .convert import Conversion, convert
from .files import WeightsError, read_checkpoint

if TYPE_CHECKING:
    from .trained import PublishedNames


@dataclass(frozen=True)
class LoadReport:
    """What became of a checkpoint: its path or address, and the account of its keys."""

    source: str
    conversion: Conversion

    def __str__(self) -> str:
        conversion = self.conversion
        prefix = f", prefix {conversion.prefix!r}" if conversion.prefix else ""
        lines = [
            f"loaded {len(conversion.state_dict)} tensors from {self.source} "
            f"({conversion.layout} layout{prefix})"
        ]
        if conversion.new:
            lines.append(f"  missing, newly initialised: {', '.join(conversion.new)}")
        for reason, names in conversion.dropped.items():
            shown = ", ".join(names[:4]) + (" ..." if len(names) > 4 else "")
            lines.append(f"  not used, {reason}: {len(names)} ({shown})")
        return "\n".join(lines)

    def log(self) -> None:
        """Write it to mmengine's log of the run."""
        from mmengine.logging import print_log  # conversion alone does without mmengine

        print_log(str(self), logger="current")


def is_pretrained(cfg: Any) -> bool:
    """Whether a config is mmengine's ``Pretrained`` initialisation, in any spelling."""
    kind = cfg.get("type") if isinstance(cfg, dict) else None
    name = kind.__name__ if isinstance(kind, type) else str(kind).rpartition(".")[2]
    return name in ("Pretrained", "PretrainedInit")


def pretrained_cfgs(init_cfg: Any) -> list[dict]:
    """The ``Pretrained`` initialisations in the ``init_cfg`` of a module."""
    cfgs = init_cfg if isinstance(init_cfg, list | tuple) else [init_cfg]
    return [cfg for cfg in cfgs if is_pretrained(cfg)]


def load_pretrained(
    backbone: PublishedNames,
    checkpoint: str | Path,
    prefix: str | None = None,
    new: Sequence[str] = (),
) -> LoadReport:
    """Load published weights into a backbone, or raise and leave it as it was.

    Args:
        backbone: A backbone of this package.
        checkpoint: Path or http(s) address of a checkpoint in any known layout.
        prefix, new: See :func:`convert`.

    Returns:
        What was loaded, what stays newly initialised and what was not used; also logged.

    Raises:
        WeightsError: (a ``ValueError``) if the file cannot be read or does not fit.
    """
    try:
        conversion = convert(read_checkpoint(checkpoint), backbone, prefix, new)
    except WeightsError as error:
        if str(checkpoint) in str(error):
            raise
        hint = (
            ". Parts that were replaced and start anew are named by init_cfg="
            "dict(type='Pretrained', checkpoint=..., new=['token_mixer'])"
        )
        what = f"{checkpoint}: {error}{hint if 'do not fit' in str(error) else ''}"
        raise WeightsError(what) from error
    # ``convert`` has made sure that only what the outputs need is absent.
    backbone.load_state_dict(conversion.state_dict, strict=False)
    report = LoadReport(str(checkpoint), conversion)
    report.log()
    return report
