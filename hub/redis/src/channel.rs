//! Every name in Redis: keys and channels.
//!
//! All of them begin with the channel prefix, which contains no glob character. The channel of a topic is the origin's:
//! prefix, `events:`, type, `:`, id.

use alkhub_config::ChannelPrefix;
use alkhub_protocol::{HubId, Topic, TopicFilter};

/// The names of one prefix, as one hub uses them.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    hub: HubId,
    prefix: String,
    events: String,
    own_inbox: String,
    own_probe: String,
    directory_changes: String,
    key_changes: String,
}

/// What a message on a channel is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel<'a> {
    /// An event; the text is `type:id`.
    Event(&'a str),
    /// A message relayed to this hub.
    Inbox,
    /// A change of the directory.
    Directory,
    /// A revoked key.
    Keys,
    /// This hub's own probe.
    Probe,
    /// Not one of ours.
    Unknown,
}

// === impl Names ===

impl Names {
    pub(crate) fn new(prefix: &ChannelPrefix, hub: &HubId) -> Self {
        let prefix = prefix.as_str().to_owned();
        Self {
            hub: hub.clone(),
            events: format!("{prefix}events:"),
            own_inbox: format!("{prefix}hub:{hub}:in"),
            own_probe: format!("{prefix}probe:{hub}"),
            directory_changes: format!("{prefix}directory:changes"),
            key_changes: format!("{prefix}keys:changes"),
            prefix,
        }
    }

    /// The hub that uses them.
    pub(crate) fn hub(&self) -> &HubId {
        &self.hub
    }

    /// Channel: one topic.
    pub(crate) fn topic(&self, topic: &Topic) -> String {
        format!("{}{topic}", self.events)
    }

    /// Pattern of channels: all ids of a type.
    pub(crate) fn all_of(&self, event_type: &str) -> String {
        let mut pattern = self.events.clone();
        for character in event_type.chars() {
            if matches!(character, '*' | '?' | '[' | ']' | '\\') {
                pattern.push('\\');
            }
            pattern.push(character);
        }
        pattern.push_str(":*");
        pattern
    }

    /// Channel or pattern of a filter.
    pub(crate) fn filter(&self, filter: &TopicFilter) -> String {
        match filter {
            TopicFilter::One(topic) => self.topic(topic),
            TopicFilter::AllOf(event_type) => self.all_of(event_type),
        }
    }

    /// Channel: what is relayed to a hub.
    pub(crate) fn inbox(&self, hub: &HubId) -> String {
        format!("{}hub:{hub}:in", self.prefix)
    }

    /// Key, a set: hubs whose lease was alive when last checked.
    pub(crate) fn hubs(&self) -> String {
        format!("{}hubs", self.prefix)
    }

    /// Key, a hash: the directory.
    pub(crate) fn directory(&self) -> String {
        format!("{}directory", self.prefix)
    }

    /// Key, a hash: the directory's epoch and the number of its last change.
    pub(crate) fn directory_version(&self) -> String {
        format!("{}directory:version", self.prefix)
    }

    /// Channel: changes of the directory.
    pub(crate) fn directory_changes(&self) -> &str {
        &self.directory_changes
    }

    /// Channel: revoked keys.
    pub(crate) fn key_changes(&self) -> &str {
        &self.key_changes
    }

    /// Channel: this hub's messages to itself.
    pub(crate) fn probe(&self) -> &str {
        &self.own_probe
    }

    /// Key: uid of the Hub that holds the prefix.
    pub(crate) fn owner(&self) -> String {
        format!("{}owner", self.prefix)
    }

    /// The prefix of the names of leases: scripts append a hub's id.
    pub(crate) fn lease_stem(&self) -> String {
        format!("{}hub:", self.prefix)
    }

    /// The prefix of the names of the sets that list the directory fields a hub wrote: scripts append the hub's id.
    pub(crate) fn instances_stem(&self) -> String {
        format!("{}instances:", self.prefix)
    }

    /// Key: what a hub publishes about itself each second.
    pub(crate) fn member(&self, hub: &HubId) -> String {
        format!("{}member:{hub}", self.prefix)
    }

    /// Key: the mark of a hub that is to give its connections away.
    pub(crate) fn drain(&self, hub: &HubId) -> String {
        format!("{}drain:{hub}", self.prefix)
    }

    /// Key: the order to rebalance.
    pub(crate) fn rebalance(&self) -> String {
        format!("{}rebalance", self.prefix)
    }

    /// The channels that every hub listens to for as long as it runs.
    pub(crate) fn own(&self) -> [&str; 4] {
        [
            &self.own_inbox,
            &self.directory_changes,
            &self.key_changes,
            &self.own_probe,
        ]
    }

    /// The event type whose ids a pattern asks for.
    pub(crate) fn read_pattern(&self, pattern: &[u8]) -> Option<String> {
        let pattern = std::str::from_utf8(pattern).ok()?;
        let escaped = pattern.strip_prefix(&self.events)?.strip_suffix(":*")?;
        let mut event_type = String::with_capacity(escaped.len());
        let mut characters = escaped.chars();
        while let Some(character) = characters.next() {
            event_type.push(if character == '\\' {
                characters.next()?
            } else {
                character
            });
        }
        Some(event_type)
    }

    /// What a message on `channel` is about.
    pub(crate) fn read<'a>(&self, channel: &'a [u8]) -> Channel<'a> {
        let Ok(channel) = std::str::from_utf8(channel) else {
            return Channel::Unknown;
        };
        match channel.strip_prefix(&self.events) {
            Some(topic) => Channel::Event(topic),
            None if channel == self.own_inbox => Channel::Inbox,
            None if channel == self.directory_changes => Channel::Directory,
            None if channel == self.key_changes => Channel::Keys,
            None if channel == self.own_probe => Channel::Probe,
            None => Channel::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(prefix: &str) -> Names {
        Names::new(&prefix.parse().expect("valid"), &"pod-1".parse().expect("valid"))
    }

    #[test]
    fn a_topic_has_the_channel_of_the_origin() {
        let topic = "session.status:proj_1".parse().expect("valid");

        assert_eq!(names("alk:").topic(&topic), "alk:events:session.status:proj_1");
    }

    #[test]
    fn glob_characters_of_a_type_ask_for_themselves() {
        let pattern = names("p:").all_of("a*b?[c]\\d");

        assert_eq!(pattern, "p:events:a\\*b\\?\\[c\\]\\\\d:*");
        assert_eq!(
            names("p:").read_pattern(pattern.as_bytes()).as_deref(),
            Some("a*b?[c]\\d")
        );
    }

    #[test]
    fn a_channel_is_read_as_it_was_written() {
        let names = names("alk:ns:demo:");
        let topic = "job.done:a:b".parse().expect("valid");

        assert_eq!(
            names.read(names.topic(&topic).as_bytes()),
            Channel::Event("job.done:a:b")
        );
        assert_eq!(names.read(b"alk:ns:demo:hub:pod-1:in"), Channel::Inbox);
        assert_eq!(names.read(b"alk:ns:demo:hub:pod-2:in"), Channel::Unknown);
        assert_eq!(names.read(names.probe().as_bytes()), Channel::Probe);
        assert_eq!(names.read(b"\xff"), Channel::Unknown);
    }
}
