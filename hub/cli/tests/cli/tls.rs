//! Everything over TLS with a private certificate authority: the SDK and the commands, and what they say about a hub
//! that they cannot trust.

use alkhub_protocol::Chain;
use alkhub_sdk::{Client, Delivery, Error, Failure, Operation, Spoke, Status};
use alkhub_test_support::Port;
use futures::StreamExt as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::time::timeout;

use crate::fixture::{Dev, Program, SOON, World};

/// The names under which this machine reaches the hub.
const LOCAL: &[&str] = &["127.0.0.1", "localhost"];

/// Signs certificates.
struct Authority(CertifiedIssuer<'static, KeyPair>);

// === impl Authority ===

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("signed"))
    }

    /// Writes its certificate into a file.
    fn file(&self, world: &World, name: &str) -> String {
        world.write(name, &self.0.pem())
    }

    /// Gives the hub a certificate for these names.
    fn certify(&self, world: &World, change: impl FnOnce(&mut CertificateParams)) {
        let names: Vec<_> = LOCAL.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("parameters");
        change(&mut params);
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("signed");
        world.write("tls.crt", &certificate.pem());
        world.write("tls.key", &key.serialize_pem());
    }
}

/// A world whose hub serves TLS with a certificate of this authority.
fn world(authority: &Authority, change: impl FnOnce(&mut CertificateParams)) -> World {
    let mut world = World::new();
    authority.certify(&world, change);
    for (setting, file) in [("CERT", "tls.crt"), ("KEY", "tls.key")] {
        let path = world.path().join(file).display().to_string();
        world.set(&format!("ALKHUB_SERVER__TLS__{setting}_FILE"), &path);
    }
    world
}

fn hub(authority: &Authority) -> Dev {
    hub_at(authority, "127.0.0.1:0")
}

fn hub_at(authority: &Authority, listen: &str) -> Dev {
    let dev = Dev::start_at(world(authority, |_| {}), listen, &[]);
    assert!(dev.url.starts_with("https://127.0.0.1:"), "{}", dev.url);
    dev
}

/// A hub that is dialled while it is away, and then comes back: its port is kept until then.
fn hub_that_comes_back(authority: &Authority) -> (Dev, Port) {
    let port = Port::free();
    (hub_at(authority, &format!("127.0.0.1:{port}")), port)
}

async fn double(number: u32) -> Result<u32, Failure> {
    Ok(2 * number)
}

fn spoke(url: &str, key: String, ca_file: Option<&str>) -> alkhub_sdk::spoke::Builder {
    let count = Operation::subscription("math.count", |to: u32| {
        futures::stream::iter((1..=to).map(Ok::<u32, Failure>))
    });
    let builder = Spoke::builder(url).token(key).name("math").operation(count);
    let builder = builder.operation(Operation::query("math.double", double));
    match ca_file {
        Some(path) => builder.ca_file(path),
        None => builder,
    }
}

fn client(url: &str, key: String, ca_file: Option<&str>) -> Client {
    let builder = Client::builder(url).token(key).timeout(SOON);
    let builder = match ca_file {
        Some(path) => builder.ca_file(path),
        None => builder,
    };
    builder.build().expect("valid settings")
}

#[tokio::test]
async fn the_sdk_calls_subscribes_follows_and_publishes_over_tls() {
    let authority = Authority::new("authority");
    let dev = hub(&authority);
    let ca_file = authority.file(&dev.world, "ca.pem");
    let wss = dev.url.replace("https://", "wss://");
    let spoke = spoke(&wss, dev.key(), Some(&ca_file)).start();
    let spoke = timeout(SOON, spoke).await.expect("in time").expect("registered");
    let client = client(&dev.url, dev.key(), Some(&ca_file));

    let doubled: u32 = client.call("math.double", &21).await.expect("answered");
    let counted = client.subscribe::<_, u32>("math.count", &3).await.expect("begun");
    let counted: Vec<u32> = counted.map(|item| item.expect("an item")).collect().await;
    let mut events = client.events("job:*").await.expect("confirmed");
    client.publish("job:1", "done").await.expect("taken");
    let event = timeout(SOON, events.next()).await.expect("in time").expect("open");
    let listed = client.operations(Some("math")).await.expect("listed");

    assert_eq!((doubled, counted, listed.len()), (42, vec![1, 2, 3], 2));
    let Ok(Delivery::Event(event)) = event else {
        panic!("{event:?}")
    };
    assert_eq!(event.topic.to_string(), "job:1");
    spoke.shutdown().await;
}

