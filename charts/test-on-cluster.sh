#!/usr/bin/env bash
# What only a real API server can tell of the chart: which objects the webhook is asked about, that what is rendered is
# accepted and passes the Pod Security Standard "restricted", what whichpod may do, and what survives an upgrade.
# A control plane is enough, nothing of ours runs in it:
#   eval "$(cargo run -p whichpod-cluster -- up --control-plane)"; charts/test-on-cluster.sh
set -euo pipefail
cd "$(dirname "$0")"
. ./lib.sh

export KUBECONFIG="${WHICHPOD_TEST_KUBECONFIG:?names the kubeconfig of a cluster that is there for tests}"
cache="${WHICHPOD_CACHE:-$HOME/.cache/whichpod}"
kubectl() {
  local kubenode
  for kubenode in "$cache"/kubenode-*; do
    [ -x "$kubenode" ] && { "$kubenode" kubectl "$@"; return; }
  done
  command kubectl "$@"
}

system=chart-test-system
work=chart-test-work
labelled=chart-test-labelled

expect_equal() { if [ "$2" = "$3" ]; then ok; else bad "$1" "expected: $2"$'\n'"found:    $3"; fi; }

# Whether a command succeeds within a minute: seconds, where nothing else runs.
within_a_minute() {
  local end=$((SECONDS + 60))
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$end" ] || return 1
    sleep 0.2
  done
}

wait_until() {
  local what=$1
  shift
  if within_a_minute "$@"; then ok; else bad "$what did not happen within a minute"; fi
}

clean() {
  helm uninstall "$release" --namespace "$system" --no-hooks >/dev/null 2>&1 || true
  kubectl patch deployment deleted --namespace "$work" --type=merge -p '{"metadata": {"finalizers": null}}' >/dev/null 2>&1 || true
  kubectl delete --ignore-not-found --wait=false namespace "$system" "$work" "$labelled" whichpod-system >/dev/null 2>&1 || true
}
folder=$(mktemp -d)
process=
leave() {
  [ -z "$process" ] || kill "$process" 2>/dev/null || true
  clean
  rm -rf "$folder"
}
trap leave EXIT
webhook=$(webhook_binary)

# ------------------------------------------------------------------ objects

annotations() { [ -z "$1" ] || printf '"annotations": {"%s": "%s"}' "${1%%=*}" "${1#*=}"; }

# A pod's specification that `restricted` accepts; $1 is its restartPolicy.
pod_spec() {
  cat <<JSON
{"restartPolicy": "$1",
 "securityContext": {"runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
 "containers": [{"name": "app", "image": "example.test/app",
   "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}}}]}
JSON
}

# An object of a kind, named after it; $2 is an annotation of its own, $3 one of its template, $4 more of its metadata.
object() {
  local kind=$1 own=${2:-} template=${3:-} more=${4:-} labels='"labels": {"app": "app"}' restart=Always
  local metadata="\"metadata\": {\"name\": \"app\"${more:+, $more}${own:+, $(annotations "$own")}}"
  [ "$kind" = Job ] || [ "$kind" = CronJob ] && restart=Never
  local pod="{\"metadata\": {$labels${template:+, $(annotations "$template")}}, \"spec\": $(pod_spec $restart)}"
  local apps="\"apiVersion\": \"apps/v1\", \"kind\": \"$kind\", $metadata"
  local selector='"selector": {"matchLabels": {"app": "app"}}'
  case $kind in
    Pod) printf '{"apiVersion": "v1", "kind": "Pod", %s, "spec": %s}' "$metadata" "$(pod_spec Always)" ;;
    Job) printf '{"apiVersion": "batch/v1", "kind": "Job", %s, "spec": {"template": %s}}' "$metadata" "$pod" ;;
    CronJob)
      printf '{"apiVersion": "batch/v1", "kind": "CronJob", %s, "spec": {"schedule": "0 0 1 1 *",
        "jobTemplate": {"spec": {"template": %s}}}}' "$metadata" "$pod"
      ;;
    StatefulSet) printf '{%s, "spec": {%s, "serviceName": "app", "template": %s}}' "$apps" "$selector" "$pod" ;;
    *) printf '{%s, "spec": {%s, "template": %s}}' "$apps" "$selector" "$pod" ;;
  esac
}

