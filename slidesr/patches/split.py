"""Which slide is for training, which for validation, which for the test."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate

from slidesr.patches.options import SPLITS, PatchOptions


def split_slides(
    strata: Sequence[Collection[str]], options: PatchOptions, fixed: Mapping[str, str]
) -> dict[str, str]:
    """The split of each slide of the strata, which are sets of names.

    It follows from the name and the seed alone, so it stays when slides are added; but where a
    split that has a share would get none of a stratum, it takes a slide from another split: train
    and valid of two slides and more, test of three. Train and valid also get one each of any two
    slides at all. Slides in `fixed` never move.
    """
    places = {
        name: fixed.get(name) or _drawn(name, options) for stratum in strata for name in stratum
    }
    movable = {name: options.number(name) for name in places if name not in fixed}
    wanted = [split for split, share in zip(SPLITS, options.split, strict=True) if share]
    for group, splits in [*((stratum, wanted) for stratum in strata), (list(places), wanted[:2])]:
        for split in splits:
            _fill(split, places, group, movable)
    return places


def _drawn(name: str, options: PatchOptions) -> str:
    at = options.number(name) / 2**64
    ends = zip(SPLITS, accumulate(options.split), options.split, strict=True)
    inside = [split for split, end, share in ends if share and at < end]
    return inside[0] if inside else SPLITS[0]


def _fill(
    split: str, places: dict[str, str], group: Collection[str], movable: Mapping[str, int]
) -> None:
    """Moves a slide of the group into a split that is empty, if another one can spare it."""
    members = {s: [name for name in group if places[name] == s] for s in SPLITS}
    if members[split]:
        return
    last = SPLITS.index(split)
    spare = [
        [name for name in names if name in movable]
        for s, names in members.items()
        if len(names) > 1 or SPLITS.index(s) > last
    ]
    givers = max(spare, key=len, default=[])
    if givers:
        places[max(givers, key=movable.__getitem__)] = split
