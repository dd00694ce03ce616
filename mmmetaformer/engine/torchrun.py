"""Moved to ``tools/tool_support/torchrun.py``."""

from .._moved import forward

module = forward("mmmetaformer.engine.torchrun", "tool_support.torchrun")
if __name__ == "__main__":
    module.main()
