#!/usr/bin/env bash
# What `make cluster` runs inside: installs alkhub, makes the example Hub and Spoke, and gives a shell.
set -euo pipefail
cd "$(dirname "$0")/.."

helm install alkhub-crds charts/alkhub-crds
helm install alkhub charts/alkhub --namespace alkhub-system --create-namespace
kubectl apply -f crds/examples/
echo "waiting for the Hub demo"
kubectl wait hub/demo --for=condition=Ready --timeout=180s
kubectl get nodes,hubs,spokes,pods -o wide

export PATH=$PWD/target/debug:$PATH
export ALKHUB_URL ALKHUB_TOKEN
ALKHUB_URL=http://$(kubectl get service demo -o 'jsonpath={.spec.clusterIP}:{.spec.ports[0].port}')
ALKHUB_TOKEN=$(kubectl get secret demo-auth -o 'go-template={{ index .data "admin-key" | base64decode }}')
cat <<T

ALKHUB_URL and ALKHUB_TOKEN point to the Hub demo. Try:
  alkhub spokes
  kubectl scale hub/demo --replicas=4 && kubectl get hub demo -w
  kubectl get secret builder-key -o yaml
The cluster ends with this shell.
T
exec "${SHELL:-/bin/bash}"
