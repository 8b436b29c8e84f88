"""Hidden states in a folder with a safetensors file for each example, as vLLM writes them.

https://docs.vllm.ai/en/latest/features/speculative_decoding/extract_hidden_states/
"""

import logging
from collections.abc import Sequence
from itertools import starmap
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from annotated_types import MinLen, Predicate, doc
from torch import Tensor

from datamodules.precomputed.contents import Contents, Loaded, Source
from datamodules.precomputed.label_file import read_labels
from datamodules.precomputed.numpy_files import read_names
from datamodules.stream.byte_ranges import ByteRange, open_file, read_header
from datamodules.stream.ranges import are_different
from datamodules.stream.store import SCRATCH, Starmap

log = logging.getLogger(__name__)

HIDDEN, TOKENS = "hidden_states", "token_ids"
Token = Literal["last", "mean"] | int
Tokens = Annotated[
    Sequence[Token], MinLen(1), Predicate(are_different), doc("a list of last, mean and numbers of tokens")
]


def check_tokens(tokens: Sequence[Token]) -> tuple[Token, ...]:
    """Refuse anything but a list of different `last`, `mean` and whole numbers.

    >>> check_tokens(["last", -2])
    ('last', -2)
    """
    listed = [] if isinstance(tokens, str) or not isinstance(tokens, Sequence) else list(tokens)
    if (
        not listed
        or not are_different(listed)
        or not all(one in ("last", "mean") or type(one) is int for one in listed)
    ):
        raise ValueError(
            f"datamodule.tokens: expected a list of different last, mean and whole numbers, got {tokens!r}; "
            "write [last,mean]"
        )
    return tuple(listed)


def read_folder(folder: Path, tokens: Sequence[Token]) -> Contents:
    """Read a folder of examples.

    ID.safetensors holds `hidden_states [tokens, L, D]` and `token_ids [tokens]` of one example; files of older versions
    of vLLM, `[L, tokens, D]`, are told apart by the number of tokens. labels.jsonl or labels.csv beside them has `id`,
    `label` and perhaps `group` of each: the examples, in this order; files that it does not name are left out.
    names.json may give layers, model, dataset, site and target. vLLM writes no numbers of layers: give there those of
    its `eagle_aux_hidden_state_layer_ids`. Its number i is what block i reads, the output of block i - 1.

    Args:
        folder: that holds them; its examples may exceed memory.
        tokens: the columns: `last`, `mean` of all tokens, taken in float32, or numbers of tokens.

    Raises:
        ValueError: a file is missing, is damaged, or does not fit the others.
    """
    ids, labels, groups = read_labels(folder)
    files = {path.stem: path for path in sorted(folder.glob("*.safetensors"))}
    if missing := [name for name in ids if name not in files]:
        packed = ", decompress them first" if any(folder.glob("*.zst")) else ""
        raise ValueError(
            f"{folder}: expected a file ID.safetensors for each id of its labels, got none for {missing[0][:80]}"
            f"{f' and {len(missing) - 1} more' * (len(missing) > 1)}; add them, or remove their labels{packed}"
        )
    if rest := len(files) - len(ids):
        log.info(f"{folder}: {rest} of {len(files)} examples have no label, and are left out")
    examples = [_find_example(files[name]) for name in ids]
    store = ExampleFiles([hidden for hidden, _ in examples], [n for _, n in examples], tokens)
    names = dict(read_names(folder / "names.json"))
    if "positions" in names:
        raise ValueError(f"{folder / 'names.json'}: expected no positions, which datamodule.tokens gives; remove them")
    source = Source(
        str(folder), {"labels": Loaded(torch.tensor(labels))}, names | {"positions": list(map(str, tokens))}
    )
    source.check_acts(store.shape, store.dtype)
    return source.read(store, folder.resolve().name, "hidden states", groups, store.valid, ids)


def _find_example(path: Path) -> tuple[ByteRange, int]:
    """The hidden states of an example, and how many tokens it has."""
    file = read_header(path)
    hidden, ids = file.get_tensor(HIDDEN, "[tokens, L, D]"), file.get_tensor(TOKENS, "[tokens]")
    if len(hidden.shape) != 3 or 0 in hidden.shape or len(ids.shape) != 1 or ids.shape[0] not in hidden.shape[:2]:
        raise ValueError(
            f"{path}: expected {HIDDEN} [tokens, L, D] and {TOKENS} [tokens], got {list(hidden.shape)} and "
            f"{list(ids.shape)}; write them again"
        )
    return hidden, ids.shape[0]