# Nobody answers and the policy is Fail: what the webhook is asked about is refused.
verdict() {
  local output
  if output=$("$@" 2>&1); then
    echo "not asked"
  elif [[ $output == *'failed calling webhook "annotated.whichpod.io"'* ]]; then
    echo annotated
  elif [[ $output == *'failed calling webhook "labelled.whichpod.io"'* ]]; then
    echo labelled
  else
    echo "$output"
  fi
}

# $1 is the entry that is asked (or "not asked"), $2 the namespace, the rest is an object.
created() {
  local expected=$1 namespace=$2
  shift 2
  local found
  found=$(object "$@" | verdict kubectl create --dry-run=server --namespace "$namespace" --filename -)
  expect_equal "creation in $namespace of: $*" "$expected" "$found"
}

# $1 is the entry that is asked; the rest is a kubectl command on an object that is stored.
changed() {
  local expected=$1
  shift
  expect_equal "change: $*" "$expected" "$(verdict kubectl "$@" --dry-run=server --namespace "$work")"
}

# ------------------------------------------------------------------ before whichpod comes

clean
for namespace in "$system" "$work" "$labelled"; do
  kubectl wait --for=delete "namespace/$namespace" --timeout=180s >/dev/null 2>&1 || true
  kubectl create namespace "$namespace" >/dev/null
  kubectl label namespace "$namespace" pod-security.kubernetes.io/enforce=restricted >/dev/null
done
kubectl label namespace "$labelled" whichpod.io/injection=enabled >/dev/null
store() { object "$@" | sed "s/\"name\": \"app\"/\"name\": \"$name\"/" | kubectl create --namespace "$work" --filename - >/dev/null; }
name=plain store Deployment
name=annotated store Deployment whichpod.io/upstreams=backend:80
name=template store Deployment "" whichpod.io/status=x
name=cron store CronJob "" whichpod.io/inject=true
name=job store Job whichpod.io/inject=true
name=deleted store Deployment whichpod.io/inject=true "" '"finalizers": ["example.test/wait"]'
kubectl delete --wait=false --namespace "$work" deployment deleted >/dev/null
# The only pod that would be asked about: its controller must not make it in the middle of what follows.
made() { [[ $(kubectl get pods --namespace "$work" -o name) == *pod/template-* ]]; }
wait_until "a controller makes the template's pod" made

# ------------------------------------------------------------------ every variant is accepted

accepted() {
  local output
  if output=$(render "$system" --no-hooks "$@" |
    kubectl apply --dry-run=server --validate=strict --filename - 2>&1) && [[ $output != *[Ww]arning* ]]; then
    ok
  else
    bad "the API server accepts without a warning: ${*:-default values}" "$output"
  fi
}
accepted
accepted --set hostNetwork=false,port=10250,healthPort=9999,priorityClassName=system-cluster-critical
accepted --set runAsUser=null,sidecar.runAsUser=null,headlessServices=deny,certificates.mode=secret,certificates.secretName=mine
accepted --set commonLabels.team=a,podLabels.a=b,podAnnotations.a=b,nodeSelector.a=b,service.annotations.a=b \
  --set tolerations[0].operator=Exists,extraEnv[0].name=A,extraEnv[0].value=b,imagePullSecrets[0].name=pull

# ------------------------------------------------------------------ who is asked about

# No pod runs here, so no hook would ever end.
helm install "$release" --no-hooks --namespace "$system" whichpod --set admission.failurePolicy=Fail,certificates.secretName=webhook-tls >/dev/null
asked() { [ "$(object Pod whichpod.io/inject=true | verdict kubectl create --dry-run=server -n "$work" -f -)" = annotated ]; }
wait_until "the API server asks the webhook" asked

