"""What can go wrong when something is fetched from the Hugging Face hub, in one line each."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


@contextmanager
def one_line(group: Literal["model", "dataset"], id_: str, revision: str | None) -> Iterator[None]:
    """Turn errors of the hub into one ValueError that names the setting at fault.

    Args:
        group: config group whose `id` and `revision` are fetched.
        id_: hub id.
        revision: branch, tag or commit.
    """
    what = "weights" if group == "model" else "a data set"
    try:
        yield
    except GatedRepoError as error:
        raise ValueError(
            f"{group}.id={id_}: expected {what} open to you, got a gated repository; accept its terms on its page, "
            "then log in with: hf auth login"
        ) from error
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"{group}.id={id_}: expected a network, or {what} fetched before, got neither; connect once, or give a "
            "folder"
        ) from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{group}.revision: expected a branch, tag or commit of {id_}, got {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise ValueError(
            f"{group}.id: expected a folder or a hub id such as org/name, got {id_!r}: the hub has none that you may "
            "see; check the spelling, or log in with: hf auth login"
        ) from error
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{group}.id: expected a folder or a hub id such as org/name, got {id_!r} ({reason})"
        ) from error
