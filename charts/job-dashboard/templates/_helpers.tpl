{{/*
Names and labels that several templates share. A file whose name begins with `_` renders no object.
*/}}

{{- define "job-dashboard.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 53 | trimSuffix "-" }}
{{- end }}

{{/*
The name of the objects. A release named `job-dashboard` gives `job-dashboard`; any other release has its own name in
front, so that two releases in one namespace do not meet.
*/}}
{{- define "job-dashboard.fullname" -}}
{{- $name := include "job-dashboard.name" . }}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}
{{- .Release.Name | trunc 53 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/*
What finds the pods of this release. A Deployment's selector can never be changed, so no version is in here.
*/}}
{{- define "job-dashboard.selectorLabels" -}}
app.kubernetes.io/name: {{ include "job-dashboard.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{/*
Labels of every object but the component, which says what the object is for.
*/}}
{{- define "job-dashboard.labels" -}}
app.kubernetes.io/name: {{ include "job-dashboard.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: labctl
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "job-dashboard.serviceAccountName" -}}
{{- default (include "job-dashboard.fullname" .) .Values.serviceAccount.name }}
{{- end }}

{{/*
Whether pods get a token: where they are to have one, and where they cannot do without.
*/}}
{{- define "job-dashboard.automount" -}}
{{- or .Values.serviceAccount.automount .Values.runner.kubernetes.enabled }}
{{- end }}

{{/*
What keeps the jobs: nothing where none are run, `postgres`, `volume` or `pod` (an emptyDir). A file is for one server, so
with one of the last two there is never a second pod. A schema could refuse that too, and could not say why.
*/}}
{{- define "job-dashboard.store" -}}
{{- if not .Values.runner.kubernetes.enabled }}none
{{- else if .Values.store.urlSecret }}postgres
{{- else }}
{{- if gt (int .Values.replicaCount) 1 }}
{{- fail (printf "replicaCount: %d servers cannot share an SQLite file; store.urlSecret names a PostgreSQL database for all of them" (int .Values.replicaCount)) }}
{{- end }}
{{- ternary "volume" "pod" .Values.store.persistence.enabled }}
{{- end }}
{{- end }}

{{/*
The PriorityClass of a priority (a list of the root and the priority's name): the one that the values name, or the
release's own, or none. Such a class is the whole cluster's, so the namespace is part of its name.
*/}}
{{- define "job-dashboard.priorityClass" -}}
{{- $root := index . 0 }}
{{- $level := index . 1 }}
{{- with $root.Values.runner.kubernetes.priorityClasses }}
{{- if index . $level }}
{{- index . $level }}
{{- else if .create }}
{{- printf "%s-%s-%s" $root.Release.Namespace (include "job-dashboard.fullname" $root) $level }}
{{- end }}
{{- end }}
{{- end }}

{{/*
repository:tag, or repository@digest.
*/}}
{{- define "job-dashboard.image" -}}
{{- with .Values.image }}
{{- if .digest }}
{{- printf "%s@%s" .repository .digest }}
{{- else }}
{{- printf "%s:%s" .repository (default $.Chart.AppVersion .tag) }}
{{- end }}
{{- end }}
{{- end }}

{{/*
What PodSecurity `restricted` asks of a pod, and of a container. Not values: nothing here needs more.
*/}}
{{- define "job-dashboard.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "job-dashboard.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}
