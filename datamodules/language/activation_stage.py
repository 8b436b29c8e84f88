"""The second cached stage: activations of chosen tokens, layers and sites, read in one forward pass."""

import hashlib
from array import array
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from datamodules.language.cache.entry import Files
from datamodules.language.cache.shards import name_shard
from datamodules.language.capture import VERSION, capture, check_finite
from datamodules.language.file_buffers import FileBuffers
from datamodules.language.generation import Answer
from datamodules.language.host_copies import HostCopies, HostCopy
from datamodules.language.progress import Speed
from datamodules.language.running_model import RunningModel
from datamodules.language.sequences import digest_sequences
from datamodules.language.sites import get_width

IN_PARTS = ("z", "mlp_post")  # sites that a model split over processes leaves in parts
STORE = torch.bfloat16


class ActivationStage:
    """Activations of N examples at T positions and L layers, in shards of bfloat16 `h [T, n, D]`, a file a layer.

    Args:
        running: the running model.
        ids: [N] names of the examples, for messages.
        answers: [N], whose prompt, thought and answer the model reads.
        names: [T] of the positions.
        tokens: [N, T, 2] int64, first and last token of each position; the last first where it takes a maximum.
        valid: [N, T] bool; activations are zero where it is false.
        sites: possible outputs of the stage.
        layers: [L] block numbers.

    Raises:
        ValueError: a site of which each process of a split model has only a part.
    """

    kind = "activations"

    def __init__(
        self,
        running: RunningModel,
        ids: Sequence[str],
        answers: Sequence[Answer],
        names: Sequence[str],
        tokens: Tensor,
        valid: Tensor,
        sites: Sequence[str],
        layers: Sequence[int],
    ) -> None:
        in_parts = [site for site in sites if site in IN_PARTS]
        if running.split and in_parts:
            raise ValueError(
                f"site.name: expected a site of the width of the stream, which model.tp_plan leaves whole, got "
                f"{', '.join(in_parts)}; choose another, or model.device_map=auto"
            )
        self.running, self.ids, self.names, self.layers = running, ids, names, layers
        self.positions, self.valid = tokens, valid
        self.sequences = [array("i", [*one.prompt_ids, *one.thought_ids, *one.answer_ids]) for one in answers]
        self.tokens = list(map(len, self.sequences))
        self._buffers, self._copies = FileBuffers(), HostCopies()
        self._content = {
            "version": VERSION,
            "sequences": digest_sequences(self.sequences),
            "tokens": hashlib.sha256(tokens.numpy().tobytes()).hexdigest(),
            "valid": hashlib.sha256(valid.numpy().tobytes()).hexdigest(),
            "positions": list(names),
            "layers": list(layers),
            "store": str(STORE).removeprefix("torch."),
        }

    def describe(self, output: str) -> dict[str, Any]:
        """Return everything except the model that the activations of a site depend on, for the key of the cache."""
        return {**self._content, "site": output}

    def cost(self, outputs: Sequence[str]) -> int:
        """Bytes that one example of some sites takes in the cache."""
        width = sum(get_width(self.running.config, site) for site in outputs)
        return STORE.itemsize * len(self.layers) * len(self.names) * width

    def estimate(self, n: int) -> float:
        """Seconds that n examples will take; loads the model."""
        mean = sum(self.tokens) // len(self.tokens)
        return Speed(self.running.network).estimate_batches(n, self.running.reading.count_examples(mean), mean)

    def make(self, rows: range, outputs: Sequence[str], advance: Callable[[Sequence[int]], None]) -> dict[str, Files]:
        """Read the activations of one shard.

        Args:
            rows: numbers of its examples.
            outputs: sites, all read in the same forward.
            advance: called with the rows of each batch that is done.

        Returns:
            for each site, the content of its files by name; their memory serves again once nobody holds them.

        Raises:
            ValueError: an activation that is not finite; names layer, position and example.
        """
        acts: dict[str, Tensor] = {}
        made: dict[str, Files] = {}
        names = [f"layer={layer:02d}/{name_shard(rows, 'safetensors')}" for layer in self.layers]
        for batch, copy in self.running.run(rows, self.sequences, lambda batch: self._read(batch, outputs)):
            for site, h in copy.tensors.items():
                if site not in acts:
                    shape = len(self.names), len(rows), h.shape[-1]
                    acts[site], files = self._buffers.lend(len(self.layers), shape, STORE)
                    made[site] = dict(zip(names, files, strict=True))
            self._copies.use(copy, partial(_scatter, acts, [i - rows.start for i in batch]))
            advance(batch)
        self._copies.finish()
        return made

    def _read(self, batch: list[int], outputs: Sequence[str]) -> HostCopy:
        """For each site [n, L, T, D] of a batch as it is stored, on its way to the host."""
        captured = capture(
            self.running.network, [self.sequences[i] for i in batch], self.positions[batch], outputs, self.layers
        )
        invalid = ~self.valid[batch][:, None, :, None]
        for site, h in captured.items():
            h = h.masked_fill(invalid.to(h.device), 0).to(STORE)
            # As stored: a float32 number can be too large for bfloat16.
            check_finite(h, self.layers, self.names, [self.ids[i] for i in batch])
            captured[site] = h
        return self._copies.start(captured)


def _scatter(acts: Mapping[str, Tensor], columns: Sequence[int], captured: Mapping[str, Tensor]) -> None:
    """Put the examples of a batch, [n, L, T, D] for each site, into their places of a shard [L, T, rows, D]."""
    for site, h in captured.items():
        for column, example in zip(columns, h, strict=True):  # [L, T, D] each: faster than all at once
            acts[site][:, :, column] = example
