"""What ``mmengine.hub.get_model`` asks every package for."""


def register_all_modules(init_default_scope: bool = True) -> None:
    """Do what mmengine's hub needs before it builds a model of one of our configs.

    Args:
        init_default_scope: Not used: the config's classes say which scope it is.
    """
    from . import registry  # noqa: F401  (registers on import, and the rest when it is asked for)
