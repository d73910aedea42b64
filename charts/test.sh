#!/usr/bin/env bash
# The chart without a cluster: it lints, renders with every value, says what it should, and refuses what it should.
# What only an API server can tell is in test-on-cluster.sh.
set -uo pipefail
cd "$(dirname "$0")"
. ./lib.sh

# One template, or nothing if the values leave it empty.
part() {
  local template=$1
  shift
  render system --show-only "templates/$template.yaml" "$@" 2>&1 | grep -v 'could not find template'
}

# says TEMPLATE TEXT [VALUES...]: lines that must be there as they stand, indentation aside.
says() {
  local output expected
  output=$(part "$1" "${@:3}" | unindented)
  expected=$(unindented <<<"$2")
  if [[ $'\n'$output$'\n' == *$'\n'"$expected"$'\n'* ]]; then ok; else bad "$1 says ($*)" "$output"; fi
}
silent() {
  local output
  output=$(part "$1" "${@:3}")
  if [[ $output != *"$2"* ]]; then ok; else bad "$1 does not say ($*)" "$output"; fi
}
unindented() { sed -E 's/^[ -]+//; s/ +$//'; }

# refused MESSAGE [VALUES...]: the message must name the value.
refused() {
  local output
  if output=$(render system "${@:2}" 2>&1); then bad "refused: ${*:2}"; return; fi
  if [[ $output == *"$1"* ]]; then ok; else bad "the refusal of ${*:2} names $1" "$output"; fi
}

# ------------------------------------------------------------------ every combination renders

variants=(
  ""
  "headlessServices=warn"
  "headlessServices=deny,certificates.mode=cert-manager"
  "certificates.mode=cert-manager,certificates.certManager.issuerRef.name=mine,certificates.certManager.issuerRef.kind=ClusterIssuer"
  "certificates.mode=secret,certificates.secretName=mine"
  "hostNetwork=true,port=10250,healthPort=10251,replicas=3"
  "runAsUser=null,sidecar.runAsUser=null"
  "serviceMonitor.enabled=true,serviceMonitor.interval=30s,serviceMonitor.labels.release=prometheus"
  "serviceAccount.create=false,serviceAccount.name=mine"
  "networkPolicy.enabled=false,podDisruptionBudget.enabled=false,test.enabled=false,uninstall.check=false,install.check=false"
  "admission.failurePolicy=Fail,admission.timeoutSeconds=30,priorityClassName=system-cluster-critical"
  "imagePullSecrets[0].name=a,sidecar.imagePullSecrets[0]=b,registry=registry.example.com/mirror"
  "commonLabels.team=a,podLabels.a=b,podAnnotations.a=b,nodeSelector.a=b,service.annotations.a=b,serviceAccount.annotations.a=b"
  "tolerations[0].operator=Exists,affinity.nodeAffinity=null,extraEnv[0].name=A,extraEnv[0].value=b"
  "topologySpreadConstraints[0].maxSkew=1,topologySpreadConstraints[0].topologyKey=rack,topologySpreadConstraints[0].whenUnsatisfiable=DoNotSchedule"
  "sidecar.redirect=env,sidecar.balance=least_request,sidecar.protocol=http1,sidecar.logFormat=json,nativeSidecar=false"
  "nameOverride=other,fullnameOverride=another,global.any=thing,enabled=true"
)
for variant in "${variants[@]}"; do
  for kubernetes in 1.28 1.35; do
    arguments=(--kube-version "$kubernetes")
    [ -z "$variant" ] || arguments+=(--set "$variant")
    output=$(helm lint --strict --quiet whichpod "${arguments[@]}" 2>&1) && ok || bad "lint with '$variant'" "$output"
  done
  if ! output=$(render system ${variant:+--set "$variant"} 2>&1); then
    bad "render with '$variant'" "$output"
  elif [[ $output =~ \ $'\n' || $output == *'<no value>'* || $output == *'%!'* ]]; then
    bad "clean text with '$variant'" "$(grep -nE ' $|<no value>|%!' <<<"$output")"
  else
    ok
  fi