for kind in Deployment StatefulSet DaemonSet ReplicaSet Job CronJob; do
  created annotated "$work" $kind whichpod.io/upstreams=backend:80
  created annotated "$work" $kind "" whichpod.io/inject=true
  created annotated "$work" $kind example.test/a=b whichpod.io/status=x
  created "not asked" "$work" $kind
  created "not asked" "$work" $kind example.test/a=b example.test/a=b
  created "not asked" "$labelled" $kind
  created annotated "$labelled" $kind whichpod.io/inject=false
done
created annotated "$work" Deployment whichpod.io/upstream=misspelt:80
created annotated "$work" Deployment whichpod.io/inject=
created "not asked" "$work" Deployment example.whichpod.io/inject=true
created "not asked" kube-system Deployment whichpod.io/inject=true
created "not asked" "$work" Deployment whichpod.io/inject=true "" '"labels": {"whichpod.io/component": "webhook"}'
owner() { printf '"ownerReferences": [{"apiVersion": "v1", "kind": "A", "name": "a", "uid": "u"%s}]' "$1"; }
created "not asked" "$work" ReplicaSet whichpod.io/inject=true "" "$(owner ', "controller": true')"
created annotated "$work" ReplicaSet whichpod.io/inject=true "" "$(owner ', "controller": false')"
created annotated "$work" ReplicaSet whichpod.io/inject=true "" "$(owner '')"

created "not asked" "$work" Pod
created "not asked" "$work" Pod example.test/a=b
created annotated "$work" Pod whichpod.io/status=x
created annotated "$work" Pod whichpod.io/inject=true "" "$(owner ', "controller": true')"
created labelled "$labelled" Pod
created labelled "$labelled" Pod example.test/a=b
created annotated "$labelled" Pod whichpod.io/inject=false
created "not asked" "$labelled" Pod "" "" '"labels": {"whichpod.io/component": "webhook"}'
created "not asked" kube-system Pod whichpod.io/inject=true
kubectl label --overwrite namespace "$labelled" whichpod.io/injection=disabled >/dev/null
wait_until "a namespace is no longer asked about" \
  eval 'object Pod | kubectl create --dry-run=server --namespace "$labelled" --filename -'
created annotated "$labelled" Pod whichpod.io/inject=true
kubectl label --overwrite namespace "$labelled" whichpod.io/injection=sometimes >/dev/null
wait_until "an unknown label is asked about, to be warned of" \
  eval '! object Pod | kubectl create --dry-run=server --namespace "$labelled" --filename -'

changed annotated annotate deployment plain whichpod.io/inject=true
changed annotated annotate deployment annotated whichpod.io/upstreams-
changed annotated patch deployment template --type=json \
  -p '[{"op": "remove", "path": "/spec/template/metadata/annotations"}]'
changed annotated patch cronjob cron --type=merge -p '{"spec": {"schedule": "1 0 1 1 *"}}'
changed "not asked" annotate deployment plain example.test/a=b
changed "not asked" label job job a=b
changed "not asked" scale deployment annotated --replicas=2
changed "not asked" label deployment deleted a=b

# ------------------------------------------------------------------ whichpod's own pods

pods() { [ "$(kubectl get pods -n "$system" -l whichpod.io/component=webhook -o name | wc -l)" = 2 ]; }
wait_until "two pods of the webhook pass the restricted standard, with nobody to admit them" pods
# Their accounts are made by the hooks before them.
hooks=$(render "$system" --show-only templates/installed.yaml \
  --show-only templates/pre-delete.yaml --show-only templates/tests/admission.yaml |
  sed -E "s/serviceAccountName: $release-(test|installed)/serviceAccountName: default/")
if output=$(kubectl create --dry-run=server --validate=strict --filename - <<<"$hooks" 2>&1) && [[ $output != *[Ww]arning* ]]; then
  ok
else
  bad "the API server accepts the hooks" "$output"
fi

# ------------------------------------------------------------------ what it may do

