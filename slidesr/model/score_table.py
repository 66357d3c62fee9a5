"""What the columns of score tables are: headings, digits, groups, and who judged them.

A metric of a judge, a network that compares images, is named KIND_KEY, such as distance_lite2.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

INDEPENDENT = "lite2"
"""The judge of the headline: of a network that no recipe trains with."""
ENCODER = "encoder"
NO_JUDGE = (
    "There is no independent judge of what images look like: pip install 'slidesr[benchmark]'"
)
OWN_LOSS_MARK = "\N{DAGGER}"
OWN_LOSS_NOTE = f"{OWN_LOSS_MARK} Judged by the network of its own loss, so not ranked."

_NAMES = {
    INDEPENDENT: "EfficientNet-Lite2",
    "lite0": "EfficientNet-Lite0",
    "vgg19": "VGG19",
    "resnext101": "ResNeXt-101",
    ENCODER: "histology encoder",
}
_KINDS = {  # kind -> heading of the headline judge, heading after another's name, digits
    "distance": ("perceptual distance", "distance", 3),
    "texture": ("texture distance", "texture distance", 3),
    "fid": ("FID", "FID", 2),
    "kid": ("KID", "KID", 2),
}
_FIDELITY, _PERCEPTUAL, _OTHER = "fidelity", "perceptual", "other measures"
_FURTHER, _OWN_VIEW = "further judges", "the loss network's own view"
_OWN_VIEW_NOTE = """The histology encoder is the loss network of the GAN weights: what it finds good
in them, they were taught."""
STRUCTURE_GROUP = "structure"
STRUCTURE_NOTE = """The output against the original, without a network as judge: 0 is as in the
original, less is missing and more is invented. 16-32 px to 2-4 px: power of detail of this size.
Grid: a pattern that repeats all over the image. Step modulation: blocks and spots. H, E: relative
change of stain density on tissue."""

Scores = Mapping[str, Mapping[str, Mapping[str, float]]]  # data set -> method -> metric -> mean


@dataclass(frozen=True)
class Column:
    """A metric as a column of a table."""

    heading: str
    group: str
    digits: int = 4
    better: Literal["more", "less", "nearer to 0"] = "more"

    @property
    def arrow(self) -> str:
        return {"more": "\N{UPWARDS ARROW}", "less": "\N{DOWNWARDS ARROW}"}.get(
            self.better, "\N{RIGHTWARDS ARROW}0"
        )

    def text(self, value: float) -> str:
        sign = "+z" if self.better == "nearer to 0" else ""
        return f"{value:{sign}.{self.digits}f}"

    def best(self, values: Iterable[float]) -> str:
        """The best of the values as it is shown, so that ties show as ties; empty if none."""
        every = list(values)
        if not every:
            return ""
        if self.better == "nearer to 0":
            return self.text(min(every, key=abs))
        return self.text(min(every) if self.better == "less" else max(every))


def _structure(heading: str, digits: int = 2) -> Column:
    return Column(heading, STRUCTURE_GROUP, digits, "nearer to 0")


_COLUMNS = {
    "psnr_db": Column("PSNR (dB)", _FIDELITY, 2),
    "ssim": Column("SSIM", _FIDELITY),
    "ms_ssim": Column("MS-SSIM", _FIDELITY),
    "qilv": Column("QILV", _FIDELITY),
    "consistency": Column("consistency", _OTHER, 2, better="less"),
    "psnr_y_db": Column("PSNR-Y (dB)", _OTHER, 2),
    "mse": Column("MSE", _OTHER, 1, better="less"),
    "ms_ssim_author": Column("MS-SSIM, author's", _OTHER),
    "qilv_author": Column("QILV, author's", _OTHER),
    "running_psnr_db_author": Column("PSNR, author's (dB)", _OTHER, 2),
    "spectrum_16_px_db": _structure("16-32 px (dB)", 1),
    "spectrum_8_px_db": _structure("8-16 px (dB)", 1),
    "spectrum_4_px_db": _structure("4-8 px (dB)", 1),
    "spectrum_2_px_db": _structure("2-4 px (dB)", 1),
    "grid_db": _structure("grid (dB)", 1),
    "step_modulation": _structure("step modulation"),
    "stain_h_mean": _structure("H mean"),
    "stain_h_sd": _structure("H spread"),
    "stain_e_mean": _structure("E mean"),
    "stain_e_sd": _structure("E spread"),
}


def judge_of(metric: str) -> str:
    """The key of the judge of a metric; empty for what no network judges.

    >>> judge_of("distance_lite2"), judge_of("ms_ssim")
    ('lite2', '')
    """
    kind, _, key = metric.partition("_")
    return key if kind in _KINDS else ""


def judge_name(key: str) -> str:
    """A judge in words; those given by the name of their architecture have no other.

    >>> judge_name("lite2"), judge_name("resnet50")
    ('EfficientNet-Lite2', 'resnet50')
    """
    return _NAMES.get(key, key)


def is_own_loss(key: str, loss_networks: Iterable[str]) -> bool:
    """Whether a judge is a network of these losses, or of its family by name.

    >>> is_own_loss("vgg19_bn", ["VGG19"]), is_own_loss("lite2", ["EfficientNet-Lite0"])
    (True, False)
    """
    judge = _squeezed(judge_name(key))
    return any(_squeezed(name) in judge for name in loss_networks)


def headline_judge(keys: Collection[str], loss_networks: Iterable[str]) -> str:
    """The judge of the headline: the independent one, or the first that no loss has used.

    Never the encoder. Empty if there is none.
    """
    used = list(loss_networks)
    ranked = sorted(keys, key=lambda key: key != INDEPENDENT)
    free = (key for key in ranked if key != ENCODER and not is_own_loss(key, used))
    return next(free, "")


def column(metric: str, headline: str) -> Column:
    """The column of any metric, where `headline` is the judge of the headline."""
    key = judge_of(metric)
    if not key:
        return _COLUMNS[metric]
    own, others, digits = _KINDS[metric.partition("_")[0]]
    if key == headline:
        return Column(own, _PERCEPTUAL, digits, better="less")
    group = _OWN_VIEW if key == ENCODER else _FURTHER
    name = "encoder" if key == ENCODER else judge_name(key)
    return Column(f"{name} {others}", group, digits, better="less")


def headline_metrics(metrics: Iterable[str], headline: str) -> list[str]:
    """The metrics of the first table, in its order: fidelity, then the judge of the headline."""
    by_group = _grouped(metrics, headline)
    return [*by_group.pop(_FIDELITY, []), *by_group.pop(_PERCEPTUAL, [])]


def further_metrics(metrics: Iterable[str], headline: str) -> dict[str, list[str]]:
    """All other metrics by group."""
    by_group = _grouped(metrics, headline)
    return {
        group: names for group, names in by_group.items() if group not in (_FIDELITY, _PERCEPTUAL)
    }


def group_note(group: str, *, is_marked: bool) -> str:
    """What a reader of a group's table must know; `is_marked` if it has a mark. May be empty."""
    notes = {_OWN_VIEW: _OWN_VIEW_NOTE, STRUCTURE_GROUP: STRUCTURE_NOTE}
    return " ".join(filter(None, (notes.get(group), OWN_LOSS_NOTE if is_marked else "")))


