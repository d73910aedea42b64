{{- define "whichpod.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Short enough that every suffix still fits into a label. */}}
{{- define "whichpod.fullname" -}}
{{- $name := include "whichpod.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- $name = .Values.fullnameOverride -}}
{{- else if not (contains $name .Release.Name) -}}
{{- $name = printf "%s-%s" .Release.Name $name -}}
{{- else -}}
{{- $name = .Release.Name -}}
{{- end -}}
{{- $name | trunc 45 | trimSuffix "-" -}}
{{- end -}}

{{- define "whichpod.selectorLabels" -}}
app.kubernetes.io/name: {{ include "whichpod.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Of every object; the chart's own win over commonLabels. */}}
{{- define "whichpod.labels" -}}
{{- $own := dict
    "helm.sh/chart" (printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-")
    "app.kubernetes.io/version" .Chart.AppVersion
    "app.kubernetes.io/managed-by" .Release.Service -}}
{{- merge $own (include "whichpod.selectorLabels" . | fromYaml) .Values.commonLabels | toYaml -}}
{{- end -}}

{{/*
Of a pod of ours: a list of the root context and the pod's part. The label whichpod.io/component, on the pod and on what
makes it, keeps the webhook from being asked about it, in whatever namespace it is.
*/}}
{{- define "whichpod.podLabels" -}}
{{- $root := index . 0 -}}
{{- $own := dict "whichpod.io/component" (index . 1) -}}
{{- merge $own (include "whichpod.selectorLabels" $root | fromYaml) $root.Values.podLabels $root.Values.commonLabels | toYaml -}}
{{- end -}}

{{- define "whichpod.webhookSelector" -}}
{{ include "whichpod.selectorLabels" . }}
whichpod.io/component: webhook
{{- end -}}

{{- define "whichpod.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "whichpod.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.create is false: name one that exists in serviceAccount.name" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* The name of an image: a list of the root context and the image's values. */}}
{{- define "whichpod.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- $repository := $image.repository -}}
{{- with $root.Values.registry -}}
{{- $repository = printf "%s/%s" . $repository -}}
{{- end -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $repository (default $root.Chart.AppVersion $image.tag | toString) -}}
{{- end -}}
{{- end -}}

{{- define "whichpod.tlsSecretName" -}}
{{- default (printf "%s-webhook-tls" (include "whichpod.fullname" .)) .Values.certificates.secretName -}}
{{- end -}}

{{- define "whichpod.leaseName" -}}
{{- printf "%s-webhook" (include "whichpod.fullname" .) -}}
{{- end -}}

{{/* What the webhook injects: its arguments. Empty values are left to the webhook. */}}
{{- define "whichpod.injectionArguments" -}}
{{- $sidecar := .Values.sidecar -}}
{{- $resources := $sidecar.resources -}}
{{- $arguments := list
    (printf "--image=%s" (include "whichpod.image" (list . $sidecar.image)))
    (printf "--image-pull-policy=%s" $sidecar.image.pullPolicy) -}}
{{- range $sidecar.imagePullSecrets -}}
{{- $arguments = append $arguments (printf "--image-pull-secret=%s" .) -}}
{{- end -}}
{{- $arguments = concat $arguments (list
    (printf "--cpu-request=%s" (toString $resources.requests.cpu))
    (printf "--memory-request=%s" (toString $resources.requests.memory))
    (printf "--memory-limit=%s" (toString $resources.limits.memory))) -}}
{{- with $resources.limits.cpu -}}
{{- $arguments = append $arguments (printf "--cpu-limit=%s" (toString .)) -}}
{{- end -}}
{{- $arguments = concat $arguments (list
    (printf "--run-as-user=%s" (ternary (int64 $sidecar.runAsUser | toString) "none" (not (kindIs "invalid" $sidecar.runAsUser))))
    (printf "--headless-services=%s" .Values.headlessServices)
    (printf "--native-sidecar=%s" (toString .Values.nativeSidecar))) -}}
{{- with .Values.clusterDomain -}}
{{- $arguments = append $arguments (printf "--cluster-domain=%s" .) -}}
{{- end -}}
{{- range .Values.clusterDns -}}
{{- $arguments = append $arguments (printf "--cluster-dns=%s" .) -}}
{{- end -}}
{{- range .Values.protectedNamespaces -}}
{{- $arguments = append $arguments (printf "--protected-namespace=%s" .) -}}
{{- end -}}
{{- $defaults := dict
    "upstreams" $sidecar.upstreams
    "redirect" $sidecar.redirect
    "balance" $sidecar.balance
    "protocol" $sidecar.protocol
    "log-format" $sidecar.logFormat
    "config" $sidecar.config
    "app-ports" $sidecar.appPorts -}}
{{- range $annotation, $value := $sidecar.settings -}}
{{- $_ := set $defaults $annotation (kindIs "string" $value | ternary $value (toJson $value)) -}}
{{- end -}}
{{- range $annotation, $value := $defaults -}}
{{- with trim $value -}}
{{- /* Kubernetes would put the value of a variable in the place of $(NAME). */ -}}
{{- $arguments = append $arguments (printf "--default=%s=%s" $annotation (replace "$(" "$$(" .)) -}}
{{- end -}}
{{- end -}}
{{- toYaml $arguments -}}
{{- end -}}

{{/* Of every pod of ours: passes the Pod Security Standard "restricted". */}}
{{- define "whichpod.podSecurityContext" -}}
runAsNonRoot: true
{{- with .Values.runAsUser }}
runAsUser: {{ int64 . }}
runAsGroup: {{ int64 . }}
{{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "whichpod.containerSecurityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The pod of a Job or a test that runs the webhook's binary once: a list of the root context and its arguments. */}}
{{- define "whichpod.oneShotPodSpec" -}}
{{- $root := index . 0 -}}
serviceAccountName: {{ index . 1 }}
automountServiceAccountToken: true
enableServiceLinks: false
restartPolicy: Never
{{- with $root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- include "whichpod.podSecurityContext" $root | nindent 2 }}
containers:
  - name: whichpod
    image: {{ include "whichpod.image" (list $root $root.Values.image) | quote }}
    imagePullPolicy: {{ $root.Values.image.pullPolicy }}
    args: {{- toYaml (slice . 2) | nindent 6 }}
    securityContext: {{- include "whichpod.containerSecurityContext" $root | nindent 6 }}
    resources:
      requests:
        cpu: 10m
        memory: 32Mi
      limits:
        memory: 128Mi
    terminationMessagePolicy: FallbackToLogsOnError
{{- end -}}

{{/* True for a map of metadata (a CEL text) that has an annotation of ours: a misspelt one deserves its warning. */}}
{{- define "whichpod.celAnnotated" -}}
has({{ . }}.annotations) && {{ . }}.annotations.exists(key, key.startsWith('whichpod.io/'))
{{- end -}}

{{/* Nothing in these is ever injected. */}}
{{- define "whichpod.protectedNamespaces" -}}
{{- toYaml (concat (list "kube-system" "kube-public" "kube-node-lease") .Values.protectedNamespaces | uniq) -}}
{{- end -}}

{{/* Annotations of what is there only while a hook tries whether admission works: the hook and the weight, of which the
lower one is the earlier. */}}
{{- define "whichpod.trialHook" -}}
helm.sh/hook: {{ index . 0 }}
helm.sh/hook-weight: {{ index . 1 | quote }}
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
helm.sh/hook-output-log-policy: hook-failed
{{- end -}}

{{/* The account of such a hook: the root context, its name and the hook. A dry run needs the right to do it, which nothing
else of ours has. */}}
{{- define "whichpod.mayTry" -}}
{{- $root := index . 0 -}}
{{- $name := index . 1 -}}
{{- $annotations := include "whichpod.trialHook" (list (index . 2) "-1") -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "whichpod.labels" $root | nindent 4 }}
  annotations: {{- $annotations | nindent 4 }}
automountServiceAccountToken: false
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "whichpod.labels" $root | nindent 4 }}
  annotations: {{- $annotations | nindent 4 }}
rules:
  - apiGroups: [apps]
    resources: [deployments]
    verbs: [create]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ $name }}
  namespace: {{ $root.Release.Namespace }}
  labels: {{- include "whichpod.labels" $root | nindent 4 }}
  annotations: {{- $annotations | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ $name }}
subjects:
  - kind: ServiceAccount
    name: {{ $name }}
    namespace: {{ $root.Release.Namespace }}
{{- end -}}
