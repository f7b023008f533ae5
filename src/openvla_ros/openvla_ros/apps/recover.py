"""openvla-recover: make a whole bag of what a killed recorder left, up to the last whole chunk."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from mcap.records import Channel, McapRecord, Message, Schema
from mcap.stream_reader import StreamReader
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore

from openvla_ros.recording.bag_writer import IN_PROGRESS, BagError, BagInfo, publish_bag

RECOVERING = ".recovering"  # ends the name of a recovery's own work in progress


def recover(path: Path, output: Path | None = None) -> BagInfo:
    """Copy the readable messages of an unclosed bag to a new one and return it; the old one is left alone.

    Args:
        path: the bag folder (as a rule in ``.recording``) or the .mcap file.
        output: the new bag; by default the old one's name, taken out of ``.recording``, or with ``_recovered``.

    Raises:
        BagError: there is no MCAP file, nothing in it can be read, or ``output`` exists.
    """
    source = _mcap_file(path)
    folder = source.parent
    if output is None:
        in_progress = folder.parent.name == IN_PROGRESS
        output = folder.parent.parent / folder.name if in_progress else folder.with_name(f"{source.stem}_recovered")
    if output.exists():
        raise BagError(f"{output} exists already; give another place with --output")
    temporary = output.parent / IN_PROGRESS / f"{output.name}{RECOVERING}" / output.name
    shutil.rmtree(temporary, ignore_errors=True)
    writer = Writer(temporary, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
    writer.open()
    schemas: dict[int, Schema] = {}
    connections: dict[int, Connection] = {}
    count, first, last = 0, 2**63, 0
    try:
        for record in _readable(source):
            if isinstance(record, Schema):
                schemas[record.id] = record
            elif isinstance(record, Channel) and record.id not in connections:
                connections[record.id] = _connection(writer, record, schemas[record.schema_id])
            elif isinstance(record, Message):
                writer.write(connections[record.channel_id], record.log_time, record.data)
                count, first, last = count + 1, min(first, record.log_time), max(last, record.log_time)
        if not count:
            raise BagError(f"{source} has no whole chunk: nothing can be recovered")
        writer.close()
        publish_bag(temporary, output)
    finally:
        writer.abort()
        shutil.rmtree(temporary.parent, ignore_errors=True)
    return BagInfo(output, count, (last - first) * 1e-9)


def _mcap_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(path.glob("*.mcap")) if path.is_dir() else []
    if len(files) != 1:
        raise BagError(f"{path} holds {len(files)} .mcap files; name a bag folder with one, or the file itself")
    return files[0]


class _WholeReads:
    """A file that raises at its end instead of returning less: a cut message must not pass for a short one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) < length:
            raise EOFError(f"the file ends {length - len(data)} bytes early")
        return data


def _readable(source: Path) -> Iterator[McapRecord]:
    """Yield records up to the first damage: a chunk is read as a whole or not at all."""
    with source.open("rb") as file:
        records = StreamReader(_WholeReads(file)).records  # type: ignore[arg-type]
        while True:
            try:
                record = next(records)
            except StopIteration:
                return
            except Exception:  # mcap, struct and zstandard each have their own error for a file that is damaged here
                return
            yield record


def _connection(writer: Writer, channel: Channel, schema: Schema) -> Connection:
    text = schema.data.decode()
    store = get_typestore(Stores.EMPTY)
    store.register(get_types_from_msg(text, schema.name))
    return writer.add_connection(
        channel.topic,
        schema.name,
        msgdef=text,
        rihs01=store.hash_rihs01(schema.name),
        serialization_format=channel.message_encoding,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="openvla-recover", description=__doc__)
    parser.add_argument("bags", nargs="+", type=Path, metavar="BAG", help="unclosed bags, as a rule .recording/*")
    parser.add_argument("--output", type=Path, metavar="BAG", help="the new bag, when one is recovered")
    options = parser.parse_args(arguments)
    if options.output and len(options.bags) > 1:
        parser.error("--output goes with one bag")
    failed = 0
    for bag in options.bags:
        if bag.name.endswith(RECOVERING):  # a recovery was killed; the bag it read is still there
            shutil.rmtree(bag, ignore_errors=True)
            continue
        try:
            info = recover(bag, options.output)
            print(f"{bag}: {info.messages} messages, {info.duration:.1f} s, saved as {info.path}; {bag} can be removed")
        except (BagError, OSError) as error:
            failed += 1
            print(f"openvla-recover: {bag}: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
