"""`job:JOB@VERSION` as a source."""

from __future__ import annotations

import pytest

from fedgalore.spec.start import job_version


def test_a_version_of_a_job_is_told_from_other_sources() -> None:
    assert job_version("job:job-0199f2b3c4d-0a1b2c3d@12") == ("job-0199f2b3c4d-0a1b2c3d", 12)
    for source in ("/models/minilm", "organisation/model", "./job:1@2", "jobs"):
        assert job_version(source) is None


@pytest.mark.parametrize(
    "source", ["job:", "job:x", "job:x@", "job:x@last", "job:@1", "job:../x@1", "job:x@-1", "job:x@٣"]
)
def test_half_a_version_is_refused_with_the_form(source: str) -> None:
    with pytest.raises(ValueError, match="write job:JOB@VERSION"):
        job_version(source)
