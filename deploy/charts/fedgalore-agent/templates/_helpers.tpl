{{- define "agent.name" -}}
{{ .Values.nameOverride | default .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "agent.selector" -}}
app.kubernetes.io/name: agent
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "agent.labels" -}}
{{ include "agent.selector" . }}
app.kubernetes.io/part-of: fedgalore
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "agent.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "agent.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- define "agent.checks" -}}
{{- $v := .Values }}
{{- if and (not $v.insecure) (not $v.tls.secret) }}
  {{- fail "tls.secret: the coordinator asks an agent for its certificate; name a secret with tls.crt, tls.key and ca.crt, or, for a trial, set insecure: true" }}
{{- end }}
{{- if and (not $v.insecure) (not $v.joinToken.secret) }}
  {{- fail "joinToken.secret: an agent joins by a token, which `fedgalore agents invite NAME` prints; name a secret that holds it" }}
{{- end }}
{{- if not $v.config.coordinator }}
  {{- fail "config.coordinator: says where the coordinator is; give its address and port, or several, joined by commas" }}
{{- end }}
{{- if not $v.config.data }}
  {{- fail "config.data: names the data sets of this site; give one at least, with its files under /data" }}
{{- end }}
{{- if and $v.client (gt (int $v.replicas) 1) }}
  {{- fail "replicas: several agents cannot have one name; leave client empty, so that each pod has its own" }}
{{- end }}
{{- if and $v.tls.perPod $v.client }}
  {{- fail "tls.perPod: tells files apart by the pods' names; leave client empty, or give a secret with tls.crt, tls.key and ca.crt" }}
{{- end }}
{{- if hasKey $v.config "name" }}
  {{- fail "config.name: is set by client; leave it out of config" }}
{{- end }}
{{- if and $v.exampleData $v.data }}
  {{- fail "exampleData: would hide the site's data; set one of exampleData and data" }}
{{- end }}
{{- if not (or $v.exampleData $v.data) }}
  {{- fail "data: no volume holds this site's data; give one as in a pod, such as persistentVolumeClaim: {claimName: notes}" }}
{{- end }}
{{- if and $v.monitoring.podMonitor.enabled (not $v.monitoring.port) }}
  {{- fail "monitoring.port: there is nothing to scrape; give a port, such as 9102" }}
{{- end }}
{{- end }}
