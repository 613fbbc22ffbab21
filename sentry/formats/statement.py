# SPDX-License-Identifier: Apache-2.0
"""in-toto Statement v1: who is spoken of (subjects) and what is said (predicate).

Implements docs/format.md, "Statement" (https://github.com/in-toto/attestation, spec/v1/statement.md).
Not checked here: the predicate, which belongs to the codec of its type.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sentry.errors import FormatError
from sentry.formats import strict_json
from sentry.formats.strict_json import Reader

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
# 400,000 files take about 90 MB; the log of a public Sigstore instance refuses far less.
MAX_PAYLOAD_BYTES = 128 * 1024 * 1024


@dataclass(frozen=True)
class Subject:
    """One artifact that a statement speaks of: a name, digests by algorithm (hex), and signed annotations."""

    name: str
    digests: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Statement:
    """A decoded statement; `predicate` is the JSON value, still unread."""

    subjects: tuple[Subject, ...]
    predicate_type: str
    predicate: object = field(repr=False)


def encode_statement(statement: Statement) -> bytes:
    """Serialise a statement; the same value always gives the same bytes."""
    subjects: list[dict[str, object]] = []
    for subject in statement.subjects:
        entry: dict[str, object] = {"name": subject.name, "digest": dict(subject.digests)}
        if subject.annotations:
            entry["annotations"] = dict(subject.annotations)
        subjects.append(entry)
    return strict_json.dumps(
        {
            "_type": STATEMENT_TYPE,
            "subject": subjects,
            "predicateType": statement.predicate_type,
            "predicate": statement.predicate,
        }
    )


def decode_statement(payload: bytes) -> Statement:
    """Read a statement from a payload whose signature has been checked.

    Raises:
        FormatError: If it is not strict JSON, not a Statement v1, or has unknown fields.
    """
    value = strict_json.loads(payload, what="statement", max_bytes=MAX_PAYLOAD_BYTES)
    reader = Reader(value, "the statement")
    reader.constant("_type", STATEMENT_TYPE)
    predicate_type = reader.string("predicateType")
    predicate = reader.raw("predicate") if reader.has("predicate") else None
    entries = reader.array("subject")
    reader.end()
    if not entries:
        raise FormatError("the statement has no subject")
    return Statement(tuple(_decode_subject(entry) for entry in entries), predicate_type, predicate)


def _decode_subject(value: object) -> Subject:
    reader = Reader(value, "a subject")
    name = reader.string("name")
    digests = strict_json.string_map(reader.raw("digest"), what="a subject's digest set")
    annotations: Mapping[str, str] = {}
    if reader.has("annotations"):
        annotations = strict_json.string_map(reader.raw("annotations"), what="a subject's annotations")
    # The other fields of an in-toto ResourceDescriptor are allowed there; nothing here reads them.
    for name_of_unread_field in ("uri", "content", "downloadLocation", "mediaType"):
        if reader.has(name_of_unread_field):
            reader.string(name_of_unread_field)
    reader.end()
    return Subject(name, digests, annotations)
