"""Activations in the cache, in their own entry or in one that contains more than is wanted."""

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from datamodules.language.cache.checksums import tell_altered
from datamodules.language.cache.entry import VERSION, CacheEntry, compute_key, find_missing, name_record

log = logging.getLogger(__name__)

KIND = "activations"
COLUMNS = ("tokens", "valid", "positions", "layers")  # parts of the content of which an entry may have more
UNKEYED = ("cache", "about", "shards", "contains")  # parts of a manifest that are not content


@dataclass(frozen=True)
class CachedActivations:
    """The stored activations of one site at L layers and T positions.

    Attributes:
        entry: the cache entry; it is not removed from the cache while this record exists.
        files: [L] shard files of each layer, in order; each file holds `h [stored positions, n, D]`.
        positions: [T] numbers of the stored positions, in the order wanted.
        n_positions: how many positions the entry holds.
        n_layers: how many layers it holds.

    Example:
        >>> cached = stages.capture(ids, answers, names, tokens, valid, ["resid_post"], [4])  # doctest: +SKIP
        >>> store = Shards(cached.files, cached.positions)  # doctest: +SKIP
    """

    entry: CacheEntry
    files: list[list[Path]]
    positions: list[int]
    n_positions: int
    n_layers: int


def open_activations(
    entry: CacheEntry, layers: Sequence[int], positions: Sequence[int], n_positions: int, n_layers: int
) -> CachedActivations:
    """List the files of some layers of a complete entry.

    Raises:
        ValueError: a file is missing, truncated or altered, or a record lacks a layer; says how to rebuild it.
    """
    files: list[list[Path]] = [[] for _ in layers]
    for shard in range(entry.n_shards):
        paths = entry.check_files(shard)
        for layer, held in zip(layers, files, strict=True):
            found = [path for name, path in paths.items() if name.startswith(f"layer={layer:02d}/")]
            if len(found) != 1:
                how = f": expected one file of layer {layer}, got {len(found)}"
                raise ValueError(tell_altered(name_record(entry.folder, shard), how))
            held += found
    return CachedActivations(entry, files, list(positions), n_positions, n_layers)


def digest_positions(tokens: Tensor, valid: Tensor) -> list[str]:
    """Compute a digest of each position from the tokens that it reads, not from its name.

    Args:
        tokens: [N, T, 2] int64, first and last token of each position; the last first where it takes a maximum.
        valid: [N, T] bool.

    Returns:
        [T] digests; two positions with the same one have the same activations.

    Example:
        >>> import torch
        >>> tokens = torch.tensor([[[3, 3], [3, 3], [5, 5]]])
        >>> first, second, third = digest_positions(tokens, torch.ones(1, 3, dtype=torch.bool))
        >>> first == second, first == third
        (True, False)
    """
    return [
        hashlib.sha256(tokens[:, t].contiguous().numpy().tobytes() + valid[:, t].numpy().tobytes()).hexdigest()
        for t in range(tokens.shape[1])
    ]


def find_larger(
    root: str | Path, content: dict[str, Any], digests: Sequence[str], n_shards: int, quiet: bool = False
) -> CachedActivations | None:
    """Find a complete entry that contains all the wanted activations, and more; of several, the smallest.

    Entries with a damaged file are skipped, and manifests that are altered, incomplete or of another version.

    Args:
        root: folder of the cache.
        content: description of the wanted activations, as for their own entry.
        digests: [T] digests of the wanted positions.
        n_shards: number of shards of a complete entry.
        quiet: do not warn of a damaged file.

    Returns:
        None where there is none.
    """
    found = []
    for folder, stored, contains in _read_manifests(Path(root).expanduser() / KIND):
        if _drop_columns(stored) != _drop_columns(content) or not set(content["layers"]) <= set(stored["layers"]):
            continue
        held = _read_digests(stored, contains, content, digests)
        if set(digests) <= set(held) and not find_missing(folder, n_shards):
            found.append((len(held) * len(stored["layers"]), folder.name, stored, held))
    for _, _, stored, held in sorted(found, key=lambda one: one[:2]):
        positions = [held.index(digest) for digest in digests]
        try:
            entry = CacheEntry(root, KIND, stored, n_shards)
            return open_activations(entry, content["layers"], positions, len(held), len(stored["layers"]))
        except (ValueError, OSError) as error:  # damaged, or removed meanwhile
            if not quiet:
                log.warning(str(error))
    return None


def _read_manifests(folder: Path) -> Iterator[tuple[Path, dict[str, Any], Any]]:
    """Yield folder, content and `contains` of every entry with a valid manifest, whose content hashes to its key."""
    for path in sorted(folder.glob("*/manifest.json")):
        with suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
            manifest = json.loads(path.read_bytes())
            content = {key: value for key, value in manifest.items() if key not in UNKEYED}
            if manifest.get("cache") == VERSION and compute_key(content) == path.parent.name:
                yield path.parent, content, manifest.get("contains")


def _drop_columns(content: dict[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps({key: value for key, value in content.items() if key not in COLUMNS}))


def _read_digests(stored: dict[str, Any], contains: Any, content: dict[str, Any], digests: Sequence[str]) -> list[str]:
    """Return the digests of the positions of an entry; none where they are not known.

    Older manifests lack digests; such an entry has the wanted positions if all of these are the same.
    """
    if all(stored[key] == content[key] for key in ("tokens", "valid")):
        return list(digests)
    held = contains.get("positions") if isinstance(contains, dict) else None
    if not isinstance(held, list) or len(held) != len(stored["positions"]):
        return []
    return [str(digest) for digest in held]
