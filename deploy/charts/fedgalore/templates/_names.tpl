{{- define "fedgalore.prefix" -}}
{{- if eq .Values.nameOverride "-" }}{{ else }}{{ .Values.nameOverride | default .Release.Name | trunc 40 | trimSuffix "-" }}-{{ end }}
{{- end }}

{{- define "fedgalore.coordinator" -}}
{{ include "fedgalore.prefix" . }}coordinator
{{- end }}

{{- define "fedgalore.aggregator" -}}
{{ include "fedgalore.prefix" . }}aggregator
{{- end }}

{{- define "fedgalore.redis" -}}
{{ include "fedgalore.prefix" . }}redis
{{- end }}

{{- /* What a selector names never changes, so the version is not among it. */ -}}
{{- define "fedgalore.selector" -}}
app.kubernetes.io/name: {{ .part }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- end }}

{{- define "fedgalore.labels" -}}
{{ include "fedgalore.selector" . }}
app.kubernetes.io/part-of: fedgalore
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- end }}

{{- define "fedgalore.doorSecret" -}}
{{- if .Values.tls.certManager.enabled }}{{ include "fedgalore.coordinator" . }}-tls{{ else }}{{ .Values.tls.secret }}{{ end }}
{{- end }}
