"""Uploads a folder to a repository of the Hugging Face hub, only when asked to."""

from pathlib import Path


def push_folder(folder: Path, repo_id: str, private: bool = True) -> str:
    """Upload a folder to a repository, made if missing, and return its address.

    Raises:
        ValueError: no such name of a repository.

    Example:
        >>> push_folder(Path("mine"), "me/my-probes")  # doctest: +SKIP
    """
    if not isinstance(repo_id, str) or not repo_id.strip():
        raise ValueError(f"repo_id: expected a name such as me/my-probes, got {repo_id!r}; name the repository")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError

    api = HfApi()
    try:
        address = api.create_repo(repo_id, private=private, exist_ok=True)
    except HFValidationError as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"repo_id: expected a name such as me/my-probes, got {repo_id!r} ({reason})") from None
    api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message="Upload linear probes and their card")
    return str(address)