# The API server goes by a changed role a moment later.
may() { [ "$(kubectl auth can-i "${@:2}" --as "system:serviceaccount:$system:$release" 2>/dev/null)" = "$1" ]; }
can() { if within_a_minute may "$@"; then ok; else bad "whichpod may: ${*:2}" "expected: $1"; fi; }
for resource in namespaces services endpointslices.discovery.k8s.io pods; do
  for verb in list watch; do can yes $verb $resource --all-namespaces; done
done
for resource in nodes deployments.apps statefulsets.apps daemonsets.apps replicasets.apps jobs.batch cronjobs.batch; do
  can yes list $resource --all-namespaces
done
for verb in get create update delete; do can yes $verb services --all-namespaces; done
for verb in create patch; do can yes $verb events.events.k8s.io --all-namespaces; done
for verb in get list watch patch; do
  can yes $verb mutatingwebhookconfigurations/whichpod
  can no $verb mutatingwebhookconfigurations/other
done
for verb in get list watch update; do
  can yes $verb secrets/webhook-tls --namespace "$system"
  can no $verb secrets/other --namespace "$system"
  can no $verb secrets/webhook-tls --namespace "$work"
done
can yes create secrets --namespace "$system"
can yes create leases.coordination.k8s.io --namespace "$system"
can yes update leases.coordination.k8s.io/whichpod-webhook --namespace "$system"
can no update leases.coordination.k8s.io/other --namespace "$system"
for denied in "create mutatingwebhookconfigurations" "update mutatingwebhookconfigurations/whichpod" \
  "patch secrets/webhook-tls" "delete secrets/webhook-tls" "delete mutatingwebhookconfigurations/whichpod" \
  "create pods" "delete pods" "update deployments.apps" "patch deployments.apps" "create pods --subresource=exec" \
  "get configmaps" "list secrets" "get nodes" "create serviceaccounts --subresource=token" "patch services" \
  "escalate clusterroles" "list secrets --all-namespaces" "create deployments.apps"; do
  can no $denied --namespace "$system"
done

# ------------------------------------------------------------------ an upgrade keeps what others have written

