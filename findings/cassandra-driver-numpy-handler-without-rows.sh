#!/usr/bin/env bash
# cassandra-driver 3.30.1 with numpy 2.4.6: NumpyProtocolHandler gives no rows, and no error, where a column is a number.
#
# One would guess: a result with a text and an int column gives two arrays, as it does with numpy 1.26.4, or an error.
#
# Seen: the parsed rows are None. A result of text columns alone is read.
#
#   text alone:   {'person': ['ann', 'bob']}
#   text and int: None
#
# No server is needed: the bytes below are the body of a RESULT message of the native protocol, version 4.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check cassandra-driver==3.30.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import struct

from cassandra.protocol import NumpyProtocolHandler, ProtocolHandler

VERSION, RESULT, ROWS, GLOBAL_TABLE = 4, 8, 2, 1
TEXT, INT = 0x0D, 0x09


def integer(number):
    return struct.pack(">i", number)


def string(text):
    return struct.pack(">H", len(text)) + text.encode()


def message(columns, rows):
    body = integer(ROWS) + integer(GLOBAL_TABLE) + integer(len(columns)) + string("keyspace") + string("table")
    for name, kind in columns:
        body += string(name) + struct.pack(">H", kind)
    body += integer(len(rows))
    for row in rows:
        for value in row:
            body += integer(len(value)) + value
    return body


def parsed(handler, body):
    return handler.decode_message(VERSION, {}, 0, 0, RESULT, body, None, None).parsed_rows


text = message([("person", TEXT)], [(b"ann",), (b"bob",)])
text_and_int = message([("person", TEXT), ("faces", INT)], [(b"ann", integer(3)), (b"bob", integer(5))])
assert list(parsed(ProtocolHandler, text_and_int)) == [("ann", 3), ("bob", 5)]  # the message is valid

of_text = {name: list(values) for name, values in parsed(NumpyProtocolHandler, text).items()}
of_both = parsed(NumpyProtocolHandler, text_and_int)
print("text alone:  ", of_text)
print("text and int:", of_both)
assert of_text == {"person": ["ann", "bob"]}
assert of_both is None
PYTHON
