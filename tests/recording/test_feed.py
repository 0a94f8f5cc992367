from __future__ import annotations

from pathlib import Path

from vramprof.recording.feed import FEED, SAMPLE, FeedReader, FeedWriter, Head, Row

DEVICES = [Head(0, "Test GPU", 2**36)]


def row(number: int) -> Row:
    return Row(number, 0, SAMPLE, number, 2**33 + number, 2**34, 2**33)


def test_each_row_is_read_once(tmp_path: Path) -> None:
    reader = FeedReader(tmp_path)
    assert reader.read() == []
    writer = FeedWriter(tmp_path, DEVICES)
    writer.flush()
    assert reader.read() == []
    for number in range(3):
        writer.add(row(number))
        writer.flush()
    assert reader.read() == [row(0), row(1), row(2)]
    assert reader.devices == DEVICES
    assert reader.read() == []
    writer.add(row(3))
    writer.close()
    assert reader.read() == []
    reader.close()


def test_what_is_cut_is_read_when_it_is_whole(tmp_path: Path) -> None:
    """Whatever the moment at which the file is looked at, the rows are those that were written."""
    whole = tmp_path / "whole"
    whole.mkdir()
    writer = FeedWriter(whole, DEVICES)
    for number in range(2):
        writer.add(row(number))
        writer.flush()
    writer.close()
    data = (whole / FEED).read_bytes()
    cut = tmp_path / "cut"
    cut.mkdir()
    reader, found = FeedReader(cut), []
    for size in [*range(0, len(data), 7), len(data)]:
        (cut / FEED).write_bytes(data[:size])
        found += reader.read()
    assert found == [row(0), row(1)]
    reader.close()


def test_a_large_file_begins_anew(tmp_path: Path) -> None:
    writer, reader, found = FeedWriter(tmp_path, DEVICES, most_bytes=6000), FeedReader(tmp_path), []
    sizes = []
    for number in range(40):
        writer.add(row(number))
        writer.flush()
        found += reader.read()
        sizes.append((tmp_path / FEED).stat().st_size)
    assert found == [row(number) for number in range(40)]
    assert max(sizes) < 9000
    writer.close()
    reader.close()


def test_rubbish_is_not_fatal(tmp_path: Path) -> None:
    (tmp_path / FEED).write_bytes(b"\xff\xff\xff\xff\x10\0\0\0" + b"x" * 100)
    reader = FeedReader(tmp_path)
    assert reader.read() == []
    reader.close()
