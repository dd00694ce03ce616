"""Mean and standard deviation of images that published weights want."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import signature
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlparse

from ..variants import full_name
from .catalogue import CATALOGUE, Checkpoint, by_url, find_checkpoint
from .files import is_local, sha256
from .loading import pretrained_cfgs
from .trained import PublishedNames


def data_preprocessor_for(
    backbone: str | Mapping[str, Any],
    pretrained: str | bool = True,
    channel_order: str = "bgr_to_rgb",
) -> dict[str, Any]:
    """The settings of a ``data_preprocessor`` that a backbone's published weights want.

    A config file can call it. With a config that was read, also one with ``read_base()``::

        cfg.model.data_preprocessor.update(data_preprocessor_for(cfg.model.backbone))

    Args:
        backbone: Name of a network, or a backbone's config, which names its weights by
            ``pretrained`` or by a ``Pretrained`` in ``init_cfg`` (an address of the catalogue, or
            a copy of such a file).
        pretrained: The weights of a network that is given by name; True for the default.
        channel_order: Name of the argument that swaps the channels; ``'to_rgb'`` in mmpretrain.

    Returns:
        ``mean`` and ``std`` of R, G and B, for pixels from 0 to 255, and ``bgr_to_rgb=True``.

    Raises:
        TypeError: If ``backbone`` is neither a config nor a name.
        ValueError: If there are no such weights, or nothing is known of those that are named.
    """
    if channel_order not in ("bgr_to_rgb", "to_rgb"):
        raise ValueError(f"channel_order must be 'bgr_to_rgb' or 'to_rgb', got {channel_order!r}")
    if not isinstance(backbone, str | Mapping):
        raise TypeError(
            "backbone must be the config of a backbone or the name of a network, got "
            f"{type(backbone).__name__}"
        )
    if isinstance(backbone, str):
        known: Checkpoint | None = find_checkpoint(backbone, pretrained)
    else:
        known = next(published_weights(backbone), None)
    if known is None:
        raise ValueError(
            f"no published weights are known of {backbone}: give pretrained=..., or mean and "
            "std by hand; mmmetaformer.list_checkpoints() says what is known"
        )
    settings = known.data_preprocessor()
    settings[channel_order] = settings.pop("bgr_to_rgb")
    return settings


def published_weights(backbone: Mapping[str, Any]) -> Iterator[Checkpoint]:
    """The entries of the catalogue that a part's config names.

    Raises:
        TypeError, ValueError: If there is no such backbone, or there are no such weights of it.
    """
    arch = arch_of(backbone)
    for cfg in pretrained_cfgs(backbone.get("init_cfg")):
        if isinstance(cfg.get("checkpoint"), str):
            known = published_file(cfg["checkpoint"], arch)
            if known is not None:
                yield known
    pretrained = backbone.get("pretrained")
    if pretrained and _backbone_class(backbone) is not None:
        if arch is None:
            raise ValueError(f"pretrained={pretrained!r} needs an arch by name")
        yield find_checkpoint(arch, pretrained)


def arch_of(part: Mapping[str, Any]) -> str | None:
    """Full name of the network of a config; None without a name and for foreign parts.

    Raises:
        ValueError: If there is no network of that name; lists the choices.
    """
    cls = _backbone_class(part)
    if cls is None:
        return None
    arch = part.get("arch", signature(cls).parameters["arch"].default)
    return full_name(arch, cls.family) if isinstance(arch, str) else None


def _backbone_class(part: Mapping[str, Any]) -> Any:
    """The class of this package's backbone that a config is of, or None.

    What does not exist may be of another registry, and is left to whoever builds it.
    """
    from ..registry import MODELS, find_part  # the rest of this module does without mmengine

    kind = part.get("type")
    if isinstance(kind, str) and kind.startswith("mmmetaformer."):
        try:
            kind = find_part(MODELS, kind)
        except ValueError:
            return None
    named = isinstance(kind, type) and hasattr(kind, "family") and issubclass(kind, PublishedNames)
    return kind if named else None


def published_file(source: str, arch: str | None = None) -> Checkpoint | None:
    """The entry of the catalogue for an address, a path or a copy of a file.

    A copy is recognised by its name or, given its ``arch``, by its SHA-256 where that is known.
    """
    name = PurePosixPath(unquote(urlparse(source).path)).name
    known = by_url(source) or next((c for c in CATALOGUE if c.file_name == name), None)
    path = Path(source).expanduser()
    rows = {c: c.sha256_prefix for c in CATALOGUE if c.arch == arch and c.sha256_prefix}
    if known is not None or not rows or not is_local(source) or not path.is_file():
        return known
    digits = sha256(path)
    return next((c for c, prefix in rows.items() if digits.startswith(prefix)), None)
