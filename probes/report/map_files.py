"""The pictures and the table of a map: heatmap.png, heatmap.pdf, heatmap.csv. They need no Trainer."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from torch import Tensor

from datamodules.card import Card, show_text
from probes.analysis.auc_map import AUCMap, headline
from probes.analysis.block import find_block
from probes.report.marks import Marks
from probes.report.picture import FIELD, NO_BREAK, check_colours, draw
from probes.report.style import STYLE, UNDATED, VMAX, VMIN
from probes.report.whole_file import whole_file

PICTURE = "heatmap.png"
MOST_MAPS = 8  # in one picture, and in the terminal
TABLE = "heatmap.csv"
MEANS = "heatmap_mean.csv"
ENDINGS = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".ckpt")  # of files that hold a model


def write_heatmap(
    folder: Path,
    maps: Mapping[str, Sequence[AUCMap]],
    card: Card,
    described: str,
    split: str,
    marks: Sequence[Marks | None] | None = None,
    foot: str = "",
    vmin: float = VMIN,
    vmax: float = VMAX,
    columns: Sequence[Mapping[str, Tensor]] | None = None,
    kinds: Sequence[str] = tuple(UNDATED),
) -> Figure | None:
    """Write heatmap.png, heatmap.pdf, heatmap.csv and, with several splits of a label set, heatmap_mean.csv.

    Needs no Trainer, so that it also draws a finished run.

    Args:
        folder: where the files go; made if missing.
        maps: for each split that was measured its K maps, in the order of the card's targets.
        card: of the data that was measured.
        described: the probe, for the subtitle.
        split: of the maps to draw.
        marks: what to mark on each map of ``headline(maps[split], card)``; the dominant block by default.
        foot: lines below the map.
        vmin, vmax: AUC of the lightest and of the darkest colour.
        columns: for each of the K test maps more columns of heatmap.csv, ``[L, T]`` each, by name, such as auc_low,
            auc_high, p_family and near_best; empty in the rows of other splits.
        kinds: formats of the picture; a picture in another format, of an earlier map, is removed.

    Returns:
        The figure; None without kinds, as nothing is drawn then.

    Raises:
        ValueError: marks or columns do not fit the maps, or vmin and vmax are not two AUC, the first below the second.
    """
    check_colours(vmin, vmax)
    measured = [name for name in ("val", "test") if name in maps]
    tables = [tabulate(maps[name], columns if name == "test" else None) for name in measured]
    averaged = [one.table() for name in measured for one in headline(maps[name], card) if one.spread == "SD"]
    figure = draw_maps(maps[split], card, described, split, marks, foot, vmin, vmax) if kinds else None
    for kind in UNDATED:
        if figure and kind in kinds:
            save_figure(figure, folder / f"heatmap.{kind}")
        else:
            (folder / f"heatmap.{kind}").unlink(missing_ok=True)
    write_table(folder / TABLE, tables)
    if averaged:
        write_table(folder / MEANS, averaged)
    else:
        (folder / MEANS).unlink(missing_ok=True)  # of an earlier run into the same folder
    return figure


def draw_maps(
    maps: Sequence[AUCMap],
    card: Card,
    described: str,
    split: str,
    marks: Sequence[Marks | None] | None = None,
    foot: str = "",
    vmin: float = VMIN,
    vmax: float = VMAX,
) -> Figure:
    """Draw the maps of one split as `write_heatmap` does, which says what the arguments are."""
    drawn = headline(maps, card)[:MOST_MAPS]
    if marks is None:
        marks = [Marks(block=find_block(one)) for one in drawn]
    foot = "\n".join(map(show_text, foot.split("\n")))
    return draw(drawn, *caption(card, described, split), marks[:MOST_MAPS], foot, vmin, vmax)


def tabulate(maps: Sequence[AUCMap], columns: Sequence[Mapping[str, Tensor]] | None = None) -> pd.DataFrame:
    """Maps of one split in long form, with more columns ``[L, T]`` for each map.

    Raises:
        ValueError: there are not as many sets of columns as maps, or a column is not ``[L, T]``.
    """
    if columns is not None and len(columns) != len(maps):
        raise ValueError(
            f"columns: expected a dict for each of {len(maps)} maps, got {len(columns)}; give {{}} for none"
        )
    tables = []
    for number, one in enumerate(maps):
        table = one.table()
        for name, values in ({} if columns is None else columns[number]).items():
            if values.shape != one.auc.shape:
                raise ValueError(
                    f"columns.{name}: expected [layers, positions] = {list(one.auc.shape)}, got {list(values.shape)}; "
                    "give a value for each cell of the map"
                )
            table[name] = values.flatten().numpy()
        tables.append(table)
    return pd.concat(tables)


def save_figure(figure: Figure, picture: Path) -> None:
    """Write a figure whole or not at all, in the format that the file's name ends in."""
    kind = picture.suffix[1:]
    picture.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(picture) as path, matplotlib.rc_context(STYLE):
        figure.savefig(path, format=kind, metadata=UNDATED[kind])


