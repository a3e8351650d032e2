"""Paths as people write them."""

import pytest

from input_pipeline.storage.paths import why_missing


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("clips\\a.flac", "it has back slashes: write / between folders; {0}/clips/a.flac exists"),
        ("D:\\clips\\b.flac", "it has back slashes: write / between folders"),
        ("clips/a.flac\r", "it ends in a carriage return (\\r), which does not belong to it; {0}/clips/a.flac exists"),
        ("clips/a.flac ", "it ends in a space, which does not belong to it; {0}/clips/a.flac exists"),
        ("clips/A.flac", "there is a.flac: upper and lower case differ"),
        ("Clips/a.flac", "there is clips: upper and lower case differ"),
        ("clips/a", "there is a.flac: the ending differs"),
        ("clips/a.wav", "there is a.flac: the ending differs"),
        ("clips/cafe\u0301.flac", "there is caf\u00e9.flac with accents in composed (NFC) form, another spelling"),
        ("clips/u\u0308ber.flac", ""),
        ("file:///data/a.flac", "it is an address: write the path without file://"),
        ("clops/deep/a.flac", "there is no folder {0}/clops"),
        ("clips/b.flac", ""),
        ("clips/link.flac", "it is a link to gone.flac, which does not exist"),
    ],
)
def test_a_path_that_leads_nowhere_says_what_is_overlooked(tmp_path, path, reason):
    (tmp_path / "clips").mkdir()
    for name in ("a.flac", "caf\u00e9.flac"):
        (tmp_path / "clips" / name).touch()
    (tmp_path / "clips" / "link.flac").symlink_to("gone.flac")
    found = why_missing(f"{tmp_path}/{path}" if not path.startswith("file:") else path)
    assert found.startswith(reason.format(tmp_path))
    assert bool(found) == bool(reason)
