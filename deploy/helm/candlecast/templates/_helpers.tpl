{{/* Names, labels, and what every container has in common. */}}
{{- define "candlecast.name" -}}
{{- if contains .Chart.Name .Release.Name -}}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else -}}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{- end -}}
{{- end -}}

{{- define "candlecast.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .service }}
{{- end -}}

{{- define "candlecast.labels" -}}
{{ include "candlecast.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end -}}

{{/* The user of a service: its own, or that of all. */}}
{{- define "candlecast.user" -}}
{{- $users := .root.Values.kafka.users -}}
{{- toJson (get $users .service | default (get $users "all") | default dict) -}}
{{- end -}}

{{- define "candlecast.env" -}}
{{- $kafka := .root.Values.kafka -}}
{{- $user := include "candlecast.user" . | fromJson -}}
- {name: CANDLECAST_BOOTSTRAP, value: {{ $kafka.bootstrap | quote }}}
- {name: CANDLECAST_REPLICATION, value: {{ $kafka.replication | quote }}}
- {name: CANDLECAST_SECURITY_PROTOCOL, value: {{ $kafka.securityProtocol }}}
{{- if hasPrefix "SASL" $kafka.securityProtocol }}
- {name: CANDLECAST_SASL_MECHANISM, value: {{ $kafka.saslMechanism }}}
- {name: CANDLECAST_SASL_USERNAME, value: {{ required (printf "kafka.users.%s or kafka.users.all: %s needs a user" .service $kafka.securityProtocol) $user.username | quote }}}
- {name: CANDLECAST_SASL_PASSWORD_FILE, value: /secrets/kafka/password}
{{- end }}
{{- if hasSuffix "SSL" $kafka.securityProtocol }}
{{- if $kafka.ca.secret }}
- {name: CANDLECAST_SSL_CA, value: /secrets/ca/ca.crt}
{{- end }}
{{- if $kafka.clientSecret }}
- {name: CANDLECAST_SSL_CERTIFICATE, value: /secrets/client/tls.crt}
- {name: CANDLECAST_SSL_KEY, value: /secrets/client/tls.key}
{{- end }}
{{- end }}
{{- if and .root.Values.traces.endpoint (has .service (list "producer" "worker" "api")) }}
- {name: CANDLECAST_TRACES, value: "true"}
- {name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ .root.Values.traces.endpoint | quote }}}
{{- end }}
{{- range $name, $value := .root.Values.env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- range $name, $value := (get .root.Values .service).env }}
- {name: {{ $name }}, value: {{ $value | quote }}}
{{- end }}
{{- end -}}

{{- define "candlecast.mounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if hasPrefix "SASL" .root.Values.kafka.securityProtocol }}
- {name: kafka, mountPath: /secrets/kafka, readOnly: true}
{{- end }}
{{- if hasSuffix "SSL" .root.Values.kafka.securityProtocol }}
{{- if .root.Values.kafka.ca.secret }}
- {name: ca, mountPath: /secrets/ca, readOnly: true}
{{- end }}
{{- if .root.Values.kafka.clientSecret }}
- {name: client, mountPath: /secrets/client, readOnly: true}
{{- end }}
{{- end }}
{{- end -}}

{{- define "candlecast.volumes" -}}
{{- $user := include "candlecast.user" . | fromJson -}}
- {name: tmp, emptyDir: {}}
{{- if hasPrefix "SASL" .root.Values.kafka.securityProtocol }}
- name: kafka
  secret:
    secretName: {{ required (printf "kafka.users.%s.secret: the Secret of its password" .service) $user.secret }}
    items: [{key: {{ $user.key | default "password" }}, path: password}]
{{- end }}
{{- if hasSuffix "SSL" .root.Values.kafka.securityProtocol }}
{{- with .root.Values.kafka.ca }}{{- if .secret }}
- name: ca
  secret:
    secretName: {{ .secret }}
    items: [{key: {{ .key | default "ca.crt" }}, path: ca.crt}]
{{- end }}{{- end }}
{{- if .root.Values.kafka.clientSecret }}
- name: client
  secret: {secretName: {{ .root.Values.kafka.clientSecret }}}
{{- end }}
{{- end }}
{{- end -}}

{{/* What a pod has whatever it runs: nobody's rights, a read-only root. */}}
{{- define "candlecast.pod" -}}
serviceAccountName: {{ include "candlecast.name" .root }}
automountServiceAccountToken: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  seccompProfile: {type: RuntimeDefault}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .root.Values.affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- end -}}

{{- define "candlecast.container" -}}
image: {{ (get .root.Values .service).repository | default .root.Values.image.repository }}:{{ .root.Values.image.tag | default .root.Chart.AppVersion }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
resources: {{ toJson (get .root.Values .service).resources }}
{{- end -}}

{{- define "candlecast.probes" -}}
startupProbe:
  httpGet: {path: /livez, port: {{ .port }}}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: {{ .port }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: {{ .port }}}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end -}}
