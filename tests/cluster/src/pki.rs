//! The keys of a cluster: one certificate authority, and a certificate and a kubeconfig for each part.
//!
//! All keys are elliptic (P-256): RSA keys would add seconds to every boot.

use std::fs;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SerialNumber, date_time_ymd,
};

use crate::plan;
use crate::work::Work;

/// The holder of a certificate: the name is the user, the organisation its group.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Subject {
    /// Name of the files.
    file: String,
    user: String,
    group: Option<&'static str>,
    /// DNS names and addresses under which it serves.
    serves: Vec<String>,
}

type Authority = CertifiedIssuer<'static, KeyPair>;

/// Writes `pki/` and the kubeconfigs of all parts of a cluster with `nodes` nodes.
pub(crate) fn write(work: &Work, nodes: u8) -> Result<()> {
    fs::create_dir_all(work.path("pki"))?;
    let authority = authority().context("cannot make the certificate authority")?;
    work.write("pki/ca.crt", authority.pem())?;
    work.write("pki/ca.key", authority.key().serialize_pem())?;
    let tokens = KeyPair::generate()?;
    work.write("pki/sa.key", tokens.serialize_pem())?;
    work.write("pki/sa.pub", tokens.public_key_pem())?;
    for (serial, subject) in (2u64..).zip(subjects(nodes)) {
        issue(work, &authority, &subject, serial).with_context(|| format!("cannot certify {}", subject.file))?;
        work.write(&format!("{}.kubeconfig", subject.file), kubeconfig(work, &subject.file))?;
    }
    Ok(())
}

/// Everyone who talks to the API server, and the API server.
fn subjects(nodes: u8) -> Vec<Subject> {
    let mut all = vec![
        Subject::new("apiserver", "kube-apiserver").serving(api_names()),
        Subject::new("admin", "admin").in_group("system:masters"),
        Subject::new("controllers", "system:kube-controller-manager"),
        Subject::new("scheduler", "system:kube-scheduler"),
        Subject::new("proxy", "system:kube-proxy"),
        Subject::new("dns", "coredns").in_group("system:masters"),
    ];
    all.extend(plan::nodes(nodes).map(|node| {
        Subject::new(&node.to_string(), &format!("system:node:{node}"))
            .in_group("system:nodes")
            .serving(vec![node.to_string(), node.address()])
    }));
    all
}

fn api_names() -> Vec<String> {
    let inside = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
    let full = format!("kubernetes.default.svc.{}", plan::DOMAIN);
    let addresses = ["127.0.0.1", plan::API_SERVICE, plan::CONTROL].map(str::to_owned);
    [inside.to_vec(), vec![full, "localhost".to_owned()], addresses.to_vec()].concat()
}

fn authority() -> Result<Authority> {
    let mut params = lasting(CertificateParams::new(Vec::new())?);
    params
        .distinguished_name
        .push(DnType::CommonName, "alkhub test authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::CrlSign,
        KeyUsagePurpose::DigitalSignature,
    ];
    Ok(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?)
}

fn issue(work: &Work, authority: &Authority, subject: &Subject, serial: u64) -> Result<()> {
    let mut params = lasting(CertificateParams::new(subject.serves.clone())?);
    params
        .distinguished_name
        .push(DnType::CommonName, subject.user.as_str());
    if let Some(group) = subject.group {
        params.distinguished_name.push(DnType::OrganizationName, group);
    }
    params.serial_number = Some(SerialNumber::from(serial));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, authority)?;
    work.write(&format!("pki/{}.crt", subject.file), certificate.pem())?;
    work.write(&format!("pki/{}.key", subject.file), key.serialize_pem())
}

/// Fixed dates: a cluster lives for hours, and a wrong clock should not matter.
fn lasting(mut params: CertificateParams) -> CertificateParams {
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2049, 1, 1);
    params.distinguished_name = rcgen::DistinguishedName::new();
    params
}

/// A kubeconfig that refers to the files of one part.
fn kubeconfig(work: &Work, file: &str) -> String {
    let pki = work.text("pki");
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: alkhub-test
  cluster:
    server: https://{address}:6443
    certificate-authority: {pki}/ca.crt
users:
- name: {file}
  user:
    client-certificate: {pki}/{file}.crt
    client-key: {pki}/{file}.key
contexts:
- name: alkhub-test
  context:
    cluster: alkhub-test
    user: {file}
current-context: alkhub-test
",
        address = plan::CONTROL
    )
}

// === impl Subject ===

impl Subject {
    fn new(file: &str, user: &str) -> Self {
        Self {
            file: file.to_owned(),
            user: user.to_owned(),
            group: None,
            serves: Vec::new(),
        }
    }

    fn in_group(mut self, group: &'static str) -> Self {
        self.group = Some(group);
        self
    }

    fn serving(mut self, names: Vec<String>) -> Self {
        self.serves = names;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_api_server_serves_under_every_name_it_is_called_by() {
        let names = api_names();

        for name in [
            "kubernetes.default.svc.cluster.local",
            "10.96.0.1",
            "10.90.0.1",
            "127.0.0.1",
            "localhost",
        ] {
            assert!(
                names.iter().any(|known| known == name),
                "{name} is missing in {names:?}"
            );
        }
    }

    #[test]
    fn a_node_is_certified_as_a_node_under_its_own_address() {
        let node = subjects(2).pop().expect("a cluster has nodes");

        assert_eq!(node.user, "system:node:n2");
        assert_eq!(node.group, Some("system:nodes"));
        assert_eq!(node.serves, ["n2", "10.90.0.12"]);
    }

    #[test]
    fn certificates_and_kubeconfigs_are_written_for_all() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let work = Work::at(folder.path()).expect("work");

        write(&work, 1).expect("keys");

        for file in [
            "pki/ca.crt",
            "pki/sa.pub",
            "pki/apiserver.key",
            "pki/n1.crt",
            "admin.kubeconfig",
            "n1.kubeconfig",
        ] {
            assert!(work.path(file).exists(), "{file} is missing");
        }
        let admin = fs::read_to_string(work.kubeconfig()).expect("kubeconfig");
        serde_yaml::from_str::<serde_json::Value>(&admin).expect("a kubeconfig is YAML");
    }
}