def write_table(path: Path, tables: Sequence[pd.DataFrame]) -> None:
    """Write tables one under the other as CSV, whole or not at all."""
    with whole_file(path) as temporary:
        # nine decimals: two runs can be compared to 1e-6, and the last bits of a float do not change the bytes
        named = pd.concat(tables)
        for name in named.select_dtypes(include=["object", "string"]):
            named[name] = named[name].map(lambda one: show_text(one) if isinstance(one, str) else one)
        named.to_csv(temporary, index=False, float_format="%.9f", lineterminator="\n")


def caption(card: Card, probe: str, split: str) -> tuple[str, str]:
    """Title and subtitle of a map: what was read and where; model, site, probe, split, its examples and base rate.

    Of several targets the smallest and the largest number of examples are given, and the base rate of all together.
    """
    counts = [target.counts[split] for target in card.targets]
    sizes = {count.n for count in counts}
    n, n_positive = sum(count.n for count in counts), sum(count.n_positive for count in counts)
    fields = [shorten_model(card.model), card.site, probe, f"{split} split"]
    if len(counts) > 1:
        one_label = len({target.label for target in card.targets}) == 1
        fields.append(f"{len(counts)} {'splits' if one_label else 'targets'}")
    labels = list(dict.fromkeys(target.label for target in card.targets))
    if len(labels) > MOST_MAPS:
        fields.append(f"the first {MOST_MAPS} of {len(labels)} label sets are shown")
        labels[MOST_MAPS:] = ["..."]
    groups = {found for count in counts if (found := getattr(count, "n_groups", None)) is not None}
    in_groups = f" in {_range(groups)} groups" if groups and groups != set(sizes) else ""
    fields.append(f"n = {_range(sizes)}{in_groups}")
    fields.append(f"base rate {n_positive / n:.0%}" if n else "base rate none")
    return (
        show_text(f"Where {', '.join(labels)} can be read: {card.dataset}"),
        FIELD.join(show_text(field).replace(" ", NO_BREAK) for field in fields),  # a line breaks between fields
    )


def shorten_model(model: str) -> str:
    """The last part of a model's id or path, without the ending of a file.

    >>> shorten_model("mistralai/Mistral-7B-Instruct-v0.2"), shorten_model("/models/SmolLM2.Q4_1.gguf")
    ('Mistral-7B-Instruct-v0.2', 'SmolLM2.Q4_1')
    """
    last = re.split(r"[/\\]", model.rstrip("/\\"))[-1]
    ending = next((ending for ending in ENDINGS if last.lower().endswith(ending)), "")
    return last[: len(last) - len(ending)] or model


def _range(numbers: set[int]) -> str:
    """The smallest and the largest of some numbers."""
    return " to ".join(f"{number:,}" for number in dict.fromkeys((min(numbers), max(numbers))))
