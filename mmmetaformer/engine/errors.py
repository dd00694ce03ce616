"""Errors that the user can mend."""


class UserError(Exception):
    """Something in the command, the config or the data; the message is one clear sentence."""
