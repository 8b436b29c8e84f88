"""Finds and downloads the files of a Hugging Face hub repository.

`fetch_snapshot` asks the hub once and downloads missing files. `find_snapshot` only reads the local cache of the hub,
so no network is needed after a fetch. Both return the folder of one commit, which is named by the commit.
"""

import logging
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    IncompleteSnapshotError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

log = logging.getLogger(__name__)

Kind = Literal["model", "dataset"]
COMMIT = re.compile(r"[0-9a-f]{40}")
PATIENCE, PATIENCE_WITH_FILES = 10.0, 3.0  # seconds to wait for the hub; a lookup may hang for minutes
_unreachable: list[Exception] = []  # why, once it is known: a run then asks no more
_logged: set[str] = set()  # lines that were logged: a run fetches the same repository more than once


def fetch_snapshot(
    kind: Kind,
    id_: str,
    revision: str | None,
    allow: Sequence[str] | None = None,
    ignore: str | None = None,
    key: str | None = None,
) -> Path:
    """Download the files of a repository that are not on this machine yet.

    Without a network, or where the hub does not answer in time, the files of an earlier download are used.

    Args:
        kind: what the repository holds.
        id_: hub id.
        revision: branch, tag or commit; the default branch where None.
        allow: patterns of the files wanted; all where None.
        ignore: a pattern of files not wanted.
        key: option that a message names; `model.id` or `dataset.id` where None.

    Returns:
        folder of the snapshot, named by its commit.

    Raises:
        ValueError: no such repository or revision, a gated one, neither network nor earlier download, or a download
            that fails.
    """
    snapshot = partial(
        cast(Any, snapshot_download),
        id_,
        repo_type=kind,
        revision=revision,
        allow_patterns=allow,
        ignore_patterns=ignore,
    )
    key = key or f"{kind}.id"
    with _explain_error(kind, key, id_, revision):
        here, absent = None, None
        try:
            here = Path(snapshot(local_files_only=True))
        except LocalEntryNotFoundError as error:
            absent = error
        if here and COMMIT.fullmatch(revision or "") and _has_list_of_files(here):
            return here
        seconds = PATIENCE if here is None else PATIENCE_WITH_FILES
        problem = _unreachable[0] if _unreachable else _ask_hub(kind, id_, revision, seconds)
        if problem is None:
            return Path(snapshot())
        by_hub = isinstance(problem, HfHubHTTPError)
        if not by_hub:
            _unreachable[:] = [problem]
        if here is None:
            raise problem if by_hub or absent is None else absent
        if isinstance(problem, RevisionNotFoundError):
            raise problem
        if not isinstance(problem, OfflineModeIsEnabled):  # which people set themselves
            what = "refuses" if by_hub else "does not answer"
            line = f"{key}={id_}: the hub {what}; going on with what was fetched before, commit {here.name}"
            if line not in _logged:
                _logged.add(line)
                log.warning(line)
        return here


def find_snapshot(kind: Kind, id_: str, revision: str | None, key: str | None = None) -> Path:
    """Return the folder of a repository fetched before, without any network; see `fetch_snapshot`.

    Raises:
        ValueError: it was not fetched.
    """
    with _explain_error(kind, key or f"{kind}.id", id_, revision):
        try:
            return Path(snapshot_download(id_, repo_type=kind, revision=revision, local_files_only=True))
        except IncompleteSnapshotError as error:  # parts that were not requested
            return Path(error.snapshot_path)


def _has_list_of_files(snapshot: Path) -> bool:
    """Whether the list of files of the commit is on this machine; `snapshot_download` compares the files with it."""
    return (snapshot.parents[1] / "trees" / f"{snapshot.name}.json").is_file()


def _ask_hub(kind: Kind, id_: str, revision: str | None, seconds: float) -> Exception | None:
    """Request a repository; return the error if any, an `HfHubHTTPError` if the hub refused."""
    outcome: list[Exception | None] = []

    def ask() -> None:
        try:
            HfApi().repo_info(id_, repo_type=kind, revision=revision, timeout=seconds)
            outcome.append(None)
        except Exception as error:
            outcome.append(error)

    # A thread, because no timeout of the client covers the lookup of the host's name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0] if outcome else TimeoutError(f"no answer from the hub in {seconds:.0f} s")


@contextmanager
def _explain_error(kind: Kind, key: str, id_: str, revision: str | None) -> Iterator[None]:
    """Turn errors of the hub into one ValueError that names the setting at fault."""
    what = "weights" if kind == "model" else "a data set"
    try:
        yield
    except GatedRepoError as error:
        raise ValueError(
            f"{key}={id_}: expected {what} open to you, got a gated repository; accept its terms on its page, "
            "then log in with: hf auth login"
        ) from error
    except IncompleteSnapshotError as error:
        raise ValueError(
            f"{key}={id_}: expected a network, or {what} fetched whole before, got a download that was cut short; "
            "connect and run again"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"{key}={id_}: expected a network, or {what} fetched before, got neither; connect once, or give a folder"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{kind}.revision: expected a branch, tag or commit of {id_}, got {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{key}: expected a folder or a hub id such as org/name, got {id_!r}: the hub has none that you may "
            "see; check the spelling, or log in with: hf auth login"
        ) from error
    except ValueError as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{key}: expected a folder or a hub id such as org/name, got {id_!r} ({reason})") from error
    except Exception as error:  # of the network, the hub, or the disk: clients below this one have errors of their own
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{key}={id_}: expected {what} from the hub, got an error ({reason}); run again, which goes on from there"
        ) from error
