"""The script of ``mmmetaformer quickstart``; data and results go below the checkout."""

from functools import partial
from pathlib import Path

from mmmetaformer.commands.quickstart import main
from mmmetaformer.engine.launch import run_cli

if __name__ == "__main__":
    run_cli(partial(main, folder=Path(__file__).resolve().parents[1]))
