"""Sex is ``F`` or ``M`` everywhere inside; readers accept the other spellings through here."""

from __future__ import annotations

SEX_NAMES = {"F": "female", "M": "male"}
_SEX = {
    "F": ("f", "female", "girl", "woman"),
    "M": ("m", "male", "boy", "man"),
}
_MALE = {
    "F": ("false", "0", "0.0", "no", "n"),
    "M": ("true", "1", "1.0", "yes", "y"),
}


def parse_sex(text: str, *, asks_male: bool = False) -> str | None:
    """``F`` or ``M`` from any usual spelling, ``None`` for one that is not known.

    Args:
        text: ``Female``, ``m``, ...
        asks_male: the text answers "male?", as a column of that name does: ``True``, ``0``, ...
    """
    plain = text.strip().lower()
    known = {spelling: sex for sex, spellings in _SEX.items() for spelling in spellings}
    if asks_male:
        known |= {spelling: sex for sex, spellings in _MALE.items() for spelling in spellings}
    return known.get(plain)
