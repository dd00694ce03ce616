"""What networks cost, time and memory: this package's and others' implementations side by side.

``implementations.py`` says what is compared, ``networks.py`` builds it from the same weights,
``candidates.py`` is the work that is measured, on a backbone or a whole model, ``timing.py``
measures time and ``memory.py`` bytes, ``cases.py`` does all of it for one size, and ``report.py``
fits, draws and describes the machine.
"""