class ExampleFiles:
    """Some tokens, or the mean of all tokens, of hidden states in a file for each example.

    Attributes:
        valid: [N, T] bool, whether an example has that many tokens.

    Args:
        files: [N] hidden states, `[tokens, L, D]` or all of them `[L, tokens, D]`.
        counts: [N] numbers of tokens.
        tokens: the T columns.

    Raises:
        ValueError: the files differ in their layers, width or dtype.
    """

    def __init__(self, files: Sequence[ByteRange], counts: Sequence[int], tokens: Sequence[Token]) -> None:
        first = files[0]
        # Where both orders fit, as with one token count that is also the number of layers, it is today's.
        self._tokens_first = _are_counted(files, counts, axis=0) or not _are_counted(files, counts, axis=1)
        L, D = first.shape[1 if self._tokens_first else 0], first.shape[2]
        for file, n in zip(files, counts, strict=True):
            shape = (n, L, D) if self._tokens_first else (L, n, D)
            if (file.shape, file.kind) != (shape, first.kind):
                raise ValueError(
                    f"{file.path}: expected {HIDDEN} {list(shape)} in {first.kind}, as in {first.path.name}, got "
                    f"{list(file.shape)} in {file.kind}; write all examples with the same model and layers"
                )
        self._files, self._counts = files, np.asarray(counts)
        self._tokens = [-1 if token == "last" else token for token in tokens]
        self._stored = first.dtype
        self.shape = (len(files), L, len(self._tokens), D)
        pooled = "mean" in self._tokens
        self.dtype = torch.float32 if pooled and self._stored.itemsize < 4 else self._stored
        self._row = D * self._stored.itemsize  # bytes
        self.scratch = max(SCRATCH, L * self._row)
        has = [
            self._counts >= (-t if t < 0 else t + 1) if isinstance(t, int) else self._counts > 0 for t in self._tokens
        ]
        self.valid = torch.from_numpy(np.stack(has, 1))

    def enough(self, n: int) -> int:
        """See `Store.enough`. Each example is a file, and a mean takes all of it: the fewer blocks the better."""
        _, L, T, D = self.shape
        return n * max(2**17, L * T * D * self.dtype.itemsize * ("mean" in self._tokens))

    def read(self, cells: np.ndarray, rows: np.ndarray, out: Tensor, each: Starmap = starmap) -> None:
        """See `Store.read`."""
        T = self.shape[2]
        columns = [(t, [i for i, cell in enumerate(cells.tolist()) if cell % T == t]) for t in range(T)]

        def read_example(i: int, row: int) -> None:
            file, n = self._files[row], int(self._counts[row])
            with open_file(file.path) as opened:
                for t, places in columns:
                    if not places:
                        continue
                    layers = cells[places] // T
                    token = self._tokens[t]
                    if not isinstance(token, int):
                        out[places, i] = self._read_mean(file, opened, n, layers)
                    elif self.valid[row, t]:
                        out[places, i] = self._read_token(file, opened, n, token % n, layers).to(self.dtype)
                    else:
                        out[places, i] = 0

        for _ in each(read_example, enumerate(rows.tolist())):
            pass

    def _read_token(self, file: ByteRange, opened: int, n: int, token: int, layers: np.ndarray) -> Tensor:
        """Hidden states [l, D] of one token at some layers."""
        L = self.shape[1]
        low, high = (int(layers.min()), int(layers.max()) + 1) if self._tokens_first else (0, 0)
        if self._tokens_first:
            return self._load(file, opened, token * L + low, high - low)[layers - low]
        return torch.cat([self._load(file, opened, layer * n + token, 1) for layer in layers.tolist()])

    def _read_mean(self, file: ByteRange, opened: int, n: int, layers: np.ndarray) -> Tensor:
        """Means [l, D] over the n tokens at some layers, a few tokens at a time."""
        L, D = self.shape[1], self.shape[3]
        total = torch.zeros(len(layers), D, dtype=torch.float64)
        if self._tokens_first:
            most = max(1, SCRATCH // (L * self._row))
            for start in range(0, n, most):
                count = min(most, n - start)
                some = self._load(file, opened, start * L, count * L).view(count, L, D)
                total += some[:, layers].double().sum(0)
        else:
            most = max(1, SCRATCH // self._row)
            for i, layer in enumerate(layers.tolist()):
                for start in range(0, n, most):
                    total[i] += self._load(file, opened, layer * n + start, min(most, n - start)).double().sum(0)
        return (total / n).to(self.dtype)

    def _load(self, file: ByteRange, opened: int, start: int, count: int) -> Tensor:
        """Some rows [count, D] of a file, which has a row for each token and layer."""
        content = bytearray(count * self._row)
        file.read(opened, memoryview(content), start * self._row)
        return torch.frombuffer(content, dtype=self._stored).view(count, self.shape[3])


def _are_counted(files: Sequence[ByteRange], counts: Sequence[int], axis: int) -> bool:
    """Whether an axis of every file is that of its tokens, and the other is alike in all."""
    others = {file.shape[1 - axis] for file in files}
    return len(others) == 1 and all(file.shape[axis] == n for file, n in zip(files, counts, strict=True))
