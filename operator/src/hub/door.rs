//! The way to a Hub's admin API.

use kube::runtime::reflector::ObjectRef;
use secrecy::SecretString;

use crate::admin::Door;
use crate::context::Context;
use crate::error::Error;
use crate::names::{ObjectNames, is_owned_by};

/// The Hub's admin API. The caller will send the admin key there, so the Service must be the Hub's own.
///
/// # Errors
/// [`Error::Stranger`]: the Service of that name is not the Hub's.
pub(crate) fn door(ctx: &Context, names: &ObjectNames, key: &SecretString) -> Result<Door, Error> {
    let service = ObjectRef::new(&names.main()).within(&names.namespace);
    let service = ctx.stores.services.get(&service);
    if service.is_some_and(|service| is_owned_by(&service.metadata, &names.uid)) {
        Ok(ctx.admin.door(names, key.clone()))
    } else {
        Err(Error::Stranger { name: names.main() })
    }
}
