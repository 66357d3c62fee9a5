"""Which channels of an image are red, green and blue, by its `omero` metadata.

Whether a channel is active, and its window, are settings of a viewer: they change no pixel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from slidesr.errors import printable
from slidesr.slide.sources.ngff.words import UnfitError, Words, objects

_TINTS = {"ff0000": 0, "00ff00": 1, "0000ff": 2}
_LABEL = re.compile(
    r"(?:channel[ _:-]*)?(r|g|b|a|red|green|blue|alpha)(?:[ _:-]*channel)?", re.IGNORECASE
)
_NO_NAME = re.compile(r"(?:channel|ch|c)?[ _:-]*[\d:]*", re.IGNORECASE)
_ALPHA = 3
_CURE = "If they are, label them Red, Green and Blue in its omero metadata"


@dataclass(frozen=True)
class Channels:
    """The stored channels that become red, green and blue, and the one that is opacity, if any."""

    rgb: tuple[int, int, int]
    alpha: int | None = None
    conversions: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Channel:
    """What omero says of a channel; both empty where it says nothing."""

    label: str
    colour: str

    @property
    def name(self) -> int | None:
        """0, 1 or 2 where the label is red, green or blue, 3 where it is alpha."""
        found = _LABEL.fullmatch(self.label)
        return "rgba".index(found[1][0].lower()) if found else None

    @property
    def tint(self) -> int | None:
        """0, 1 or 2 where the colour is pure red, green or blue."""
        return _TINTS.get(self.colour.lower())

    @property
    def is_unnamed(self) -> bool:
        return _NO_NAME.fullmatch(self.label) is not None

    @property
    def is_grey(self) -> bool:
        """Whether it is shown in white or a grey."""
        return re.fullmatch(r"(?!00)([0-9a-f]{2})\1\1", self.colour.lower()) is not None

    @property
    def is_other(self) -> bool:
        """Whether it has a colour that is neither grey nor pure red, green or blue."""
        is_colour = re.fullmatch(r"[0-9a-f]{6}", self.colour.lower()) is not None
        return is_colour and self.tint is None and not self.is_grey

    def __str__(self) -> str:
        return " ".join(each for each in (self.label, self.colour) if each) or "unnamed"


def channels_of(words: Words, count: int) -> Channels:
    """The channels of an image that stores `count` of them. Raises UnfitError if they are not RGB.

    Three channels of which nothing is said are red, green and blue, by convention.
    """
    told = _told(words, count)
    if count == 1:
        return _grey(told)
    if count == 3:
        return _three(told)
    if count == 4:
        return _four(told)
    raise UnfitError(f"it has {count} channels, not one, or red, green and blue")


def _told(words: Words, count: int) -> list[_Channel]:
    omero = words.get("omero")
    found = objects(omero, "channels") if isinstance(omero, dict) else []
    if found and len(found) != count:
        raise UnfitError(f"it has {count} channels, of which omero lists {len(found)}")
    read = [_Channel(_text(each.get("label")), _text(each.get("color"))) for each in found]
    return read or [_Channel("", "")] * count


def _text(value: object) -> str:
    return "" if value is None else printable(str(value)).strip().removeprefix("#")


def _grey(told: Sequence[_Channel]) -> Channels:
    (channel,) = told
    if channel.colour and not channel.is_grey:
        raise UnfitError(
            f"its only channel ({channel}) has a colour, as in fluorescence; slidesr reads a grey"
            " one. If it is, give it the colour FFFFFF in its omero metadata"
        )
    return Channels((0, 0, 0), conversions=("grey to RGB",))


def _three(told: Sequence[_Channel]) -> Channels:
    if all(channel.is_unnamed and not channel.colour for channel in told):
        return Channels((0, 1, 2), conversions=("three unnamed channels taken as RGB",))
    roles = _by_colour(told)
    if roles is None:
        roles = _by_label(told)
    if roles is None:
        raise _foreign(told)
    return _in_order(roles)


def _four(told: Sequence[_Channel]) -> Channels:
    """Red, green and blue by their labels: by colours, four fluorescent channels look the same."""
    roles = _by_label(told)
    if roles is None:
        raise _foreign(told)
    fourth = next(at for at, role in enumerate(roles) if role not in (0, 1, 2))
    rgb = _in_order(roles)
    if roles[fourth] == _ALPHA:
        return Channels(rgb.rgb, fourth, (*rgb.conversions, "RGBA over white"))
    return Channels(rgb.rgb, None, rgb.conversions, (f"channel {fourth} ({told[fourth]})",))


def _by_colour(told: Sequence[_Channel]) -> list[int | None] | None:
    """The roles by pure colours, unless labels object: other ones, or names of other channels."""
    tints = [channel.tint for channel in told]
    names = [channel.name for channel in told]
    others = {
        channel.label.lower() for channel in told if channel.name is None and not channel.is_unnamed
    }
    if set(tints) != {0, 1, 2} or len(others) == len(told):
        return None
    fits = all(name in (None, tint) for name, tint in zip(names, tints, strict=True))
    return tints if fits else None


def _by_label(told: Sequence[_Channel]) -> list[int | None] | None:
    """The roles by labels, unless a colour objects."""
    names = [channel.name for channel in told]
    if any(names.count(role) != 1 for role in (0, 1, 2)):
        return None
    if any(channel.is_unnamed for channel in told):
        return None
    named = [channel for channel in told if channel.name in (0, 1, 2)]
    fits = all(not each.is_other and each.tint in (None, each.name) for each in named)
    return names if fits else None


def _in_order(roles: Sequence[int | None]) -> Channels:
    red, green, blue = (roles.index(role) for role in range(3))
    stored = "".join("RGB"[role] for role in roles if role in (0, 1, 2))
    is_sorted = red < green < blue
    return Channels((red, green, blue), conversions=() if is_sorted else (f"{stored} to RGB",))


def _foreign(told: Sequence[_Channel]) -> UnfitError:
    names = ", ".join(map(str, told))
    return UnfitError(f"its channels ({names}) are not red, green and blue. {_CURE}")
