"""Published results as data, beside the configs that are to reproduce them.

``metafiles.py`` reads and writes ``configs/<family>/metafile.yml``, ``counting.py`` counts
parameters and operations, ``tables.py`` writes the tables for readers, ``checks.py`` keeps all
three in step. ``recipes.py`` holds configs against the published recipes of
``configs/recipes.yml``, and ``reproduction.py`` every published row against what can be had here.
"""
