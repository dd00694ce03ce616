"""Published weights: where they are, what they are called and how they are loaded.

``layouts/`` has all that is known of each key layout; the tables of files are in ``catalogue.py``.
"""

from .catalogue import Checkpoint, find_checkpoint, list_checkpoints
from .classifier import convert_classifier_state_dict
from .convert import convert_state_dict
from .export import export_state_dict
from .files import WeightsError, read_checkpoint
from .loading import is_pretrained, load_pretrained
from .mmengine_files import allow_mmengine_checkpoints
from .statistics import data_preprocessor_for
from .trained import PublishedNames

__all__ = [
    "Checkpoint",
    "PublishedNames",
    "WeightsError",
    "allow_mmengine_checkpoints",
    "convert_classifier_state_dict",
    "convert_state_dict",
    "data_preprocessor_for",
    "export_state_dict",
    "find_checkpoint",
    "is_pretrained",
    "list_checkpoints",
    "load_pretrained",
    "read_checkpoint",
]

# Adds to what torch's safe loader reads, and changes nothing for files of other models.
allow_mmengine_checkpoints()
