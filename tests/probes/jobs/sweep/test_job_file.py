from pathlib import Path
from uuid import UUID

import pytest

from probes.jobs.sweep.job_file import JOB, read_job, write_job

RECORD = {"status": "running", "number": 1, "objective": None, "error": None, "seconds": None}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_on_a_full_disk_the_end_of_a_job_is_known_all_the_same(tmp_path, caplog, monkeypatch):
    write_job(tmp_path, RECORD | {"error": "a text that is longer than the last"})
    monkeypatch.setattr("probes.report.whole_file.uuid4", lambda: UUID(int=0))
    (tmp_path / f".{JOB}.{UUID(int=0).hex}.tmp").symlink_to("/dev/full")
    write_job(tmp_path, RECORD | {"status": "failed"})
    assert read_job(tmp_path) == RECORD | {"status": "failed"}
    assert f"error: {tmp_path / JOB}: expected a folder that can be written, with room for it, got: No " in caplog.text
