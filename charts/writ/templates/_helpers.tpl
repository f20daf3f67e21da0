{{/* Labels of an object. (list root component) */}}
{{- define "writ.labels" -}}
{{- $root := index . 0 -}}
{{ include "writ.selector" . }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: writ
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
{{- end }}

{{/* Labels by which pods are selected: these cannot change in an upgrade. */}}
{{- define "writ.selector" -}}
app.kubernetes.io/name: writ
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* An image's reference, by digest where one is given. (list root name-in-values) */}}
{{- define "writ.image" -}}
{{- $images := (index . 0).Values.images -}}
{{- $image := index $images (index . 1) -}}
{{- $name := printf "%s/%s" $images.registry $image.name -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ $images.tag | default (index . 0).Chart.AppVersion }}
{{- end -}}
{{- end }}

{{/* Images that the admission policy takes: the present one, those named, and the one that the release
before has as its first, so that pods admitted while the webhook's pods are replaced pass.
(list root name-in-values key-of-the-ConfigMap) */}}
{{- define "writ.admitted" -}}
{{- $root := index . 0 -}}
{{- $images := list (include "writ.image" (list $root (index . 1))) -}}
{{- $images = concat $images (index $root.Values.sidecar.alsoAdmitted (index . 1)) -}}
{{- $before := lookup "v1" "ConfigMap" $root.Release.Namespace "writ-admission" -}}
{{- if $before -}}
{{- $first := index (splitList "," (index $before.data (index . 2))) 0 -}}
{{- if or (not $root.Values.images.pinned) (contains "@sha256:" $first) -}}
{{- $images = append $images $first -}}
{{- end -}}
{{- end -}}
{{- uniq $images | join "," -}}
{{- end }}

{{/* Names in values.images of the images that this release runs, as JSON. */}}
{{- define "writ.used" -}}
{{- $used := list "sidecar" "init" "webhook" "operator" -}}
{{- if include "writ.nodeAgent" . }}{{ $used = append $used "node" }}{{ end -}}
{{- if .Values.devChain.enabled }}{{ $used = append $used "devchain" }}{{ end -}}
{{ $used | toJson }}
{{- end }}

{{/* Namespaces in which only this release's pods are, as JSON. */}}
{{- define "writ.namespaces" -}}
{{- $namespaces := list .Release.Namespace -}}
{{- if include "writ.relayed" . }}{{ $namespaces = append $namespaces (include "writ.relayNamespace" . | trim) }}{{ end -}}
{{- if include "writ.nodeAgent" . }}{{ $namespaces = append $namespaces .Values.redirect.node.namespace }}{{ end -}}
{{ uniq $namespaces | toJson }}
{{- end }}

{{/* csi, node or hostPath. The development SPIRE brings no driver, so the node agent is one where it runs. */}}
{{- define "writ.socketKind" -}}
{{- $development := ternary "node" "hostPath" (eq .Values.redirect.by "node") -}}
{{- .Values.spire.socket.kind | default (ternary $development "csi" .Values.spire.enabled) -}}
{{- end }}

{{/* The CSI driver that brings the socket; empty with hostPath. */}}
{{- define "writ.socketDriver" -}}
{{- get (dict "csi" .Values.spire.socket.csiDriver "node" "workload-api.writ.dev") (include "writ.socketKind" .) -}}
{{- end }}

{{/* Not empty where there is a node agent. */}}
{{- define "writ.nodeAgent" -}}
{{- if or (eq .Values.redirect.by "node") (eq (include "writ.socketKind" .) "node") }}true{{ end -}}
{{- end }}

{{/* Folders of nodes that agents may not mount: those named, and what the socket's way makes worth protecting. */}}
{{- define "writ.protectedPaths" -}}
{{- $paths := .Values.sidecar.protectedPaths -}}
{{- if eq (include "writ.socketKind" .) "node" -}}
{{- $paths = concat $paths (list .Values.spire.socket.hostPath .Values.spire.socket.kubelet) -}}
{{- end -}}
{{- uniq $paths | join "," -}}
{{- end }}

{{/* Endpoints of the head witnesses of the Chain that is made here, as JSON. */}}
{{- define "writ.witnessed" -}}
{{- if .Values.devChain.enabled -}}
{{ list (printf "http://writ-devchain.%s.svc.%s:8545" .Release.Namespace .Values.clusterDomain) | toJson }}
{{- else -}}
{{ .Values.chain.witnesses.endpoints | default .Values.chain.endpoints | toJson }}
{{- end -}}
{{- end }}

{{/* How many of them must agree. */}}
{{- define "writ.needed" -}}
{{ .Values.chain.witnesses.needed | default (add1 (div (include "writ.witnessed" . | fromJsonArray | len) 2)) }}
{{- end }}

{{/* Not empty where a relay serves the Chain that is made here. */}}
{{- define "writ.relayed" -}}
{{- if and .Values.relay.enabled (or .Values.devChain.enabled .Values.chain.chainId) }}true{{ end -}}
{{- end }}

{{/* Namespace of relay and witnesses: the release's, where the socket comes by CSI. hostPath takes a namespace that is
not `restricted`. */}}
{{- define "writ.relayNamespace" -}}
{{- $own := ternary .Release.Namespace "writ-relay" (ne (include "writ.socketKind" .) "hostPath") -}}
{{ .Values.relay.namespace | default $own }}
{{- end }}

{{- define "writ.relayAddress" -}}
writ-relay.{{ include "writ.relayNamespace" . }}.svc.{{ .Values.clusterDomain }}:15900
{{- end }}

{{/* SPIFFE ID of a service account of relay or witness. (list root account) */}}
{{- define "writ.relayId" -}}
{{- $root := index . 0 -}}
spiffe://{{ $root.Values.spire.trustDomain }}/ns/{{ include "writ.relayNamespace" $root }}/sa/{{ index . 1 }}
{{- end }}

{{/* The volume with the Workload API's socket. */}}
{{- define "writ.workloadApi" -}}
- name: workload-api
  {{- with include "writ.socketDriver" . }}
  csi: {driver: {{ . }}, readOnly: true}
  {{- else }}
  hostPath: {path: {{ .Values.spire.socket.hostPath }}, type: Directory}
  {{- end }}
{{- end }}

{{/* What all our pods have in common. (list root component) */}}
{{- define "writ.pod" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $root.Values.images.pullSecrets }}
imagePullSecrets: {{- range . }}
  - {name: {{ . }}}
{{- end }}
{{- end }}
{{- with $root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
terminationGracePeriodSeconds: 30
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Replicas apart. (list root component) */}}
{{- define "writ.spread" -}}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "writ.selector" $ | nindent 8 }}
  {{- end }}
{{- end }}

