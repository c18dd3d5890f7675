//! The HTTP headers that alkhub defines itself.

/// A header that alkhub defines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnHeader {
    /// In lower case, as HTTP/2 and the `http` crate have it.
    pub name: &'static str,
    /// As people write it.
    pub title: &'static str,
}

/// How long the caller waits.
pub const TIMEOUT: OwnHeader = own("alkhub-timeout", "Alkhub-Timeout");

/// What accompanies a call besides its input.
pub const METADATA: OwnHeader = own("alkhub-metadata", "Alkhub-Metadata");

/// The call during which this one is made.
pub const PARENT: OwnHeader = own("alkhub-parent-request-id", "Alkhub-Parent-Request-Id");

/// Two spellings of one name; if they are not, it does not compile.
const fn own(name: &'static str, title: &'static str) -> OwnHeader {
    assert!(name.eq_ignore_ascii_case(title), "one name, two spellings");
    OwnHeader { name, title }
}
