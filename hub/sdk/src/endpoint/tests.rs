//! What addresses are accepted, and what is made of them.

use super::*;

#[test]
fn an_address_may_be_given_in_four_schemes_and_with_a_path() {
    for (given, route) in [
        ("http://h:1", "http://h:1/v1/ws"),
        ("ws://h:1/", "http://h:1/v1/ws"),
        ("wss://h/alk", "https://h/alk/v1/ws"),
        ("https://h/alk/", "https://h/alk/v1/ws"),
    ] {
        let endpoint = HubEndpoint::new(given, None, None).expect(given);
        assert_eq!(endpoint.path(&["v1", "ws"]).as_str(), route);
    }
}

#[test]
fn a_wrong_address_is_answered_with_the_form() {
    for given in ["localhost:7420", "ftp://h", "h", ""] {
        let error = HubEndpoint::new(given, None, None).expect_err(given);
        assert!(error.to_string().contains("http://"), "{error}");
    }
}

#[test]
fn a_file_without_authorities_is_named() {
    let here = env!("CARGO_MANIFEST_DIR");
    for (file, reason) in [
        ("/no/such.pem".to_owned(), "No such file"),
        (format!("{here}/Cargo.toml"), "no certificate"),
        (format!("{here}/src"), "directory"),
    ] {
        for url in ["http://h", "https://h"] {
            let error = HubEndpoint::new(url, None, Some(Path::new(&file))).expect_err(&file);
            let text = error.to_string();
            assert!(
                text.contains("CA file") && text.contains(&file) && text.contains(reason),
                "{text}"
            );
        }
    }
}

#[test]
fn names_in_routes_are_escaped() {
    let endpoint = HubEndpoint::new("http://h", None, None).expect("valid");

    for (name, path) in [
        ("a/b", "/v1/events/a%2Fb/c%20d"),
        ("...", "/v1/events/.../c%20d"),
        ("%2e%2E", "/v1/events/%252e%252E/c%20d"),
    ] {
        let route = endpoint.route(&["v1", "events", name, "c d"]);
        assert_eq!(route.expect("a path").path(), path);
    }
}

#[test]
fn a_name_that_means_another_path_is_in_no_route() {
    let endpoint = HubEndpoint::new("http://h", None, None).expect("valid");

    for name in [".", ".."] {
        let error = endpoint.route(&["v1", "admin", "keys", name]).expect_err(name);
        assert!(error.to_string().contains(&format!("`{name}`")), "{error}");
    }
}

#[test]
fn an_address_that_a_hub_names_is_taken_only_where_a_pod_can_be_meant() {
    let at = |base: &str, target: &str| {
        let endpoint = HubEndpoint::new(base, Some("alk_secret"), None).expect("valid");
        endpoint
            .at(target)
            .map(|endpoint| endpoint.address)
            .map_err(|error| error.to_string())
    };
    let pod = Some("10.0.0.7:7420".parse().expect("an address"));

    assert_eq!(at("http://hub.team.svc:7420", "http://10.0.0.7:7420"), Ok(pod));
    assert_eq!(at("wss://hub.team.svc", "https://10.0.0.7:7420"), Ok(pod));
    for (base, target, reason) in [
        ("https://hub.team.svc", "http://10.0.0.7:7420", "https://"),
        ("http://hub.team.svc", "https://10.0.0.7:7420", "http://"),
        ("http://hub.example.com", "http://10.0.0.7:7420", "NAMESPACE"),
        ("http://localhost:7420", "http://10.0.0.7:7420", "NAMESPACE"),
        ("http://hub.team.svc/alk", "http://10.0.0.7:7420", "path"),
        ("http://hub.team.svc", "http://10.0.0.7:7420/x", "path"),
        ("http://hub.team.svc", "http://elsewhere:7420", "IP address"),
    ] {
        let error = at(base, target).expect_err(target);
        assert!(error.contains(reason), "{error}");
    }
}

#[test]
fn the_key_is_in_no_debug_output() {
    let endpoint = HubEndpoint::new("http://h", Some("alk_secret"), None).expect("valid");

    assert!(!format!("{endpoint:?}").contains("secret"));
}
