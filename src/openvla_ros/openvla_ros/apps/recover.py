"""`openvla-recover`: makes a readable bag from what a killed recorder left, up to the last whole chunk."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mcap.records import Channel, McapRecord, Message, Schema
from mcap.stream_reader import StreamReader
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from tyro.conf import Positional

from openvla_policy.command_line import parse
from openvla_ros.recording.bag_writer import IN_PROGRESS, BagError, BagInfo, publish_bag

COMMAND = "openvla-recover"
RECOVERING = ".recovering"  # suffix of the folder in which a recovery works


@dataclass(frozen=True)
class Options:
    """Options of openvla-recover."""

    bags: Positional[tuple[Path, ...]]
    """Unclosed bags, usually .recording/*."""
    output: Path | None = None
    """The new bag, when one bag is recovered."""


def recover(path: Path, output: Path | None = None) -> BagInfo:
    """Copy the readable messages of an unclosed bag to a new bag; the old one is not changed.

    Args:
        path: The bag's folder (usually in `.recording`) or the .mcap file.
        output: The new bag. Default: the old one's name, moved out of `.recording`, or with `_recovered`.

    Returns:
        The new bag.

    Raises:
        BagError: There is no MCAP file, nothing in it can be read, or `output` exists.
    """
    source = _mcap_file(path)
    folder = source.parent
    if output is None:
        in_progress = folder.parent.name == IN_PROGRESS
        output = folder.parent.parent / folder.name if in_progress else folder.with_name(f"{source.stem}_recovered")
    if output.exists():
        raise BagError(f"{output} already exists; give another folder with --output")
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
            raise BagError(f"{source} has no whole chunk; nothing can be recovered")
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
    """A file that raises at its end instead of returning fewer bytes: a truncated message is not a short one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, length: int) -> bytes:
        data = self._file.read(length)
        if len(data) < length:
            raise EOFError(f"the file ends {length - len(data)} bytes early")
        return data


def _readable(source: Path) -> Iterator[McapRecord]:
    """Records up to the first damage; a chunk is read as a whole or not at all."""
    with source.open("rb") as file:
        records = StreamReader(_WholeReads(file)).records  # type: ignore[arg-type]
        while True:
            try:
                record = next(records)
            except StopIteration:
                return
            except Exception:  # damage: mcap, struct and zstandard raise errors of their own
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
    """Run the command.

    Args:
        arguments: The words after the program's name.

    Returns:
        0 when every bag was recovered, else 1.

    Raises:
        SystemExit: 2 for a wrong command line.
    """
    description = "Make a readable bag from what a killed recorder left, up to the last whole chunk."
    options = parse(Options, arguments, prog=COMMAND, description=description)
    count = len(options.bags)
    if count == 0 or (options.output and count > 1):
        needed = "one bag with --output" if options.output else "one bag or more"
        print(f"{COMMAND}: give {needed}, not {count}; see {COMMAND} --help", file=sys.stderr)
        raise SystemExit(2)
    failed = 0
    for bag in options.bags:
        if bag.name.endswith(RECOVERING):  # left by a killed recovery; the bag that it read is still there
            shutil.rmtree(bag, ignore_errors=True)
            continue
        try:
            info = recover(bag, options.output)
            print(f"{bag}: {info.messages} messages, {info.duration:.1f} s, saved as {info.path}; {bag} can be removed")
        except (BagError, OSError) as error:
            failed += 1
            print(f"{COMMAND}: {bag}: {error}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
