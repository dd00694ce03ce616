"""Measurements inside a network as in `MetaMixer Is All You Need
<https://arxiv.org/abs/2406.02021>`_: effective receptive fields, the maps of the most active keys,
and how many coefficients are switched off.

The three files of these names hold functions from a backbone and images to figures.
``recording.py`` reaches the mixers inside a backbone, ``models.py`` and ``images.py`` read what the
command line names, ``pictures.py`` draws, and ``command_line.py`` is what the three tools share.
"""

from .activation_sparsity import LayerSparsity, activation_sparsity
from .coefficient_maps import Key, KeyActivations, coefficient_maps
from .effective_receptive_field import (
    SHARES,
    Area,
    contribution_areas,
    effective_receptive_fields,
    measured_pixels,
)
from .recording import MixerSite, mixer_sites

__all__ = [
    "SHARES",
    "KeyActivations",
    "Area",
    "Key",
    "LayerSparsity",
    "MixerSite",
    "activation_sparsity",
    "coefficient_maps",
    "contribution_areas",
    "effective_receptive_fields",
    "measured_pixels",
    "mixer_sites",
]

Answers = KeyActivations  # its name until 0.1.0