#[tokio::test]
async fn a_hub_of_an_unknown_authority_is_not_trusted_and_the_cure_is_named() {
    let authority = Authority::new("authority");
    let dev = hub(&authority);
    let stranger = Authority::new("stranger").file(&dev.world, "stranger.pem");
    let namesake = Authority::new("authority").file(&dev.world, "namesake.pem");

    for ca_file in [None, Some(stranger.as_str()), Some(namesake.as_str())] {
        let client = client(&dev.url, dev.key(), ca_file);
        let spoke = spoke(&dev.url, dev.key(), ca_file).start();

        let called = client.call::<_, u32>("math.double", &1).await.expect_err("not trusted");
        let listed = client.operations(None).await.expect_err("not trusted");
        let started = timeout(SOON, spoke)
            .await
            .expect("it does not wait for ever")
            .expect_err("not trusted");

        for error in [called, listed, started] {
            let text = Chain::of(&error).to_string();
            assert!(matches!(error, Error::Untrusted { .. }), "{error:?}");
            assert!(!error.retryable(), "{text}");
            for part in [&dev.url, "cannot trust", "authority", "`ca_file`"] {
                assert!(text.contains(part), "{ca_file:?}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn a_certificate_for_other_names_or_another_time_is_told_from_one_of_an_unknown_authority() {
    type Change = fn(&mut CertificateParams);
    let named: Change = |params| {
        params
            .subject_alt_names
            .retain(|name| matches!(name, rcgen::SanType::DnsName(_)))
    };
    let expired: Change = |params| params.not_after = rcgen::date_time_ymd(2001, 1, 1);
    let own: Change = |params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    for (change, parts) in [
        (own, ["self-signed", "CA:TRUE", "CA:FALSE"]),
        (named, ["127.0.0.1", "localhost", "another name"]),
        (expired, ["not valid now", "renew", "expired"]),
    ] {
        let authority = Authority::new("authority");
        let dev = Dev::start_in(world(&authority, change), &[]);
        let ca_file = authority.file(&dev.world, "ca.pem");

        let client = client(&dev.url, dev.key(), Some(&ca_file));
        let called = client.call::<_, u32>("math.double", &1).await.expect_err("not trusted");
        let listed = client.operations(None).await.expect_err("not trusted");

        for text in [&called, &listed].map(|error| Chain::of(error).to_string()) {
            assert!(parts.iter().all(|part| text.contains(part)), "{text}");
            assert!(!text.contains("ca_file"), "another authority is no cure: {text}");
        }
        let line = dev.world.fails(3, &["operations", "--ca-file", &ca_file]);
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        assert!(!line.contains("--ca-file"), "{line}");
    }
}

#[tokio::test]
async fn who_takes_the_wrong_scheme_is_told_the_right_one() {
    let authority = Authority::new("authority");
    let dev = hub(&authority);
    let plain = Dev::start();
    let ca_file = authority.file(&dev.world, "ca.pem");
    let without = dev.url.replace("https://", "http://");
    let with = plain.url.replace("http://", "https://");

    for (url, key, scheme) in [(without, dev.key(), "https://"), (with, plain.key(), "http://")] {
        let client = client(&url, key.clone(), Some(&ca_file));
        let spoke = spoke(&url, key.clone(), Some(&ca_file)).start();

        let called = client
            .call::<_, u32>("math.double", &1)
            .await
            .expect_err("another protocol");
        let listed = client.operations(None).await.expect_err("another protocol");
        let started = timeout(SOON, spoke)
            .await
            .expect("it does not wait for ever")
            .expect_err("refused");

        for error in [called, listed, started] {
            let text = Chain::of(&error).to_string().replace(&url, "");
            assert!(text.contains("TLS") && text.contains(scheme), "{text}");
        }
        let arguments = ["operations", "--url", &url, "--token", &key, "--ca-file", &ca_file];
        let output = dev.world.run(&arguments);
        let line = String::from_utf8_lossy(&output.stderr).replace(&url, "");
        assert!(line.contains(scheme), "{line}");
        assert_eq!(output.status.code(), Some(3), "{line}");
        let call = ["call", "a.b", "--url", &url, "--token", &key, "--ca-file", &ca_file];
        let line = dev.world.fails(3, &call).replace(&url, "");
        assert!(line.contains(scheme), "{line}");
    }
}

/// A certificate that was replaced by a bad one will be replaced by a good one: a fleet of spokes must survive until
/// then.
#[tokio::test(flavor = "multi_thread")]
async fn a_spoke_whose_hub_comes_back_untrusted_says_why_and_waits_for_a_good_certificate() {
    let authority = Authority::new("authority");
    let (dev, _port) = hub_that_comes_back(&authority);
    let (url, key) = (dev.url.clone(), dev.key());
    let ca_file = authority.file(&dev.world, "ca.pem");
    let spoke = spoke(&url, key.clone(), Some(&ca_file))
        .start()
        .await
        .expect("registered");
    let client = client(&url, key.clone(), Some(&ca_file));
    assert_eq!(client.call::<_, u32>("math.double", &1).await.expect("answered"), 2);
    let mut status = spoke.status();

    let again = restart(dev, |world| Authority::new("stranger").certify(world, |_| {}));
    let untrusted = status.wait_for(|now| matches!(now, Status::Connecting(Some(Error::Untrusted { .. }))));
    timeout(SOON, untrusted).await.expect("it says so").expect("it goes on");
    let called = client
        .call_with::<_, u32>("math.double", &1, soon())
        .await
        .expect_err("not connected");
    assert!(matches!(called, Error::Untrusted { .. }), "{}", Chain::of(&called));

    let _again = restart(again, |world| authority.certify(world, |_| {}));
    let registered = status.wait_for(|now| matches!(now, Status::Registered(_)));
    timeout(SOON, registered)
        .await
        .expect("it comes back")
        .expect("it goes on");
    assert_eq!(client.call::<_, u32>("math.double", &2).await.expect("answered"), 4);
}

fn soon() -> alkhub_sdk::CallOptions {
    alkhub_sdk::CallOptions {
        timeout: Some(std::time::Duration::from_secs(3)),
        ..Default::default()
    }
}

/// The same hub at the same address, after a change of its files.
fn restart(dev: Dev, change: impl FnOnce(&World)) -> Dev {
    let listen = dev.url.rsplit('/').next().expect("an address").to_owned();
    let world = dev.stop();
    change(&world);
    Dev::start_at(world, &listen, &[])
}

#[test]
fn commands_trust_the_authority_of_the_flag_or_of_the_environment() {
    let authority = Authority::new("authority");
    let mut dev = hub(&authority);
    let ca_file = authority.file(&dev.world, "ca.pem");
    let stranger = Authority::new("stranger").file(&dev.world, "stranger.pem");
    let offer = ["text.upper", "--ca-file", &ca_file, "--", "tr", "a-z", "A-Z"];
    let _spoke: Program = dev.offer(&offer);

    let call = ["call", "text.upper", "\"hello\"", "--ca-file", &ca_file];
    assert_eq!(dev.world.ok(&call), "HELLO\n");
    assert!(
        dev.world
            .ok(&["operations", "--ca-file", &ca_file])
            .contains("text.upper")
    );
    dev.world.set("ALKHUB_CA_FILE", &stranger);
    assert_eq!(dev.world.ok(&call), "HELLO\n", "the flag wins");
    dev.world.set("ALKHUB_CA_FILE", &ca_file);
    assert_eq!(dev.world.ok(&["call", "text.upper", "\"again\""]), "AGAIN\n");
    assert!(dev.world.ok(&["operations"]).contains("text.upper"));
    let mut spoke = dev.offer(&["text.lower", "--spoke", "lower", "--", "tr", "A-Z", "a-z"]);
    assert_eq!(dev.world.ok(&["call", "text.lower", "\"HELLO\""]), "hello\n");
    assert!(spoke.interrupt().success());
    assert!(dev.world.ok(&["selftest", "--calls", "2"]).contains("2 routed calls"));
}

#[test]
fn commands_that_cannot_trust_the_hub_name_the_option() {
    let authority = Authority::new("authority");
    let dev = hub(&authority);
    let stranger = Authority::new("stranger").file(&dev.world, "stranger.pem");
    let empty = dev.world.write("empty.pem", "");
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let broken = dev.world.write("broken.pem", broken);

    for arguments in [
        &["call", "text.upper", "\"hello\""][..],
        &["operations"],
        &["offer", "text.upper", "--", "cat"],
        &["selftest"],
        &["operations", "--ca-file", &stranger],
        &["offer", "text.upper", "--ca-file", &stranger, "--", "cat"],
    ] {
        let line = dev.world.fails(3, arguments);
        for part in [&dev.url, "cannot trust", "--ca-file", "ALKHUB_CA_FILE"] {
            assert!(line.contains(part), "{arguments:?}: {line}");
        }
    }
    for (file, says) in [
        (broken.as_str(), "cannot be read"),
        (empty.as_str(), "no certificate"),
        ("/no/such.pem", "No such file"),
    ] {
        for command in [&["operations"][..], &["call", "a.b", "1"], &["offer", "a.b"]] {
            let arguments = [command, &["--ca-file", file]].concat();
            let arguments = if command[0] == "offer" {
                [&arguments[..], &["--", "cat"]].concat()
            } else {
                arguments
            };
            let line = dev.world.fails(2, &arguments);
            assert!(line.contains(file) && line.contains(says), "{line}");
        }
    }
}

#[test]
fn an_offer_whose_hub_comes_back_untrusted_says_why() {
    let authority = Authority::new("authority");
    let (mut dev, _port) = hub_that_comes_back(&authority);
    let ca_file = authority.file(&dev.world, "ca.pem");
    dev.world.set("ALKHUB_CA_FILE", &ca_file);
    let (url, key) = (dev.url.clone(), dev.key());
    let mut spoke = dev.offer(&["text.upper", "--url", &url, "--token", &key, "--", "cat"]);

    let _again = restart(dev, |world| Authority::new("stranger").certify(world, |_| {}));

    let noted = spoke.notes("cannot trust");
    assert!(noted.contains("; trying again"), "{noted}");
    assert!(spoke.interrupt().success());
}
