{{- define "licet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "licet.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else if contains (include "licet.name" .) .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "licet.name" .) | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "licet.selector" -}}
app.kubernetes.io/name: {{ include "licet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "licet.labels" -}}
{{ include "licet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "licet.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "licet.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "licet.image" -}}
{{- with .Values.image.registry }}{{ . }}/{{ end }}
{{- if .Values.image.digest }}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest }}
{{- else }}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) }}
{{- end }}
{{- end }}

{{- define "licet.policyConfigMap" -}}
{{- default (printf "%s-policy" (include "licet.fullname" .)) .Values.existingPolicyConfigMap }}
{{- end }}

{{- define "licet.licensesSecret" -}}
{{- default (printf "%s-licenses" (include "licet.fullname" .)) .Values.existingLicensesSecret }}
{{- end }}

{{- /* The volume of the keys. Optional, as that of the licenses: what is missing grants nothing, and stops no agent. */}}
{{- define "licet.keysVolume" -}}
{{- if .Values.existingKeysSecret }}
{{- dict "secret" (dict "secretName" .Values.existingKeysSecret "optional" true) | toJson }}
{{- else }}
{{- $name := default (printf "%s-keys" (include "licet.fullname" .)) .Values.existingKeysConfigMap }}
{{- dict "configMap" (dict "name" $name "optional" true) | toJson }}
{{- end }}
{{- end }}

{{- /* config.yaml: the values, with what the mounts decide laid over them. */}}
{{- define "licet.config" -}}
{{- $listen := printf "%s:%v" .Values.metrics.address .Values.metrics.port }}
{{- $paths := dict "policy" "/etc/licet/policy.yaml" "policy_dir" "/etc/licet/policy.d" "licenses" "/etc/licet/licenses" "keys" "/etc/licet/keys" "run" "/run/licet" "state" "/var/lib/licet" "pins" "/sys/fs/bpf/licet" }}
{{- if .Values.hostUsers }}{{ $_ := set $paths "etc" "/proc/1/root/etc" }}{{ end }}
{{- mergeOverwrite (deepCopy .Values.config) (dict "listen" $listen "health_listen" (printf "127.0.0.1:%v" .Values.health.port) "paths" $paths) | toYaml }}
{{- end }}

{{- /* Empty before Kubernetes 1.30, where AppArmor has no field yet. */}}
{{- define "licet.hasAppArmorField" -}}
{{- if semverCompare ">=1.30.0-0" (default .Capabilities.KubeVersion.Version .Values.kubeVersion) }}yes{{ end }}
{{- end }}

{{- define "licet.appArmorAnnotation" -}}
{{- $profile := .Values.securityContext.appArmorProfile }}
{{- get (dict "Unconfined" "unconfined" "RuntimeDefault" "runtime/default") $profile.type | default (printf "localhost/%s" $profile.localhostProfile) }}
{{- end }}

{{- /* What is scraped, for either monitor, which is the argument: whose series they are, the rules ask for
job="licet", and a node is a better name than a pod. */}}
{{- define "licet.endpoint" -}}
port: metrics
path: /metrics
interval: {{ .interval }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ . }}
{{- end }}
relabelings:
  - {targetLabel: job, replacement: licet}
  - {sourceLabels: [__meta_kubernetes_pod_node_name], targetLabel: instance}
  {{- with .relabelings }}{{ toYaml . | nindent 2 }}{{ end }}
{{- with .metricRelabelings }}
metricRelabelings: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