done
# Only containers are still called so.
output=$(render system --set fullnameOverride=another --set nameOverride=other | grep -nE '[nN]ame: whichpod' | grep -v -- '- name: whichpod$')
[ -z "$output" ] && ok || bad "every object is named after fullnameOverride" "$output"

# ------------------------------------------------------------------ what is rendered

webhooks=mutatingwebhookconfiguration
silent $webhooks caBundle:
authority=$'-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----'
says $webhooks "caBundle: $(printf %s "$authority" | base64 -w0)" --set certificates.mode=secret,certificates.secretName=mine \
  --set-string certificates.caBundle="$authority"
silent $webhooks caBundle: --set certificates.mode=cert-manager --set-string certificates.caBundle="$authority"
says $webhooks "failurePolicy: Ignore"
says $webhooks "failurePolicy: Fail" --set admission.failurePolicy=Fail
says $webhooks "matchPolicy: Equivalent
reinvocationPolicy: IfNeeded
sideEffects: None
timeoutSeconds: 5"
says $webhooks "values:
- kube-system
- kube-public
- kube-node-lease
- mine" --set protectedNamespaces[0]=mine,protectedNamespaces[1]=kube-system
says $webhooks "cert-manager.io/inject-ca-from: system/whichpod-webhook-tls" --set certificates.mode=cert-manager
silent $webhooks inject-ca-from
silent certificate kind:
says certificate "dnsNames:
- whichpod.system.svc" --set certificates.mode=cert-manager
says certificate "secretName: whichpod-webhook-tls" --set certificates.mode=cert-manager
silent certificate "kind: Issuer" --set certificates.mode=cert-manager,certificates.certManager.issuerRef.name=mine,certificates.certManager.issuerRef.kind=ClusterIssuer

says deployment "replicas: 2"
says deployment "maxSurge: 1
maxUnavailable: 0"
says deployment "maxSurge: 0
maxUnavailable: 1" --set hostNetwork=true
says deployment "hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet" --set hostNetwork=true
silent deployment hostNetwork
says deployment "runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
type: RuntimeDefault"
silent deployment runAsUser --set runAsUser=null
says deployment "allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
drop: [ALL]"
says deployment "path: /ready"
says deployment "whenUnsatisfiable: ScheduleAnyway"
says deployment "priorityClassName: system-cluster-critical" --set priorityClassName=system-cluster-critical
says deployment 'image: "whichpod-webhook:0.1.0"'
says deployment 'image: "registry.example.com:5000/a/whichpod-webhook:0.1.0"' --set registry=registry.example.com:5000/a
says deployment "image: \"hook@sha256:$(printf %064d 0)\"" --set image.repository=hook,image.tag=1,image.digest="sha256:$(printf %064d 0)"
says deployment "imagePullSecrets:
- name: a" --set imagePullSecrets[0].name=a
# The labels that the webhook goes by are nobody else's to change.
says deployment "app.kubernetes.io/instance: whichpod
app.kubernetes.io/name: whichpod
whichpod.io/component: webhook" --set-json 'podLabels={"whichpod.io/component":"x","app.kubernetes.io/name":"x"}'

# What the webhook is told.
says deployment "--image=whichpod-sidecar:0.1.0
--image-pull-policy=IfNotPresent
--cpu-request=50m
--memory-request=32Mi
--memory-limit=64Mi
--run-as-user=65532
--headless-services=create
--native-sidecar=auto"
# What nobody says is whichpod's own, so that an injection by hand gives the same bytes.
silent deployment --default
says deployment "--image=registry.example.com/whichpod-sidecar:2" --set registry=registry.example.com,sidecar.image.tag=2
says deployment "--image-pull-secret=a
--image-pull-secret=b" --set sidecar.imagePullSecrets[0]=a,sidecar.imagePullSecrets[1]=b
says deployment "--cpu-limit=1" --set sidecar.resources.limits.cpu=1
says deployment "--run-as-user=none" --set sidecar.runAsUser=null
says deployment "--run-as-user=1000680000" --set-json sidecar.runAsUser=1000680000
says deployment "runAsUser: 1000680000" --set-json runAsUser=1000680000
says deployment "--native-sidecar=true" --set nativeSidecar=true
says deployment "--cluster-domain=a.b
--cluster-dns=10.96.0.10
--cluster-dns=fd00::10
--protected-namespace=vault" \
  --set clusterDomain=a.b,clusterDns[0]=10.96.0.10,clusterDns[1]=fd00::10,protectedNamespaces[0]=vault
