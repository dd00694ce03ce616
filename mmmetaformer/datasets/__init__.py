"""Data sets that come with the package; import the one you need from its own module."""
