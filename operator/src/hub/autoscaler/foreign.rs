//! Who else scales a Hub.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use alkhub_crds::Hub;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use kube::{Resource as _, ResourceExt};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::error::Error;
use crate::kubernetes::Kubernetes;

/// How often another autoscaler is looked for.
const LOOK: Duration = Duration::from_secs(30);

/// The autoscalers that were last found, by the Hub's uid.
#[derive(Debug, Default)]
pub(crate) struct Foreigners(Mutex<HashMap<String, (Instant, Option<String>)>>);

// === impl Foreigners ===

impl Foreigners {
    /// The name of an autoscaler that acts on a Hub, as of the last look.
    pub(crate) async fn of(&self, kubernetes: &Kubernetes, hub: &Hub) -> Result<Option<String>, Error> {
        let uid = hub.uid().unwrap_or_default();
        if let Some((at, found)) = self.0.lock().get(&uid)
            && at.elapsed() < LOOK
        {
            return Ok(found.clone());
        }
        let namespace = hub.namespace().unwrap_or_default();
        let all = kubernetes
            .list_labelled::<HorizontalPodAutoscaler>(&namespace, &BTreeMap::new())
            .await?;
        let found = all.iter().find(|other| acts_on(other, hub)).map(ResourceExt::name_any);
        self.0.lock().insert(uid, (Instant::now(), found.clone()));
        Ok(found)
    }

    /// Forgets Hubs that are gone.
    pub(crate) fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.0.lock().retain(|uid, _| exists(uid));
    }
}

fn acts_on(other: &HorizontalPodAutoscaler, hub: &Hub) -> bool {
    let Some(target) = other.spec.as_ref().map(|spec| &spec.scale_target_ref) else {
        return false;
    };
    let group = target.api_version.as_deref().unwrap_or_default().split('/').next();
    target.kind == Hub::kind(&()) && target.name == hub.name_any() && group == Some(Hub::group(&()).as_ref())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::hub::testing::{given, hub};

    #[test]
    fn only_who_names_the_hub_itself_acts_on_it() {
        let acts = |version: &str, kind: &str, name: &str| {
            let target = json!({ "apiVersion": version, "kind": kind, "name": name });
            let other = json!({ "metadata": { "name": "h" }, "spec": { "maxReplicas": 3, "scaleTargetRef": target } });
            acts_on(&serde_json::from_value(other).expect("an autoscaler"), &hub(given()))
        };

        assert!(acts("alkhub.dev/v1alpha1", "Hub", "demo") && acts("alkhub.dev/v2", "Hub", "demo"));
        assert!(!acts("alkhub.dev/v1alpha1", "Hub", "other") && !acts("alkhub.dev/v1alpha1", "Spoke", "demo"));
        assert!(!acts("apps/v1", "Hub", "demo") && !acts("", "Hub", "demo"));
    }
}
