"""VoxForge from a page that lists archives with the published layout."""

import pytest

from input_pipeline.corpora import prepare
from tests import corpus_archives

README = (
    "User Name:{}\n\nSpeaker Characteristics:\n\nGender: Male\nPronunciation dialect: {}\n\nRecording Information:\n"
)


def submission(name: str, dialect: str, prompts: dict[str, str], kind: str = "wav", first_clip: int = 0) -> bytes:
    """Pack a submission with audio for every prompt."""
    files: dict[str, bytes | str] = {f"{name}/etc/README": README.format(name, dialect), f"{name}/LICENSE": "GPL"}
    files[f"{name}/etc/PROMPTS"] = "".join(f"{name}/mfc/{utterance} {text}\n" for utterance, text in prompts.items())
    for number, utterance in enumerate(prompts, start=first_clip):
        files[f"{name}/{kind}/{utterance}.{kind}"] = corpus_archives.clip(number, kind.upper())
    return corpus_archives.tar(files)


ARCHIVES = {
    "Aaron-20080318-kdl": ("American English", {"a0001": "AUTHOR OF THE DANGER-TRAIL", "a0002": "It is lower"}, "wav"),
    "anonymous-20080425-aaa": ("Canadian English", {"a0001": "NOT AT THIS  PARTICULAR CASE"}, "flac"),
    "anonymous-20080425-bbb": ("British English", {"a0001": "WON'T YOU"}, "wav"),
    "ravi-20100101-xyz": ("Indian English", {"b0001": "GAD DO I REMEMBER IT 3", "b0002": "GAD"}, "wav"),
    "zoe-20110101-new": ("New Zealand English", {"c0001": "NOT WANTED"}, "wav"),
}


@pytest.fixture
def site(tmp_path):
    """Write the archives and the page that lists them."""
    files: dict[str, bytes | str] = {f"{name}.tgz": submission(name, *rest) for name, rest in ARCHIVES.items()}
    links = "".join(f'<a href="{name}">{name}</a>\n' for name in files)
    index = f'<html><a href="?C=N;O=D">Name</a> <a href="/downloads/">Parent</a>\n{links}</html>'
    return corpus_archives.write_tree(tmp_path / "site", files | {"index.html": index})


def texts_by_manifest(folder) -> dict[str, list[str]]:
    return {path.stem: corpus_archives.texts(path) for path in sorted(folder.glob("*.jsonl"))}


def test_listed_archives_are_fetched_and_grouped_by_dialect(site, tmp_path, capsys):
    target = tmp_path / "voxforge"
    with corpus_archives.serve(site) as address:
        assert prepare.main(["voxforge", f"--target_dir={target}", f"--url={address}"]) == 0
    assert texts_by_manifest(target) == {
        "american-canadian": ["author of the danger trail", "not at this particular case"],
        "commonwealth": ["won't you"],
        "indian": ["gad"],
    }
    records = corpus_archives.read_manifest(target / "american-canadian.jsonl")
    assert [record["speaker"] for record in records] == ["Aaron", "anonymous-20080425-aaa"]
    assert records[1]["audio_filepath"].endswith(
        "unpacked/anonymous-20080425-aaa/anonymous-20080425-aaa/flac/a0001.flac"
    )
    out = capsys.readouterr().out
    assert "4 of 5 archives state one of the dialects american, british" in out
    assert "skipped 2 (prompt not in capital letters): Aaron-20080318-kdl/a0002, ravi-20100101-xyz/b0001" in out
    assert f"--mode=eval --config=configs/voxforge_eval.py --config.restore=MODEL --config.data.test={target}/" in out


def test_dialects_can_be_chosen_and_kept_separate(site, tmp_path):
    line = ["voxforge", f"--target_dir={tmp_path}/x", f"--source={site}", "--dialects=american,canadian", "--no_groups"]
    assert prepare.main(line) == 0
    assert list(texts_by_manifest(tmp_path / "x")) == ["american", "canadian"]


def test_a_second_run_fetches_only_what_failed_before(site, tmp_path, capsys):
    target = tmp_path / "x"
    broken = site / "ravi-20100101-xyz.tgz"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:2000])
    with corpus_archives.serve(site) as address:
        line = ["voxforge", f"--target_dir={target}", f"--url={address}"]
        assert prepare.main(line) == 0
        assert "skipped 1 (failed; run the same command again to retry): ravi-20100101-xyz (" in capsys.readouterr().out
        assert "indian" not in texts_by_manifest(target)
        broken.write_bytes(whole)
        kept = target / "unpacked" / "Aaron-20080318-kdl"
        before = kept.stat().st_ino
        assert prepare.main(line) == 0
    assert texts_by_manifest(target)["indian"] == ["gad"]
    assert kept.stat().st_ino == before


def test_a_page_without_archives_and_an_unreachable_server_are_reported(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    with corpus_archives.serve(tmp_path / "empty") as address:
        assert prepare.main(["voxforge", f"--target_dir={tmp_path / 'x'}", f"--url={address}"]) == 1
    assert "lists no .tgz archive" in capsys.readouterr().err
    assert prepare.main(["voxforge", f"--target_dir={tmp_path / 'x'}", f"--url={address}"]) == 1
    assert "cannot connect" in capsys.readouterr().err


def test_a_server_without_the_listed_archives_is_an_error(site, tmp_path, capsys):
    for archive in site.glob("*.tgz"):
        archive.unlink()
    with corpus_archives.serve(site) as address:
        assert prepare.main(["voxforge", f"--target_dir={tmp_path / 'x'}", f"--url={address}"]) == 1
    assert "the server answers 404" in capsys.readouterr().err
    assert not list((tmp_path / "x").glob("*.jsonl"))


def test_unpacked_submissions_of_a_source_are_used_in_place(site, tmp_path):
    target, again = tmp_path / "x", tmp_path / "again"
    assert prepare.main(["voxforge", f"--target_dir={target}", f"--source={site}"]) == 0
    assert prepare.main(["voxforge", f"--target_dir={again}", f"--source={target / 'unpacked'}"]) == 0
    assert texts_by_manifest(again) == texts_by_manifest(target)
    assert not (again / "unpacked").exists()
