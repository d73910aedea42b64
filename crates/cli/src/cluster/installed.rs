//! The installed webhook, whose options a patch by hand must agree with: they are its flags and variables.

use std::net::IpAddr;

use serde_json::Value;
use whichpod_injection::{HeadlessServices, Options};

use super::request::Cluster;
use crate::ask::base_options;
use crate::exit::{Exit, Failure};

/// What every webhook of ours is called at its end.
const WEBHOOK_SUFFIX: &str = ".whichpod.io";

/// What the names of its environment variables begin with; the rest is the flag's name.
const VARIABLE_PREFIX: &str = "WHICHPOD_WEBHOOK_";

/// What is known of an installed webhook.
#[derive(Debug)]
pub(super) enum Installed {
    /// There is one, with these options.
    Yes(Box<Said>),
    /// There is none.
    No,
    /// Nobody may know, for this reason.
    Unknown(String),
}

/// What the operator said.
#[derive(Debug)]
pub(super) struct Said {
    /// Whether `native_sidecars` is among it.
    pub(super) native_sidecars: bool,
    /// Whether `cluster_domain` is among it.
    pub(super) cluster_domain: bool,
    /// The rest is to be found out, or usual.
    pub(super) options: Options,
}

/// Looks for the webhook: its registration names its Service, and its Deployment has the Service's name.
///
/// # Errors
/// If the cluster cannot be reached, or the options are not understood.
pub(super) async fn installed(cluster: &Cluster) -> Result<Installed, Failure> {
    let mut registered = None;
    let collection = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
    let mut look =
        |configuration: Value| registered = registered.take().or_else(|| registration(&configuration));
    match cluster.list(collection, None, &mut look).await {
        Err(failure) if failure.exit == Exit::NoPermission => return Ok(Installed::Unknown(failure.message)),
        listed => listed?,
    }
    let (namespace, name) = match registered {
        None => return Ok(Installed::No),
        Some(Registered::Service { namespace, name }) => (namespace, name),
        Some(Registered::Address) => {
            return Ok(Installed::Unknown("it is registered by its address".to_owned()));
        }
    };
    let deployment = match cluster
        .get(&format!("/apis/apps/v1/namespaces/{namespace}/deployments"), &name)
        .await
    {
        Err(failure) if failure.exit == Exit::NoPermission => return Ok(Installed::Unknown(failure.message)),
        got => got?,
    };
    let Some(deployment) = deployment else {
        return Ok(Installed::Unknown(format!("there is no Deployment {name} in namespace {namespace}")));
    };
    let said = said(&deployment).map_err(|error| {
        let place = format!("the arguments of Deployment {name} in namespace {namespace}");
        let remedy = "use the whichpod of the webhook's version, or --options FILE";
        Failure::new(Exit::Data, format!("{place} are not understood: {error}; {remedy}"))
    })?;
    Ok(Installed::Yes(Box::new(said)))
}

/// Where the API server finds a webhook of ours.
#[derive(Debug, PartialEq, Eq)]
enum Registered {
    Service { namespace: String, name: String },
    Address,
}

/// How a webhook of ours is registered; `None` if these are others.
fn registration(configuration: &Value) -> Option<Registered> {
    let is_ours =
        |webhook: &&Value| webhook["name"].as_str().is_some_and(|name| name.ends_with(WEBHOOK_SUFFIX));
    let webhook = configuration["webhooks"].as_array()?.iter().find(is_ours)?;
    let text = |key: &str| Some(webhook["clientConfig"]["service"][key].as_str()?.to_owned());
    Some(match (text("namespace"), text("name")) {
        (Some(namespace), Some(name)) => Registered::Service { namespace, name },
        _ => Registered::Address,
    })
}

