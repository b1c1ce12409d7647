"""Sex is ``F`` or ``M`` everywhere inside; readers accept the other spellings through here."""

from __future__ import annotations

SEX_SPELLINGS = {
    "f": "F",
    "female": "F",
    "girl": "F",
    "woman": "F",
    "m": "M",
    "male": "M",
    "boy": "M",
    "man": "M",
}
# Of a column that asks "male?".
MALE_SPELLINGS = {"true": "M", "1": "M", "yes": "M", "false": "F", "0": "F", "no": "F"}


def parse_sex(text: object) -> str | None:
    """``F`` or ``M`` from any usual spelling, ``None`` for an empty or unknown one."""
    return SEX_SPELLINGS.get(str(text or "").strip().lower())