ca_bundles() {
  kubectl get mutatingwebhookconfiguration whichpod -o 'jsonpath={.webhooks[*].clientConfig.caBundle}'
}
kept() {
  kubectl get --namespace "$system" secret webhook-tls -o 'jsonpath={.data.tls\.crt}'
  kubectl get --namespace "$system" lease whichpod-webhook -o 'jsonpath= {.spec.holderIdentity}'
}
# The API server checks that it is one.
ca=$(kubectl config view --raw -o 'jsonpath={.clusters[0].cluster.certificate-authority-data}')
kubectl patch mutatingwebhookconfiguration whichpod --type=json -p "[
  {\"op\": \"add\", \"path\": \"/webhooks/0/clientConfig/caBundle\", \"value\": \"$ca\"},
  {\"op\": \"add\", \"path\": \"/webhooks/1/clientConfig/caBundle\", \"value\": \"$ca\"}]" >/dev/null
expect_equal "the caBundles are written" "$ca $ca" "$(ca_bundles)"
kubectl patch --namespace "$system" secret webhook-tls --type=merge -p '{"stringData": {"tls.crt": "x"}}' >/dev/null
kubectl patch --namespace "$system" lease whichpod-webhook --type=merge -p '{"spec": {"holderIdentity": "x"}}' >/dev/null
helm upgrade "$release" --no-hooks --namespace "$system" whichpod --set headlessServices=warn,admission.timeoutSeconds=7,certificates.secretName=webhook-tls >/dev/null
expect_equal "and what the webhook keeps" "eA== x" "$(kept)"
expect_equal "an upgrade keeps the caBundles" "$ca $ca" "$(ca_bundles)"
expect_equal "and has changed the rest" "7 7" \
  "$(kubectl get mutatingwebhookconfiguration whichpod -o 'jsonpath={.webhooks[*].timeoutSeconds}')"
can no create services --all-namespaces
helm rollback "$release" --namespace "$system" 1 >/dev/null
expect_equal "a rollback, too" "eA== x" "$(kept)"
expect_equal "so does a rollback" "$ca $ca" "$(ca_bundles)"
helm upgrade "$release" --no-hooks --namespace "$system" whichpod --set certificates.mode=secret,certificates.secretName=mine >/dev/null
can no create secrets --namespace "$system"
can no get secrets/mine --namespace "$system"
can no patch mutatingwebhookconfigurations/whichpod
can yes watch mutatingwebhookconfigurations/whichpod

# ------------------------------------------------------------------ what it may do is enough for what it does

# The webhook itself, here, as whichpod's service account. The API server reaches it by a URL, having no pods' network.
helm upgrade "$release" --no-hooks --namespace "$system" whichpod --reset-values --set certificates.secretName=webhook-tls >/dev/null
can yes create secrets --namespace "$system"
can yes patch mutatingwebhookconfigurations/whichpod
can yes create services --all-namespaces
log=$folder/webhook.log
# Prints the path of a kubeconfig for a service account of the release's namespace.
kubeconfig_of() {
  local file=$folder/$1 token
  cp "$KUBECONFIG" "$file"
  token=$(kubectl create token "$1" --namespace "$system")
  kubectl --kubeconfig "$file" config set-credentials "$1" --token "$token" >/dev/null
  kubectl --kubeconfig "$file" config set-context --current --user "$1" >/dev/null
  echo "$file"
}
mapfile -t arguments < <(render "$system" --show-only templates/deployment.yaml --set certificates.secretName=webhook-tls |
  webhook_arguments | sed -E 's/^--(listen|health)=.*/--\1=127.0.0.1:0/; s/^--log-level=.*/&,whichpod_webhook=debug/')
"$webhook" "${arguments[@]}" --namespace "$system" --kubeconfig "$(kubeconfig_of "$release")" --tls-san 127.0.0.1 >"$log" 2>&1 &
process=$!
wait_until "the webhook listens" grep -q 'address=' "$log"
address=$(sed -nE 's/.*[ {"]address"?[=:]"?(127\.0\.0\.1:[0-9]+).*/\1/p' "$log" | head -1)
client="{\"url\": \"https://$address/mutate\"}"
kubectl patch mutatingwebhookconfiguration whichpod --type=json -p "[
  {\"op\": \"replace\", \"path\": \"/webhooks/0/clientConfig\", \"value\": $client},
  {\"op\": \"replace\", \"path\": \"/webhooks/1/clientConfig\", \"value\": $client}]" >/dev/null

kubectl create service clusterip backend --tcp=80 --namespace "$work" >/dev/null
kubectl create service clusterip backend --tcp=80 --namespace "$labelled" >/dev/null
kubectl label --overwrite namespace "$labelled" whichpod.io/injection=enabled >/dev/null
sidecar='jsonpath={..initContainers[*].name}'
injects() {
  [ "$(object Deployment whichpod.io/upstreams=backend:80 |
    kubectl create --dry-run=server --namespace "$work" --filename - --output "$sidecar")" = whichpod ]
}
wait_until "an annotated Deployment gets its sidecar" injects
injects_labelled() {
  [ "$(object Pod | kubectl create --dry-run=server --namespace "$labelled" --filename - --output "$sidecar")" = whichpod ]
}
wait_until "a pod of a labelled namespace gets its sidecar" injects_labelled
reviews() { grep -cF ' reviewed ' "$log"; }
has_reviewed() { [ "$(reviews)" -ge "$1" ]; }
reviewed() {
  local before
  before=$(reviews)
  object Pod "$2" | kubectl create --dry-run=server --namespace "$labelled" --filename - >/dev/null 2>&1
  # The log may be a moment behind.
  within_a_minute has_reviewed $((before + $1)) || true
  expect_equal "reviews of a pod with $2 in a labelled namespace" "$1" "$(($(reviews) - before))"
}
# One entry asks, and asks again: the API server mounts its token into the new container and has the pod looked at once
# more, as it does after another webhook's change. By then the pod carries the status, and must still be that entry's.
reviewed 2 example.test/a=b
reviewed 2 whichpod.io/upstreams=backend:80
object Deployment whichpod.io/upstreams=backend:80 | kubectl create --namespace "$work" --filename - >/dev/null
twin() { [ "$(kubectl get --namespace "$work" service backend-whichpod --output 'jsonpath={.spec.clusterIP}')" = None ]; }
wait_until "the headless twin is made" twin
kubectl patch --namespace "$work" service backend --type=merge -p '{"spec": {"selector": {"app": "other"}}}' >/dev/null
follows() { [ "$(kubectl get --namespace "$work" service backend-whichpod --output 'jsonpath={.spec.selector.app}')" = other ]; }
wait_until "and follows its Service" follows

# The hooks, with the rights that the chart gives them.
hook() {
  local expected=$1 said=$2 account=$3 output code=0
  shift 3
  output=$("$webhook" "$@" --kubeconfig "$(kubeconfig_of "$account")" 2>&1) || code=$?
  if [ "$code" = "$expected" ] && [[ $output == *"$said"* ]]; then ok; else bad "hook $* ends with $expected: $said" "$code: $output"; fi
}
render "$system" --show-only templates/tests/admission.yaml >"$folder/test.yaml"
kubectl apply --filename "$folder/test.yaml" >/dev/null
wait_until "the test may do its dry run" kubectl auth can-i create deployments.apps --namespace "$system" \
  --as "system:serviceaccount:$system:$release-test"
hook 0 "gets its sidecar" "$release-test" test "--namespace=$system"
kubectl delete --now --filename "$folder/test.yaml" >/dev/null 2>&1
render "$system" --show-only templates/installed.yaml >"$folder/installed.yaml"
kubectl apply --filename "$folder/installed.yaml" >/dev/null
# At once: it waits for what it needs, also for its own right.
hook 0 "gets its sidecar" "$release-installed" test "--namespace=$system" --wait=4m
kubectl delete --now --filename "$folder/installed.yaml" >/dev/null 2>&1
hook 75 "deployment/app in $work" "$release" pre-delete
kubectl delete --cascade=foreground --wait --namespace "$work" deployment app >/dev/null
hook 0 "no workload" "$release" pre-delete
expect_equal "nothing that it does is forbidden" "" "$(grep -i forbidden "$log" || true)"
kill "$process"
wait "$process" || bad "the webhook ends well" "$(tail "$log")"
process=

# ------------------------------------------------------------------ gone without a trace

helm uninstall "$release" --namespace "$system" --no-hooks >/dev/null
left() {
  kubectl get clusterroles,clusterrolebindings,mutatingwebhookconfigurations -o name \
    -l "app.kubernetes.io/instance=$release"
  kubectl get all,secrets,leases,configmaps,roles,rolebindings,serviceaccounts,poddisruptionbudgets,networkpolicies -o name \
    --namespace "$system" -l "app.kubernetes.io/instance=$release" --ignore-not-found
}
wait_until "nothing is left of the release" eval '[ -z "$(left)" ]'

# ------------------------------------------------------------------ without Helm

for how in --server-side=true --server-side=false; do
  for time in first second; do
    if output=$(kubectl apply $how --validate=strict --filename whichpod.yaml 2>&1) && [[ $output != *[Ww]arning* ]]; then
      ok
    else
      bad "kubectl apply $how of whichpod.yaml, the $time time" "$output"
    fi
    [ $time = second ] || kubectl patch mutatingwebhookconfiguration whichpod --type=json -p "[
      {\"op\": \"add\", \"path\": \"/webhooks/0/clientConfig/caBundle\", \"value\": \"$ca\"}]" >/dev/null
  done
  expect_equal "kubectl apply $how keeps the caBundle" "$ca" "$(ca_bundles)"
  kubectl delete --wait --timeout=180s --filename whichpod.yaml >/dev/null 2>&1
done

finish
