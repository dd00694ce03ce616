"""Published weights.

``catalogue.py`` is the table of published files, ``files.py`` reads them safely, ``layouts.py``
knows the key layouts as pure renames, ``convert.py`` fits them to a backbone, ``classifier.py`` to
a whole image classifier, ``loading.py`` does all three with a report, ``trained.py`` renames inside
of whole detectors and segmentors,
``statistics.py`` knows the mean and std that files want, ``export.py`` goes from one layout to
another, ``parts.py`` knows what a whole network holds, and ``mmengine_files.py`` lets mmengine's
own checkpoints through torch's safe loader.
"""

from .catalogue import Checkpoint, find_checkpoint, list_checkpoints
from .classifier import convert_classifier_state_dict
from .convert import WeightsError, convert_state_dict
from .export import export_state_dict
from .files import read_checkpoint
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
