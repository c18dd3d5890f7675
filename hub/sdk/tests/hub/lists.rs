//! Lists that are longer than a page.

use alkhub_protocol::Scopes;
use alkhub_protocol::admin::KeyCreate;
use anyhow::Result;

use crate::stage::Stage;

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_all_pages_are_listed() -> Result<()> {
    let stage = Stage::start().await?;
    let client = stage.client();
    // With all of these, a key takes about an eighth of a page.
    let scopes = Scopes::new((0..256).map(|number| format!("own{number:03}{}", "x".repeat(250))));
    for number in 0..10 {
        let key = KeyCreate {
            name: format!("key {number}"),
            scopes: scopes.clone(),
            spoke: None,
            expires_in_seconds: None,
        };
        client.create_key(&key).await?;
    }

    let keys = client.keys().await?;

    let names: Vec<&str> = keys.iter().map(|key| key.name.as_str()).collect();
    assert_eq!(names.len(), 11, "{names:?}");
    assert_eq!((names[0], names[9], names[10]), ("key 9", "key 0", "admin"));
    Ok(())
}