says deployment '--default=app-ports=8080, 8443
--default=balance=least_request
--default=config=map/key
--default=log-format=[%START_TIME%] "%REQ(:METHOD)%" $$(HOST)\n
--default=protocol=http1
--default=redirect=none
--default=upstreams=*' --set sidecar.balance=least_request,sidecar.config=map/key,sidecar.protocol=http1 \
  --set sidecar.redirect=none,sidecar.appPorts='8080\, 8443',sidecar.upstreams='*' \
  --set-json 'sidecar.logFormat="[%START_TIME%] \"%REQ(:METHOD)%\" $(HOST)\\n\n"'
says deployment '--default=retry={"attempts":3,"on":["5xx","reset"]}
--default=timeouts=connect=2s, request=30s
--default=upstreams=*
--default=workers=2' --set sidecar.upstreams='*',sidecar.settings.workers=2 \
  --set sidecar.settings.timeouts='connect=2s\, request=30s' \
  --set-json 'sidecar.settings.retry={"on": ["5xx", "reset"], "attempts": 3}'
says deployment "--request-timeout=500ms" --set admission.timeoutSeconds=1
says deployment "--secret-name=whichpod-webhook-tls"
says deployment "--tls-cert=/etc/whichpod/tls/tls.crt
--tls-key=/etc/whichpod/tls/tls.key" --set certificates.mode=cert-manager
says deployment "secretName: mine" --set certificates.mode=secret,certificates.secretName=mine

# And it understands all of it: here it gets as far as looking for its cluster.
webhook=$(webhook_binary) || exit
understood() {
  local output arguments=()
  mapfile -t arguments < <(part deployment "$@" | webhook_arguments)
  output=$(env -u KUBERNETES_SERVICE_HOST timeout 20 "$webhook" "${arguments[@]}" 2>&1)
  if [[ $output == *'not in a cluster'* ]]; then ok; else bad "the webhook understands its arguments ($*)" "$output"; fi
}
understood
understood --set hostNetwork=true,port=10250,healthPort=9999,shutdownDelay=20s,logLevel='info\,kube=debug' \
  --set admission.timeoutSeconds=1,headlessServices=deny,nativeSidecar=false,clusterDomain=a.b \
  --set clusterDns[0]=10.96.0.10,clusterDns[1]=fd00::10,protectedNamespaces[0]=vault \
  --set sidecar.runAsUser=null,sidecar.imagePullSecrets[0]=a,sidecar.resources.limits.cpu=1,sidecar.image.pullPolicy=Always \
  --set sidecar.redirect=env,sidecar.balance=least_request,sidecar.protocol=http1,sidecar.config=map/key \
  --set sidecar.appPorts='8080\, 8443',sidecar.upstreams='*',sidecar.logFormat='%START_TIME% %UPSTREAM_HOST%'
understood --set certificates.mode=cert-manager
understood --set sidecar.settings.workers=2,sidecar.settings.lazy=true,sidecar.settings.slow-start.window=30s \
  --set-json 'sidecar.settings.per-upstream={"users": {"retry": {"attempts": 3}, "routes": [{"prefix": "/"}]}}' \
  --set-json 'sidecar.settings.access-log={"filter": {"flags": ["UF"], "sample": 0.1}}'
