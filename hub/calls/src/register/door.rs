//! The limits on the size of a registration, which are checked before anything else about it.

use alkhub_hub_cluster::DirectoryEntry;
use alkhub_protocol::register::{OperationResult, RegisterInput, UpdateInput};
use alkhub_protocol::{CallError, Code, RawJson};

/// The most labels of one instance, and the most bytes of them: every hub and Redis keep them.
const LABELS: usize = 64;
const LABELS_BYTES: usize = 16 * 1024;

/// The most bytes of `hostInfo`, which every hub and Redis keep too.
const HOST_INFO_BYTES: usize = 16 * 1024;

/// The approximate cost of a registration besides its bytes, and of each operation.
const BASE_BYTES: usize = 2 * 1024;
const OPERATION_BYTES: usize = 256;

/// The reason why an operation is rejected is cut after this many bytes: it may repeat what the spoke wrote.
const REASON_BYTES: usize = 500;

/// After this many bytes of names and reasons, the rest of the answer is kept short: it has to fit into a message.
const ANSWER_BYTES: usize = 128 * 1024;

/// After this many bytes of names, even those of accepted operations are cut short ...
const NAMES_BYTES: usize = 160 * 1024;

/// ... and after this many bytes of hashes, no more are told: an operation without a hash is sent whole the next time.
const HASHES_BYTES: usize = 64 * 1024;

/// Bytes of a name in the short part.
const SHORT_NAME_BYTES: usize = 8;

const OMITTED: &str = "not told";

/// Keeps the answer to a registration short.
#[derive(Debug, Default)]
pub(super) struct Answer {
    bytes: usize,
    hashes: usize,
}

/// Checks the size of what every hub would have to keep.
///
/// # Errors
/// It is too much; the error names the field and the bound.
pub(super) fn check(input: &RegisterInput) -> Result<(), CallError> {
    let refuse = |message: String| Err(CallError::new(Code::BadRequest, message));
    let labels: usize = input.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    if input.labels.len() > LABELS || labels > LABELS_BYTES {
        return refuse(format!(
            "`labels` has {} entries with {labels} bytes: at most {LABELS} with {LABELS_BYTES} bytes are kept",
            input.labels.len()
        ));
    }
    match &input.host_info {
        Some(info) if info.len() > HOST_INFO_BYTES => refuse(format!(
            "`hostInfo` has {} bytes: at most {HOST_INFO_BYTES} are kept",
            info.len()
        )),
        Some(_) | None => Ok(()),
    }
}

/// About how many bytes the registration makes this hub keep.
pub(super) fn weight(input: &RegisterInput) -> usize {
    let labels: usize = input.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    BASE_BYTES + labels + input.host_info.as_ref().map_or(0, RawJson::len) + weight_of_specs(&input.operations)
}

/// The same for an update, while it is examined.
pub(super) fn weight_of_update(input: &UpdateInput) -> usize {
    let removed: usize = input.remove.iter().map(|name| name.as_str().len()).sum();
    BASE_BYTES + removed + weight_of_specs(&input.add)
}

fn weight_of_specs(operations: &[RawJson]) -> usize {
    operations.iter().map(|raw| raw.len() + OPERATION_BYTES).sum()
}

/// The same for a registration that another hub has accepted.
pub(super) fn weight_of(entry: &DirectoryEntry) -> usize {
    let labels: usize = entry.labels.iter().map(|(name, value)| name.len() + value.len()).sum();
    let operations = entry.operations.iter().map(|offered| offered.name.as_str().len());
    let operations: usize = operations.map(|bytes| bytes + OPERATION_BYTES).sum();
    BASE_BYTES + labels + entry.host_info.as_ref().map_or(0, RawJson::len) + operations
}

// === impl Answer ===

impl Answer {
    /// Shortens a result to what still fits.
    pub(super) fn fit(&mut self, mut result: OperationResult) -> OperationResult {
        // JSON writes a control character in six bytes.
        let plain = |text: String| text.replace(char::is_control, " ");
        let (name, reason) = (plain(result.name), result.reason.map(plain));
        let full = self.bytes > ANSWER_BYTES;
        let omitted = || OMITTED.to_owned();
        (result.name, result.reason) = if self.bytes > NAMES_BYTES && reason.is_none() {
            (cut(name, SHORT_NAME_BYTES), None)
        } else if full && reason.is_some() {
            (cut(name, SHORT_NAME_BYTES), Some(omitted()))
        } else {
            (name, reason.map(|reason| cut(reason, REASON_BYTES)))
        };
        if full && !result.warnings.is_empty() {
            result.warnings = vec![omitted()];
        }
        let texts = result.reason.iter().chain(&result.warnings);
        self.bytes += result.name.len() + texts.map(String::len).sum::<usize>();
        self.hashes += result
            .hash
            .as_ref()
            .map_or(0, |hash| hash.len() + r#","hash":"""#.len());
        if self.hashes > HASHES_BYTES {
            result.hash = None;
        }
        result
    }
}

fn cut(mut text: String, bytes: usize) -> String {
    if text.len() > bytes {
        text.truncate(text.floor_char_boundary(bytes));
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use alkhub_protocol::register::{OPERATIONS_LIMIT, Registered};

    use super::*;

    #[test]
    fn an_answer_to_ten_thousand_wrong_entries_fits_a_message() {
        for result in [
            OperationResult {
                name: "\"\u{1}".repeat(128),
                result: Registered::Rejected,
                reason: Some("\"\u{1}".repeat(10_000)),
                hash: None,
                warnings: Vec::new(),
            },
            // It is named by hash, so its name may be long.
            OperationResult {
                name: "n".repeat(128),
                result: Registered::Registered,
                reason: None,
                hash: Some("h".repeat(43)),
                warnings: vec!["w".repeat(1_000)],
            },
        ] {
            let mut answer = Answer::default();

            let results = (0..OPERATIONS_LIMIT).map(|_| answer.fit(result.clone()));

            let results: Vec<OperationResult> = results.collect();
            let bytes = serde_json::to_vec(&results).expect("plain").len();
            assert!(bytes < alkhub_protocol::PAYLOAD_LIMIT_BYTES, "{bytes}");
        }
    }

    #[test]
    fn what_every_hub_would_keep_is_bounded_by_name() {
        let labels = |count: usize, size: usize| RegisterInput {
            labels: (0..count).map(|i| (i.to_string(), "x".repeat(size))).collect(),
            ..RegisterInput::default()
        };
        let info = |size: usize| RegisterInput {
            host_info: Some(serde_json::json!("x".repeat(size)).into()),
            ..RegisterInput::default()
        };

        assert!(check(&labels(LABELS, 100)).is_ok());
        assert!(check(&info(1_000)).is_ok());
        for (input, named) in [
            (labels(LABELS + 1, 1), "`labels`"),
            (labels(2, LABELS_BYTES), "`labels`"),
            (info(HOST_INFO_BYTES), "`hostInfo`"),
        ] {
            let error = check(&input).expect_err(named);
            assert!(error.message.contains(named), "{}", error.message);
        }
    }
}
