{{/*
What the operator may do where it watches; docs/OPERATOR.md has the same table. Each rule says why. No rule has a
wildcard.
*/}}
{{- define "alkhub.rules" -}}
# Hubs and Spokes: what people ask for.
- apiGroups: [alkhub.dev]
  resources: [hubs, spokes]
  verbs: [get, list, watch]
# The finalizer of a Spoke, which ends its key at the Hub before the resource goes.
- apiGroups: [alkhub.dev]
  resources: [spokes]
  verbs: [patch]
# What became of them: conditions, counts, the numbers of the scale subresource.
- apiGroups: [alkhub.dev]
  resources: [hubs/status, spokes/status]
  verbs: [patch]
# How many pods a Hub with `spec.autoscaling` has, and whether another autoscaler acts on it.
- apiGroups: [alkhub.dev]
  resources: [hubs/scale]
  verbs: [patch]
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list]
# Owner references that block deletion, where the cluster enforces permission for them.
- apiGroups: [alkhub.dev]
  resources: [hubs/finalizers, spokes/finalizers]
  verbs: [update]
# Hub pods and what they are made of, by revision. Old revisions go.
- apiGroups: [apps]
  resources: [replicasets, controllerrevisions]
  verbs: [get, list, watch, create, patch, delete]
# How many pods of a revision there are.
- apiGroups: [apps]
  resources: [replicasets/scale]
  verbs: [patch]
# The Redis and Postgres of a Hub with `managed: true`.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
# An account without rights for hub pods.
- apiGroups: [""]
  resources: [serviceaccounts]
  verbs: [get, list, watch, create, patch]
# The Services of hubs and of managed servers; the rendered configuration.
- apiGroups: [""]
  resources: [services, configmaps]
  verbs: [get, list, watch, create, patch, delete]
# Keys: a Hub's own Secret, a Spoke's key, passwords of managed servers, and URLs that a Hub's spec names. Lists and
# watches ask for metadata only.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, list, watch, create, patch, delete]
# How hub pods are, and why they do not become ready. One that is to go is marked first.
- apiGroups: [""]
  resources: [pods]
  verbs: [list, watch, patch]
# At least one hub pod stays while nodes are drained.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Whether another operator that keeps a Hub is still there.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [get]
# Events on transitions: what `kubectl describe` shows.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create, patch]
{{- end -}}