understood --set sidecar.logFormat=otel,sidecar.protocol=auto,sidecar.redirect=none,sidecar.resources.limits.memory=1Gi

says rbac "resources: [services]
verbs: [create, update, delete]"
for policy in warn deny; do silent rbac "[create, update, delete]" --set headlessServices=$policy; done
says rbac "resources: [mutatingwebhookconfigurations]
resourceNames: [whichpod]
verbs: [get, list, watch, patch]"
says rbac "resources: [mutatingwebhookconfigurations]
resourceNames: [whichpod]
verbs: [get, list, watch]" --set certificates.mode=cert-manager
says rbac "resources: [secrets]
resourceNames: [whichpod-webhook-tls]"
for mode in cert-manager secret; do
  silent rbac secrets --set certificates.secretName=mine,certificates.mode=$mode
  silent state "kind: Secret" --set certificates.secretName=mine,certificates.mode=$mode
done
says state "name: whichpod-webhook-tls"
silent state $'\ndata:'
silent rbac "'*'"
says poddisruptionbudget "maxUnavailable: 1"
silent networkpolicy from:
silent servicemonitor kind:
says servicemonitor "interval: 30s" --set serviceMonitor.enabled=true,serviceMonitor.interval=30s
says installed "helm.sh/hook: post-install,post-upgrade"
says installed "- --wait=4m"
silent installed kind: --set install.check=false
silent installed kind: --set protectedNamespaces[0]=system
render kube-system | grep -q -- -installed && bad "nothing is tried in a protected namespace" || ok
says pre-delete "helm.sh/hook: pre-delete"
silent pre-delete kind: --set uninstall.check=false
silent tests/admission kind: --set test.enabled=false

# ------------------------------------------------------------------ what is refused

refused sidecar --set sidecar.imagee=x
refused typo --set typo=1
refused headlessServices --set headlessServices=maybe
refused secretName --set certificates.mode=secret
refused caBundle --set certificates.caBundle=LS0t
refused certificates/mode --set certificates.mode=manual
refused runAsUser --set sidecar.runAsUser=1337
refused runAsUser --set sidecar.runAsUser=0
refused clusterDns --set clusterDns[0]=kube-dns
refused clusterDomain --set 'clusterDomain=cluster local'
refused port --set port=443
refused failurePolicy --set admission.failurePolicy=ignore
refused timeoutSeconds --set admission.timeoutSeconds=31
refused balance --set sidecar.balance=fastest
refused redirect --set sidecar.redirect=transparent
refused settings --set sidecar.settings.timeout=1s
refused settings --set sidecar.settings.balance=random
refused pullPolicy --set image.pullPolicy=Sometimes
refused registry --set registry=registry.example.com/
refused serviceAccount.name --set serviceAccount.create=false
refused logFormat --set-json 'sidecar.logFormat="%A%\n%B%"'
refused kubeVersion --kube-version 1.27

# ------------------------------------------------------------------ documentation and versions

# A leaf of values.yaml follows its comment, or the first of a group of resources does.
undocumented=$(awk '
  /^ *#/ { comment = 1; next }
  /^ *(requests|limits|cpu|memory):/ { comment = 0; next }
  /^ *[A-Za-z]+: *[^ ]/ { if (!comment) print FNR ": " $0 }
  { comment = 0 }' whichpod/values.yaml)
[ -z "$undocumented" ] && ok || bad "every value is documented" "$undocumented"

version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' ../Cargo.toml)
for line in "version: $version" "appVersion: \"$version\""; do
  grep -qxF "$line" whichpod/Chart.yaml && ok || bad "Chart.yaml says: $line"
done
for part in sidecar webhook; do
  file=../$part/Containerfile
  for line in "FROM scratch" "USER 65532:65532" "ARG VERSION=$version"; do
    grep -qxF "$line" "$file" && ok || bad "$part/Containerfile says: $line"
  done
done

output=$(./manifest.sh --check 2>&1) && ok || bad "whichpod.yaml is up to date" "$output"

finish
