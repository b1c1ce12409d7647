"""The one exception a user's input can raise."""


class InputError(ValueError):
    """Something about the input is wrong; the message is for the person who gave it."""
