{{- /* What values may be, one by one, is in values.schema.json; here is what does not fit together. */ -}}
{{- define "fedgalore.checks" -}}
{{- $v := .Values }}
{{- if not $v.insecure }}
  {{- if not (include "fedgalore.doorSecret" .) }}
    {{- fail "tls.secret: both doors need a certificate; name a secret with tls.crt, tls.key and ca.crt, or set tls.certManager.enabled, or, for a trial inside a cluster, insecure: true" }}
  {{- end }}
  {{- if not $v.operatorKey.secret }}
    {{- fail "operatorKey.secret: both doors ask for credentials; name a secret that holds the first operator's key, of 32 characters or more" }}
  {{- end }}
{{- end }}
{{- if and $v.tls.certManager.enabled (not $v.tls.certManager.issuer.name) }}
  {{- fail "tls.certManager.issuer.name: cert-manager needs an issuer; name one" }}
{{- end }}
{{- if and (not $v.redis.urlSecret) (not $v.redis.passwordSecret) }}
  {{- fail "redis.passwordSecret: the chart's own Redis needs a password; name a secret with the key password, or give redis.urlSecret for a Redis of yours" }}
{{- end }}
{{- $shared := or (gt (int $v.replicas) 1) $v.aggregator.separate }}
{{- if and $v.blobs.bucket $v.blobs.existingClaim }}
  {{- fail "blobs.bucket, blobs.existingClaim: blobs are in one place; give one of the two" }}
{{- end }}
{{- if and $shared (not $v.blobs.bucket) (not $v.blobs.existingClaim) (ne $v.blobs.accessMode "ReadWriteMany") }}
  {{- fail "blobs.accessMode: several replicas, or a separate aggregator, share the blobs; set ReadWriteMany with a class that offers it, or name blobs.existingClaim or blobs.bucket" }}
{{- end }}
{{- if and (gt (int $v.aggregator.gpu.count) 0) (not $v.aggregator.separate) }}
  {{- fail "aggregator.gpu.count: the doors need no GPU; set aggregator.separate: true, so that the aggregator has pods of its own" }}
{{- end }}
{{- if and $v.insecure (or $v.ingress.enabled $v.gateway.enabled) }}
  {{- fail "insecure: doors that ask for no credentials are not shown to the world; leave ingress.enabled and gateway.enabled false, or set up tls and operatorKey" }}
{{- end }}
{{- if and $v.ingress.enabled (not (and $v.ingress.restHost $v.ingress.grpcHost)) }}
  {{- fail "ingress.restHost, ingress.grpcHost: a proxy that passes TLS through tells the doors apart by their names; give both" }}
{{- end }}
{{- if and $v.gateway.enabled (not (and $v.gateway.restHost $v.gateway.grpcHost $v.gateway.parents)) }}
  {{- fail "gateway: parents, restHost and grpcHost say which listener leads where; give all three" }}
{{- end }}
{{- if and $v.monitoring.serviceMonitor.enabled (not $v.insecure) (not $v.monitoring.serviceMonitor.viewerKey.secret) }}
  {{- fail "monitoring.serviceMonitor.viewerKey.secret: /metrics asks for a key of role viewer; name a secret that holds one" }}
{{- end }}
{{- range $name, $value := $v.settings }}
  {{- if not (hasPrefix "FEDGALORE_" $name) }}
    {{- fail (printf "settings.%s: is no setting; they begin with FEDGALORE_, and extraEnv takes other variables" $name) }}
  {{- end }}
{{- end }}
{{- $drain := float64 (get $v.settings "FEDGALORE_DRAIN_S" | default $v.config.drain_s | default 0) }}
{{- if gt (addf (maxf $drain 10) 10) (float64 $v.terminationGracePeriodSeconds) }}
  {{- fail (printf "terminationGracePeriodSeconds: a coordinator ends within the greater of FEDGALORE_DRAIN_S (%v) and 10 s, and 10 s more; give it that long" $drain) }}
{{- end }}
{{- end }}
