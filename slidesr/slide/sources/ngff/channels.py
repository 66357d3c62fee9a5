"""Which channels of an image are red, green and blue, by its `omero` metadata.

Whether a channel is active, and its window, are settings of a viewer: they change no pixel.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from slidesr.errors import printable
from slidesr.slide.sources.ngff.metadata import Metadata, UnfitError, objects

_ROLES = {"ff0000": 0, "00ff00": 1, "0000ff": 2}
_LABEL = re.compile(
    r"(?:channel[ _:-]*)?(r|g|b|a|red|green|blue|alpha)(?:[ _:-]*channel)?", re.IGNORECASE
)
_NO_NAME = re.compile(r"(?:channel|ch|c)?[ _:-]*[\d:]*", re.IGNORECASE)
_ALPHA = 3
_CURE = "If they are meant to be, label them Red, Green and Blue in its omero metadata"


@dataclass(frozen=True)
class Channels:
    """The stored channels that become red, green and blue, and the one that is opacity, if any."""

    rgb: tuple[int, int, int]
    alpha: int | None = None
    conversions: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Channel:
    """The label and colour of a channel in omero; both empty where it has none."""

    label: str
    colour: str

    @property
    def role_by_label(self) -> int | None:
        """0, 1 or 2 where the label is red, green or blue, 3 where it is alpha."""
        found = _LABEL.fullmatch(self.label)
        return "rgba".index(found[1][0].lower()) if found else None

    @property
    def role_by_colour(self) -> int | None:
        """0, 1 or 2 where the colour is pure red, green or blue."""
        return _ROLES.get(self.colour.lower())

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
        return is_colour and self.role_by_colour is None and not self.is_grey

    def __str__(self) -> str:
        return " ".join(each for each in (self.label, self.colour) if each) or "unnamed"


def channels_of(metadata: Metadata, count: int) -> Channels:
    """The channels of an image that stores `count` of them. Raises UnfitError if they are not RGB.

    Three channels without labels and colours are red, green and blue, by convention.
    """
    channels = _channels(metadata, count)
    if count == 1:
        return _grey(channels)
    if count == 3:
        return _three(channels)
    if count == 4:
        return _four(channels)
    raise UnfitError(f"it has {count} channels, not one, or red, green and blue")


def _channels(metadata: Metadata, count: int) -> list[_Channel]:
    omero = metadata.get("omero")
    found = objects(omero, "channels") if isinstance(omero, dict) else []
    if found and len(found) != count:
        raise UnfitError(f"it has {count} channels, of which omero lists {len(found)}")
    read = [_Channel(_text(each.get("label")), _text(each.get("color"))) for each in found]
    return read or [_Channel("", "")] * count


def _text(value: object) -> str:
    return "" if value is None else printable(str(value)).strip().removeprefix("#")


def _grey(channels: Sequence[_Channel]) -> Channels:
    (channel,) = channels
    if channel.colour and not channel.is_grey:
        raise UnfitError(
            f"its only channel ({channel}) has a colour, as in fluorescence; slidesr reads grey."
            " If it is grey, give it the colour FFFFFF in its omero metadata"
        )
    return Channels((0, 0, 0), conversions=("grey to RGB",))


def _three(channels: Sequence[_Channel]) -> Channels:
    if all(channel.is_unnamed and not channel.colour for channel in channels):
        return Channels((0, 1, 2), conversions=("three unnamed channels taken as RGB",))
    roles = _roles_by_colour(channels)
    if roles is None:
        roles = _roles_by_label(channels)
    if roles is None:
        raise _foreign(channels)
    return _in_order(roles)


def _four(channels: Sequence[_Channel]) -> Channels:
    """Red, green and blue by their labels: by colours, four fluorescent channels look the same."""
    roles = _roles_by_label(channels)
    if roles is None:
        raise _foreign(channels)
    fourth = next(at for at, role in enumerate(roles) if role not in (0, 1, 2))
    rgb = _in_order(roles)
    if roles[fourth] == _ALPHA:
        return Channels(rgb.rgb, fourth, (*rgb.conversions, "RGBA over white"))
    return Channels(rgb.rgb, None, rgb.conversions, (f"channel {fourth} ({channels[fourth]})",))


def _roles_by_colour(channels: Sequence[_Channel]) -> list[int | None] | None:
    """The roles by pure colours, unless labels contradict them or all name something else."""
    roles = [channel.role_by_colour for channel in channels]
    labelled = [channel.role_by_label for channel in channels]
    others = {
        channel.label.lower()
        for channel, role in zip(channels, labelled, strict=True)
        if role is None and not channel.is_unnamed
    }
    if set(roles) != {0, 1, 2} or len(others) == len(channels):
        return None
    fits = all(label in (None, role) for label, role in zip(labelled, roles, strict=True))
    return roles if fits else None


def _roles_by_label(channels: Sequence[_Channel]) -> list[int | None] | None:
    """The roles by labels, unless a colour contradicts one."""
    roles = [channel.role_by_label for channel in channels]
    if any(roles.count(role) != 1 for role in (0, 1, 2)):
        return None
    if any(channel.is_unnamed for channel in channels):
        return None
    fits = all(
        not channel.is_other and channel.role_by_colour in (None, role)
        for channel, role in zip(channels, roles, strict=True)
        if role in (0, 1, 2)
    )
    return roles if fits else None


def _in_order(roles: Sequence[int | None]) -> Channels:
    red, green, blue = (roles.index(role) for role in range(3))
    stored = "".join("RGB"[role] for role in roles if role in (0, 1, 2))
    is_sorted = red < green < blue
    return Channels((red, green, blue), conversions=() if is_sorted else (f"{stored} to RGB",))


def _foreign(channels: Sequence[_Channel]) -> UnfitError:
    names = ", ".join(map(str, channels))
    return UnfitError(f"its channels ({names}) are not red, green and blue. {_CURE}")
