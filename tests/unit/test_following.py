"""Where the folder of a drill that was fetched is put, when something lies there already."""

from pathlib import Path

from blackstart.commands.following import _put


def folders(tmp_path: Path, there: str | None) -> tuple[Path, Path]:
    part, folder = tmp_path / ".run.part", tmp_path / "run"
    part.mkdir()
    (part / "journal.jsonl").write_text("1\n2\n3\n", encoding="utf-8")
    (part / "result.json").write_text("{}", encoding="utf-8")
    if there is not None:
        folder.mkdir()
        (folder / "journal.jsonl").write_text(there, encoding="utf-8")
    return part, folder


def test_an_earlier_copy_of_the_same_journal_gives_way(tmp_path: Path) -> None:
    for number, there in enumerate((None, "", "1\n2\n", "1\n2\n3\n")):
        (tmp_path / str(number)).mkdir()
        part, folder = folders(tmp_path / str(number), there)
        _put(part, folder)
        assert (folder / "journal.jsonl").read_text(encoding="utf-8") == "1\n2\n3\n"
        assert list((tmp_path / str(number)).iterdir()) == [folder]


def test_a_journal_that_somebody_went_on_with_is_kept(tmp_path: Path) -> None:
    part, folder = folders(tmp_path, "1\n2\nrecovered\n")
    _put(part, folder)
    assert (folder / "result.json").exists()
    (aside,) = tmp_path.glob("run.before-*")
    assert (aside / "journal.jsonl").read_text(encoding="utf-8").endswith("recovered\n")
