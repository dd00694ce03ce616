"""Where mmengine finds the configs behind ``mmmetaformer::`` and ``mmseg::``.

mmengine refuses packages that are not in a table of its own. Importing mmmetaformer completes the
table, without importing mmengine: if it is not loaded yet, as soon as it is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

TABLE = "mmengine.config.utils"


def complete_table(module: ModuleType) -> None:
    """Complete the table in ``mmengine.config.utils``.

    Args:
        module: That module.
    """
    table = module.MODULE2PACKAGE
    # The name of a module that is no distribution: mmengine then asks Python where it is, which is
    # right for a wheel, a checkout on PYTHONPATH and an editable installation, too.
    table.setdefault("mmmetaformer", "mmmetaformer.version")
    # onedl-mmengine 0.10.12 names the distribution of the other stack.
    if not _is_installed("mmsegmentation") and _is_installed("onedl-mmsegmentation"):
        table["mmseg"] = "onedl-mmsegmentation"


def _is_installed(distribution: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version  # which costs time

    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


class _AfterImport:
    """Finds the module of the table as others do, and completes the table once it is loaded."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != TABLE:
            return None
        others = (finder for finder in sys.meta_path if finder is not self)
        specs = (finder.find_spec(name, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def load_and_complete(module: ModuleType) -> None:
                load(module)
                sys.meta_path.remove(self)
                complete_table(module)

            spec.loader.exec_module = load_and_complete  # type: ignore[method-assign]
        return spec


if TABLE in sys.modules:
    complete_table(sys.modules[TABLE])
else:
    sys.meta_path.insert(0, _AfterImport())
