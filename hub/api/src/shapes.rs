//! Schemas of values in headers and queries, with the bounds within which a request is accepted.

use alkhub_protocol::admin::UID_LIMIT;
use alkhub_protocol::{CallStatus, PAGE_LIMIT};
use schemars::{Schema, SchemaGenerator, json_schema};

/// The longest metadata that certainly fits next to the other headers, which share 16 KiB with it; more is accepted if
/// it fits.
const METADATA_HEADER_BYTES: usize = 8 * 1024;

/// Any text.
pub(crate) fn text(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string" })
}

/// A short text on one line: an id or a uid.
pub(crate) fn line(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "minLength": 1, "maxLength": UID_LIMIT, "pattern": "^[!-~]+$" })
}

/// `Alkhub-Timeout`.
pub(crate) fn timeout(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "pattern": "^[0-9]{1,9}(ms|s|m|h)?$" })
}

/// `Alkhub-Metadata`: the text of a JSON object.
pub(crate) fn metadata(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "string",
        "format": "alkhub-metadata",
        "contentMediaType": "application/json",
        "maxLength": METADATA_HEADER_BYTES,
    })
}

/// `true` or `false`.
pub(crate) fn switch(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "boolean" })
}

/// A cursor: the `meta.next` of an answer.
pub(crate) fn cursor(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "string", "format": "alkhub-cursor" })
}

/// How a call ended.
pub(crate) fn ended(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "enum": CallStatus::ALL })
}

/// How many records a page may have.
pub(crate) fn limit(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "integer", "minimum": 1, "maximum": PAGE_LIMIT })
}
