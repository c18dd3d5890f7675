//! `alkhub keys`.

use std::process::ExitCode;

use alkhub_protocol::Scopes;
use alkhub_protocol::admin::{KeyCreate, KeyInfo};
use alkhub_protocol::scope::SPOKE;
use alkhub_sdk::{CallError, Code};

use crate::args::{ClientArgs, KeyCreateArgs, KeysCommand, Output};
use crate::failure::Failure;
use crate::output;

/// Makes, lists or revokes.
pub(crate) async fn keys(command: KeysCommand) -> Result<ExitCode, Failure> {
    match command {
        KeysCommand::Create(args) => create(args).await,
        KeysCommand::List(args) => list(&args.client).await,
        KeysCommand::Revoke(args) => revoke(&args.key, &args.client).await,
    }
}

/// Revokes by id, or by a name that one valid key has.
async fn revoke(named: &str, args: &ClientArgs) -> Result<ExitCode, Failure> {
    let client = args.hub.client()?;
    let id = match is_id(named) {
        true => named.to_owned(),
        false => by_name(named, &client.keys().await?)?,
    };
    client.revoke_key(&id).await?;
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
    let named = keys.iter().filter(|key| key.name == name && key.revoked_at.is_none());
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
    let created = hub.client()?.create_key(&key).await?;
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
    let keys = args.hub.client()?.keys().await?;
    output::list(
        args.output,
        &keys,
        &["ID", "NAME", "HINT", "STATE", "LAST USED", "SPOKE", "SCOPES"],
        |k: &KeyInfo| {
            let at = |time: Option<jiff::Timestamp>| time.map_or_else(String::new, |at| format!("{at:.0}"));
            let state = match (k.revoked_at, k.expires_at) {
                (Some(_), _) => format!("revoked {}", at(k.revoked_at)),
                (None, _) if k.dead => "dead (of another hash key)".to_owned(),
                (None, Some(_)) => format!("until {}", at(k.expires_at)),
                (None, None) => "valid".to_owned(),
            };
            let spoke = k.spoke.as_ref().map_or_else(String::new, ToString::to_string);
            let scopes = k.scopes.iter().collect::<Vec<_>>().join(",");
            vec![
                k.id.clone(),
                k.name.clone(),
                k.hint.clone(),
                state,
                at(k.last_used_at),
                spoke,
                scopes,
            ]
        },
    )
}
