{{- define "sni-router.labels" -}}
app.kubernetes.io/name: sni-router
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "sni-router.selector" -}}
app.kubernetes.io/name: sni-router
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- /* A name of its own for what is not in a namespace: two releases may be in one cluster. */}}
{{- define "sni-router.clusterName" -}}
{{- if eq .Release.Name .Release.Namespace }}{{ .Release.Name }}{{ else }}{{ .Release.Namespace }}-{{ .Release.Name }}{{ end }}
{{- end }}

{{- /* What may be read and written in a namespace that is watched. */}}
{{- define "sni-router.namespacedRules" -}}
# The configuration: which VIPs there are.
- apiGroups: [citrix.com]
  resources: [listeners]
  verbs: [get, list, watch]
# What became of it: state, conditions, addresses. Not the objects themselves.
- apiGroups: [citrix.com]
  resources: [listeners/status]
  verbs: [patch]
# Which hosts go where.
- apiGroups: [networking.k8s.io]
  resources: [ingresses]
  verbs: [get, list, watch]
{{- if .Values.updateIngressStatus }}
# The VIP of an Ingress, for external-dns and `kubectl get ingress`.
- apiGroups: [networking.k8s.io]
  resources: [ingresses/status]
  verbs: [patch]
{{- end }}
# Ports, and names outside of the cluster.
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch]
# Addresses.
- apiGroups: [discovery.k8s.io]
  resources: [endpointslices]
  verbs: [get, list, watch]
{{- if eq .Values.certificates "verify" }}
# Whether the certificate that a Listener names is there and valid; the key is dropped on receipt. RBAC
# cannot say "of type kubernetes.io/tls only", so this is the widest of all grants: see `certificates`.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch]
{{- end }}
# What is wrong with an object, where `kubectl describe` shows it.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end }}

{{- /* What is in no namespace. */}}
{{- define "sni-router.clusterRules" -}}
# Whose an Ingress is.
- apiGroups: [networking.k8s.io]
  resources: [ingressclasses]
  verbs: [get, list, watch]
# Labels of namespaces, where a Listener says who may attach.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get, list, watch]
# Whether the type that is installed knows `passthrough`: an old one drops that field in silence.
- apiGroups: [apiextensions.k8s.io]
  resources: [customresourcedefinitions]
  resourceNames: [listeners.citrix.com]
  verbs: [get]
{{- end }}
