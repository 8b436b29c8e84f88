"""The datamodule for activations of your own, streamed from where they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datamodules.base import GridDataModule
from datamodules.card import Card
from datamodules.examples import write_table
from datamodules.precomputed.arrays import Arrays, read_arrays
from datamodules.precomputed.contents import Contents
from datamodules.precomputed.example_folder import Tokens, check_tokens, read_folder
from datamodules.precomputed.numpy_files import read_npy, read_npz
from datamodules.precomputed.safetensors_file import read_safetensors
from datamodules.split import GroupSplit
from datamodules.stream.local_paths import expand_user
from datamodules.stream.ranges import Count, File, Folder, Seed

EXAMPLES = "examples.parquet"


class PrecomputedDataModule(GridDataModule):
    """Activations that another program computed.

    **A safetensors file** holds `acts [N, L, T, D]` in any of float16, bfloat16, float32 and float64, and `labels [N]`,
    0 or 1 in any dtype; or `labels [M, N]`, M label sets that are fitted together. It may hold `groups [N]`, equal
    numbers for examples that must stay in one split, and `valid [N, T]` bool, false where an example lacks a position.
    Its metadata may name the rows and columns of the grid, `layers` and `positions`, as JSON lists of L whole numbers
    and T strings, and the label sets, `targets`, as M strings. It may also give `model`, `dataset`, `site` and, with
    one label set, `target` (what label 1 means), which are shown to people.

    **Numpy's files** hold the same: see `read_npy` and `read_npz`. **A folder** holds a safetensors file for each
    example, with the hidden states of all its tokens, as vLLM writes them: see `read_folder`. **Arrays in memory** are
    given as `Arrays`.

    Args:
        path: the file or the folder, which may exceed memory (an `.npz` file may not); or `Arrays`.
        split: assigns groups to train, val and test.
        tokens: of a folder: the columns of the grid, each `last`, `mean` (over all tokens) or the number of a token,
            from 0 at the beginning or from -1 at the end.
        folder, block_bytes, batch_size, seed, control_labels: see `GridDataModule`.

    Example:
        >>> tensors = {"acts": torch.randn(400, 4, 2, 8), "labels": torch.arange(400) % 2}
        >>> save_file(tensors, "acts.safetensors")  # doctest: +SKIP
        >>> data = PrecomputedDataModule("acts.safetensors", GroupSplit())  # doctest: +SKIP
        >>> data.setup()  # doctest: +SKIP
        >>> data.card.shape  # doctest: +SKIP
        (1, 4, 2, 8)
    """

    classes = ("labelled 0", "labelled 1")
    examples = "examples"

    def __init__(
        self,
        path: File | Arrays,
        split: GroupSplit,
        folder: Folder | None = None,
        block_bytes: Count | None = None,
        batch_size: Count | None = None,
        seed: Seed = 0,
        control_labels: bool = False,
        tokens: Tokens = ("last",),
    ) -> None:
        super().__init__(split, folder, block_bytes, batch_size, seed, control_labels)
        if split.by != "question":
            raise ValueError(
                f"split.by: expected question with precomputed activations, whose file holds the groups, got "
                f"{split.by!r}; write groups [N] into the file"
            )
        self.path = path if isinstance(path, Arrays) else expand_user(path, "datamodule.path")
        self.tokens = check_tokens(tokens)

    def setup(self, stage: str | None = None) -> None:
        """Check everything in the source except the activations.

        Raises:
            ValueError: a file, a tensor or a name does not match the description of the class.
        """
        if self.card:
            return
        self._contents = held = self._read()
        targets = self.split_labels(held.labels, held.targets, held.groups)
        card = Card(
            model=held.model,
            dataset=held.dataset,
            site=held.site,
            layers=held.layers,
            positions=held.positions,
            width=held.store.shape[3],
            targets=targets.cards(),
            classes=self.classes,
            n_valid=tuple(held.valid.sum(0).tolist()),
        )
        self.targets = targets
        self.keep(EXAMPLES, self.make_table)
        self.serve(held.store, targets, held.valid, card)

    def make_table(self) -> bytes:
        """The content of examples.parquet: a row for each example; after `setup`."""
        held = self._contents
        N = len(held.groups)
        group = pa.string() if isinstance(held.groups[0], str) else pa.from_numpy_dtype(np.asarray(held.groups).dtype)
        schema = pa.schema({"row": pa.int64()} | ({"id": pa.string()} if held.ids else {}) | {"group": group})

        def columns(part: slice) -> dict[str, list[Any]]:
            ids = {"id": held.ids[part]} if held.ids else {}
            return {"row": list(range(N)[part]), **ids, "group": held.groups[part]}

        return write_table(columns, schema, held.valid, self.targets)

    def _read(self) -> Contents:
        if isinstance(self.path, Arrays):
            return read_arrays(self.path)
        if self.path.is_dir():
            return read_folder(self.path, self.tokens)
        readers = {".npy": read_npy, ".npz": read_npz}
        return readers.get(Path(self.path).suffix.lower(), read_safetensors)(self.path)
