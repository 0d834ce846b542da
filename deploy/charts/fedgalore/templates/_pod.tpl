{{- define "fedgalore.rights" -}}
automountServiceAccountToken: false
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "fedgalore.locked" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "fedgalore.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* Variables of whoever talks to Redis and the blobs: coordinator and aggregator. */ -}}
{{- define "fedgalore.env" -}}
{{- with .Values.blobs.bucket -}}
- name: FEDGALORE_BLOBS
  value: {{ . | quote }}
{{ end -}}
{{- if .Values.redis.urlSecret -}}
- name: FEDGALORE_REDIS_URL
  valueFrom:
    secretKeyRef: {name: {{ .Values.redis.urlSecret }}, key: {{ .Values.redis.urlKey }}}
{{- else -}}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ .Values.redis.passwordSecret }}, key: password}
- name: FEDGALORE_REDIS_URL
  value: redis://:$(REDIS_PASSWORD)@{{ include "fedgalore.redis" . }}:6379/0
{{- end }}
{{- if not (hasKey .Values.settings "FEDGALORE_THREADS") }}
- name: FEDGALORE_THREADS # of the aggregator: the whole CPUs of its container's limit
  value: auto
{{- end }}
{{- range $name, $value := .Values.settings }}
- name: {{ $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- with .Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "fedgalore.aggregatorMetrics" -}}
{{- if .Values.monitoring.aggregatorPort }}
- name: FEDGALORE_AGGREGATOR_METRICS_PORT
  value: {{ .Values.monitoring.aggregatorPort | quote }}
- name: FEDGALORE_METRICS_HOST
  value: 0.0.0.0
{{- end }}
{{- end }}

{{- define "fedgalore.mounts" -}}
- {name: blobs, mountPath: /var/lib/fedgalore}
- {name: tmp, mountPath: /tmp}
{{- if .Values.config }}
- {name: config, mountPath: /etc/fedgalore, readOnly: true}
{{- end }}
{{- end }}

{{- define "fedgalore.volumes" -}}
- name: blobs
  {{- if .Values.blobs.bucket }}
  emptyDir: {sizeLimit: {{ .Values.blobs.size }}} # copies and work in progress
  {{- else }}
  persistentVolumeClaim: {claimName: {{ .Values.blobs.existingClaim | default (printf "%sblobs" (include "fedgalore.prefix" .)) }}}
  {{- end }}
- name: tmp
  emptyDir: {}
{{- if .Values.config }}
- name: config
  configMap: {name: {{ include "fedgalore.coordinator" . }}}
{{- end }}
{{- end }}

{{- define "fedgalore.placement" -}}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .root.Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .of.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .of.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
