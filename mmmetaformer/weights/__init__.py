"""Published weights: ``files.py`` reads them safely, ``layouts.py`` knows the key layouts as pure
renames, ``convert.py`` fits them to a backbone, ``loading.py`` does all three with a report.
``mmengine_files.py`` lets mmengine's own checkpoints through torch's safe loader."""

from .convert import WeightsError, convert_state_dict
from .files import read_checkpoint
from .loading import is_pretrained, load_pretrained
from .mmengine_files import allow_mmengine_checkpoints

__all__ = [
    "WeightsError",
    "allow_mmengine_checkpoints",
    "convert_state_dict",
    "is_pretrained",
    "load_pretrained",
    "read_checkpoint",
]