{{- define "writ.confined" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* Namespaces that are never injected. */}}
{{- define "writ.exempt" -}}
[kube-system, {{ .Release.Namespace }}]
{{- end }}

{{/* Refuses values that cannot work together, saying what to set. */}}
{{- define "writ.check" -}}
{{- if not .Values.spire.trustDomain }}
{{- fail "\n\nspire.trustDomain: name your SPIRE's trust domain, for example --set spire.trustDomain=example.org\n" }}
{{- end }}
{{- if .Values.images.pinned }}
{{- range include "writ.used" . | fromJsonArray }}
{{- if not (index $.Values.images .).digest }}
{{- fail (printf "\n\nimages.%s.digest: missing, with images.pinned; give --values digests.yaml of the release\n" .) }}
{{- end }}
{{- end }}
{{- range concat .Values.sidecar.alsoAdmitted.init .Values.sidecar.alsoAdmitted.sidecar }}
{{- if not (contains "@sha256:" .) }}
{{- fail (printf "\n\nsidecar.alsoAdmitted: %s has no digest, with images.pinned\n" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- if and .Values.devChain.enabled .Values.chain.chainId }}
{{- fail "\n\ndevChain.enabled and chain.chainId: choose one; the development chain makes its own Chain\n" }}
{{- end }}
{{- if and .Values.chain.chainId (not .Values.chain.endpoints) }}
{{- fail "\n\nchain.endpoints: name at least one JSON-RPC endpoint of the chain\n" }}
{{- end }}
{{- if .Values.chain.chainId }}
{{- range list "agentRegistry" "policyRegistry" "approvalRegistry" "anchor" "multisig" "timelock" }}
{{- if not (get $.Values.chain.contracts .) }}
{{- fail (printf "\n\nchain.contracts.%s: missing; `writ chain deploy` deploys the contracts and prints all six addresses\n" .) }}
{{- end }}
{{- end }}
{{- end }}
{{- $witnesses := include "writ.witnessed" . | fromJsonArray | len }}
{{- $needed := .Values.chain.witnesses.needed | default 0 | int }}
{{- if and $needed (or (gt $needed $witnesses) (le (mul 2 $needed) $witnesses)) }}
{{- fail (printf "\n\nchain.witnesses.needed: %d of %d; it must be more than half of the endpoints, at most all\n" $needed $witnesses) }}
{{- end }}
{{- if and (include "writ.relayed" .) (eq (include "writ.relayNamespace" .) .Release.Namespace) (eq (include "writ.socketKind" .) "hostPath") }}
{{- fail "\n\nrelay.namespace: SPIRE's socket by hostPath takes a namespace of its own; leave relay.namespace out, or set relay.enabled=false\n" }}
{{- end }}
{{- if and .Values.spire.enabled (eq (include "writ.socketKind" .) "csi") }}
{{- fail "\n\nspire.socket.kind: the development SPIRE brings no CSI driver; leave it out, or set node or hostPath\n" }}
{{- end }}
{{- if and (eq .Values.webhook.certificates.source "cert-manager") (not .Values.webhook.certificates.issuer.name) }}
{{- fail "\n\nwebhook.certificates.issuer.name: name the cert-manager issuer, or leave certificates.source at self\n" }}
{{- end }}
{{- end }}

{{/* Rights and identity of a hook's Job, and the Job: our own program, no shell.
(dict root name hook log rules args) */}}
{{- define "writ.hook" -}}
{{- $meta := printf "helm.sh/hook: %s\nhelm.sh/hook-delete-policy: before-hook-creation,hook-succeeded" .hook -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "writ.labels" (list .root "hook") | nindent 4 }}
  annotations:
    {{- $meta | nindent 4 }}
    helm.sh/hook-weight: "-10"
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata:
  name: {{ .name }}
  labels: {{- include "writ.labels" (list .root "hook") | nindent 4 }}
  annotations:
    {{- $meta | nindent 4 }}
    helm.sh/hook-weight: "-10"
rules: {{- toYaml .rules | nindent 2 }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ .name }}
  labels: {{- include "writ.labels" (list .root "hook") | nindent 4 }}
  annotations:
    {{- $meta | nindent 4 }}
    helm.sh/hook-weight: "-9"
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: {{ .name }}}
subjects:
  - {kind: ServiceAccount, name: {{ .name }}, namespace: {{ .root.Release.Namespace }}}
---
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels: {{- include "writ.labels" (list .root "hook") | nindent 4 }}
  annotations:
    {{- $meta | nindent 4 }}
    helm.sh/hook-output-log-policy: {{ .log }}
spec:
  backoffLimit: 0
  activeDeadlineSeconds: 120
  ttlSecondsAfterFinished: 86400
  template:
    metadata:
      labels: {{- include "writ.labels" (list .root "hook") | nindent 8 }}
    spec:
      restartPolicy: Never
      serviceAccountName: {{ .name }}
      {{- include "writ.pod" (list .root "hook") | nindent 6 }}
      containers:
        - name: hook
          image: {{ include "writ.image" (list .root "operator") }}
          imagePullPolicy: {{ .root.Values.images.pullPolicy }}
          command: [/usr/bin/writ-hook]
          args: {{- toYaml .args | nindent 12 }}
          terminationMessagePolicy: FallbackToLogsOnError
          {{- include "writ.confined" . | nindent 10 }}
          resources:
            requests: {cpu: 10m, memory: 32Mi}
            limits: {memory: 128Mi}
{{- end }}