def _grouped(metrics: Iterable[str], headline: str) -> dict[str, list[str]]:
    """Group -> metrics, both in the order of the tables; what is no column is left out."""
    names = dict.fromkeys(metrics)
    judges = dict.fromkeys(judge_of(each) for each in names)
    judged = [f"{kind}_{key}" for key in judges if key for kind in _KINDS]
    chosen = [each for each in (*_COLUMNS, *judged) if each in names]
    groups = dict.fromkeys((_FIDELITY, _PERCEPTUAL, _FURTHER, _OWN_VIEW))
    groups |= dict.fromkeys(each.group for each in _COLUMNS.values())
    found = {
        group: [each for each in chosen if column(each, headline).group == group]
        for group in groups
    }
    return {group: names for group, names in found.items() if names}


def score_table(
    scores: Scores,
    metrics: Iterable[str],
    headline: str,
    loss_networks: Mapping[str, Collection[str]],
) -> str:
    """Markdown table of these metrics, the best per data set in bold.

    Metrics that any method lacks are omitted, since older files have fewer. `loss_networks` are
    those of each method that has any: what its own loss judged is marked, and is never the best.
    """
    every = [method for methods in scores.values() for method in methods.values()]
    columns = {
        key: column(key, headline) for key in metrics if all(key in method for method in every)
    }
    lines = [
        f"| data | method | {' | '.join(each.heading for each in columns.values())} |",
        f"|---|---|{'---|' * len(columns)}",
    ]
    for data, methods in scores.items():
        own = {
            (name, key): is_own_loss_of(key, loss_networks.get(name, ()))
            for name in methods
            for key in columns
        }
        cells = {name: dict[str, str]() for name in methods}
        for key, each in columns.items():
            best = each.best(row[key] for name, row in methods.items() if not own[name, key])
            for name, row in methods.items():
                cells[name][key] = _cell(each.text(row[key]), best, own=own[name, key])
        lines += [
            f"| {data} | {name} | {' | '.join(row.values())} |" for name, row in cells.items()
        ]
    return "\n".join(lines)


def is_own_loss_of(metric: str, loss_networks: Iterable[str]) -> bool:
    """`is_own_loss` of the judge of a metric."""
    key = judge_of(metric)
    return bool(key) and is_own_loss(key, loss_networks)


def headline_note(headline: str) -> str:
    """What the perceptual columns are, for below a table."""
    if not headline:
        return f"{NO_JUDGE}."
    return (
        f"Perceptual and texture distance, FID and KID are by {judge_name(headline)}, with"
        " which none of these models is known to have been trained; lower is better. They have the"
        " form of LPIPS, DISTS, FID and KID but are not the published ones, so compare them within"
        " a table only. FID of few tiles is biased, KID is not."
    )


def _cell(text: str, best: str, *, own: bool) -> str:
    if own:
        return f"{text}{OWN_LOSS_MARK}"
    return f"**{text}**" if text == best else text


def _squeezed(name: str) -> str:
    return "".join(filter(str.isalnum, name)).lower()
