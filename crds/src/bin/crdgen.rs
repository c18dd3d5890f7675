//! Writes `crds/hub.yaml` and `crds/spoke.yaml` from the types; a test compares what is committed.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (name, crd) in alkhub_crds::manifest::all() {
        std::fs::write(folder.join(name), alkhub_crds::manifest::yaml(&crd))?;
    }
    Ok(())
}
