//! What an admin's key may do besides managing keys: ask how the hub is, and declare spokes.

use alkhub_protocol::SpokeName;
use alkhub_protocol::admin::{HubReport, SpokeInfo, SpokePut};
use reqwest::Method;
use serde::Deserialize;

use super::Client;
use crate::Error;

/// A declared spoke, reduced to what is read here.
#[derive(Deserialize)]
struct Declared {
    /// Has no uid if nothing declares the spoke.
    #[serde(default)]
    declaration: SpokePut,
}

const SPOKES: [&str; 3] = ["v1", "admin", "spokes"];

// === impl Client ===

impl Client {
    /// The hub that answers, the other pods, and its links.
    ///
    /// # Errors
    /// [`Error::Problem`], for example without the scope `admin`.
    pub async fn report(&self) -> Result<HubReport, Error> {
        let request = self.request(Method::GET, &["v1", "admin", "hub"])?;
        self.send(request, "the report of the hub").await
    }

    /// The declaration of a spoke, without its key, ready to be changed and passed to [`Client::declare_spoke`]. `None`
    /// if no spoke of that name is known.
    ///
    /// # Errors
    /// As [`Client::report`].
    pub async fn declaration(&self, name: &SpokeName) -> Result<Option<SpokePut>, Error> {
        let [v1, admin, spokes] = SPOKES;
        let request = self.request(Method::GET, &[v1, admin, spokes, name.as_str()])?;
        match self.send::<Declared>(request, "the spoke").await {
            Ok(declared) => Ok(Some(declared.declaration)),
            Err(Error::Problem(problem)) if problem.status == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Declares a spoke; declaring it again unchanged has no effect.
    ///
    /// # Errors
    /// As [`Client::report`]; [`Error::Problem`] names a field that is not valid.
    pub async fn declare_spoke(&self, name: &SpokeName, spoke: &SpokePut) -> Result<SpokeInfo, Error> {
        let [v1, admin, spokes] = SPOKES;
        let request = self.request(Method::PUT, &[v1, admin, spokes, name.as_str()])?;
        self.send(request.json(spoke), "the spoke").await
    }

    /// Deletes the spoke with this uid: its keys and its connections end.
    ///
    /// # Errors
    /// As [`Client::report`], and [`Error::Problem`] with 404 if there is none of that name and uid.
    pub async fn delete_spoke(&self, name: &SpokeName, uid: &str) -> Result<(), Error> {
        let [v1, admin, spokes] = SPOKES;
        let request = self.request(Method::DELETE, &[v1, admin, spokes, name.as_str()])?;
        self.exchange(request.query(&[("uid", uid)])).await.map(drop)
    }
}
