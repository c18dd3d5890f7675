{{/* Name of the release's objects: the release's name when it holds the chart's, else both. */}}
{{- define "alkhub.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "alkhub.operator" -}}
{{- printf "%s-operator" (include "alkhub.fullname" .) -}}
{{- end -}}

{{- define "alkhub.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "alkhub.operator" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- required "serviceAccount.name is needed when serviceAccount.create is false" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{/* What selects the operator's pods; never changes in a release's life. */}}
{{- define "alkhub.selector" -}}
app.kubernetes.io/name: alkhub-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* Labels that say whose an object is, without those that select the operator's pods. */}}
{{- define "alkhub.about" -}}
{{- with .Values.commonLabels }}{{ toYaml . }}
{{ end -}}
app.kubernetes.io/part-of: alkhub
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/* Labels of the operator's own objects. */}}
{{- define "alkhub.labels" -}}
{{ include "alkhub.selector" . }}
{{ include "alkhub.about" . }}
{{- end -}}

{{/* Where the first Hub and the test's are: a namespace that the operator keeps. */}}
{{- define "alkhub.hubNamespace" -}}
{{- default .Release.Namespace .Values.watch.namespace -}}
{{- end -}}

{{- define "alkhub.image" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{- define "alkhub.hubImage" -}}
{{- printf "%s:%s" .Values.hubDefaults.repository (default .Chart.AppVersion .Values.hubDefaults.tag) -}}
{{- end -}}

{{/* The Hub that `helm test` calls. */}}
{{- define "alkhub.testHub" -}}
{{- if .Values.test.hub -}}
{{- .Values.test.hub -}}
{{- else if .Values.hub.create -}}
{{- .Values.hub.name -}}
{{- else -}}
{{- include "alkhub.temporaryHub" . -}}
{{- end -}}
{{- end -}}

{{- define "alkhub.temporaryHub" -}}
{{- printf "%s-test" (include "alkhub.fullname" . | trunc 35 | trimSuffix "-") -}}
{{- end -}}