/// What the webhook's Deployment says about injection, in flags, or else in variables.
fn said(deployment: &Value) -> Result<Said, String> {
    let container = &deployment["spec"]["template"]["spec"]["containers"][0];
    let arguments = container["args"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let flags: Vec<(&str, &str)> =
        arguments.filter_map(|text| text.strip_prefix("--")?.split_once('=')).collect();
    let mut said = Said { native_sidecars: false, cluster_domain: false, options: base_options() };
    for variable in container["env"].as_array().into_iter().flatten() {
        let name = variable["name"].as_str().and_then(|name| name.strip_prefix(VARIABLE_PREFIX));
        let (Some(name), Some(value)) = (name, variable["value"].as_str()) else { continue };
        let name = name.to_lowercase().replace('_', "-");
        let name = if name == "defaults" { "default" } else { &name };
        if flags.iter().all(|(flag, _)| *flag != name) {
            let values: Vec<&str> = if name == "default" { value.lines().collect() } else { vec![value] };
            values.into_iter().try_for_each(|value| said.take(name, value))?;
        }
    }
    for (name, value) in flags {
        // Kubernetes would put a variable's value in the place of $(NAME).
        said.take(name, &value.replace("$$(", "$("))?;
    }
    Ok(said)
}

impl Said {
    /// Takes one flag; others than those about injection are passed over.
    fn take(&mut self, name: &str, value: &str) -> Result<(), String> {
        let options = &mut self.options;
        let wrong = || format!("--{name} is {value:?}");
        let text = || value.to_owned();
        let list = || value.split(',').map(str::to_owned);
        match name {
            "image" => options.image = text(),
            "image-pull-policy" => options.image_pull_policy = text(),
            "image-pull-secret" => options.image_pull_secrets.extend(list()),
            "cpu-request" => options.resources.cpu_request = text(),
            "cpu-limit" => options.resources.cpu_limit = Some(text()),
            "memory-request" => options.resources.memory_request = text(),
            "memory-limit" => options.resources.memory_limit = text(),
            "run-as-user" if value == "none" => options.run_as_user = None,
            "run-as-user" => options.run_as_user = Some(value.parse().map_err(|_| wrong())?),
            "headless-services" => {
                options.headless_services = match value {
                    "create" => HeadlessServices::Create,
                    "warn" => HeadlessServices::Warn,
                    "deny" => HeadlessServices::Deny,
                    _ => return Err(wrong()),
                };
            }
            "native-sidecar" => {
                self.native_sidecars = value != "auto";
                options.native_sidecars = value == "true";
            }
            "cluster-domain" => {
                self.cluster_domain = true;
                options.cluster_domain = text();
            }
            "cluster-dns" => {
                let addresses: Result<Vec<IpAddr>, _> = value.split(',').map(str::parse).collect();
                options.cluster_dns.extend(addresses.map_err(|_| wrong())?);
            }
            "protected-namespace" => options.protected_namespaces.extend(list()),
            "default" if value.trim().is_empty() => {}
            "default" => {
                let (name, value) = value.split_once('=').ok_or_else(wrong)?;
                options.defaults.insert(name.trim().to_owned(), value.trim().to_owned());
            }
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::documents;
    use serde_json::json;

    fn with(arguments: &[&str], variables: &Value) -> Result<Said, String> {
        said(
            &json!({"spec": {"template": {"spec": {"containers": [{"args": arguments, "env": variables}]}}}}),
        )
    }

    #[test]
    fn the_webhook_is_known_by_its_name() {
        let configuration =
            |name: &str, client: &Value| json!({"webhooks": [{"name": name, "clientConfig": client}]});
        let service = json!({"service": {"namespace": "whichpod-system", "name": "whichpod"}});
        assert_eq!(
            registration(&configuration("annotated.whichpod.io", &service)),
            Some(Registered::Service {
                namespace: "whichpod-system".to_owned(),
                name: "whichpod".to_owned()
            })
        );
        let address = json!({"url": "https://127.0.0.1:9443/mutate"});
        let registered = registration(&configuration("annotated.whichpod.io", &address));
        assert_eq!(registered, Some(Registered::Address));
        assert_eq!(registration(&configuration("sidecar-injector.istio.io", &service)), None);
        assert_eq!(registration(&json!({})), None);
    }

    #[test]
    fn flags_and_variables_are_read_as_the_webhook_reads_them() {
        let arguments = [
            "--listen=[::]:9443",
            "--image=example.test/whichpod-sidecar:7",
            "--image-pull-secret=a",
            "--image-pull-secret=b",
            "--cpu-limit=1",
            "--run-as-user=none",
            "--headless-services=warn",
            "--native-sidecar=false",
            "--cluster-dns=10.0.0.10",
            "--cluster-dns=fd00::a",
        ];
        let variables = json!([{"name": "WHICHPOD_WEBHOOK_PROTECTED_NAMESPACE", "value": "a,b"},
            {"name": "WHICHPOD_WEBHOOK_IMAGE_PULL_SECRET", "value": "overridden"}, {"name": "OTHER", "value": "x"},
            {"name": "WHICHPOD_WEBHOOK_DEFAULTS", "value": "redirect=env\n\nbalance=least_request"}]);
        let Said { native_sidecars, cluster_domain, options } = with(&arguments, &variables).unwrap();
        assert!(native_sidecars && !options.native_sidecars && !cluster_domain);
        assert_eq!(options.image, "example.test/whichpod-sidecar:7");
        assert_eq!(options.image_pull_secrets, ["a", "b"]);
        assert_eq!(options.resources.cpu_limit.as_deref(), Some("1"));
        assert_eq!(options.run_as_user, None);
        assert_eq!(options.headless_services, HeadlessServices::Warn);
        assert_eq!(options.cluster_dns.len(), 2);
        assert_eq!(options.protected_namespaces, ["a", "b"]);
        assert_eq!((options.defaults["redirect"].as_str(), options.defaults.len()), ("env", 2));
        let said = with(&["--default=log-format=$$(X)=%START_TIME%"], &variables).unwrap();
        assert_eq!(said.options.defaults, [("log-format".to_owned(), "$(X)=%START_TIME%".to_owned())].into());
        for wrong in ["--run-as-user=me", "--headless-services=maybe", "--cluster-dns=here", "--default=x"] {
            assert!(with(&[wrong], &json!([])).unwrap_err().contains(wrong.split_once('=').unwrap().0));
        }
    }

    #[test]
    fn the_charts_own_manifest_is_understood() {
        let documents = documents::read(include_str!("../../../../charts/whichpod.yaml")).unwrap();
        let values = documents.into_iter().filter_map(|document| document.value);
        let (mut registered, mut deployment) = (None, None);
        for value in values {
            match value["kind"].as_str() {
                Some("MutatingWebhookConfiguration") => registered = registration(&value),
                Some("Deployment") => deployment = Some(value),
                _ => {}
            }
        }
        let deployment = deployment.unwrap();
        let name = |key: &str| deployment["metadata"][key].as_str().unwrap().to_owned();
        let by_name = Registered::Service { namespace: name("namespace"), name: name("name") };
        assert_eq!(registered, Some(by_name), "the Deployment is found by the Service's name");
        let said = said(&deployment).unwrap();
        assert!(said.options.image.contains("whichpod-sidecar"), "{}", said.options.image);
        assert_eq!(said.options.errors(), Vec::<String>::new());
        // Where this fails the chart has a new flag: does it say what is injected?
        let known = [
            "listen",
            "health",
            "service-name",
            "webhook-configuration",
            "lease-name",
            "secret-name",
            "request-timeout",
            "shutdown-delay",
            "log-level",
            "image",
            "image-pull-policy",
            "image-pull-secret",
            "cpu-request",
            "cpu-limit",
            "memory-request",
            "memory-limit",
            "run-as-user",
            "headless-services",
            "native-sidecar",
            "cluster-domain",
            "cluster-dns",
            "protected-namespace",
            "default",
        ];
        let arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"].as_array().unwrap();
        for argument in arguments.iter().filter_map(Value::as_str) {
            let name = argument.trim_start_matches('-').split('=').next().unwrap();
            assert!(known.contains(&name), "{argument}");
        }
    }
}
