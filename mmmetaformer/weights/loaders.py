"""mmengine's way to files.

``load_from``, ``init_detector``, ``init_model`` and whatever else loads whole models read them as
``init_cfg=dict(type='Pretrained', ...)`` does: safely, from the same cache, in every container.
"""

from __future__ import annotations

import copy
import re
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from mmengine.runner.checkpoint import CheckpointLoader

from .convert import innermost, unwrap
from .files import WeightsError, read_checkpoint

_SOURCE = "mmmetaformer_source"


class FileMetadata(OrderedDict):
    """torch's metadata of a state dict, which also tells each module that its weights are a file's.

    torch and mmengine hand every module its entry. Of a file a part has to be there as a whole;
    a dict of tensors in memory is for its owner to judge. A copy by ``dict(state_dict)`` has no
    metadata, and nor is anything of this saved.

    Args:
        source: The file or address.
        metadata: What the file has itself.
    """

    def __init__(self, source: str, metadata: Mapping[str, Any]) -> None:
        super().__init__(metadata)
        self.source = source

    def get(self, key: str, default: Any = None) -> Any:
        return {**(super().get(key, default) or {}), _SOURCE: self.source}

    def __deepcopy__(self, memo: dict) -> FileMetadata:
        return FileMetadata(self.source, copy.deepcopy(dict(self), memo))

    def __reduce__(self) -> tuple:
        return OrderedDict, (list(self.items()),)


def source_of(local_metadata: Mapping[str, Any]) -> str | None:
    """The file that a module's weights are read from; None if they are not from a file."""
    return local_metadata.get(_SOURCE)


def source_of_all(state_dict: Mapping[str, Any]) -> str | None:
    """As :func:`source_of`, of a whole state dict."""
    return source_of(getattr(state_dict, "_metadata", {}).get("", {}))


def as_mmengine_checkpoint(content: Any, source: str) -> dict[str, Any]:
    """What was read from a file as mmengine, mmdet, mmseg and mmpretrain look at it.

    Args:
        content: Weights, bare or under any of the keys that training scripts wrap them in.
        source: Where they are from, for messages.

    Returns:
        ``state_dict`` with the weights, without DistributedDataParallel's prefix; ``meta``, which
        may be empty; and whatever else the file holds.

    Raises:
        WeightsError: If there are no weights.
    """
    try:
        unwrap(content)
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from error
    weights = innermost(content)
    bare = re.compile(r"^module\.")
    state = OrderedDict((bare.sub("", k), v) for k, v in weights.items() if isinstance(k, str))
    metadata = getattr(weights, "_metadata", {})
    state._metadata = FileMetadata(source, {bare.sub("", k): v for k, v in metadata.items()})
    beside = {} if weights is content else content
    meta = beside.get("meta")
    meta = meta if isinstance(meta, Mapping) else {}
    return {**beside, "meta": meta, "state_dict": state}


def load_from_local(filename: str, map_location: Any = None) -> dict[str, Any]:
    """As mmengine's function of this name, by :func:`read_checkpoint`.

    Args:
        filename: Path of the file.
        map_location: Not used: the tensors are on the CPU, and copied from there.

    Raises:
        WeightsError: If the file cannot be read or holds no weights.
    """
    return as_mmengine_checkpoint(read_checkpoint(filename), str(filename))


def load_from_http(filename: str, map_location: Any = None) -> dict[str, Any]:
    """As :func:`load_from_local`, for an address."""
    return load_from_local(filename, map_location)


def register_loaders() -> None:
    """Make mmengine read files and http(s) addresses by this package, in this process.

    Files of other models are read by it, too: they load as before, but for what is refused as
    unsafe or as no checkpoint.
    """
    CheckpointLoader.register_scheme("", load_from_local, force=True)
    CheckpointLoader.register_scheme(("http://", "https://"), load_from_http, force=True)
