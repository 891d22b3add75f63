{{- define "segue.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "segue.labels" -}}
app.kubernetes.io/name: segue
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* (dict "root" $ "component" NAME): the labels that pod selectors match. */}}
{{- define "segue.selector" -}}
app.kubernetes.io/name: segue
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "segue.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end -}}

{{- define "segue.head" -}}
{{ include "segue.name" . }}-head-svc:6379
{{- end -}}

{{/* The routers' addresses, as --target and --router take them. */}}
{{- define "segue.target" -}}
{{- $name := include "segue.name" . -}}
{{- range $i := until (int .Values.routers) }}{{ if $i }},{{ end }}{{ $name }}-router:{{ add 7411 $i }}{{ end -}}
{{- end -}}

{{- define "segue.tokenSecret" -}}
{{- .Values.ray.tokenSecret | default (printf "%s-ray-token" (include "segue.name" .)) -}}
{{- end -}}

{{- define "segue.serviceAccount" -}}
{{ include "segue.name" . }}
{{- end -}}

{{/* The head's service account: Ray's autoscaler calls Kubernetes from there. */}}
{{- define "segue.headServiceAccount" -}}
{{ include "segue.serviceAccount" . }}{{ if .Values.autoscaling.enabled }}-head{{ end }}
{{- end -}}

{{- define "segue.numPrefill" -}}
{{- if .Values.shared.enabled }}{{ .Values.shared.replicas }}{{ else }}{{ .Values.prefill.replicas }}{{ end -}}
{{- end -}}

{{- define "segue.numDecode" -}}
{{- if .Values.shared.enabled }}{{ .Values.shared.replicas }}{{ else }}{{ .Values.decode.replicas }}{{ end -}}
{{- end -}}

{{- define "segue.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
runAsGroup: 1000
fsGroup: 1000
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "segue.containerSecurity" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Of a process that connects as a client: drains, probes by hand, `helm test`. */}}
{{- define "segue.clientEnv" -}}
{{- with .Values.security.operatorKeySecret }}
- name: SEGUE_API_KEY
  valueFrom: {secretKeyRef: {name: {{ . }}, key: key}}
{{- end }}
{{- if .Values.security.tls.secret }}
- {name: SEGUE_TLS_CA, value: /etc/segue/tls/ca.crt}
- {name: SEGUE_TLS_CERT, value: /etc/segue/tls/tls.crt}
- {name: SEGUE_TLS_KEY, value: /etc/segue/tls/tls.key}
- {name: SEGUE_TLS_SERVER_NAME, value: {{ .Values.security.tls.serverName | quote }}}
{{- end }}
{{- end -}}

{{/* Of every pod that is a node of the Ray cluster. */}}
{{- define "segue.rayEnv" -}}
- {name: RAY_AUTH_MODE, value: token}
- name: RAY_AUTH_TOKEN
  valueFrom: {secretKeyRef: {name: {{ include "segue.tokenSecret" . }}, key: auth_token}}
- {name: RAY_USAGE_STATS_ENABLED, value: "0"}
- {name: RAY_worker_niceness, value: "0"}
{{- end -}}

{{/* Of every process that takes part in a turn. */}}
{{- define "segue.tracesEnv" -}}
{{- with .Values.traces }}
{{- if .endpoint }}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .endpoint | quote }}}
- {name: OTEL_EXPORTER_OTLP_PROTOCOL, value: {{ .protocol | quote }}}
{{- if not (hasKey .env "OTEL_RESOURCE_ATTRIBUTES") }}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: NODE_NAME
  valueFrom: {fieldRef: {fieldPath: spec.nodeName}}
- name: OTEL_RESOURCE_ATTRIBUTES
  value: {{ printf "k8s.namespace.name=%s,k8s.pod.name=$(POD_NAME),k8s.node.name=$(NODE_NAME)" $.Release.Namespace | quote }}
{{- end }}
{{- range $name, $value := .env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- with .headersSecret }}
- name: OTEL_EXPORTER_OTLP_HEADERS
  valueFrom: {secretKeyRef: {name: {{ . }}, key: headers}}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{- define "segue.modelEnv" -}}
- {name: HF_HOME, value: /var/cache/segue/hub}
{{- with .Values.model.hubTokenSecret }}
- name: HF_TOKEN
  valueFrom: {secretKeyRef: {name: {{ . }}, key: token}}
{{- end }}
{{- end -}}

{{- define "segue.modelMounts" -}}
- {name: hub-cache, mountPath: /var/cache/segue/hub}
{{- if .Values.model.volume }}
- {name: model, mountPath: {{ .Values.model.mountPath }}, readOnly: true}
{{- end }}
{{- end -}}

{{- define "segue.modelVolumes" -}}
- name: hub-cache
  {{- toYaml .Values.model.hubCache | nindent 2 }}
{{- if .Values.model.volume }}
- name: model
  {{- toYaml .Values.model.volume | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "segue.tlsMounts" -}}
{{- if .Values.security.tls.secret }}
- {name: tls, mountPath: /etc/segue/tls, readOnly: true}
{{- end }}
{{- end -}}

{{- define "segue.tlsVolumes" -}}
{{- with .Values.security.tls.secret }}
- name: tls
  secret: {secretName: {{ . }}, defaultMode: 0440}
{{- end }}
{{- end -}}

{{/* The pod's placement: (dict "of" VALUES). */}}
{{- define "segue.placement" -}}
{{- with .of.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* A probe of a metrics port, which needs no certificate: (dict "root" $ "path" PATH "port" PORT). */}}
{{- define "segue.httpProbe" -}}
httpGet:
  path: {{ .path }}
  port: {{ .port }}
  {{- if .root.Values.security.tls.secret }}
  scheme: HTTPS
  {{- end }}
{{- end -}}
