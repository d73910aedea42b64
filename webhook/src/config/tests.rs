use super::*;

fn run(arguments: &[&str]) -> Result<Config, String> {
    let arguments = ["whichpod-webhook"].iter().chain(arguments).map(OsString::from);
    match load(arguments, "pod-1") {
        Ok(Outcome::Run(config)) => Ok(*config),
        Ok(Outcome::Print(text)) => Err(text),
        Err(wrong) => Err(wrong.to_string()),
    }
}

#[test]
fn an_image_is_all_that_must_be_said() {
    let config = run(&["--image=whichpod:1"]).unwrap();
    assert_eq!(config.listen.port(), 8443);
    assert_eq!(config.identity, "pod-1");
    assert_eq!(config.configurations, ["whichpod"]);
    assert_eq!(config.request_timeout, Duration::from_secs(4));
    assert_eq!(config.wanted, Wanted { native_sidecars: true, domain: true, dns: true });
    assert_eq!(config.options.run_as_user, Some(65532));
    let lifetimes = match config.certificates {
        Source::SelfManaged { lifetimes, .. } => lifetimes,
        Source::Files(_) => panic!(),
    };
    assert_eq!(lifetimes.authority, SignedDuration::from_hours(8760));
    assert!(
        run(&[]).unwrap_err().contains("--image"),
        "the sidecar's image has no default that could be right"
    );
}

#[test]
fn what_the_operator_says_reaches_injection() {
    let config = run(&[
        "--image=whichpod:1",
        "--image-pull-secret=a,b",
        "--cpu-request=10m",
        "--memory-limit=128Mi",
        "--run-as-user=none",
        "--headless-services=deny",
        "--native-sidecar=true",
        "--cluster-domain=example.org",
        "--cluster-dns=10.96.0.10,fd00::10",
        "--protected-namespace=vault",
        "--default=redirect=env",
        "--default=log-format=%UPSTREAM_HOST%, %START_TIME%=x\\n",
    ]);
    let config = config.unwrap();
    assert_eq!(config.wanted, Wanted::default());
    let options = config.options;
    assert_eq!(options.image_pull_secrets, ["a", "b"]);
    assert_eq!(
        (options.resources.cpu_request.as_str(), options.resources.memory_limit.as_str()),
        ("10m", "128Mi")
    );
    assert_eq!(options.resources.memory_request, Resources::default().memory_request);
    assert_eq!(options.run_as_user, None);
    assert_eq!(options.headless_services, HeadlessServices::Deny);
    assert!(options.native_sidecars);
    assert_eq!(options.cluster_dns.len(), 2);
    assert_eq!(options.protected_namespaces, ["vault"]);
    assert_eq!(options.defaults["redirect"], "env");
    assert_eq!(
        options.defaults["log-format"], "%UPSTREAM_HOST%, %START_TIME%=x\\n",
        "commas and signs are the format's"
    );
}

#[test]
fn everything_that_is_wrong_is_said_at_once_with_its_remedy() {
    let wrong = run(&[
        "--image= ",
        "--image-pull-policy=Sometimes",
        "--run-as-user=root",
        "--default=redirect",
        "--default=redirekt=env",
        "--default=log-format=%NOPE%",
        "--tls-cert=/a",
        "--certificate-lifetime=8000h",
        "--request-timeout=0s",
        "--shutdown-delay=-1s",
        "--lease-name=A_B",
        "--webhook-configuration=whichpod,-x",
    ])
    .unwrap_err();
    for named in [
        "image is empty",
        "\"Sometimes\"",
        "--run-as-user is \"root\"; use a number",
        "--default is \"redirect\"; use NAME=VALUE",
        "redirekt",
        "NOPE",
        "--tls-cert is given without --tls-key",
        "--authority-lifetime is",
        "--request-timeout is 0",
        "--shutdown-delay is",
        "--lease-name is \"A_B\"",
        "--webhook-configuration is \"-x\"",
    ] {
        assert!(wrong.contains(named), "{named} in\n{wrong}");
    }
}

#[test]
fn what_cannot_be_parsed_is_named_and_help_is_no_error() {
    let error = run(&["--image=x", "--listen=nowhere"]).unwrap_err();
    assert!(error.contains("--listen") && error.contains("nowhere"), "{error}");
    let error = run(&["--image=x", "--no-such-flag"]).unwrap_err();
    assert!(error.contains("--no-such-flag"), "{error}");
    let help = run(&["--help"]).unwrap_err();
    assert!(help.contains("--tls-san") && help.contains("WHICHPOD_WEBHOOK_TLS_SAN"), "{help}");
}

#[test]
fn certificates_can_be_brought() {
    let config = run(&["--image=x", "--tls-cert=/tls/tls.crt", "--tls-key=/tls/tls.key"]).unwrap();
    assert!(matches!(config.certificates, Source::Files(files) if files.key.ends_with("tls.key")));
}
