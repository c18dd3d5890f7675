//! `alkhub keys`.

use std::process::ExitCode;

use alkhub_protocol::Scopes;
use alkhub_protocol::admin::{KeyCreate, KeyInfo};
use alkhub_protocol::scope::SPOKE;
use alkhub_sdk::{CallError, Code};
use jiff::Timestamp;

use crate::args::{ClientArgs, KeyCreateArgs, KeysCommand, Output};
use crate::failure::Failure;
use crate::output;
use crate::patience::patient;

/// Creates, lists or revokes keys.
pub(crate) async fn keys(command: KeysCommand) -> Result<ExitCode, Failure> {
    match command {
        KeysCommand::Create(args) => create(args).await,
        KeysCommand::List(args) => list(&args.client).await,
        KeysCommand::Revoke(args) => revoke(&args.key, &args.client).await,
    }
}

/// Revokes a key by its id, or by a name that exactly one valid key has.
async fn revoke(named: &str, args: &ClientArgs) -> Result<ExitCode, Failure> {
    let client = args.hub.client()?;
    let id = match is_id(named) {
        true => named.to_owned(),
        false => by_name(named, &patient(async || client.keys().await).await?)?,
    };
    patient(async || client.revoke_key(&id).await).await?;
    match args.output {
        Output::Json => output::json(&serde_json::json!({ "revoked": id })),
        Output::Table => {
            let of = if id == named {
                String::new()
            } else {
                format!(" ({named})")
            };
            output::note(&format!("revoked {id}{of}"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Ids are UUIDs.
fn is_id(text: &str) -> bool {
    let groups = text.split('-').map(str::len);
    text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-') && groups.eq([8, 4, 4, 4, 12])
}

fn by_name(name: &str, keys: &[KeyInfo]) -> Result<String, Failure> {
    let now = Timestamp::now();
    let named = keys.iter().filter(|key| key.name == name && lasts(key, now));
    match named.map(|key| key.id.as_str()).collect::<Vec<_>>().as_slice() {
        [] => {
            let error = CallError::new(Code::NotFound, format!("no valid key has the name or the id `{name}`"));
            Err(alkhub_sdk::Error::from(error).into())
        }
        [id] => Ok((*id).to_owned()),
        ids => Err(Failure::usage(format!(
            "{} keys have the name `{name}`: revoke by id, {}",
            ids.len(),
            ids.join(" or ")
        ))),
    }
}

/// Whether a key has neither been revoked nor expired.
pub(crate) fn lasts(key: &KeyInfo, now: Timestamp) -> bool {
    key.revoked_at.is_none() && key.expires_at.is_none_or(|end| end > now)
}

/// The state of a key, as a list shows it.
fn state(key: &KeyInfo, now: Timestamp) -> String {
    match (key.revoked_at, key.expires_at) {
        (Some(at), _) => format!("revoked {at:.0}"),
        (None, _) if key.dead => "dead (of another hash key)".to_owned(),
        (None, Some(at)) if at <= now => format!("expired {at:.0}"),
        (None, Some(at)) => format!("until {at:.0}"),
        (None, None) => "valid".to_owned(),
    }
}

async fn create(args: KeyCreateArgs) -> Result<ExitCode, Failure> {
    let KeyCreateArgs {
        name,
        mut scopes,
        spoke,
        expires_in,
        client: ClientArgs { hub, output },
    } = args;
    let spoke = spoke
        .map(|spoke| spoke.parse())
        .transpose()
        .map_err(alkhub_sdk::Error::from)?;
    if spoke.is_some() {
        scopes.push(SPOKE.to_owned());
    }
    if scopes.is_empty() {
        return Err(Failure::usage(
            "a key needs at least one --scope, or --spoke: `alkhub keys create --help` lists them",
        ));
    }
    let expires_in_seconds = expires_in.map(|time| time.0.as_secs());
    let key = KeyCreate {
        name,
        scopes: Scopes::new(scopes),
        spoke,
        expires_in_seconds,
    };
    key.check().map_err(|e| Failure::usage(e.to_string()))?;
    let client = hub.client()?;
    let created = patient(async || client.create_key(&key).await).await?;
    match output {
        Output::Json => output::json(&created),
        Output::Table => {
            output::note(&format!(
                "key {} ({}); it is shown this once:",
                created.info.id, created.info.name
            ));
            output::text(&created.key)
        }
    }
}

async fn list(args: &ClientArgs) -> Result<ExitCode, Failure> {
    let client = args.hub.client()?;
    let keys = patient(async || client.keys().await).await?;
    let now = Timestamp::now();
    output::list(
        args.output,
        &keys,
        &["ID", "NAME", "HINT", "STATE", "LAST USED", "SPOKE", "SCOPES"],
        |k: &KeyInfo| {
            let at = |time: Option<Timestamp>| time.map_or_else(String::new, |at| format!("{at:.0}"));
            let spoke = k.spoke.as_ref().map_or_else(String::new, ToString::to_string);
            let scopes = k.scopes.iter().collect::<Vec<_>>().join(",");
            vec![
                k.id.clone(),
                k.name.clone(),
                k.hint.clone(),
                state(k, now),
                at(k.last_used_at),
                spoke,
                scopes,
            ]
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_whose_time_is_over_is_not_valid_and_says_so() {
        let now = Timestamp::now();
        let at = |seconds: i64| {
            now.checked_add(jiff::SignedDuration::from_secs(seconds))
                .expect("a time")
        };
        let key = |id: &str, expires_at, revoked_at| KeyInfo {
            id: id.to_owned(),
            name: "ci".to_owned(),
            hint: "alk_x".to_owned(),
            scopes: Scopes::default(),
            spoke: None,
            created_at: at(-100),
            expires_at,
            last_used_at: None,
            revoked_at,
            dead: false,
        };
        let keys = [
            key("old", Some(at(-1)), None),
            key("ended", None, Some(at(-1))),
            key("good", Some(at(60)), None),
        ];

        let states: Vec<_> = keys.iter().map(|key| state(key, now)).collect();
        assert!(
            states[0].starts_with("expired ") && states[1].starts_with("revoked "),
            "{states:?}"
        );
        assert!(states[2].starts_with("until "), "{states:?}");
        assert_eq!(by_name("ci", &keys).expect("one is valid"), "good");
    }
}
