"""What several files about questions start from."""

import pytest


@pytest.fixture
def own_datasets_cache(tmp_path, monkeypatch):
    """A folder of the test for what `datasets` converts, in place of the user's."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "hf"))
