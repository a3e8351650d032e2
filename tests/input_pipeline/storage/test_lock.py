"""One process at a time makes a file: the others wait, and go on where its folder has gone meanwhile."""

import threading

from input_pipeline.storage.lock import alone


def test_whoever_waited_is_told_and_finds_a_folder_whatever_has_gone(tmp_path, capsys):
    target, found = tmp_path / "work" / "train.jsonl", []

    def wait() -> None:
        with alone(target) as waited:
            found.append((waited, target.parent.is_dir()))

    second = threading.Thread(target=wait)
    with alone(target) as waited:
        assert not waited
        second.start()
        while "is at work on it; waiting for its end" not in capsys.readouterr().out:
            pass
        (tmp_path / "work" / "train.jsonl.lock").unlink()  # as at the end of this block
        (tmp_path / "work").rmdir()
    second.join()
    assert found == [(True, True)]
    assert not list((tmp_path / "work").iterdir())
